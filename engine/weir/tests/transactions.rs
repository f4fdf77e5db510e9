//! Idempotent producers, transactions and compaction of the real program, over raw frames: what clients
//! of KIP-890 send, what only a faulty or hostile one sends, and kill -9 in between.

// The client's side waits on the real clock.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client, body};
use model::record_batch::BatchBuilder;
use model::{Compression, ErrorCode, Producer, ProducerId, RecordBatch, TopicRef};
use std::time::{Duration, Instant};
use wire::ApiKey;
use wire::fetch::{self, FetchAsk, FetchLimits};
use wire::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AddPartitionsToTxnTopic,
    ApiVersionsRequest, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
    CreateTopicsResponse, EndTxnRequest, EndTxnResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopic, Message, OffsetFetchGroup, OffsetFetchRequest, OffsetFetchResponse,
    OffsetFetchTopic, TxnOffsetCommitPartition, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
    TxnOffsetCommitTopic, WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
};
use wire::primitives::put_string;
use wire::produce;

fn batch(producer: Producer, sequence: i32, records: u8, transactional: bool) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.begin(1_000);
    builder.set_producer(producer, sequence, transactional);
    (0..records).for_each(|n| builder.push(1_000, Some(b"k"), Some(&[n]), &[]));
    builder.finish(Compression::None).to_vec()
}

/// What a transactional client does with one partition of topic `t`.
trait Transactional {
    fn init(&mut self, id: Option<&str>) -> Result<Producer, ErrorCode>;
    fn write(&mut self, version: i16, id: &str, partition: i32, batch: &[u8]) -> (ErrorCode, i64);
    fn end(&mut self, version: i16, id: &str, producer: Producer, commit: bool) -> EndTxnResponse;
    fn visible(&mut self, partition: i32) -> usize;
    fn end_offset(&mut self, partition: i32, read_committed: bool) -> i64;
}

impl Transactional for Client {
    fn init(&mut self, id: Option<&str>) -> Result<Producer, ErrorCode> {
        for _ in 0..100 {
            let request = InitProducerIdRequest {
                transactional_id: id.map(str::to_owned),
                transaction_timeout_ms: 10_000,
                ..Default::default()
            };
            let answer: InitProducerIdResponse = self.ask(&request, 5);
            match ErrorCode::from_code(answer.error_code) {
                ErrorCode::None => {
                    let id = ProducerId(answer.producer_id);
                    return Ok(Producer { id, epoch: answer.producer_epoch });
                }
                ErrorCode::ConcurrentTransactions => std::thread::sleep(Duration::from_millis(20)),
                error => return Err(error),
            }
        }
        Err(ErrorCode::ConcurrentTransactions)
    }

    fn write(&mut self, version: i16, id: &str, partition: i32, batch: &[u8]) -> (ErrorCode, i64) {
        let frame = self.frame(ApiKey::Produce, version, |out| {
            let mut body = Vec::new();
            let parts = [(partition, batch)].into_iter();
            produce::put_request(&mut body, version, -1, 1000, TopicRef::Name("t"), parts);
            // The null transactional id, a byte, gives way to ours.
            put_string(out, Some(id), true);
            out.extend_from_slice(&body[1..]);
        });
        self.send(&frame);
        let payload = self.receive().expect("an answer");
        let mut result = None;
        let read = |_: TopicRef<'_>, _, error, base| result = Some((error, base));
        produce::read_response(body(&payload, ApiKey::Produce, version), version, read).unwrap();
        result.expect("one partition was asked for")
    }

    fn end(&mut self, version: i16, id: &str, producer: Producer, commit: bool) -> EndTxnResponse {
        let request = EndTxnRequest {
            transactional_id: id.to_owned(),
            producer_id: producer.id.0,
            producer_epoch: producer.epoch,
            committed: commit,
        };
        self.ask(&request, version)
    }

