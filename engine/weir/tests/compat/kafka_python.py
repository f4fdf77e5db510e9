"""kafka-python (2.0.2 and newest): acks=1, manual assignment."""
import kafka
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from messages import main


def produce(address, topic, codec, rows):
    options = {} if kafka.__version__.startswith("2.0") else {"enable_idempotence": False}
    producer = KafkaProducer(bootstrap_servers=address, acks=1, linger_ms=20, max_request_size=2_000_000,
                             compression_type=None if codec == "none" else codec, **options)
    sent = [producer.send(topic, key=key, value=value, headers=headers, partition=0, timestamp_ms=timestamp)
            for key, value, headers, timestamp in rows]
    producer.flush(30)
    offsets = [future.get(10).offset for future in sent]
    assert offsets == list(range(len(rows))), offsets[:5]
    producer.close()


def consume(address, topic, count):
    consumer = KafkaConsumer(bootstrap_servers=address, group_id=None, consumer_timeout_ms=10_000)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    got = []
    for record in consumer:
        assert record.offset == len(got)
        got.append((record.key, record.value, record.headers, record.timestamp))
        if len(got) == count:
            break
    assert consumer.end_offsets([partition])[partition] == count
    consumer.close()
    return got


main(f"kafka-python {kafka.__version__}", produce, consume)
