//! Consumer groups, offsets, settings and fetch sessions of the real program, byte by byte: what a
//! client is promised, what it is refused, and what is left after kill -9.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client, Mounted, batch};
use coordinator::{StoredRecord, read_record};
use model::{Compression, ErrorCode, RecordBatch};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};
use wire::ApiKey;
use wire::fetch::{self, FetchAsk, FetchLimits};
use wire::header::read_response_header;
use wire::messages::*;

const NO_DELAY: [&str; 2] = ["--group.initial.rebalance.delay.ms", "0"];

fn join(group: &str, member_id: &str, metadata: &[u8]) -> JoinGroupRequest {
    let protocol = JoinGroupProtocol { name: "range".to_owned(), metadata: metadata.to_vec() };
    JoinGroupRequest {
        group_id: group.to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member_id.to_owned(),
        protocol_type: "consumer".to_owned(),
        protocols: vec![protocol],
        ..Default::default()
    }
}

/// Joins in two steps and brings an assignment, alone in its group. Returns member and generation.
fn join_alone(client: &mut Client, group: &str) -> (String, i32) {
    let first: JoinGroupResponse = client.ask(&join(group, "", b"garbage"), 5);
    assert_eq!(first.error_code, ErrorCode::MemberIdRequired.code());
    assert!(first.member_id.starts_with("test-"), "{first:?}");
    let joined: JoinGroupResponse = client.ask(&join(group, &first.member_id, b"garbage"), 5);
    assert_eq!((joined.error_code, &joined.leader), (0, &first.member_id));
    assert_eq!(joined.members.len(), 1);
    let assignments =
        vec![SyncGroupAssignment { member_id: first.member_id.clone(), assignment: vec![7; 9] }];
    let request = SyncGroupRequest {
        group_id: group.to_owned(),
        generation_id: joined.generation_id,
        member_id: first.member_id.clone(),
        assignments,
        ..Default::default()
    };
    let synced: SyncGroupResponse = client.ask(&request, 3);
    assert_eq!((synced.error_code, synced.assignment), (0, vec![7; 9]));
    (first.member_id, joined.generation_id)
}

fn heartbeat(client: &mut Client, group: &str, member: &str, generation: i32) -> ErrorCode {
    let request = HeartbeatRequest {
        group_id: group.to_owned(),
        generation_id: generation,
        member_id: member.to_owned(),
        ..Default::default()
    };
    let response: HeartbeatResponse = client.ask(&request, 3);
    ErrorCode::from_code(response.error_code)
}

fn commit_of(group: &str, offsets: &[(&str, i32, i64)]) -> OffsetCommitRequest {
    let topic = |(name, partition_index, committed_offset): &(&str, i32, i64)| OffsetCommitTopic {
        name: (*name).to_owned(),
        partitions: vec![OffsetCommitPartition {
            partition_index: *partition_index,
            committed_offset: *committed_offset,
            committed_leader_epoch: 3,
            committed_metadata: Some(format!("note {committed_offset}")),
        }],
    };
    OffsetCommitRequest {
        group_id: group.to_owned(),
        topics: offsets.iter().map(topic).collect(),
        ..Default::default()
    }
}

fn errors(response: &OffsetCommitResponse) -> Vec<ErrorCode> {
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| ErrorCode::from_code(partition.error_code)).collect()
}

/// Offset, epoch and note of one partition.
fn committed(client: &mut Client, group: &str, topic: &str, index: i32) -> (i64, i32, String) {
    let topics = vec![OffsetFetchTopic { name: topic.to_owned(), partition_indexes: vec![index] }];
    let asked =
        OffsetFetchGroup { group_id: group.to_owned(), topics: Some(topics), ..Default::default() };
    let request = OffsetFetchRequest { groups: vec![asked], ..Default::default() };
    let mut response: OffsetFetchResponse = client.ask(&request, 9);
    let mut group = response.groups.remove(0);
    assert_eq!(group.error_code, 0);
    let found = group.topics.remove(0).partitions.remove(0);
    (found.committed_offset, found.committed_leader_epoch, found.metadata.unwrap())
}