    /// Records that a reader of committed ones gets.
    fn visible(&mut self, partition: i32) -> usize {
        let limits = FetchLimits {
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: 8 << 20,
            partition_max_bytes: 4 << 20,
            read_committed: true,
        };
        let ask = [FetchAsk { partition, offset: 0 }];
        let frame = self.frame(ApiKey::Fetch, 12, |out| {
            fetch::put_request(out, 12, limits, "t", model::TopicId::ZERO, &ask);
        });
        self.send(&frame);
        let payload = self.receive().expect("an answer");
        let mut seen = 0;
        fetch::read_response(body(&payload, ApiKey::Fetch, 12), 12, |part| {
            let mut aborted: Vec<_> = part.aborted.collect();
            aborted.sort_by_key(|aborted| aborted.first_offset);
            let mut hidden = Vec::new();
            let mut rest = part.records;
            while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                rest = tail;
                while aborted.first().is_some_and(|a| a.first_offset <= batch.last_offset().0) {
                    hidden.push(aborted.remove(0).producer_id);
                }
                if batch.is_control() {
                    hidden.retain(|id| *id != batch.producer_id());
                } else if !hidden.contains(&batch.producer_id()) {
                    seen += batch.record_count() as usize;
                }
            }
        })
        .unwrap();
        seen
    }

    fn end_offset(&mut self, partition: i32, read_committed: bool) -> i64 {
        let partition = ListOffsetsPartition {
            partition_index: partition,
            timestamp: -1,
            ..Default::default()
        };
        let topic = ListOffsetsTopic { name: "t".to_owned(), partitions: vec![partition] };
        let request = ListOffsetsRequest {
            topics: vec![topic],
            isolation_level: i8::from(read_committed),
            ..Default::default()
        };
        let answer: ListOffsetsResponse = self.ask(&request, 6);
        answer.topics[0].partitions[0].offset
    }
}

fn error(answer: &EndTxnResponse) -> ErrorCode {
    ErrorCode::from_code(answer.error_code)
}

#[test]
fn a_batch_that_is_sent_again_is_there_once_also_after_kill_9() {
    let mut broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 1);
    let producer = client.init(None).unwrap();
    assert_ne!(client.init(None).unwrap().id, producer.id);
    for sequence in [0, 5, 10] {
        let sent = client.produce("t", -1, &batch(producer, sequence, 5, false));
        assert_eq!(sent, Some((0, i64::from(sequence))));
    }
    let again = |client: &mut Client| {
        assert_eq!(client.produce("t", -1, &batch(producer, 5, 5, false)), Some((0, 5)));
        let gap = client.produce("t", -1, &batch(producer, 20, 5, false)).unwrap();
        assert_eq!(ErrorCode::from_code(gap.0), ErrorCode::OutOfOrderSequenceNumber);
        assert_eq!(client.end_offset(0, false), 15);
    };
    again(&mut client);
    broker.kill_and_start_again();
    let mut client = broker.client();
    again(&mut client);
    // Another start gives out other ids.
    assert_ne!(client.init(None).unwrap().id, producer.id);
    assert_eq!(client.produce("t", -1, &batch(producer, 15, 5, false)), Some((0, 15)));
}

#[test]
fn clients_of_kip_890_are_told_and_get_an_epoch_with_each_transaction() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 2);
    let frame = client.frame(ApiKey::ApiVersions, 4, |out| {
        ApiVersionsRequest::default().encode(out, 4);
    });
    client.send(&frame);
    let payload = client.receive().unwrap();
    let feature = b"transaction.version";
    assert_eq!(payload.windows(feature.len()).filter(|w| w == feature).count(), 2);

    let mut producer = client.init(Some("x")).unwrap();
    for (round, commit) in [true, false, true].into_iter().enumerate() {
        for partition in [0, 1] {
            let sent = client.write(12, "x", partition, &batch(producer, 0, 3, true));
            assert_eq!(sent.0, ErrorCode::None, "round {round}");
        }
        assert!(client.end_offset(0, true) < client.end_offset(0, false));
        let ended = client.end(5, "x", producer, commit);
        assert_eq!((error(&ended), ended.producer_epoch), (ErrorCode::None, producer.epoch + 1));
        // Repeated, the answer is the same.
        let again = client.end(5, "x", producer, commit);
        assert_eq!((error(&again), again.producer_epoch), (ErrorCode::None, producer.epoch + 1));
        // What comes late from the transaction before is a zombie's.
        let late = client.write(12, "x", 0, &batch(producer, 3, 3, true));
        assert_eq!(late.0, ErrorCode::InvalidProducerEpoch);
        producer.epoch += 1;
        // The markers are there when the end is answered.
        assert_eq!(client.end_offset(0, true), client.end_offset(0, false));
    }
    assert_eq!((client.visible(0), client.visible(1)), (6, 6));
}

