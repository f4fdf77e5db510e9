//! Requests as programs send them, and as they do not: made at random, the same for both clusters.

use crate::Side;
use model::{BatchBuilder, Compression, Producer, ProducerId, TopicId};
use runtime::random::Random;
use std::collections::BTreeMap;
use std::fmt::Debug;
use wire::messages::*;
use wire::{ApiKey, header, produce};

/// A request that is asked of both.
pub(crate) struct Asked {
    pub(crate) api: String,
    /// As it is told.
    pub(crate) shown: String,
    /// It may change something: it is asked once.
    pub(crate) changes: bool,
    pub(crate) ask: Box<dyn Fn(&mut Side) -> String>,
}

type Versions = BTreeMap<i16, (i16, i16)>;

pub(crate) struct Generator {
    random: Random,
    versions: Versions,
}

const TOPICS: [&str; 12] =
    ["a", "b", "c", "a", "b", "c", "x.y", "x_y", "nosuch", "__consumer_offsets", "", "not valid!"];
const GROUPS: [&str; 6] = ["g", "h", "g", "h", "rare", ""];
const SETTINGS: [(&str, &[&str]); 24] = [
    (
        "retention.ms",
        &["1000", "-1", "-2", "x", "", "9223372036854775807", "9223372036854775808", " 5 "],
    ),
    ("retention.bytes", &["1000", "-1", "-2", "1.5"]),
    (
        "cleanup.policy",
        &[
            "compact",
            "delete",
            "compact,delete",
            "delete,compact",
            "compact, delete",
            "none",
            "",
            "Compact",
        ],
    ),
    ("max.message.bytes", &["0", "1", "1048588", "-1", "2147483648"]),
    ("segment.bytes", &["1048576", "1048575", "14", "2147483647"]),
    ("segment.ms", &["1", "0", "604800000"]),
    ("segment.jitter.ms", &["0", "-1", "5"]),
    ("segment.index.bytes", &["10485760", "4", "3"]),
    ("min.insync.replicas", &["1", "0", "2"]),
    (
        "compression.type",
        &["zstd", "lz4", "gzip", "snappy", "uncompressed", "producer", "none", "ZSTD", ""],
    ),
    ("message.timestamp.type", &["CreateTime", "LogAppendTime", "createtime"]),
    ("message.timestamp.before.max.ms", &["0", "1000", "-1"]),
    ("message.timestamp.after.max.ms", &["0", "3600000", "-1"]),
    ("min.cleanable.dirty.ratio", &["0", "1", "0.5", "1.1", "-0.1", "x"]),
    ("min.compaction.lag.ms", &["0", "5", "-1"]),
    ("max.compaction.lag.ms", &["1", "0", "5"]),
    ("delete.retention.ms", &["0", "-1", "86400000"]),
    ("file.delete.delay.ms", &["0", "-1", "60000"]),
    ("flush.messages", &["1", "0", "9223372036854775807"]),
    ("flush.ms", &["0", "-1", "5"]),
    ("index.interval.bytes", &["0", "4096", "-1"]),
    ("preallocate", &["true", "false", "yes", "TRUE"]),
    ("unclean.leader.election.enable", &["true", "false", "0"]),
    ("no.such.setting", &["1"]),
];

const BROKER_SETTINGS: [&str; 12] = [
    "num.partitions",
    "auto.create.topics.enable",
    "log.retention.ms",
    "log.cleanup.policy",
    "message.max.bytes",
    "broker.id",
    "default.replication.factor",
    "delete.topic.enable",
    "offsets.topic.replication.factor",
    "log.cleaner.min.cleanable.ratio",
    "process.roles",
    "log.retention.minutes",
];

fn placeholder(name: &str) -> TopicId {
    let mut id = [0xee; 16];
    for (place, byte) in name.bytes().take(15).enumerate() {
        id[place + 1] = byte;
    }
    TopicId(id)
}

/// The side's own id of a topic for the placeholder of its name.
fn real(id: TopicId, side: &Side) -> TopicId {
    let found = side.topics.iter().find(|(name, _)| placeholder(name) == id);
    found.map_or(id, |(_, (id, _))| *id)
}

fn key_of(side_key: ApiKey) -> i16 {
    side_key as i16
}