#[test]
fn members_and_offsets_outlive_kill_9() {
    let mut broker = Broker::start(&NO_DELAY);
    let mut client = broker.client();
    client.create("t", 2);
    let (member, generation) = join_alone(&mut client, "g");
    assert_eq!(heartbeat(&mut client, "g", &member, generation), ErrorCode::None);
    assert_eq!(heartbeat(&mut client, "g", &member, generation + 1), ErrorCode::IllegalGeneration);
    assert_eq!(heartbeat(&mut client, "g", "who", generation), ErrorCode::UnknownMemberId);
    let mut request = commit_of("g", &[("t", 0, 10), ("t", 1, 20), ("nope", 0, 1)]);
    // Not as a member while there are members.
    let refused: OffsetCommitResponse = client.ask(&request, 7);
    let expected = [
        ErrorCode::UnknownMemberId,
        ErrorCode::UnknownMemberId,
        ErrorCode::UnknownTopicOrPartition,
    ];
    assert_eq!(errors(&refused), expected);
    (request.member_id, request.generation_id) = (member.clone(), generation);
    request.topics[1].partitions[0].committed_metadata = Some("x".repeat(5000));
    let mixed: OffsetCommitResponse = client.ask(&request, 7);
    let expected =
        [ErrorCode::None, ErrorCode::OffsetMetadataTooLarge, ErrorCode::UnknownTopicOrPartition];
    assert_eq!(errors(&mixed), expected);
    assert_eq!(committed(&mut client, "g", "t", 0), (10, 3, "note 10".to_owned()));
    assert_eq!(committed(&mut client, "g", "t", 1), (-1, -1, String::new()));
    // A group that only keeps offsets.
    let kept: OffsetCommitResponse = client.ask(&commit_of("keeper", &[("t", 1, 5)]), 2);
    assert_eq!(errors(&kept), [ErrorCode::None]);

    broker.kill_and_start_again();
    let mut client = broker.client();
    assert_eq!(committed(&mut client, "g", "t", 0), (10, 3, "note 10".to_owned()));
    assert_eq!(committed(&mut client, "keeper", "t", 1).0, 5);
    // The member goes on as if nothing had happened.
    assert_eq!(heartbeat(&mut client, "g", &member, generation), ErrorCode::None);
    let described: DescribeGroupsResponse = client.ask(
        &DescribeGroupsRequest {
            groups: vec!["g".to_owned(), "dead".to_owned()],
            ..Default::default()
        },
        5,
    );
    let group = &described.groups[0];
    assert_eq!((group.group_state.as_str(), group.protocol_data.as_str()), ("Stable", "range"));
    assert_eq!(group.members[0].client_id, "test");
    assert_eq!(group.members[0].client_host, "/127.0.0.1");
    assert_eq!(group.members[0].member_assignment, vec![7; 9]);
    assert_eq!(described.groups[1].group_state, "Dead");
    let delete =
        DeleteGroupsRequest { groups_names: ["g", "keeper", "dead"].map(str::to_owned).into() };
    let deleted: DeleteGroupsResponse = client.ask(&delete, 2);
    let codes: Vec<_> =
        deleted.results.iter().map(|r| ErrorCode::from_code(r.error_code)).collect();
    let expected = [ErrorCode::NonEmptyGroup, ErrorCode::None, ErrorCode::GroupIdNotFound];
    assert_eq!(codes, expected);
    let request = LeaveGroupRequest {
        group_id: "g".to_owned(),
        member_id: member.clone(),
        ..Default::default()
    };
    let left: LeaveGroupResponse = client.ask(&request, 1);
    assert_eq!(left.error_code, 0);
    assert_eq!(heartbeat(&mut client, "g", &member, generation), ErrorCode::UnknownMemberId);

    broker.kill_and_start_again();
    let mut client = broker.client();
    let listed: ListGroupsResponse = client.ask(&ListGroupsRequest::default(), 5);
    let shown: Vec<_> =
        listed.groups.iter().map(|g| (g.group_id.as_str(), g.group_state.as_str())).collect();
    assert_eq!(shown, [("g", "Empty")]);
}