#[test]
fn an_open_transaction_outlives_kill_9_and_offsets_go_with_it() {
    let mut broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 1);
    let producer = client.init(Some("x")).unwrap();
    assert_eq!(client.write(12, "x", 0, &batch(producer, 0, 3, true)).0, ErrorCode::None);
    let partition = TxnOffsetCommitPartition { committed_offset: 42, ..Default::default() };
    let topic = TxnOffsetCommitTopic { name: "t".to_owned(), partitions: vec![partition] };
    let request = TxnOffsetCommitRequest {
        transactional_id: "x".to_owned(),
        group_id: "g".to_owned(),
        producer_id: producer.id.0,
        producer_epoch: producer.epoch,
        topics: vec![topic],
        ..Default::default()
    };
    let kept: TxnOffsetCommitResponse = client.ask(&request, 5);
    assert_eq!(kept.topics[0].partitions[0].error_code, 0);
    let committed = |client: &mut Client| {
        let topic = OffsetFetchTopic { name: "t".to_owned(), partition_indexes: vec![0] };
        let group = OffsetFetchGroup {
            group_id: "g".to_owned(),
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let request =
            OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() };
        let answer: OffsetFetchResponse = client.ask(&request, 8);
        let found = &answer.groups[0].topics[0].partitions[0];
        (ErrorCode::from_code(found.error_code), found.committed_offset)
    };
    assert_eq!(committed(&mut client), (ErrorCode::UnstableOffsetCommit, -1));
    broker.kill_and_start_again();
    let mut client = broker.client();
    assert_eq!(client.visible(0), 0);
    assert_eq!(committed(&mut client), (ErrorCode::UnstableOffsetCommit, -1));
    // The same batch once more, and the end.
    assert_eq!(client.write(12, "x", 0, &batch(producer, 0, 3, true)), (ErrorCode::None, 0));
    assert_eq!(error(&client.end(5, "x", producer, true)), ErrorCode::None);
    assert_eq!((client.visible(0), client.end_offset(0, true)), (3, 4));
    assert_eq!(committed(&mut client), (ErrorCode::None, 42));
    broker.kill_and_start_again();
    let mut client = broker.client();
    assert_eq!((client.visible(0), client.end_offset(0, true)), (3, 4));
    assert_eq!(committed(&mut client), (ErrorCode::None, 42));
}

#[test]
fn who_takes_an_id_over_ends_what_was_begun_and_time_does_too() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 1);
    let old = client.init(Some("x")).unwrap();
    assert_eq!(client.write(12, "x", 0, &batch(old, 0, 3, true)).0, ErrorCode::None);
    let new = client.init(Some("x")).unwrap();
    assert!(new.id == old.id && new.epoch > old.epoch);
    assert_eq!((client.visible(0), client.end_offset(0, true)), (0, 4));
    assert_eq!(
        client.write(12, "x", 0, &batch(old, 3, 3, true)).0,
        ErrorCode::InvalidProducerEpoch
    );
    assert_eq!(error(&client.end(5, "x", old, true)), ErrorCode::ProducerFenced);
    assert_eq!(error(&client.end(1, "x", old, true)), ErrorCode::InvalidProducerEpoch);

    let request = InitProducerIdRequest {
        transactional_id: Some("slow".to_owned()),
        transaction_timeout_ms: 300,
        ..Default::default()
    };
    let slow: InitProducerIdResponse = client.ask(&request, 5);
    let slow = Producer { id: ProducerId(slow.producer_id), epoch: slow.producer_epoch };
    assert_eq!(client.write(12, "slow", 0, &batch(slow, 0, 3, true)).0, ErrorCode::None);
    let until = Instant::now() + Duration::from_secs(10);
    while client.end_offset(0, true) < client.end_offset(0, false) {
        assert!(Instant::now() < until, "the transaction stays open");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(error(&client.end(3, "slow", slow, true)), ErrorCode::ProducerFenced);
    assert_eq!(client.visible(0), 0);
}

