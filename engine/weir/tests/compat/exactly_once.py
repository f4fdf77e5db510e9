"""Consume, transform, produce in transactions with confluent-kafka, while workers and the broker are
killed (-9) at random: each input leads to one output, for readers of committed records.

    exactly_once.py WEIR DATA-DIR HISTORY SECONDS SEED     starts the broker and everyone else
    exactly_once.py worker ADDRESS NUMBER LOG              one worker, until it is killed

What everyone saw goes to HISTORY, a line of JSON each, for the history checker.
"""
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

from confluent_kafka import (OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition)

INPUTS, OUTPUTS, RECORDS = 3, 3, 6000


def worker(address, number, log):
    """Reads committed inputs, writes an output of each and its own position, in one transaction."""
    log = open(log, "a", buffering=1)
    process = time.time_ns() // 1_000_000 % 10**10 * 10 + number
    value = process * 10**7
    producer = Producer({"bootstrap.servers": address, "transactional.id": f"worker-{number}",
                         "transaction.timeout.ms": 10000, "linger.ms": 1})
    producer.init_transactions(60)
    consumer = Consumer({"bootstrap.servers": address, "group.id": "workers", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "isolation.level": "read_committed",
                         "session.timeout.ms": 6000, "heartbeat.interval.ms": 500})
    assigned = []
    consumer.subscribe(["in"], on_assign=lambda _, partitions: assigned.extend(partitions))
    while True:
        messages = [m for m in consumer.consume(random.choice([1, 5, 40]), 0.5) if m.error() is None]
        if not messages:
            continue
        operations = []
        if assigned:
            operations.append({"assign": [[f"{p.topic}-{p.partition}", None] for p in assigned]})
            assigned.clear()
        operations.append({"poll": {"uncommitted": False, "records": [
            {"partition": f"in-{m.partition()}", "offset": m.offset(), "value": int(m.value())}
            for m in messages]}})
        step = {"process": process, "producer": f"worker-{number}", "transactional": True,
                "outcome": "unknown", "operations": operations}
        sends = []

        def delivered(error, message, send):
            if error is None:
                send.update(offset=message.offset(), acknowledged=True)

        try:
            producer.begin_transaction()
            for message in messages:
                value += 1
                partition = value % OUTPUTS
                send = {"partition": f"out-{partition}", "value": value, "acknowledged": False,
                        "input": [f"in-{message.partition()}", message.offset()]}
                sends.append(send)
                producer.produce("out", str(value), partition=partition,
                                 on_delivery=lambda e, m, send=send: delivered(e, m, send))
            operations.extend({"send": send} for send in sends)
            # What is known before the end is asked for: a worker that is killed now leaves it unknown.
            log.write(json.dumps({"attempt": step}) + "\n")
            if random.random() < 0.1:
                producer.abort_transaction(30)
                step["outcome"] = "aborted"
            else:
                producer.send_offsets_to_transaction(
                    consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30)
                producer.commit_transaction(30)
                step["outcome"] = "committed"
            log.write(json.dumps({"result": step}) + "\n")
            if step["outcome"] == "aborted":
                first = {}
                for message in messages:
                    first.setdefault(message.partition(), message.offset())
                for partition, offset in first.items():
                    consumer.seek(TopicPartition("in", partition, offset))
                assigned.extend(TopicPartition("in", partition) for partition in first)
        except KafkaException as error:
            # A commit that was answered with an error that is not fatal may be tried again; this
            # worker begins anew instead, as many programs do.
            log.write(json.dumps({"error": str(error)}) + "\n")
            os._exit(3)


