//! Answers that programs written for Apache Kafka rest on, as Kafka 4.1 gives them.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client, batch, body};
use model::TopicId;
use wire::ApiKey;
use wire::fetch::{FetchAsk, FetchLimits, put_request, read_response};
use wire::messages::*;

const INVALID_TOPIC: i16 = 17;
const TOPIC_EXISTS: i16 = 36;
const INVALID_REPLICATION_FACTOR: i16 = 38;
const INVALID_CONFIG: i16 = 40;
const INVALID_REQUEST: i16 = 42;
const POLICY_VIOLATION: i16 = 44;
const UNKNOWN_TOPIC_ID: i16 = 100;

fn topic(name: &str, num_partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic {
        name: name.to_owned(),
        num_partitions,
        replication_factor,
        ..Default::default()
    }
}

/// Error of each topic, in the order of the answer.
fn create(client: &mut Client, topics: Vec<CreatableTopic>) -> Vec<(String, i16)> {
    let request = CreateTopicsRequest { topics, ..Default::default() };
    let response: CreateTopicsResponse = client.ask(&request, 7);
    response.topics.into_iter().map(|topic| (topic.name, topic.error_code)).collect()
}

fn codes(answers: &[(String, i16)]) -> Vec<i16> {
    answers.iter().map(|(_, code)| *code).collect()
}

fn by_id(client: &mut Client, topics: Vec<MetadataRequestTopic>, version: i16) -> MetadataResponse {
    let request = MetadataRequest { topics: Some(topics), ..Default::default() };
    client.ask(&request, version)
}

#[test]
fn a_topic_is_described_by_its_id_whatever_name_stands_beside_it() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 3);
    client.create("u", 1);
    let all: MetadataResponse = client.ask(&MetadataRequest::default(), 12);
    let id = all.topics.iter().find(|topic| topic.name.as_deref() == Some("t")).unwrap().topic_id;
    let named = |name: Option<&str>, topic_id| MetadataRequestTopic {
        name: name.map(str::to_owned),
        topic_id,
    };
    // Java's admin sends an empty name.
    for (name, version) in [(Some(""), 12), (Some(""), 13), (None, 12), (Some("u"), 12)] {
        let response = by_id(&mut client, vec![named(name, id)], version);
        assert_eq!(response.topics.len(), 1);
        let topic = &response.topics[0];
        assert_eq!((topic.error_code, topic.name.as_deref()), (0, Some("t")), "{name:?} {version}");
        assert_eq!(topic.partitions.len(), 3);
    }
    let unknown = by_id(&mut client, vec![named(Some("t"), TopicId([7; 16]))], 12);
    assert_eq!(unknown.topics[0].error_code, UNKNOWN_TOPIC_ID);
    // Before version 12 there was no such thing.
    let early = by_id(&mut client, vec![named(Some("t"), id)], 10);
    assert_eq!(early.topics[0].error_code, INVALID_REQUEST);
    // Each once, in the order in which they were asked for.
    let names = ["u", "t", "u", "u"].map(|name| named(Some(name), TopicId::ZERO));
    let once = by_id(&mut client, names.to_vec(), 12);
    let names: Vec<_> = once.topics.iter().map(|topic| topic.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["u", "t"]);
}