#[test]
fn two_members_share_and_the_second_takes_over() {
    let broker = Broker::start(&NO_DELAY);
    let (mut one, mut two) = (broker.client(), broker.client());
    let (first, generation) = join_alone(&mut one, "g");
    let given: JoinGroupResponse = two.ask(&join("g", "", b"2"), 5);
    let frame =
        two.frame(ApiKey::JoinGroup, 5, |out| join("g", &given.member_id, b"2").encode(out, 5));
    two.send(&frame);
    // The first hears of it, joins again and leads.
    let deadline = Instant::now() + Duration::from_secs(10);
    while heartbeat(&mut one, "g", &first, generation) != ErrorCode::RebalanceInProgress {
        assert!(Instant::now() < deadline);
    }
    let again: JoinGroupResponse = one.ask(&join("g", &first, b"1"), 5);
    assert_eq!((again.generation_id, again.leader.as_str()), (generation + 1, first.as_str()));
    assert_eq!(again.members.len(), 2);
    let payload = two.receive().unwrap();
    let (_, mut rest) = read_response_header(&payload, ApiKey::JoinGroup, 5).unwrap();
    let joined = JoinGroupResponse::decode(&mut rest, 5).unwrap();
    assert_eq!((joined.generation_id, joined.members.len()), (generation + 1, 0));
    // The follower asks first and waits for the leader.
    let sync = |member: &str, assignments| SyncGroupRequest {
        group_id: "g".to_owned(),
        generation_id: generation + 1,
        member_id: member.to_owned(),
        assignments,
        ..Default::default()
    };
    let asked = sync(&given.member_id, Vec::new());
    let frame = two.frame(ApiKey::SyncGroup, 3, |out| asked.encode(out, 3));
    two.send(&frame);
    let assignments = vec![SyncGroupAssignment {
        member_id: given.member_id.clone(),
        assignment: b"yours".to_vec(),
    }];
    let synced: SyncGroupResponse = one.ask(&sync(&first, assignments), 3);
    assert_eq!((synced.error_code, synced.assignment.len()), (0, 0));
    let payload = two.receive().unwrap();
    let (_, mut rest) = read_response_header(&payload, ApiKey::SyncGroup, 3).unwrap();
    assert_eq!(SyncGroupResponse::decode(&mut rest, 3).unwrap().assignment, b"yours");
    // The first leaves: the second is asked to join, and is alone.
    let leave = LeaveGroupRequest {
        group_id: "g".to_owned(),
        members: vec![LeavingMember { member_id: first, ..Default::default() }],
        ..Default::default()
    };
    let left: LeaveGroupResponse = one.ask(&leave, 4);
    assert_eq!(left.members[0].error_code, 0);
    let beat = heartbeat(&mut two, "g", &given.member_id, generation + 1);
    assert_eq!(beat, ErrorCode::RebalanceInProgress);
    let alone: JoinGroupResponse = two.ask(&join("g", &given.member_id, b"2"), 5);
    assert_eq!((alone.generation_id, alone.leader), (generation + 2, given.member_id));
}

#[test]
fn a_silent_member_is_out_after_its_session() {
    let args = [&NO_DELAY[..], &["--group.min.session.timeout.ms", "100"]].concat();
    let broker = Broker::start(&args);
    let mut client = broker.client();
    let mut request = join("g", "", b"");
    request.session_timeout_ms = 300;
    let given: JoinGroupResponse = client.ask(&request, 5);
    request.member_id = given.member_id.clone();
    let joined: JoinGroupResponse = client.ask(&request, 5);
    let sync = SyncGroupRequest {
        group_id: "g".to_owned(),
        generation_id: joined.generation_id,
        member_id: given.member_id.clone(),
        ..Default::default()
    };
    let synced: SyncGroupResponse = client.ask(&sync, 3);
    assert_eq!(synced.error_code, 0);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(120));
        let beat = heartbeat(&mut client, "g", &given.member_id, joined.generation_id);
        assert_eq!(beat, ErrorCode::None, "heartbeats keep it in");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let listed: ListGroupsResponse = client.ask(&ListGroupsRequest::default(), 4);
        if listed.groups[0].group_state == "Empty" {
            break;
        }
        assert!(Instant::now() < deadline, "{listed:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let beat = heartbeat(&mut client, "g", &given.member_id, joined.generation_id);
    assert_eq!(beat, ErrorCode::UnknownMemberId);
    request.session_timeout_ms = 50;
    let refused: JoinGroupResponse = client.ask(&request, 5);
    assert_eq!(refused.error_code, ErrorCode::InvalidSessionTimeout.code());
}