impl Generator {
    pub(crate) fn new(seed: u64, theirs: &Versions, ours: &Versions) -> Self {
        let both = |(key, (low, high)): (&i16, &(i16, i16))| {
            let (our_low, our_high) = ours.get(key)?;
            Some((*key, (*low.max(our_low), *high.min(our_high))))
        };
        Self { random: Random::new(seed), versions: theirs.iter().filter_map(both).collect() }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.random.next_u64() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn version(&mut self, key: ApiKey) -> i16 {
        let (low, high) = self.versions[&key_of(key)];
        low + self.below((high - low + 1) as usize) as i16
    }

    pub(crate) fn topic(&mut self) -> String {
        let name = self.pick(&TOPICS);
        if self.one_in(60) { "n".repeat(250) } else { name.to_owned() }
    }

    /// What is to be deleted or changed is none of the brokers' own.
    pub(crate) fn own_topic(&mut self) -> String {
        let topic = self.topic();
        if topic.starts_with("__") { "a".to_owned() } else { topic }
    }

    pub(crate) fn group(&mut self) -> String {
        self.pick(&GROUPS).to_owned()
    }

    pub(crate) fn partition(&mut self) -> i32 {
        self.pick(&[0, 0, 0, 1, 1, 2, 3, -1, 99])
    }

    pub(crate) fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.pick(&[1, 1, 1, 2, 0, most]);
        (0..count.min(most)).map(|_| make(self)).collect()
    }

    /// At least one, each of another name.
    pub(crate) fn named<T>(
        &mut self,
        most: usize,
        mut make: impl FnMut(&mut Self) -> T,
        name: impl Fn(&T) -> String,
    ) -> Vec<T> {
        let mut found: BTreeMap<String, T> = BTreeMap::new();
        for _ in 0..1 + self.below(most) {
            let made = make(self);
            found.insert(name(&made), made);
        }
        found.into_values().collect()
    }

    /// Some of the partitions that there can be.
    pub(crate) fn partitions(&mut self) -> Vec<i32> {
        self.named(2, Self::partition, ToString::to_string)
    }

    pub(crate) fn setting(&mut self) -> (String, Option<String>) {
        let (name, values) = self.pick(&SETTINGS);
        let value = self.pick(values);
        (name.to_owned(), (!self.one_in(15)).then(|| value.to_owned()))
    }

    /// The next request.
    pub(crate) fn next(&mut self) -> Asked {
        let makers: [(usize, fn(&mut Self) -> Asked); 36] = [
            (8, Self::create_topics),
            (3, Self::delete_topics),
            (3, Self::create_partitions),
            (8, Self::metadata),
            (6, Self::describe_configs),
            (6, Self::incremental_alter_configs),
            (3, Self::alter_configs),
            (8, Self::produce),
            (3, Self::delete_records),
            (6, Self::list_offsets),
            (4, Self::offset_for_leader_epoch),
            (5, Self::offset_commit),
            (5, Self::offset_fetch),
            (2, Self::offset_delete),
            (2, Self::delete_groups),
            (4, Self::describe_groups),
            (3, Self::list_groups),
            (3, Self::find_coordinator),
            (5, Self::join_group),
            (4, Self::sync_group),
            (3, Self::heartbeat),
            (3, Self::leave_group),
            (4, Self::init_producer_id),
            (4, Self::add_partitions_to_txn),
            (2, Self::add_offsets_to_txn),
            (3, Self::txn_offset_commit),
            (4, Self::end_txn),
            (2, Self::describe_producers),
            (2, Self::describe_transactions),
            (2, Self::list_transactions),
            (2, Self::describe_topic_partitions),
            (2, Self::describe_cluster),
            (2, Self::elect_leaders),
            (2, Self::reassignments),
            (2, Self::security),
            (2, Self::transactional_produce),
        ];
        let all: usize = makers.iter().map(|(weight, _)| weight).sum();
        let mut at = self.below(all);
        for (weight, make) in makers {
            if at < weight {
                return make(self);
            }
            at -= weight;
        }
        unreachable!("the weights add up")
    }