#[test]
fn what_exists_is_said_first_when_a_topic_is_made() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 1);
    // Connect and MirrorMaker 2 ask for three replicas and go on when the topic is there.
    assert_eq!(codes(&create(&mut client, vec![topic("t", 1, 3)])), [TOPIC_EXISTS]);
    assert_eq!(codes(&create(&mut client, vec![topic("n", 1, 3)])), [INVALID_REPLICATION_FACTOR]);
    // Names that metrics cannot tell apart; two new ones may be made.
    client.create("a.b", 1);
    assert_eq!(codes(&create(&mut client, vec![topic("a_b", 1, -1)])), [INVALID_TOPIC]);
    let request = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some("a_b".to_owned()),
            ..Default::default()
        }]),
        allow_auto_topic_creation: true,
        ..Default::default()
    };
    let response: MetadataResponse = client.ask(&request, 9);
    assert_eq!(response.topics[0].error_code, 3, "nor is it made by asking for it");
    // Beside an assignment nothing else counts the partitions or replicas.
    let assigned = |partitions, factor| CreatableTopic {
        assignments: vec![CreatableReplicaAssignment { partition_index: 0, broker_ids: vec![1] }],
        ..topic("assigned", partitions, factor)
    };
    for (partitions, factor) in [(1, -1), (-1, 1)] {
        let answers = create(&mut client, vec![assigned(partitions, factor)]);
        assert_eq!(codes(&answers), [INVALID_REQUEST], "{partitions} {factor}");
    }
    assert_eq!(codes(&create(&mut client, vec![assigned(-1, -1)])), [0]);
    // Of a name that comes twice one answer, and nothing is made.
    let answers =
        create(&mut client, vec![topic("twice", 1, -1), topic("o", 1, -1), topic("twice", 2, -1)]);
    assert_eq!(answers, [("twice".to_owned(), INVALID_REQUEST), ("o".to_owned(), 0)]);
    // More than one request may make.
    let many = create(&mut client, vec![topic("x", 6_000, -1), topic("y", 6_000, -1)]);
    assert_eq!(codes(&many), [0, POLICY_VIOLATION]);
    // The default is told where only the default was asked for.
    let request = CreateTopicsRequest {
        topics: vec![topic("v", -1, -1)],
        validate_only: true,
        ..Default::default()
    };
    let response: CreateTopicsResponse = client.ask(&request, 7);
    assert_eq!((response.topics[0].error_code, response.topics[0].num_partitions), (0, 1));
    let collides = CreateTopicsRequest {
        topics: vec![topic("a_b", -1, -1)],
        validate_only: true,
        ..Default::default()
    };
    let response: CreateTopicsResponse = client.ask(&collides, 7);
    assert_eq!(response.topics[0].error_code, INVALID_TOPIC, "as it would be refused");
}

#[test]
fn topics_named_twice_are_neither_grown_nor_deleted() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 2);
    let grow = |count| CreatePartitionsTopic { name: "t".to_owned(), count, ..Default::default() };
    let request = CreatePartitionsRequest { topics: vec![grow(4), grow(6)], ..Default::default() };
    let response: CreatePartitionsResponse = client.ask(&request, 3);
    assert_eq!(response.results.len(), 1);
    assert_eq!(response.results[0].error_code, INVALID_REQUEST);
    let metadata: MetadataResponse = client.ask(&MetadataRequest::default(), 12);
    assert_eq!(metadata.topics[0].partitions.len(), 2);
    let id = metadata.topics[0].topic_id;
    let mut delete = |states: &[(Option<&str>, TopicId)]| -> Vec<i16> {
        let topics = states.iter().map(|(name, topic_id)| DeleteTopicState {
            name: name.map(str::to_owned),
            topic_id: *topic_id,
        });
        let request = DeleteTopicsRequest { topics: topics.collect(), ..Default::default() };
        let response: DeleteTopicsResponse = client.ask(&request, 6);
        response.responses.iter().map(|result| result.error_code).collect()
    };
    let zero = TopicId::ZERO;
    assert_eq!(delete(&[(Some("t"), zero), (Some("t"), zero)]), [INVALID_REQUEST]);
    assert_eq!(delete(&[(Some("t"), zero), (None, id)]), [INVALID_REQUEST]);
    assert_eq!(delete(&[(Some("t"), id)]), [INVALID_REQUEST]);
    assert_eq!(delete(&[(None, zero)]), [INVALID_REQUEST]);
    assert_eq!(delete(&[(Some("no"), zero)]), [3]);
    assert_eq!(delete(&[(Some("no"), zero), (Some("no"), zero)]), [INVALID_REQUEST]);
    assert_eq!(delete(&[(None, id)]), [0]);
}

