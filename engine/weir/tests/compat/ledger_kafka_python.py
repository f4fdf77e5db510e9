"""A ledger as the tutorials on exactly once write it: an idempotent source, and a job that consumes with
isolation_level='read_committed', notes each payment in a database and produces to another topic, with its
offsets in the same transaction. It dies once between the database and the commit, and is replaced."""
import json
import sqlite3
import sys
import time

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

address, prefix = sys.argv[2], sys.argv[3]
payments, ledger, COUNT, POISON = f"{prefix}-payments", f"{prefix}-ledger", 400, 90


def encode(value):
    return json.dumps(value).encode()


def produce():
    producer = KafkaProducer(bootstrap_servers=address, enable_idempotence=True, acks="all", linger_ms=5,
                             key_serializer=str.encode, value_serializer=encode)
    futures = [producer.send(payments, key=f"account-{n % 7}", value={"id": n, "amount": n * 3 % 100})
               for n in range(COUNT)]
    for future in futures:
        future.get(30)
    producer.close()


def database():
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE payment (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, seen INTEGER NOT NULL)")
    return db


def job(db, dies_at=None):
    """Runs until every payment is in the ledger, or dies; returns its producer."""
    producer = KafkaProducer(bootstrap_servers=address, transactional_id=f"{prefix}-ledger-job",
                             transaction_timeout_ms=20000, value_serializer=encode)
    producer.init_transactions()
    consumer = KafkaConsumer(payments, bootstrap_servers=address, group_id=f"{prefix}-ledger-job",
                             isolation_level="read_committed", enable_auto_commit=False,
                             auto_offset_reset="earliest", session_timeout_ms=6000, heartbeat_interval_ms=500,
                             max_poll_records=25, value_deserializer=json.loads)
    handled, aborted, deadline = 0, False, time.time() + 60
    while db.execute("SELECT count(*) FROM payment").fetchone()[0] < COUNT:
        assert time.time() < deadline, db.execute("SELECT count(*) FROM payment").fetchone()
        batches = consumer.poll(timeout_ms=2000)
        if not batches:
            continue
        producer.begin_transaction()
        try:
            for partition, records in batches.items():
                for record in records:
                    if record.value["id"] == POISON and not aborted and dies_at is None:
                        raise ValueError("a payment that cannot be booked at the first try")
                    # Seen twice is no harm: the key says which payment it is.
                    db.execute("INSERT INTO payment VALUES (?, ?, 1) ON CONFLICT (id) DO UPDATE SET seen = seen + 1",
                               (record.value["id"], record.value["amount"]))
                    producer.send(ledger, value=record.value)
                    handled += 1
            producer.send_offsets_to_transaction(
                {partition: OffsetAndMetadata(records[-1].offset + 1, "", -1)
                 for partition, records in batches.items()}, consumer.group_metadata())
            if dies_at is not None and handled >= dies_at:
                # What a crash leaves: rows that stand, an open transaction, a member that says nothing.
                db.commit()
                producer.flush()
                consumer._coordinator.close = lambda *args, **kwargs: None
                consumer.close()
                return producer
            producer.commit_transaction()
            db.commit()
        except ValueError:
            producer.abort_transaction()
            db.rollback()
            aborted = True
            for partition, records in batches.items():
                consumer.seek(partition, records[0].offset)
    consumer.close()
    assert aborted or dies_at is not None
    return producer


def read(isolation_level):
    consumer = KafkaConsumer(bootstrap_servers=address, isolation_level=isolation_level, consumer_timeout_ms=3000,
                             enable_auto_commit=False, value_deserializer=json.loads)
    partitions = [TopicPartition(ledger, p) for p in consumer.partitions_for_topic(ledger)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    found = [record.value["id"] for record in consumer]
    consumer.close()
    return found


def once():
    booked = read("read_committed")
    assert sorted(booked) == list(range(COUNT)), (len(booked), len(set(booked)))
    assert len(read("read_uncommitted")) > COUNT, "what was aborted is in the log"


if sys.argv[1] == "programs":
    produce()
    db = database()
    dead = job(db, dies_at=100)
    job(db).close()
    try:
        dead.commit_transaction()
        raise SystemExit("a job that was replaced could commit")
    except KafkaError as error:
        print("fenced:", type(error).__name__)
    assert db.execute("SELECT sum(seen) FROM payment").fetchone()[0] > COUNT
    assert db.execute("SELECT count(*), sum(amount) FROM payment").fetchone() == (
        COUNT, sum(n * 3 % 100 for n in range(COUNT)))
once()