    pub(crate) fn asked<Q: Message + Debug + Clone + 'static, A: Message + Debug + 'static>(
        &mut self,
        request: Q,
        changes: bool,
        own: fn(&mut Q, &Side),
        after: fn(&A, &Q, &mut Side),
    ) -> Asked {
        let version = self.version(Q::KEY);
        let shown = format!("v{version} {request:?}");
        let ask = move |side: &mut Side| {
            let mut request = request.clone();
            own(&mut request, side);
            for _ in 0..40 {
                let frame = side.client.frame(Q::KEY, version, |out| request.encode(out, version));
                side.client.send(&frame);
                let Some(payload) = side.client.receive() else {
                    side.again();
                    return "closed".to_owned();
                };
                let (_, mut body) =
                    header::read_response_header(&payload, Q::KEY, version).unwrap();
                match A::decode(&mut body, version) {
                    Ok(answer) => {
                        let text = format!("{answer:#?}");
                        // It loads, begins to lead, or ends a transaction: clients ask again.
                        if [6, 14, 51].iter().all(|e| !text.contains(&format!("error_code: {e},")))
                        {
                            after(&answer, &request, side);
                            return text;
                        }
                        std::thread::sleep(std::time::Duration::from_millis(50));
                    }
                    Err(error) => return format!("not readable: {error}"),
                }
            }
            "never ready".to_owned()
        };
        Asked { api: Q::KEY.api().name.to_owned(), shown, changes, ask: Box::new(ask) }
    }

    pub(crate) fn plain<Q: Message + Debug + Clone + 'static, A: Message + Debug + 'static>(
        &mut self,
        request: Q,
        changes: bool,
    ) -> Asked {
        self.asked::<Q, A>(request, changes, |_, _| {}, |_, _, _| {})
    }

    pub(crate) fn create_topics(&mut self) -> Asked {
        let topics = self.some(3, |g| {
            let assigned = g.one_in(6);
            let assignments = if assigned {
                let count = 1 + g.below(3) as i32;
                let broker_ids = g.pick(&[&[1][..], &[1], &[1], &[2], &[1, 1], &[]]).to_vec();
                (0..count)
                    .map(|index| CreatableReplicaAssignment {
                        partition_index: if g.one_in(8) { index + 1 } else { index },
                        broker_ids: broker_ids.clone(),
                    })
                    .collect()
            } else {
                Vec::new()
            };
            let by_hand = assigned && !g.one_in(4);
            let configs = if g.one_in(2) { Vec::new() } else { g.some(3, Self::setting) };
            CreatableTopic {
                name: g.topic(),
                num_partitions: if by_hand { -1 } else { g.pick(&[1, 2, 4, -1, 0, -2]) },
                replication_factor: if by_hand { -1 } else { g.pick(&[1, 1, 1, -1, 3, 0, -2]) },
                assignments,
                configs: configs
                    .into_iter()
                    .map(|(name, value)| CreatableTopicConfig { name, value })
                    .collect(),
            }
        });
        let validate_only = self.one_in(4);
        let request = CreateTopicsRequest { topics, timeout_ms: 10_000, validate_only };
        self.plain::<_, CreateTopicsResponse>(request, true)
    }

    pub(crate) fn delete_topics(&mut self) -> Asked {
        let topics = self.some(3, |g| match g.below(4) {
            0 => DeleteTopicState { name: None, topic_id: placeholder(&g.own_topic()) },
            1 if g.one_in(3) => DeleteTopicState { name: None, topic_id: TopicId::ZERO },
            2 if g.one_in(3) => DeleteTopicState {
                name: Some(g.own_topic()),
                topic_id: placeholder(&g.own_topic()),
            },
            _ => DeleteTopicState { name: Some(g.own_topic()), topic_id: TopicId::ZERO },
        });
        let topic_names = self.some(3, Self::own_topic);
        let request = DeleteTopicsRequest { topics, topic_names, timeout_ms: 10_000 };
        self.asked::<_, DeleteTopicsResponse>(
            request,
            true,
            |request, side| {
                for topic in &mut request.topics {
                    topic.topic_id = real(topic.topic_id, side);
                }
            },
            |_, _, _| {},
        )
    }

    pub(crate) fn create_partitions(&mut self) -> Asked {
        let topics = self.some(2, |g| {
            let count = g.pick(&[1, 2, 3, 4, 5, 0, -1]);
            let assignments = g.one_in(5).then(|| {
                let broker_ids = g.pick(&[&[1][..], &[2], &[1, 1], &[]]).to_vec();
                (0..1 + g.below(2))
                    .map(|_| CreatePartitionsAssignment { broker_ids: broker_ids.clone() })
                    .collect()
            });
            CreatePartitionsTopic { name: g.topic(), count, assignments }
        });
        let validate_only = self.one_in(4);
        let request = CreatePartitionsRequest { topics, timeout_ms: 10_000, validate_only };
        self.plain::<_, CreatePartitionsResponse>(request, true)
    }

