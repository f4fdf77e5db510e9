"""confluent-kafka (librdkafka): acks=all, manual assignment."""
from confluent_kafka import Consumer, Producer, TopicPartition, TIMESTAMP_CREATE_TIME
from messages import main


def produce(address, topic, codec, rows):
    failed = []
    producer = Producer({"bootstrap.servers": address, "compression.type": codec, "acks": "all", "linger.ms": 20,
                         "message.max.bytes": 2_000_000})
    for key, value, headers, timestamp in rows:
        producer.produce(topic, value=value, key=key, partition=0, timestamp=timestamp, headers=headers,
                         on_delivery=lambda error, _: error and failed.append(error))
        producer.poll(0)
    left = producer.flush(30)
    assert not failed and left == 0, (failed[:3], left)


def consume(address, topic, count):
    consumer = Consumer({"bootstrap.servers": address, "group.id": "unused", "enable.auto.commit": False,
                         "auto.offset.reset": "error"})
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
    assert (low, high) == (0, count), (low, high, count)
    consumer.assign([TopicPartition(topic, 0, 0)])
    got = []
    while len(got) < count:
        message = consumer.poll(10)
        assert message is not None and message.error() is None, message and message.error()
        kind, timestamp = message.timestamp()
        assert kind == TIMESTAMP_CREATE_TIME and message.offset() == len(got)
        got.append((message.key(), message.value(), message.headers(), timestamp))
    # The record with this timestamp is found exactly.
    found = consumer.offsets_for_times([TopicPartition(topic, 0, got[57][3])], timeout=10)
    assert found[0].offset == 57, found
    consumer.close()
    return got


main("confluent-kafka", produce, consume)
