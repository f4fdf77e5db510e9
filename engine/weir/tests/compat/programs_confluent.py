"""Programs as people write them with confluent-kafka: groups with cooperative rebalancing and static
members, commits by message and by list, transactions left out."""
import json
import sys
import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address, prefix = sys.argv[2], sys.argv[3]
topic = f"{prefix}-events"
COUNT = 900


def produce():
    admin = AdminClient({"bootstrap.servers": address})
    for future in admin.create_topics([NewTopic(topic, 3, 1, config={"cleanup.policy": "delete"})]).values():
        future.result(10)
    failed = []
    producer = Producer({"bootstrap.servers": address, "acks": "all", "compression.type": "snappy"})
    for n in range(COUNT):
        producer.produce(topic, key=str(n), value=json.dumps({"n": n}), partition=n % 3,
                         on_delivery=lambda error, _: error and failed.append(error))
        producer.poll(0)
    assert producer.flush(30) == 0 and not failed, failed[:3]


def member(number, **more):
    options = {"bootstrap.servers": address, "group.id": f"{prefix}-coop", "auto.offset.reset": "earliest",
               "partition.assignment.strategy": "cooperative-sticky", "enable.auto.commit": False,
               "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "client.id": f"{prefix}-{number}"}
    options.update(more)
    consumer = Consumer(options)
    consumer.subscribe([topic])
    return consumer


def poll_until(members, done, seen, seconds=40):
    deadline = time.time() + seconds
    while not done():
        assert time.time() < deadline, ([len(m.assignment()) for m in members], len(seen))
        for consumer in members:
            message = consumer.poll(0.05)
            if message is None:
                continue
            assert message.error() is None, message.error()
            seen.setdefault((message.partition(), message.offset()), json.loads(message.value())["n"])
            # One thread polls all members: none may wait for what the others must do first.
            consumer.commit(message=message, asynchronous=True)


def leave(consumer):
    positions = [p for p in consumer.position(consumer.assignment()) if p.offset >= 0]
    if positions:
        consumer.commit(offsets=positions, asynchronous=False)
    consumer.close()


def grow_and_shrink():
    seen = {}
    members = [member(0)]
    poll_until(members, lambda: len(members[0].assignment()) == 3, seen)
    for number in (1, 2):
        members.append(member(number))
        wanted = sorted([3 // (number + 1)] * (number + 1 - 3 % (number + 1))
                        + [3 // (number + 1) + 1] * (3 % (number + 1)))
        poll_until(members, lambda: sorted(len(m.assignment()) for m in members) == wanted, seen)
    poll_until(members, lambda: len(seen) == COUNT, seen)
    leave(members.pop())
    poll_until(members, lambda: sorted(len(m.assignment()) for m in members) == [1, 2], seen)
    for consumer in members:
        leave(consumer)
    assert sorted(seen.values()) == list(range(COUNT))


def static_member():
    """A static member that restarts within its session keeps its partitions: no rebalance."""
    options = {"group.id": f"{prefix}-static", "group.instance.id": "one",
               "partition.assignment.strategy": "range"}
    first = member(7, **options)
    poll_until([first], lambda: len(first.assignment()) == 3, {})
    admin = AdminClient({"bootstrap.servers": address})

    def shown():
        described = admin.describe_consumer_groups([f"{prefix}-static"])[f"{prefix}-static"].result(10)
        return described.state.name, [m.group_instance_id for m in described.members]

    assert shown() == ("STABLE", ["one"]), shown()
    first.close()
    assert shown() == ("STABLE", ["one"]), "a static member does not leave when it closes"
    began = time.time()
    again = member(8, **options)
    poll_until([again], lambda: len(again.assignment()) == 3, {})
    assert time.time() - began < 5
    again.close()


def offsets():
    consumer = Consumer({"bootstrap.servers": address, "group.id": f"{prefix}-coop"})
    parts = consumer.committed([TopicPartition(topic, p) for p in range(3)], timeout=10)
    assert sum(p.offset for p in parts) == COUNT, parts
    low, high = consumer.get_watermark_offsets(parts[0], timeout=10)
    assert (low, high) == (0, COUNT // 3)
    consumer.close()
    admin = AdminClient({"bootstrap.servers": address})
    groups = {g.group_id for g in admin.list_consumer_groups().result().valid}
    assert f"{prefix}-coop" in groups, groups
    asked = [ConsumerGroupTopicPartitions(f"{prefix}-coop")]
    found = list(admin.list_consumer_group_offsets(asked).values())[0].result(10)
    assert sum(p.offset for p in found.topic_partitions) == COUNT


if sys.argv[1] == "programs":
    produce()
    grow_and_shrink()
    static_member()
    offsets()
else:
    offsets()