#[test]
fn a_setting_that_is_not_set_can_be_deleted_whatever_its_name() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 1);
    let mut change = |resource_type, name: &str, configs: &[(&str, i8, Option<&str>)]| -> i16 {
        let config =
            |(name, config_operation, value): &(&str, i8, Option<&str>)| IncrementalConfig {
                name: (*name).to_owned(),
                config_operation: *config_operation,
                value: value.map(str::to_owned),
            };
        let resource = IncrementalConfigsResource {
            resource_type,
            resource_name: name.to_owned(),
            configs: configs.iter().map(config).collect(),
        };
        let request =
            IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
        let response: IncrementalAlterConfigsResponse = client.ask(&request, 1);
        response.responses[0].error_code
    };
    let (set, delete) = (0, 1);
    // MirrorMaker 2 deletes all that has its default at the source.
    let mixed = [
        ("no.such.setting", delete, None),
        ("retention.ms", set, Some("1000")),
        ("flush.ms", delete, None),
    ];
    assert_eq!(change(2, "t", &mixed), 0);
    assert_eq!(change(2, "t", &[("no.such.setting", set, Some("1"))]), INVALID_CONFIG);
    // Settings that mean nothing here are kept, as far as they could mean something in Kafka.
    for (name, good, bad) in [
        ("compression.gzip.level", "9", "10"),
        ("compression.lz4.level", "17", "0"),
        ("compression.zstd.level", "22", "99"),
        ("leader.replication.throttled.replicas", "0:1,1:1", "0"),
        ("follower.replication.throttled.replicas", "*", "x:y"),
        ("local.retention.ms", "-2", "-3"),
        ("local.retention.bytes", "100", "x"),
        ("remote.storage.enable", "false", "true"),
        ("remote.log.copy.disable", "true", "maybe"),
    ] {
        assert_eq!(change(2, "t", &[(name, set, Some(good))]), 0, "{name}={good}");
        assert_eq!(change(2, "t", &[(name, set, Some(bad))]), INVALID_CONFIG, "{name}={bad}");
        assert_eq!(change(2, "t", &[(name, delete, None)]), 0);
    }
    // kafka-reassign-partitions takes back what it may have set.
    assert_eq!(change(4, "1", &[("leader.replication.throttled.rate", delete, None)]), 0);
    assert_ne!(change(4, "1", &[("log.retention.ms", set, Some("1"))]), 0);
    let describe = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: 2,
            resource_name: "t".to_owned(),
            configuration_keys: Some(vec!["retention.ms".to_owned()]),
        }],
        ..Default::default()
    };
    let described: DescribeConfigsResponse = client.ask(&describe, 4);
    assert_eq!(described.results[0].configs[0].value.as_deref(), Some("1000"));
}

#[test]
fn records_of_a_compacted_topic_are_not_deleted_by_offset() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    for (name, policy, code) in
        [("c", "compact", POLICY_VIOLATION), ("cd", "compact,delete", 0), ("d", "delete", 0)]
    {
        let config = CreatableTopicConfig {
            name: "cleanup.policy".to_owned(),
            value: Some(policy.to_owned()),
        };
        let made = CreatableTopic { configs: vec![config], ..topic(name, 1, -1) };
        assert_eq!(codes(&create(&mut client, vec![made])), [0]);
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: name.to_owned(),
                partitions: vec![DeleteRecordsPartition { partition_index: 0, offset: -1 }],
            }],
            ..Default::default()
        };
        let response: DeleteRecordsResponse = client.ask(&request, 2);
        assert_eq!(response.topics[0].partitions[0].error_code, code, "{policy}");
    }
}

#[test]
fn a_partition_named_twice_is_not_looked_up() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 2);
    let partition = |partition_index| ListOffsetsPartition {
        partition_index,
        timestamp: -1,
        ..Default::default()
    };
    let of = |name: &str, partitions: &[i32]| ListOffsetsTopic {
        name: name.to_owned(),
        partitions: partitions.iter().copied().map(partition).collect(),
    };
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![of("t", &[0, 1, 0]), of("no", &[5, 5])],
        ..Default::default()
    };
    let response: ListOffsetsResponse = client.ask(&request, 7);
    let told: Vec<(String, i32, i16)> = response
        .topics
        .iter()
        .flat_map(|topic| {
            let told = |p: &ListOffsetsPartitionResponse| {
                (topic.name.clone(), p.partition_index, p.error_code)
            };
            topic.partitions.iter().map(told).collect::<Vec<_>>()
        })
        .collect();
    let expected = [("t", 0, INVALID_REQUEST), ("t", 1, 0), ("no", 5, INVALID_REQUEST)];
    assert_eq!(told, expected.map(|(name, index, code)| (name.to_owned(), index, code)));
}