#[test]
fn what_is_wrong_is_refused_alone() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 2);
    let good = client.init(Some("good")).unwrap();
    assert_eq!(client.write(12, "good", 0, &batch(good, 0, 3, true)).0, ErrorCode::None);

    let none = client.init(Some("")).unwrap_err();
    assert_eq!(none, ErrorCode::InvalidRequest);
    // A partition that never joined (before KIP-890), a stranger's id, a forged producer and epoch.
    let bad = client.init(Some("bad")).unwrap();
    let mut write =
        |version, id: &str, producer| client.write(version, id, 1, &batch(producer, 0, 3, true)).0;
    assert_eq!(write(11, "bad", bad), ErrorCode::TransactionAbortable);
    assert_eq!(write(10, "bad", bad), ErrorCode::InvalidTxnState);
    assert_eq!(write(12, "nobody", bad), ErrorCode::InvalidProducerIdMapping);
    assert_eq!(write(12, "good", bad), ErrorCode::InvalidProducerIdMapping);
    let forged = Producer { epoch: bad.epoch + 7, ..bad };
    assert_eq!(write(12, "bad", forged), ErrorCode::InvalidProducerEpoch);
    // Without a transactional id in the request there is nobody to ask.
    let bare = client.produce("t", -1, &batch(bad, 0, 3, true)).unwrap().0;
    assert_eq!(ErrorCode::from_code(bare), ErrorCode::InvalidTxnState);
    // A topic that is not there: no partition joins.
    let topic = |name: &str| AddPartitionsToTxnTopic { name: name.to_owned(), partitions: vec![0] };
    let request = AddPartitionsToTxnRequest {
        transactional_id: "bad".to_owned(),
        producer_id: bad.id.0,
        producer_epoch: bad.epoch,
        topics: vec![topic("t"), topic("absent")],
    };
    let added: AddPartitionsToTxnResponse = client.ask(&request, 3);
    let codes: Vec<_> = added.results.iter().map(|t| t.partitions[0].error_code).collect();
    let expected = [ErrorCode::OperationNotAttempted, ErrorCode::UnknownTopicOrPartition];
    assert_eq!(codes, expected.map(ErrorCode::code));
    for (version, commit) in [(3, true), (3, false), (5, true)] {
        assert_eq!(error(&client.end(version, "bad", bad, commit)), ErrorCode::InvalidTxnState);
    }
    assert_eq!(error(&client.end(5, "nobody", bad, true)), ErrorCode::InvalidProducerIdMapping);
    // A marker with the epoch of a coordinator to come does not keep the real one out.
    let marker = WritableTxnMarker {
        producer_id: bad.id.0,
        producer_epoch: 0,
        topics: vec![
            WritableTxnMarkerTopic { name: "t".to_owned(), partition_indexes: vec![1] },
            WritableTxnMarkerTopic { name: "absent".to_owned(), partition_indexes: vec![0] },
        ],
        coordinator_epoch: i32::MAX,
        ..Default::default()
    };
    let request = WriteTxnMarkersRequest { markers: vec![marker] };
    let written: WriteTxnMarkersResponse = client.ask(&request, 1);
    let codes = written.markers[0].topics.iter().map(|t| t.partitions[0].error_code);
    let expected = [ErrorCode::None, ErrorCode::UnknownTopicOrPartition];
    assert_eq!(codes.collect::<Vec<_>>(), expected.map(ErrorCode::code));
    assert_eq!(client.write(12, "bad", 1, &batch(bad, 0, 3, true)).0, ErrorCode::None);
    assert_eq!(error(&client.end(5, "bad", bad, true)), ErrorCode::None);
    assert_eq!(client.visible(1), 3);

    // None of it disturbed the other one.
    assert_eq!(client.write(12, "good", 0, &batch(good, 3, 3, true)), (ErrorCode::None, 3));
    assert_eq!(error(&client.end(5, "good", good, true)), ErrorCode::None);
    assert_eq!(client.visible(0), 6);
}