class Broker:
    def __init__(self, weir, data):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % listener.getsockname()[1]
        listener.close()
        self.args = [weir, "serve", "--listen", self.address, "--data-dir", data,
                     "--group.initial.rebalance.delay.ms", "100"]
        self.log = open(data + ".log", "ab")
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.args, stdout=self.log, stderr=self.log)
        for _ in range(200):
            try:
                socket.create_connection(self.address.rsplit(":", 1), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("the broker does not start; see " + self.log.name)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def produce(address, weir):
    """The inputs: idempotent, some in transactions that are aborted."""
    for topic, partitions in [("in", INPUTS), ("out", OUTPUTS)]:
        subprocess.run([weir, "topic", "create", topic, "--partitions", str(partitions), "--bootstrap-server",
                        address], check=True, stdout=subprocess.DEVNULL)
    producer = Producer({"bootstrap.servers": address, "transactional.id": "source"})
    producer.init_transactions(30)
    steps = []
    for batch in range(RECORDS // 100):
        commits = batch % 5 != 3
        sends = []
        producer.begin_transaction()
        for n in range(100):
            value = batch * 100 + n + 1
            send = {"partition": f"in-{value % INPUTS}", "value": value, "acknowledged": False}
            sends.append(send)

            def delivered(error, message, send=send):
                send.update(offset=message.offset(), acknowledged=error is None)
            producer.produce("in", str(value), partition=value % INPUTS, on_delivery=delivered)
        producer.flush(30)
        producer.commit_transaction(30) if commits else producer.abort_transaction(30)
        steps.append({"process": 1, "transactional": True, "outcome": "committed" if commits else "aborted",
                      "operations": [{"send": send} for send in sends]})
    return steps


def read_committed(address, topic, partitions):
    """All of a topic that a reader of committed records gets, partition by partition."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False,
                         "isolation.level": "read_committed", "enable.partition.eof": True})
    found = {}
    for partition in range(partitions):
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        records = found.setdefault(f"{topic}-{partition}", [])
        ended = False
        while not ended:
            for message in consumer.consume(500, 1.0):
                if message.error() is None:
                    records.append([message.offset(), int(message.value())])
                else:
                    ended = True
    consumer.close()
    return found


def main(weir, data, history, seconds, seed):
    random.seed(int(seed))
    os.makedirs(data, exist_ok=True)
    broker = Broker(weir, data + "/weir")
    steps = produce(broker.address, weir)
    wanted = {(f"in-{p}", o) for p, rows in read_committed(broker.address, "in", INPUTS).items()
              for p, o in [(int(p.rsplit("-", 1)[1]), o) for o, _ in rows]}
    assert len(wanted) == RECORDS * 4 // 5, len(wanted)
    logs = [f"{data}/worker-{n}.jsonl" for n in range(2)]
    workers = [None, None]

    def start(n):
        workers[n] = subprocess.Popen(
            [sys.executable, __file__, "worker", broker.address, str(n), logs[n]], stderr=subprocess.DEVNULL)

    killed = {"workers": 0, "broker": 0}
    until = time.time() + float(seconds)
    next_kill = time.time() + 2
    deadline = time.time() + float(seconds) + 120
    while True:
        for n in range(2):
            if workers[n] is None or workers[n].poll() is not None:
                start(n)
        if time.time() < until and time.time() >= next_kill:
            next_kill = time.time() + random.uniform(0.3, 2.5)
            if random.random() < 0.35:
                broker.kill()
                time.sleep(random.uniform(0, 0.5))
                broker.start()
                killed["broker"] += 1
            else:
                workers[random.randrange(2)].kill()
                killed["workers"] += 1
        time.sleep(0.1)
        if time.time() >= until:
            done = subprocess.run([weir, "group", "describe", "workers", "--format", "json",
                                   "--bootstrap-server", broker.address], capture_output=True, text=True)
            outputs = read_committed(broker.address, "out", OUTPUTS)
            total = sum(len(rows) for rows in outputs.values())
            if total >= len(wanted) and done.returncode == 0:
                time.sleep(1.0)
                break
            assert time.time() < deadline, f"{total} outputs of {len(wanted)} inputs after the time given"
            time.sleep(1.0)
    for process in workers:
        process.kill()
    outcomes = {"committed": 0, "aborted": 0, "unknown": 0}
    for log in logs:
        attempt = None
        for line in open(log):
            line = json.loads(line)
            if "attempt" in line:
                if attempt is not None:
                    steps.append(attempt)
                attempt = line["attempt"]
            elif "result" in line:
                steps.append(line["result"])
                attempt = None
        if attempt is not None:
            steps.append(attempt)
    for step in steps:
        if step["process"] != 1:
            outcomes[step["outcome"]] += 1
    with open(history, "w") as out:
        for step in steps:
            out.write(json.dumps({"step": step}) + "\n")
        for topic, partitions in [("in", INPUTS), ("out", OUTPUTS)]:
            for partition, rows in read_committed(broker.address, topic, partitions).items():
                seen = [{"partition": partition, "offset": offset, "value": value} for offset, value in rows]
                poll = {"poll": {"uncommitted": False, "records": seen}}
                out.write(json.dumps({"step": {"process": 2, "transactional": False, "outcome": "committed",
                                               "operations": [poll]}}) + "\n")
                out.write(json.dumps({"final": {"partition": partition, "records": rows}}) + "\n")
        out.write(json.dumps({"drained": True}) + "\n")
    print(f"{len(wanted)} inputs, transactions {outcomes}, killed {killed}")
    assert killed["broker"] > 0 and killed["workers"] > 0, killed
    broker.kill()


if sys.argv[1] == "worker":
    worker(sys.argv[2], int(sys.argv[3]), sys.argv[4])
else:
    main(*sys.argv[1:])