fn fetch_records(client: &mut Client, topic: &str, partition: i32) -> (i64, Vec<u8>) {
    let limits = FetchLimits {
        max_wait_ms: 100,
        min_bytes: 0,
        max_bytes: 50 << 20,
        partition_max_bytes: 50 << 20,
        read_committed: false,
    };
    let id = model::TopicId::ZERO;
    let mut at = 0;
    let mut records = Vec::new();
    loop {
        let asks = [FetchAsk { partition, offset: at }];
        let frame = client
            .frame(ApiKey::Fetch, 12, |out| fetch::put_request(out, 12, limits, topic, id, &asks));
        client.send(&frame);
        let payload = client.receive().unwrap();
        let (_, rest) = read_response_header(&payload, ApiKey::Fetch, 12).unwrap();
        let (mut got, mut end, mut error) = (Vec::new(), 0, ErrorCode::None);
        fetch::read_response(rest, 12, |part| {
            got = part.records.to_vec();
            (end, error) = (part.high_watermark, part.error);
        })
        .unwrap();
        assert_eq!(error, ErrorCode::None);
        let mut rest = &got[..];
        while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
            at = batch.last_offset().0 + 1;
            rest = tail;
        }
        records.extend_from_slice(&got[..got.len() - rest.len()]);
        if at >= end {
            return (end, records);
        }
    }
}

#[test]
fn the_offsets_topic_is_read_like_any_and_written_by_the_broker_alone() {
    let broker = Broker::start(&["--offsets.topic.num.partitions", "1"]);
    let mut client = broker.client();
    client.create("t", 1);
    let kept: OffsetCommitResponse = client.ask(&commit_of("g", &[("t", 0, 42)]), 7);
    assert_eq!(errors(&kept), [ErrorCode::None]);
    let (_, bytes) = fetch_records(&mut client, "__consumer_offsets", 0);
    let (batch_read, _) = RecordBatch::split_first(&bytes).unwrap();
    let mut scratch = Vec::new();
    let record = batch_read.records(&mut scratch).unwrap().next().unwrap().unwrap();
    let read = read_record(record.key.unwrap(), record.value).unwrap();
    let StoredRecord::Offset { group, topic, partition: 0, value: Some(value) } = read else {
        panic!("{read:?}")
    };
    assert_eq!((group.as_str(), topic.as_str(), value.offset), ("g", "t", 42));
    // Everything that would write or remove it is refused; nothing else of the request is.
    let (error, _) = client.produce("__consumer_offsets", 1, &batch(3, 10)).unwrap();
    assert_eq!(error, ErrorCode::InvalidTopicException.code());
    let delete = DeleteTopicsRequest {
        topic_names: vec!["__consumer_offsets".to_owned(), "t".to_owned()],
        ..Default::default()
    };
    let deleted: DeleteTopicsResponse = client.ask(&delete, 5);
    assert_eq!(deleted.responses[0].error_code, ErrorCode::InvalidTopicException.code());
    assert_eq!(deleted.responses[1].error_code, 0);
    let metadata: MetadataResponse = client.ask(&MetadataRequest::default(), 9);
    let internal = metadata.topics.iter().find(|t| t.is_internal).unwrap();
    assert_eq!(internal.name.as_deref(), Some("__consumer_offsets"));
    // With its topic the offset is gone, whichever shards they are on.
    for topic in ["t0", "t1", "t2", "t3", "t4", "t5"] {
        client.create(topic, 1);
        let kept: OffsetCommitResponse = client.ask(&commit_of("g", &[(topic, 0, 42)]), 7);
        assert_eq!(errors(&kept), [ErrorCode::None]);
        let delete =
            DeleteTopicsRequest { topic_names: vec![topic.to_owned()], ..Default::default() };
        let deleted: DeleteTopicsResponse = client.ask(&delete, 5);
        assert_eq!(deleted.responses[0].error_code, 0);
        let deadline = Instant::now() + Duration::from_secs(10);
        while committed(&mut client, "g", topic, 0).0 != -1 {
            assert!(Instant::now() < deadline, "the offset of {topic} stays");
        }
    }
}