#[test]
fn an_operator_sees_and_ends_transactions() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 1);
    let weir = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weir"));
        let output = command.args(args).args(["--bootstrap-server", &broker.address]).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    for hangs in [false, true] {
        let producer = client.init(Some("x")).unwrap();
        let end = client.end_offset(0, false);
        assert_eq!(client.write(12, "x", 0, &batch(producer, 0, 3, true)).0, ErrorCode::None);
        let (_, listed) = weir(&["transaction", "list", "--state", "Ongoing"]);
        assert!(listed.contains('x') && listed.contains("Ongoing"), "{listed}");
        let (_, described) = weir(&["transaction", "describe", "x"]);
        assert!(described.contains("t-0"), "{described}");
        let (_, topic) = weir(&["topic", "describe", "t", "--format", "json"]);
        assert!(topic.contains(&format!("\"last_stable\": {end}")), "{topic}");
        let (_, open) = weir(&["transaction", "producers", "t", "--open"]);
        assert!(open.contains(&producer.id.0.to_string()), "{open}");
        let offset = end.to_string();
        let place = ["--topic", "t", "--partition", "0", "--start-offset", offset.as_str()];
        let abort: &[&str] = &["transaction", "abort"];
        let args = [abort, if hangs { &place[..] } else { &["x"] }].concat();
        let (done, said) = weir(&args);
        assert!(done, "{said}");
        assert_eq!(client.end_offset(0, true), end + 4, "{said}");
        assert_eq!(client.visible(0), 0);
    }
    let (done, said) = weir(&["transaction", "abort", "nobody"]);
    assert!(!done && said.contains("TRANSACTIONAL_ID_NOT_FOUND"), "{said}");
    let (done, said) = weir(&["transaction", "describe", "nobody"]);
    assert!(!done && said.contains("TRANSACTIONAL_ID_NOT_FOUND"), "{said}");
}

#[test]
fn a_compacted_topic_keeps_the_newest_of_each_key_through_kill_9() {
    let mut broker = Broker::start(&["--log.cleaner.backoff.ms", "50"]);
    let mut client = broker.client();
    let config = |name: &str, value: &str| CreatableTopicConfig {
        name: name.to_owned(),
        value: Some(value.to_owned()),
    };
    let topic = CreatableTopic {
        name: "t".to_owned(),
        num_partitions: 1,
        configs: vec![config("cleanup.policy", "compact"), config("segment.bytes", "16384")],
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    let made: CreateTopicsResponse = client.ask(&request, 7);
    assert_eq!(made.topics[0].error_code, 0, "{made:?}");
    let mut next = 0u64;
    let mut round = |client: &mut Client| {
        for _ in 0..60 {
            let mut builder = BatchBuilder::default();
            builder.begin(1_000);
            for key in 0..50u8 {
                let value = [&next.to_be_bytes()[..], &[key; 100]].concat();
                builder.push(1_000, Some(&[key]), Some(&value), &[]);
                next += 1;
            }
            let sent = client.produce("t", 1, builder.finish(Compression::Lz4));
            assert_eq!(sent.unwrap().0, 0);
        }
        next
    };
    let found = |client: &mut Client| {
        let (batches, _) = common::fetch_all_records(client);
        let mut newest = std::collections::BTreeMap::new();
        let mut offsets = Vec::new();
        for (offset, key, value) in batches {
            offsets.push(offset);
            newest.insert(key[0], u64::from_be_bytes(value[..8].try_into().unwrap()));
        }
        assert!(offsets.is_sorted());
        (offsets.len() as u64, newest)
    };
    for _ in 0..4 {
        let sent = round(&mut client);
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let (records, newest) = found(&mut client);
            let expected = |key: u8| sent - 50 + u64::from(key);
            assert!(newest.iter().all(|(key, value)| *value == expected(*key)), "{newest:?}");
            assert_eq!(newest.len(), 50);
            if records < sent / 2 {
                break;
            }
            assert!(Instant::now() < until, "{records} records of {sent} are left");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(client.end_offset(0, false), sent as i64);
        broker.kill_and_start_again();
        client = broker.client();
    }
    // A record without a key is refused, by its place.
    let keyless = common::batch(1, 10);
    let refused = client.produce("t", 1, &keyless).unwrap().0;
    assert_eq!(ErrorCode::from_code(refused), ErrorCode::InvalidRecord);
}