#[test]
fn only_the_first_batch_of_an_answer_may_be_larger_than_asked_for() {
    let broker = Broker::start(&["--weir.shards", "1"]);
    let mut client = broker.client();
    client.create("t", 8);
    let bytes = batch(1, 100_000);
    let batches: Vec<(i32, &[u8])> = (0..8).map(|partition| (partition, &bytes[..])).collect();
    let frame = client.produce_frame("t", 1, &batches);
    client.send(&frame);
    assert!(client.produced().unwrap().iter().all(|(_, error, _)| *error == 0));
    let limits = FetchLimits {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 50 << 20,
        partition_max_bytes: 1000,
        read_committed: false,
    };
    let asks: Vec<_> = (0..8).map(|partition| FetchAsk { partition, offset: 0 }).collect();
    let frame = client.frame(ApiKey::Fetch, 12, |out| {
        put_request(out, 12, limits, "t", TopicId::ZERO, &asks);
    });
    client.send(&frame);
    let payload = client.receive().unwrap();
    let mut with_records = Vec::new();
    read_response(body(&payload, ApiKey::Fetch, 12), 12, |fetched| {
        with_records.push(!fetched.records.is_empty());
    })
    .unwrap();
    assert_eq!(with_records, [true, false, false, false, false, false, false, false]);
}