#[test]
fn the_offsets_log_is_compacted_before_it_grows() {
    let args = ["--offsets.topic.num.partitions", "1", "--log.cleaner.backoff.ms", "100"];
    let mut broker = Broker::start(&args);
    let mut client = broker.client();
    client.create("t", 500);
    let offsets = |round: i64| (0..500).map(move |p| ("t", p, round * 1000 + i64::from(p)));
    let size = |client: &mut Client| {
        let request = DescribeLogDirsRequest { topics: None };
        let answer: DescribeLogDirsResponse = client.ask(&request, 4);
        let topics = answer.results.into_iter().flat_map(|dir| dir.topics);
        let own = topics.filter(|topic| topic.name == "__consumer_offsets");
        own.flat_map(|topic| topic.partitions).map(|p| p.partition_size).sum::<i64>()
    };
    // 1,200 rounds of 500 offsets are more than 35 MB of records; alive are 40 KB.
    let (mut largest, mut smallest_since) = (0, i64::MAX);
    for round in 0..1_200 {
        let request = commit_of("g", &offsets(round).collect::<Vec<_>>());
        let kept: OffsetCommitResponse = client.ask(&request, 7);
        assert!(errors(&kept).iter().all(|error| *error == ErrorCode::None));
        if round % 50 == 0 {
            largest = largest.max(size(&mut client));
        }
    }
    let until = Instant::now() + Duration::from_secs(20);
    while smallest_since > 17 << 20 {
        assert!(Instant::now() < until, "{smallest_since} bytes are left of {largest}");
        std::thread::sleep(Duration::from_millis(50));
        smallest_since = smallest_since.min(size(&mut client));
    }
    assert!(largest > 16 << 20, "nothing was there to compact: {largest}");
    broker.kill_and_start_again();
    let mut client = broker.client();
    for index in [0, 77, 499] {
        assert_eq!(committed(&mut client, "g", "t", index).0, 1_199_000 + i64::from(index));
    }
}

#[test]
fn a_commit_that_was_answered_outlives_a_kill_9_in_that_moment() {
    let mut broker = Broker::start(&[]);
    broker.client().create("t", 1);
    let mut offset = 0;
    for cycle in 0..8 {
        let mut client = broker.client();
        let until = Instant::now() + Duration::from_millis(20 + 13 * cycle);
        while Instant::now() < until {
            offset += 1;
            let kept: OffsetCommitResponse = client.ask(&commit_of("g", &[("t", 0, offset)]), 7);
            assert_eq!(errors(&kept), [ErrorCode::None]);
        }
        broker.kill_and_start_again();
        assert_eq!(committed(&mut broker.client(), "g", "t", 0).0, offset, "cycle {cycle}");
    }
}

#[test]
fn a_full_disk_refuses_commits_and_loses_none() {
    let Some(disk) = Mounted::tmpfs(64 << 20) else {
        println!("skipped: no tmpfs may be mounted here");
        return;
    };
    let args = "--weir.shards 1 --weir.journal.bytes 0 --offsets.topic.num.partitions 1";
    let args: Vec<_> = args.split(' ').collect();
    let mut broker = Broker::start_under(disk.0.path(), &args);
    let mut client = broker.client();
    client.create("t", 500);
    let commit = |client: &mut Client, round: i64| {
        let offsets: Vec<_> = (0..500).map(|p| ("t", p, round)).collect();
        let response: OffsetCommitResponse = client.ask(&commit_of("g", &offsets), 7);
        let errors = errors(&response);
        assert!(errors.iter().all(|error| *error == errors[0]), "all or nothing");
        errors[0]
    };
    assert_eq!(commit(&mut client, 1), ErrorCode::None);
    let ballast = disk.0.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 1 << 20]).is_ok() {}
    drop(file);
    let mut round = 1;
    let error = loop {
        match commit(&mut client, round + 1) {
            ErrorCode::None => round += 1,
            error => break error,
        }
        assert!(round < 5_000, "the disk fills up");
    };
    assert_eq!(error, ErrorCode::CoordinatorNotAvailable);
    for _ in 0..3 {
        // Refused, not half done; and what there was can be read.
        assert_eq!(commit(&mut client, round + 1), ErrorCode::CoordinatorNotAvailable);
        assert_eq!(committed(&mut client, "g", "t", 499).0, round);
    }
    std::fs::remove_file(&ballast).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while commit(&mut client, round + 1) != ErrorCode::None {
        assert!(Instant::now() < deadline, "it recovers by itself");
        std::thread::sleep(Duration::from_millis(50));
    }
    broker.kill_and_start_again();
    for partition in [0, 250, 499] {
        assert_eq!(committed(&mut broker.client(), "g", "t", partition).0, round + 1);
    }
}

