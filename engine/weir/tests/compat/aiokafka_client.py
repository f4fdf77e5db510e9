"""aiokafka: acks=all, manual assignment."""
import asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from messages import main


def produce(address, topic, codec, rows):
    async def run():
        producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", max_request_size=2_000_000,
                                    compression_type=None if codec == "none" else codec)
        await producer.start()
        sent = [await producer.send(topic, value, key, 0, timestamp, headers) for key, value, headers, timestamp in rows]
        offsets = [(await future).offset for future in sent]
        assert offsets == list(range(len(rows))), offsets[:5]
        await producer.stop()
    asyncio.run(run())


def consume(address, topic, count):
    async def run():
        consumer = AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
        await consumer.start()
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        got = []
        while len(got) < count:
            record = await asyncio.wait_for(consumer.getone(), 10)
            assert record.offset == len(got)
            got.append((record.key, record.value, list(record.headers), record.timestamp))
        await consumer.stop()
        return got
    return asyncio.run(run())


main("aiokafka", produce, consume)