#[test]
fn offsets_may_be_kept_without_a_groups_name() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 1);
    let commit = OffsetCommitRequest {
        group_id: String::new(),
        generation_id: -1,
        topics: vec![OffsetCommitTopic {
            name: "t".to_owned(),
            partitions: vec![OffsetCommitPartition {
                partition_index: 0,
                committed_offset: 7,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    let response: OffsetCommitResponse = client.ask(&commit, 8);
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
    let fetch = OffsetFetchRequest {
        groups: vec![OffsetFetchGroup {
            group_id: String::new(),
            topics: Some(vec![OffsetFetchTopic {
                name: "t".to_owned(),
                partition_indexes: vec![0, 0, 0],
            }]),
            ..Default::default()
        }],
        ..Default::default()
    };
    let response: OffsetFetchResponse = client.ask(&fetch, 8);
    let group = &response.groups[0];
    assert_eq!((group.error_code, group.topics[0].partitions.len()), (0, 1), "each once");
    assert_eq!(group.topics[0].partitions[0].committed_offset, 7);
    let delete = DeleteGroupsRequest { groups_names: vec![String::new()] };
    let response: DeleteGroupsResponse = client.ask(&delete, 2);
    assert_eq!(response.results[0].error_code, 0);
}

#[test]
fn a_cluster_without_security_says_so_to_every_tool() {
    const SECURITY_DISABLED: i16 = 54;
    const ILLEGAL_SASL_STATE: i16 = 34;
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    for version in 1..=3 {
        let acls: DescribeAclsResponse = client.ask(&DescribeAclsRequest::default(), version);
        assert_eq!((acls.error_code, acls.resources.len()), (SECURITY_DISABLED, 0));
        let made: CreateAclsResponse =
            client.ask(&CreateAclsRequest { creations: vec![AclCreation::default(); 2] }, version);
        let codes: Vec<_> = made.results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [SECURITY_DISABLED; 2]);
        let gone: DeleteAclsResponse =
            client.ask(&DeleteAclsRequest { filters: vec![DeleteAclsFilter::default()] }, version);
        assert_eq!(gone.filter_results[0].error_code, SECURITY_DISABLED);
    }
    for version in 0..=1 {
        let quotas: DescribeClientQuotasResponse =
            client.ask(&DescribeClientQuotasRequest::default(), version);
        assert_eq!((quotas.error_code, quotas.entries), (0, Some(Vec::new())));
    }
    let asked = |users: Option<Vec<&str>>| DescribeUserScramCredentialsRequest {
        users: users.map(|names| {
            names.into_iter().map(|name| ScramUser { name: name.to_owned() }).collect()
        }),
    };
    let all: DescribeUserScramCredentialsResponse = client.ask(&asked(None), 0);
    assert_eq!((all.error_code, all.results.len()), (0, 0));
    let one: DescribeUserScramCredentialsResponse = client.ask(&asked(Some(vec!["u"])), 0);
    assert_eq!(one.results[0].error_code, 91, "RESOURCE_NOT_FOUND");
    let sasl = SaslHandshakeRequest { mechanism: "PLAIN".to_owned() };
    let response: SaslHandshakeResponse = client.ask(&sasl, 1);
    assert_eq!(response.error_code, ILLEGAL_SASL_STATE);
}

#[test]
fn the_broker_tells_its_settings_with_their_types_and_addresses() {
    let broker = Broker::start(&["--num.partitions", "3"]);
    let mut client = broker.client();
    let mut describe = |name: &str| {
        let resource = DescribeConfigsResource {
            resource_type: 4,
            resource_name: name.to_owned(),
            ..Default::default()
        };
        let request = DescribeConfigsRequest {
            resources: vec![resource],
            include_synonyms: true,
            ..Default::default()
        };
        let mut response: DescribeConfigsResponse = client.ask(&request, 4);
        response.results.remove(0)
    };
    let told = describe("1");
    let of = |name: &str| told.configs.iter().find(|entry| entry.name == name).unwrap();
    let address = format!("PLAINTEXT://{}", broker.address);
    for (name, config_type, value) in [
        ("num.partitions", 3, "3"),
        ("auto.create.topics.enable", 1, "true"),
        ("log.retention.ms", 5, "604800000"),
        ("log.cleanup.policy", 7, "delete"),
        ("default.replication.factor", 3, "1"),
        ("offsets.topic.replication.factor", 4, "1"),
        ("broker.id", 3, "1"),
        ("listeners", 2, &address),
        ("advertised.listeners", 2, &address),
    ] {
        assert_eq!((of(name).config_type, of(name).value.as_deref()), (config_type, Some(value)));
        assert!(of(name).read_only, "{name}");
    }
    let synonyms = &of("num.partitions").synonyms;
    assert_eq!((synonyms[0].source, synonyms[0].value.as_deref()), (4, Some("3")));
    assert_eq!((synonyms[1].source, synonyms[1].value.as_deref()), (5, Some("1")));
    // All brokers together: what was set at run time.
    assert_eq!((describe("").error_code, describe("").configs.len()), (0, 0));
    assert_eq!(describe("2").error_code, 42);
}

#[test]
fn one_node_is_its_own_quorum_and_its_features_are_as_they_are() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    let topic = |name: &str, indexes: &[i32]| QuorumTopic {
        topic_name: name.to_owned(),
        partitions: indexes
            .iter()
            .map(|index| QuorumPartition { partition_index: *index })
            .collect(),
    };
    for version in 0..=1 {
        let mut ask = |topics: Vec<QuorumTopic>| -> Vec<DescribedQuorumPartition> {
            let request = DescribeQuorumRequest { topics };
            let response: DescribeQuorumResponse = client.ask(&request, version);
            response.topics.into_iter().flat_map(|topic| topic.partitions).collect()
        };
        let one = ask(vec![topic("__cluster_metadata", &[0])]).remove(0);
        assert_eq!((one.error_code, one.leader_id, one.current_voters[0].replica_id), (0, 1, 1));
        assert!(one.leader_epoch >= 1 && one.current_voters.len() == 1);
        for other in [&[0, 1][..], &[0, 0], &[1]] {
            let found = ask(vec![topic("__cluster_metadata", other)]);
            assert_eq!(found.len(), other.len());
            assert!(found.iter().all(|one| one.error_code == 3 && one.current_voters.is_empty()));
        }
        let found = ask(vec![topic("__cluster_metadata", &[0]), topic("t", &[0])]);
        assert!(found.len() == 2 && found.iter().all(|one| one.error_code == 3));
    }
    let update = |feature: &str, level| FeatureUpdate {
        feature: feature.to_owned(),
        max_version_level: level,
        ..Default::default()
    };
    let all = [update("transaction.version", 2), update("transaction.version", 1), update("x", 1)];
    for version in 0..=2 {
        let request = UpdateFeaturesRequest { feature_updates: all.to_vec(), ..Default::default() };
        let response: UpdateFeaturesResponse = client.ask(&request, version);
        assert_eq!((response.error_code, response.results.len()), (95, 0));
        let fine = UpdateFeaturesRequest { feature_updates: vec![all[0].clone()], ..request };
        let response: UpdateFeaturesResponse = client.ask(&fine, version);
        let told = response.results.iter().filter(|result| result.error_code == 0).count();
        assert_eq!((response.error_code, told), (0, usize::from(version < 2)));
    }
}
