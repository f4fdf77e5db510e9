"""A group of two with aiokafka; one leaves, the other goes on from its commits."""
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

address, prefix = sys.argv[2], sys.argv[3]
topic, group, COUNT = f"{prefix}-aio", f"{prefix}-aio-group", 400


def consumer():
    return AIOKafkaConsumer(topic, bootstrap_servers=address, group_id=group, auto_offset_reset="earliest",
                            enable_auto_commit=False, session_timeout_ms=6000, heartbeat_interval_ms=500)


async def read(members, done, seen):
    deadline = asyncio.get_event_loop().time() + 40
    while not done():
        assert asyncio.get_event_loop().time() < deadline, ([m.assignment() for m in members], len(seen))
        for member in members:
            batches = await member.getmany(timeout_ms=100)
            for records in batches.values():
                seen.extend(int(record.value) for record in records)
            if batches:
                await member.commit()


async def programs():
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 4, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all")
    await producer.start()
    for n in range(COUNT):
        await producer.send(topic, str(n).encode(), partition=n % 4)
    await producer.stop()
    one, two, seen = consumer(), consumer(), []
    await one.start()
    await two.start()
    await read([one, two], lambda: len(one.assignment()) == len(two.assignment()) == 2, seen)
    await read([one, two], lambda: len(set(seen)) == COUNT, seen)
    await one.stop()
    await read([two], lambda: len(two.assignment()) == 4, seen)
    await two.stop()
    assert sorted(set(seen)) == list(range(COUNT))


async def committed():
    member = consumer()
    await member.start()
    await read([member], lambda: len(member.assignment()) == 4, [])
    offsets = [await member.committed(partition) for partition in member.assignment()]
    assert sum(offsets) == COUNT, offsets
    await member.stop()


asyncio.run(programs() if sys.argv[1] == "programs" else committed())