#[test]
fn a_client_that_hangs_up_leaves_nothing_half_done() {
    let broker = Broker::start(&[]);
    for round in 0..30 {
        let mut client = broker.client();
        let new = CreatableTopic {
            name: format!("hangup-{round}"),
            num_partitions: 60,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![new], ..Default::default() };
        let frame = client.frame(ApiKey::CreateTopics, 7, |out| request.encode(out, 7));
        client.send(&frame);
        std::thread::sleep(Duration::from_micros(300 * round));
        drop(client);
    }
    // Whatever became of those, the next is served.
    let mut client = broker.client();
    client.create("after", 3);
    let kept: OffsetCommitResponse = client.ask(&commit_of("g", &[("after", 0, 1)]), 7);
    assert_eq!(errors(&kept), [ErrorCode::None]);
}

fn set(client: &mut Client, topic: &str, name: &str, value: Option<&str>) -> i16 {
    let config = IncrementalConfig {
        name: name.to_owned(),
        config_operation: i8::from(value.is_none()),
        value: value.map(str::to_owned),
    };
    let resource = IncrementalConfigsResource {
        resource_type: 2,
        resource_name: topic.to_owned(),
        configs: vec![config],
    };
    let request =
        IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let response: IncrementalAlterConfigsResponse = client.ask(&request, 1);
    response.responses[0].error_code
}

#[test]
fn topic_settings_take_effect_at_once() {
    let mut broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 1);
    let produce = |client: &mut Client| {
        ErrorCode::from_code(client.produce("t", -1, &batch(20, 100)).unwrap().0)
    };
    assert_eq!(produce(&mut client), ErrorCode::None);
    for (name, value) in [("max.message.bytes", "-1"), ("nope", "1"), ("cleanup.policy", "burn")] {
        let code = set(&mut client, "t", name, Some(value));
        assert_eq!(code, ErrorCode::InvalidConfig.code(), "{name}={value}");
    }
    assert_eq!(set(&mut client, "none", "retention.ms", Some("1")), 3);
    assert_eq!(set(&mut client, "t", "max.message.bytes", Some("100")), 0);
    assert_eq!(produce(&mut client), ErrorCode::MessageTooLarge);
    assert_eq!(set(&mut client, "t", "max.message.bytes", None), 0);
    assert_eq!(set(&mut client, "t", "min.insync.replicas", Some("2")), 0);
    // No more than there are of the partition, as in Kafka: settings that come from a cluster refuse nothing.
    assert_eq!(produce(&mut client), ErrorCode::None);
    assert_eq!(set(&mut client, "t", "min.insync.replicas", None), 0);
    assert_eq!(set(&mut client, "t", "compression.type", Some("zstd")), 0);
    assert_eq!(produce(&mut client), ErrorCode::None);
    assert_eq!(set(&mut client, "t", "message.timestamp.type", Some("LogAppendTime")), 0);
    assert_eq!(produce(&mut client), ErrorCode::None);
    let (_, bytes) = fetch_records(&mut client, "t", 0);
    let mut rest = &bytes[..];
    let mut seen = Vec::new();
    while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
        assert!(batch.crc_matches());
        seen.push((batch.compression().unwrap(), batch.is_log_append_time()));
        let mut scratch = Vec::new();
        assert_eq!(batch.records(&mut scratch).unwrap().count(), 20);
        rest = tail;
    }
    let zstd = Compression::Zstd;
    let none = (Compression::None, false);
    assert_eq!(seen, [none, none, (zstd, false), (zstd, true)]);
    // And they last.
    broker.kill_and_start_again();
    let mut client = broker.client();
    let resource = DescribeConfigsResource {
        resource_type: 2,
        resource_name: "t".to_owned(),
        configuration_keys: Some(vec!["compression.type".to_owned()]),
    };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        ..Default::default()
    };
    let described: DescribeConfigsResponse = client.ask(&request, 4);
    let entry = &described.results[0].configs[0];
    assert_eq!((entry.value.as_deref(), entry.config_source), (Some("zstd"), 1));
    assert_eq!(entry.synonyms.len(), 2);
}

