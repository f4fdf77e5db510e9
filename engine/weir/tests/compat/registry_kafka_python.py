"""A registry of schemas, built as those for Kafka are: a compacted topic of one partition is the database,
a group of protocol type `sr` elects who writes, and a write counts when it was read back."""
import json
import sys
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.client_async import KafkaClient
from kafka.coordinator.base import BaseCoordinator

address, prefix = sys.argv[2], sys.argv[3]
topic = f"{prefix}-schemas"
WRITES, SUBJECTS = 1200, 20


class Election(BaseCoordinator):
    """A member that assigns no partitions: the first of those that may, by name, is the master."""

    def __init__(self, client, name, **options):
        super().__init__(client, group_id=f"{prefix}-registry", session_timeout_ms=6000,
                         heartbeat_interval_ms=300, api_version=(2, 3), **options)
        self.name, self.master = name, None

    def protocol_type(self):
        return "sr"

    def group_protocols(self):
        return [("v0", json.dumps({"version": 1, "host": self.name, "port": 8081,
                                   "master_eligibility": True}).encode())]

    def _on_join_prepare(self, generation, member_id, timeout_ms=None):
        self.master = None

    def _perform_assignment(self, leader_id, protocol, members):
        identities = {}
        for member in members:
            member_id, metadata = member[0], member[-1]
            identities[member_id] = json.loads(bytes(metadata))
        chosen = min(identities, key=lambda member: identities[member]["host"])
        answer = json.dumps({"error": 0, "master": chosen, "master_identity": identities[chosen]}).encode()
        return {member: answer for member in identities}

    def _on_join_complete(self, generation, member_id, protocol, assignment):
        assert protocol == "v0", protocol
        self.master = json.loads(bytes(assignment))["master_identity"]["host"]


class Registry:
    def __init__(self, name):
        self.name, self.schemas, self.read_to, self.stopped = name, {}, -1, threading.Event()
        self.changed = threading.Condition()
        self.producer = KafkaProducer(bootstrap_servers=address, acks="all", retries=0, enable_idempotence=False,
                                      max_in_flight_requests_per_connection=1)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.client = KafkaClient(bootstrap_servers=address, api_version=(2, 3), client_id=name)
        self.election = Election(self.client, name)

    def read(self):
        consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, api_version=(2, 3))
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        while not self.stopped.is_set():
            for record in consumer.poll(timeout_ms=100).get(partition, []):
                with self.changed:
                    key = json.loads(record.key)
                    if key["keytype"] == "SCHEMA":
                        name = (key["subject"], key["version"])
                        if record.value is None:
                            self.schemas.pop(name, None)
                        else:
                            self.schemas[name] = json.loads(record.value)["schema"]
                    self.read_to = record.offset
                    self.changed.notify_all()
        consumer.close()

    def write(self, key, value):
        """Writes and waits until its own reader has come so far."""
        sent = self.producer.send(topic, key=json.dumps(key, sort_keys=True).encode(),
                                  value=None if value is None else json.dumps(value).encode(), partition=0)
        offset = sent.get(10).offset
        with self.changed:
            assert self.changed.wait_for(lambda: self.read_to >= offset, 10), (self.read_to, offset)

    def catch_up(self):
        """What a start does: a record of no meaning, and everything before it is known."""
        self.write({"keytype": "NOOP", "magic": 0}, None)
        return self

    def tend(self, seconds=0.3):
        """The group's share of a thread: joins, and lets heartbeats be looked at."""
        self.election.ensure_coordinator_ready()
        if self.election.need_rejoin():
            self.election.ensure_active_group(timeout_ms=2000)
        self.election.poll_heartbeat()
        self.client.poll(timeout_ms=int(seconds * 100))

    def stop(self):
        self.election.close()
        self.producer.close()
        self.stopped.set()
        self.reader.join(10)


def agree(nodes, master):
    deadline = time.time() + 30
    while any(node.election.master != master for node in nodes):
        assert time.time() < deadline, [node.election.master for node in nodes]
        threads = [threading.Thread(target=node.tend) for node in nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)


def key_of(n):
    return {"keytype": "SCHEMA", "subject": f"subject-{n % SUBJECTS}", "version": n // SUBJECTS % 3 + 1, "magic": 1}


def expected():
    """After all writes: the last value of each key; every seventh write is a deletion."""
    state = {}
    for n in range(WRITES):
        key = key_of(n)
        name = (key["subject"], key["version"])
        state.pop(name, None)
        if n % 7:
            state[name] = schema_of(n)
    return state


def schema_of(n):
    fields = [{"name": f"field{m}", "type": "string"} for m in range(n % 5)]
    return json.dumps({"type": "record", "name": f"r{n}", "fields": fields, "doc": "x" * 400})


def write_all():
    admin = KafkaAdminClient(bootstrap_servers=address, api_version=(2, 3))
    admin.create_topics([NewTopic(topic, 1, 1, topic_configs={
        "cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.01",
        "delete.retention.ms": "0"})])
    first, second = Registry("a:8081"), Registry("b:8081")
    agree([first, second], "a:8081")
    for n in range(WRITES):
        if n == WRITES // 2:
            # The master goes; the other one is told and writes on, with all that was written.
            first.stop()
            agree([second], "b:8081")
            second.catch_up()
        node = first if n < WRITES // 2 else second
        key = key_of(n)
        value = None if n % 7 == 0 else {**key, "id": n, "schema": schema_of(n), "deleted": False}
        node.write(key, value)
        if n % 100 == 0:
            node.tend(0.01)
    assert second.schemas == expected()
    second.stop()


def count_records():
    consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, consumer_timeout_ms=1500,
                             api_version=(2, 3))
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    found, end = sum(1 for _ in consumer), consumer.position(partition, timeout_ms=1000)
    consumer.close()
    return found, end


if sys.argv[1] == "programs":
    write_all()
    deadline = time.time() + 60
    while True:
        found, end = count_records()
        # Cleaning every 15 s by default; after it the live keys and the newest segment are left.
        if found < end / 2:
            break
        assert time.time() < deadline, (found, end)
again = Registry("c:8081").catch_up()
assert again.schemas == expected(), (len(again.schemas), len(expected()))
again.stop()
