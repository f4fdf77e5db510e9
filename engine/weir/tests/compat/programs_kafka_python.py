"""Programs as people write them with kafka-python: serializers, a partitioner, groups that lose a member,
manual commits, lag by position and end offsets, a dead-letter topic, a lag exporter."""
import json
import sys
import threading
import time

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic

address, prefix = sys.argv[2], sys.argv[3]
NEW = int(kafka.__version__.split(".")[0]) >= 3


def admin():
    client = KafkaAdminClient(bootstrap_servers=address)
    topic = f"{prefix}-orders"
    client.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1,
                                   topic_configs={"retention.ms": "600000"}),
                          NewTopic(f"{prefix}-dead", num_partitions=1, replication_factor=1)])
    client.create_partitions({f"{prefix}-dead": NewPartitions(total_count=2)})
    names = client.list_topics()
    assert topic in names, names
    client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    client.close()
    return topic


class ByNumber:
    """A partitioner of one's own: a function up to 2.x, an object from 3.0 on."""

    def __call__(self, key, partitions, available):
        return partitions[int(key) % len(partitions)]

    def partition(self, topic, key, cluster):
        return int(key) % len(cluster.partitions_for_topic(topic))


def produce(topic, count):
    producer = KafkaProducer(bootstrap_servers=address, acks="all", compression_type="gzip", linger_ms=5,
                             key_serializer=lambda key: str(key).encode(), partitioner=ByNumber(),
                             value_serializer=lambda value: json.dumps(value).encode())
    futures = [producer.send(topic, key=n, value={"order": n, "price": n * 1.5}) for n in range(count)]
    for n, future in enumerate(futures):
        assert future.get(30).partition == n % 3
    producer.close()


def consumer(topic, group, **more):
    options = dict(bootstrap_servers=address, group_id=group, auto_offset_reset="earliest",
                   session_timeout_ms=6000, heartbeat_interval_ms=500,
                   value_deserializer=lambda value: json.loads(value))
    options.update(more)
    return KafkaConsumer(topic, **options)


def three_share_and_one_dies(topic, count):
    """Three members, a partition each. One dies without a word; its partition is taken over."""
    seen, assigned, stop = {}, {}, [threading.Event() for _ in range(3)]
    lock = threading.Lock()

    def work(number):
        member = consumer(topic, f"{prefix}-share", enable_auto_commit=False)
        while not stop[number].is_set():
            # Longer than a rebalance takes: 3.0.12 forgets the assignment of a join that ends while
            # its poll is timing out (the SyncGroup answer arrives, it is never set, no heartbeat is sent).
            for partition, records in member.poll(timeout_ms=2000).items():
                with lock:
                    for record in records:
                        seen[(partition.partition, record.offset)] = record.value["order"]
                member.commit({partition: offset_of(records[-1].offset + 1)})
            with lock:
                assigned[number] = {p.partition for p in member.assignment()}
        if number == 0:
            # As if killed: neither leaves nor commits.
            member._coordinator.close = lambda *args, **kwargs: None
        member.close()
        with lock:
            assigned.pop(number, None)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: sorted(map(sorted, assigned.values())) == [[0], [1], [2]], 30, lambda: assigned)
    wait_for(lambda: len(seen) == count, 30, lambda: len(seen))
    stop[0].set()
    wait_for(lambda: sorted(p for s in dict(assigned).values() for p in s) == [0, 1, 2]
             and len(assigned) == 2, 40, lambda: assigned)
    for event in stop:
        event.set()
    for thread in threads:
        thread.join(20)
    assert sorted(seen.values()) == list(range(count))


def offset_of(offset):
    try:
        return OffsetAndMetadata(offset, "note", -1)
    except TypeError:
        return OffsetAndMetadata(offset, "note")


def wait_for(condition, seconds, shown):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, shown()
        time.sleep(0.05)


def position(member, partition):
    try:
        # Without a limit 2.3 may sleep for minutes on what it already knows.
        return member.position(partition, timeout_ms=1000)
    except TypeError:
        return member.position(partition)


def lag(topic, count):
    """What was committed is where the group goes on; lag is the end less the position."""
    member = KafkaConsumer(bootstrap_servers=address, group_id=f"{prefix}-share", enable_auto_commit=False)
    partitions = [TopicPartition(topic, p) for p in range(3)]
    member.assign(partitions)
    ends = member.end_offsets(partitions)
    assert sum(ends.values()) == count, ends
    assert [ends[p] - position(member, p) for p in partitions] == [0, 0, 0]
    assert member.committed(partitions[0]) == ends[partitions[0]]
    member.close()


def dead_letters(topic, count):
    """Auto commit; what cannot be handled goes to another topic."""
    source = consumer(topic, f"{prefix}-letters", auto_commit_interval_ms=200, consumer_timeout_ms=3000)
    producer = KafkaProducer(bootstrap_servers=address, value_serializer=lambda v: json.dumps(v).encode())
    for record in source:
        if record.value["order"] % 100 == 0:
            producer.send(f"{prefix}-dead", value=record.value, headers=[("from", topic.encode())])
    producer.flush()
    source.close()
    letters = consumer(f"{prefix}-dead", f"{prefix}-dead-readers", consumer_timeout_ms=3000)
    assert len([r for r in letters if r.headers == [("from", topic.encode())]]) == count // 100
    letters.close()


def exporter(topic, count):
    """What a lag exporter does: groups, their offsets, ends of the logs."""
    client = KafkaAdminClient(bootstrap_servers=address)
    listed = client.list_groups() if NEW else client.list_consumer_groups()
    names = [group["group_id"] if isinstance(group, dict) else group[0] for group in listed]
    assert f"{prefix}-share" in names and f"{prefix}-letters" in names, names
    group = f"{prefix}-letters"
    offsets = client.list_group_offsets(group) if NEW else client.list_consumer_group_offsets(group)
    if NEW:
        offsets = offsets[group]
    assert sum(value.offset for value in offsets.values()) == count, offsets
    client.close()


if sys.argv[1] == "programs":
    count = 600
    topic = admin()
    produce(topic, count)
    three_share_and_one_dies(topic, count)
    lag(topic, count)
    dead_letters(topic, count)
    exporter(topic, count)
else:
    # After kill -9 the group goes on where it was.
    lag(f"{prefix}-orders", 600)