/// A fetch in a session; returns its id and the partitions that were told.
fn session_fetch(
    client: &mut Client,
    id: i32,
    epoch: i32,
    asks: &[FetchAsk],
) -> (ErrorCode, i32, BTreeMap<i32, (ErrorCode, i64, usize)>) {
    let limits = FetchLimits {
        max_wait_ms: 50,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partition_max_bytes: 1 << 20,
        read_committed: false,
    };
    let topic_id = model::TopicId::ZERO;
    let frame = client.frame(ApiKey::Fetch, 11, |out| {
        let at = out.len();
        fetch::put_request(out, 11, limits, "t", topic_id, asks);
        // The session's two fields follow replica, wait, two sizes and isolation.
        out[at + 17..at + 21].copy_from_slice(&id.to_be_bytes());
        out[at + 21..at + 25].copy_from_slice(&epoch.to_be_bytes());
        if asks.is_empty() {
            // One topic without partitions would stand there.
            out.truncate(at + 25);
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(&[0, 0]);
        }
    });
    client.send(&frame);
    let payload = client.receive().unwrap();
    let (_, rest) = read_response_header(&payload, ApiKey::Fetch, 11).unwrap();
    let session = i32::from_be_bytes(rest.rest()[6..10].try_into().unwrap());
    let mut told = BTreeMap::new();
    let error = fetch::read_response(rest, 11, |part| {
        told.insert(part.partition, (part.error, part.high_watermark, part.records.len()));
    })
    .unwrap();
    (error, session, told)
}

#[test]
fn a_fetch_session_tells_only_what_is_new() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 30);
    let asks: Vec<_> = (0..30).map(|partition| FetchAsk { partition, offset: 0 }).collect();
    let (error, id, told) = session_fetch(&mut client, 0, 0, &asks);
    assert_eq!((error, told.len()), (ErrorCode::None, 30));
    assert!(id > 0);
    // Nothing is new.
    let (_, same, told) = session_fetch(&mut client, id, 1, &[]);
    assert_eq!((same, told.len()), (id, 0));
    let mut producer = broker.client();
    let frame = producer.produce_frame("t", -1, &[(7, &batch(5, 9)), (20, &batch(2, 9))]);
    producer.send(&frame);
    assert_eq!(producer.produced().unwrap().len(), 2);
    let (_, _, told) = session_fetch(&mut client, id, 2, &[]);
    let shown: Vec<_> = told.iter().map(|(index, (_, end, _))| (*index, *end)).collect();
    assert_eq!(shown, [(7, 5), (20, 2)]);
    // The client moves on in one of them; the other still has its records.
    let moved = [FetchAsk { partition: 7, offset: 5 }];
    let (_, _, told) = session_fetch(&mut client, id, 3, &moved);
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [20]);
    // Wrong epochs and unknown sessions.
    let (error, _, _) = session_fetch(&mut client, id, 3, &[]);
    assert_eq!(error, ErrorCode::InvalidFetchSessionEpoch);
    let (error, _, _) = session_fetch(&mut client, id ^ 0x100, 1, &[]);
    assert_eq!(error, ErrorCode::FetchSessionIdNotFound);
    // An offset that is out of range is told until it is mended.
    let wrong = [FetchAsk { partition: 3, offset: 99 }];
    let (_, _, told) = session_fetch(&mut client, id, 4, &wrong);
    assert_eq!(told[&3].0, ErrorCode::OffsetOutOfRange);
    let (_, _, told) = session_fetch(&mut client, id, 5, &[]);
    assert_eq!(told[&3].0, ErrorCode::OffsetOutOfRange);
    // And the session ends when the client says so.
    let (_, none, told) = session_fetch(&mut client, id, -1, &asks);
    assert_eq!((none, told.len()), (0, 30));
    let (error, _, _) = session_fetch(&mut client, id, 6, &[]);
    assert_eq!(error, ErrorCode::FetchSessionIdNotFound);
}