    pub(crate) fn metadata(&mut self) -> Asked {
        let by_id = self.one_in(4);
        let topics = (!self.one_in(6)).then(|| {
            self.some(3, |g| {
                let name = g.topic();
                if by_id {
                    let other = g.pick(&[None, Some(""), Some("a")]).map(str::to_owned);
                    MetadataRequestTopic { topic_id: placeholder(&name), name: other }
                } else {
                    MetadataRequestTopic { topic_id: TopicId::ZERO, name: Some(name) }
                }
            })
        });
        let request = MetadataRequest {
            topics,
            allow_auto_topic_creation: self.one_in(2),
            include_cluster_authorized_operations: self.one_in(4),
            include_topic_authorized_operations: self.one_in(4),
        };
        let mut asked = self.asked::<MetadataRequest, MetadataResponse>(
            request,
            false,
            |request, side| {
                for topic in request.topics.iter_mut().flatten() {
                    topic.topic_id = real(topic.topic_id, side);
                }
            },
            |_, _, _| {},
        );
        // Ids are there from v10 on, null for all from v1: before, such a request cannot be written.
        let version = asked.shown.split(' ').next().map_or(0, |v| v[1..].parse::<i16>().unwrap());
        if by_id && version < 10 || version == 0 {
            asked = self.describe_cluster();
        }
        asked
    }

    pub(crate) fn describe_configs(&mut self) -> Asked {
        if self.one_in(8) {
            // Of a broker: what types they are, whatever they are set to.
            let names = BROKER_SETTINGS.map(str::to_owned).to_vec();
            let resource = DescribeConfigsResource {
                resource_type: 4,
                resource_name: self.pick(&["1", "1", "1", "2", "x", ""]).to_owned(),
                configuration_keys: self.one_in(2).then_some(names),
            };
            let request =
                DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
            return self.plain::<_, DescribeConfigsResponse>(request, false);
        }
        let resources = self.some(2, |g| {
            let resource_name = g.topic();
            let names = SETTINGS.map(|(name, _)| name);
            let configuration_keys = g.one_in(2).then(|| g.some(3, |g| g.pick(&names).to_owned()));
            let resource_type = g.pick(&[2, 2, 2, 2, 2, 2, 3]);
            DescribeConfigsResource { resource_type, resource_name, configuration_keys }
        });
        let request = DescribeConfigsRequest {
            resources,
            include_synonyms: self.one_in(2),
            include_documentation: self.one_in(4),
        };
        self.plain::<_, DescribeConfigsResponse>(request, false)
    }

    pub(crate) fn incremental_alter_configs(&mut self) -> Asked {
        let resources = self.some(2, |g| IncrementalConfigsResource {
            resource_type: g.pick(&[2, 2, 2, 2, 2, 2, 2, 3]),
            resource_name: g.own_topic(),
            configs: g.some(3, |g| {
                let (name, value) = g.setting();
                let config_operation = g.pick(&[0, 0, 0, 1, 1, 2, 3, 4]);
                IncrementalConfig { name, config_operation, value }
            }),
        });
        let validate_only = self.one_in(4);
        let request = IncrementalAlterConfigsRequest { resources, validate_only };
        self.plain::<_, IncrementalAlterConfigsResponse>(request, true)
    }

    pub(crate) fn alter_configs(&mut self) -> Asked {
        let resources = self.some(2, |g| AlterConfigsResource {
            resource_type: g.pick(&[2, 2, 2, 2, 2, 2, 2, 3]),
            resource_name: g.own_topic(),
            configs: g
                .some(3, Self::setting)
                .into_iter()
                .map(|(name, value)| AlterableConfig { name, value })
                .collect(),
        });
        let validate_only = self.one_in(4);
        let request = AlterConfigsRequest { resources, validate_only };
        self.plain::<_, AlterConfigsResponse>(request, true)
    }

    pub(crate) fn batch(&mut self, producer: Option<Producer>) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        let base = 1_700_000_000_000 + self.below(1000) as i64 * 1000;
        builder.begin(base);
        if let Some(producer) = producer {
            builder.set_producer(producer, 0, true);
        }
        for n in 0..1 + self.below(4) as i64 {
            let key = (!self.one_in(4)).then(|| vec![b'k', self.below(3) as u8]);
            builder.push(base + n * 10, key.as_deref(), Some(b"value"), &[]);
        }
        let mut batch = builder.finish(self.pick(&Compression::ALL)).to_vec();
        if producer.is_none() {
            match self.below(24) {
                0 => batch.truncate(batch.len() - 1),
                1 => {
                    let at = self.below(batch.len());
                    batch[at] ^= 1;
                }
                2 => batch.clear(),
                3 => batch.extend(batch.clone()),
                4 => batch[16] = 1,
                _ => {}
            }
        }
        batch
    }

    pub(crate) fn produce(&mut self) -> Asked {
        let topic = self.topic();
        let acks = self.pick(&[1, -1, -1, 1, 2, -2]);
        let batches: BTreeMap<i32, Vec<u8>> =
            self.some(3, |g| (g.partition(), g.batch(None))).into_iter().collect();
        let (low, high) = self.versions[&key_of(ApiKey::Produce)];
        // From v13 on topics are named by id.
        let version = low + self.below((high.min(12) - low + 1) as usize) as i16;
        let shown = format!("v{version} acks={acks} {topic:?} {batches:02x?}");
        let ask = move |side: &mut Side| {
            let frame = side.client.frame(ApiKey::Produce, version, |out| {
                let batches = batches.iter().map(|(partition, batch)| (*partition, &batch[..]));
                let name = model::TopicRef::Name(&topic);
                produce::put_request(out, version, acks, 10_000, name, batches);
            });
            side.client.send(&frame);
            let Some(payload) = side.client.receive() else {
                side.again();
                return "closed".to_owned();
            };
            let (_, body) =
                header::read_response_header(&payload, ApiKey::Produce, version).unwrap();
            let mut lines = Vec::new();
            let read = produce::read_response(body, version, |_, partition, error, base| {
                lines.push(format!(
                    "{{\n partition: {partition},\n error_code: {},\n base: {base},\n}},",
                    error.code()
                ));
            });
            match read {
                Ok(_) => format!("Produced {{\n partitions: [\n{}\n],\n}}", lines.join("\n")),
                Err(error) => format!("not readable: {error}"),
            }
        };
        Asked { api: "Produce".to_owned(), shown, changes: true, ask: Box::new(ask) }
    }

    pub(crate) fn transactional_produce(&mut self) -> Asked {
        let (topic, id) = (self.topic(), self.pick(&["t1", "t2"]).to_owned());
        let partition = self.partition();
        let marks = self.batch(Some(Producer { id: ProducerId(1), epoch: 0 })).len();
        let version = 9;
        let shown = format!("v{version} transactional {id} {topic:?} {partition} {marks}");
        let ask = move |side: &mut Side| {
            let Some((producer, epoch)) = side.producers.get(&id).copied() else {
                return "no producer".to_owned();
            };
            let mut builder = BatchBuilder::default();
            builder.begin(1_700_000_000_000);
            builder.set_producer(Producer { id: ProducerId(producer), epoch }, 0, true);
            builder.push(1_700_000_000_000, Some(b"k"), Some(b"in a transaction"), &[]);
            let batch = builder.finish(Compression::None).to_vec();
            let frame = side.client.frame(ApiKey::Produce, version, |out| {
                let mut plain = Vec::new();
                let name = model::TopicRef::Name(&topic);
                let batches = std::iter::once((partition, &batch[..]));
                produce::put_request(&mut plain, version, -1, 10_000, name, batches);
                // A flexible request begins with its transactional id, null: here it is one.
                out.push(id.len() as u8 + 1);
                out.extend_from_slice(id.as_bytes());
                out.extend_from_slice(&plain[1..]);
            });
            side.client.send(&frame);
            let Some(payload) = side.client.receive() else {
                side.again();
                return "closed".to_owned();
            };
            let (_, body) =
                header::read_response_header(&payload, ApiKey::Produce, version).unwrap();
            let mut text = String::new();
            let _ = produce::read_response(body, version, |_, partition, error, base| {
                text += &format!(
                    "Produced {{\n partition: {partition},\n error_code: {},\n base: {base},\n}}",
                    error.code()
                );
            });
            text
        };
        Asked { api: "Produce".to_owned(), shown, changes: true, ask: Box::new(ask) }
    }

    pub(crate) fn delete_records(&mut self) -> Asked {
        let topics = self.some(2, |g| DeleteRecordsTopic {
            name: g.topic(),
            partitions: g.some(2, |g| DeleteRecordsPartition {
                partition_index: g.partition(),
                offset: g.pick(&[0, 1, 2, 3, 5, -1, -2, 1000]),
            }),
        });
        let request = DeleteRecordsRequest { topics, timeout_ms: 10_000 };
        self.plain::<_, DeleteRecordsResponse>(request, true)
    }

    pub(crate) fn list_offsets(&mut self) -> Asked {
        let topic = |g: &mut Self| ListOffsetsTopic {
            name: g.topic(),
            partitions: g.some(2, |g| ListOffsetsPartition {
                partition_index: g.partition(),
                current_leader_epoch: g.pick(&[-1, -1, -1, -1, 90]),
                timestamp: {
                    let within = 1_700_000_000_000 + g.below(1000) as i64 * 1000;
                    g.pick(&[-1, -2, -3, -4, -5, -6, -7, 0, within, within, i64::MAX])
                },
            }),
        };
        let topics = self.named(2, topic, |topic| topic.name.clone());
        let isolation_level = self.pick(&[0, 1]);
        let request =
            ListOffsetsRequest { replica_id: -1, isolation_level, topics, timeout_ms: 1000 };
        self.plain::<_, ListOffsetsResponse>(request, false)
    }

    pub(crate) fn offset_for_leader_epoch(&mut self) -> Asked {
        let topics = self.some(2, |g| OffsetForLeaderTopic {
            topic: g.topic(),
            partitions: g.some(2, |g| OffsetForLeaderPartition {
                partition: g.partition(),
                current_leader_epoch: g.pick(&[-1, -1, -1, 90]),
                leader_epoch: g.pick(&[0, 0, -1, 90]),
            }),
        });
        let request = OffsetForLeaderEpochRequest { replica_id: -1, topics };
        self.asked::<_, OffsetForLeaderEpochResponse>(
            request,
            false,
            |request, side| {
                for partition in request.topics.iter_mut().flat_map(|t| &mut t.partitions) {
                    if partition.leader_epoch == 0 {
                        partition.leader_epoch = side.first_epoch;
                    }
                }
            },
            |_, _, _| {},
        )
    }

    pub(crate) fn describe_producers(&mut self) -> Asked {
        let topic = |g: &mut Self| DescribeProducersTopic {
            name: g.topic(),
            partition_indexes: g.partitions(),
        };
        let topics = self.named(2, topic, |topic| topic.name.clone());
        self.plain::<_, DescribeProducersResponse>(DescribeProducersRequest { topics }, false)
    }

    pub(crate) fn describe_transactions(&mut self) -> Asked {
        let transactional_ids = self.some(2, Self::transactional_id);
        let request = DescribeTransactionsRequest { transactional_ids };
        self.plain::<_, DescribeTransactionsResponse>(request, false)
    }

    pub(crate) fn list_transactions(&mut self) -> Asked {
        let states = ["Ongoing", "Empty", "CompleteCommit", "ongoing", "NoSuchState"];
        let request = ListTransactionsRequest {
            state_filters: self.some(2, |g| g.pick(&states).to_owned()),
            producer_id_filters: self.pick(&[&[][..], &[], &[99_999]]).to_vec(),
            duration_filter: self.pick(&[-1, -1, 0, 1_000_000_000]),
            transactional_id_pattern: self
                .pick(&[None, None, Some("t.*"), Some("("), Some("")])
                .map(str::to_owned),
        };
        self.plain::<_, ListTransactionsResponse>(request, false)
    }

    pub(crate) fn describe_topic_partitions(&mut self) -> Asked {
        let request = DescribeTopicPartitionsRequest {
            topics: self.some(3, |g| TopicPartitionsTopic { name: g.topic() }),
            response_partition_limit: self.pick(&[2000, 1, 2]),
            cursor: self.one_in(3).then(|| TopicPartitionsCursor {
                topic_name: self.topic(),
                partition_index: self.pick(&[0, 1, 2]),
            }),
        };
        self.plain::<_, DescribeTopicPartitionsResponse>(request, false)
    }

    pub(crate) fn describe_cluster(&mut self) -> Asked {
        let request = DescribeClusterRequest {
            include_cluster_authorized_operations: self.one_in(2),
            ..Default::default()
        };
        self.plain::<_, DescribeClusterResponse>(request, false)
    }

    pub(crate) fn elect_leaders(&mut self) -> Asked {
        let topic_partitions = self.some(2, |g| ElectLeadersTopic {
            topic: g.topic(),
            partitions: g.some(2, Self::partition),
        });
        let request = ElectLeadersRequest {
            election_type: self.pick(&[0, 0, 1, 5]),
            topic_partitions: (!self.one_in(4)).then_some(topic_partitions),
            timeout_ms: 10_000,
        };
        self.plain::<_, ElectLeadersResponse>(request, true)
    }

    pub(crate) fn reassignments(&mut self) -> Asked {
        if self.one_in(2) {
            let topics = self.some(2, |g| ReassignmentsTopic {
                name: g.topic(),
                partition_indexes: g.some(2, Self::partition),
            });
            let request = ListPartitionReassignmentsRequest {
                timeout_ms: 10_000,
                topics: (!self.one_in(3)).then_some(topics),
            };
            return self.plain::<_, ListPartitionReassignmentsResponse>(request, false);
        }
        let topics = self.some(2, |g| ReassignableTopic {
            name: g.topic(),
            partitions: g.some(2, |g| ReassignablePartition {
                partition_index: g.partition(),
                replicas: g
                    .pick(&[None, Some(&[1][..]), Some(&[2]), Some(&[]), Some(&[1, 1])])
                    .map(<[i32]>::to_vec),
            }),
        });
        let request = AlterPartitionReassignmentsRequest { timeout_ms: 10_000, topics };
        self.plain::<_, AlterPartitionReassignmentsResponse>(request, true)
    }

    pub(crate) fn security(&mut self) -> Asked {
        match self.below(6) {
            0 => {
                let request = DescribeAclsRequest {
                    resource_type_filter: 2,
                    resource_name_filter: Some(self.topic()),
                    operation: 1,
                    permission_type: 1,
                    ..Default::default()
                };
                self.plain::<_, DescribeAclsResponse>(request, false)
            }
            1 => {
                let components = self.some(2, |g| QuotaComponent {
                    entity_type: g.pick(&["user", "client-id", "ip", "nosuch"]).to_owned(),
                    match_type: g.pick(&[0, 1, 2, 9]),
                    matches: g.pick(&[None, Some("x")]).map(str::to_owned),
                });
                let request = DescribeClientQuotasRequest { components, strict: self.one_in(2) };
                self.plain::<_, DescribeClientQuotasResponse>(request, false)
            }
            2 => {
                let users = self.one_in(2).then(|| self.some(2, |g| ScramUser { name: g.group() }));
                let request = DescribeUserScramCredentialsRequest { users };
                self.plain::<_, DescribeUserScramCredentialsResponse>(request, false)
            }
            3 => {
                let topics = self.some(2, |g| QuorumTopic {
                    topic_name: g.pick(&["__cluster_metadata", "a", "nosuch"]).to_owned(),
                    partitions: g
                        .some(2, |g| QuorumPartition { partition_index: g.pick(&[0, 0, 1]) }),
                });
                let request = DescribeQuorumRequest { topics };
                self.plain::<_, DescribeQuorumResponse>(request, false)
            }
            4 => {
                let feature_updates = self.some(1, |g| FeatureUpdate {
                    feature: g.pick(&["transaction.version", "no.such.version"]).to_owned(),
                    max_version_level: g.pick(&[2, 99]),
                    ..Default::default()
                });
                let request = UpdateFeaturesRequest {
                    timeout_ms: 10_000,
                    feature_updates,
                    validate_only: true,
                };
                self.plain::<_, UpdateFeaturesResponse>(request, false)
            }
            _ => {
                let resource_types = self.pick(&[&[][..], &[2], &[4], &[16], &[99]]).to_vec();
                let request = ListConfigResourcesRequest { resource_types };
                self.plain::<_, ListConfigResourcesResponse>(request, false)
            }
        }
    }
}
