//! What the coordinators do, as transcripts: `tests/transcripts`. Written anew with `WEIR_TRANSCRIPTS=write`.

use coordinator::{
    Answer, Client, ClientVersion, CoordinatorConfig, GroupCoordinator, LogRecord, Now,
    StoredRecord, Ticket, TransactionConfig, TransactionCoordinator, read_record,
};
use model::{ErrorCode, Producer, ProducerId};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use transcript::{Command, check};
use wire::messages::*;

fn directory(of: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(of)
}

fn name_of(code: i16) -> String {
    ErrorCode::from_code(code).name()
}

/// Groups, whoever waits for an answer, and the names by which members are known here.
struct Groups {
    coordinator: GroupCoordinator,
    ms: u64,
    asked: BTreeMap<Ticket, String>,
    members: BTreeMap<String, String>,
}

impl Groups {
    fn begin() -> Self {
        let config = CoordinatorConfig {
            session_timeout_ms_min: 1_000,
            session_timeout_ms_max: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            groups_max: 3,
            group_size_max: 3,
            offset_metadata_bytes_max: 10,
            offsets_retention_ms: 60_000,
        };
        let coordinator = GroupCoordinator::new(config, 1);
        Self { coordinator, ms: 0, asked: BTreeMap::new(), members: BTreeMap::new() }
    }

    fn now(&self) -> Now {
        Now { ms: self.ms, unix_ms: 1_000_000 + self.ms as i64 }
    }

    /// The id of a member that is known here by this name.
    fn id_of(&self, name: &str) -> String {
        let known = self.members.iter().find(|(_, known)| *known == name);
        known.map_or_else(|| name.to_owned(), |(id, _)| id.clone())
    }

    /// The name of a member here: as it is met first, by its prefix and a number.
    fn name_of(&mut self, id: &str) -> String {
        if id.is_empty() || self.members.values().any(|name| name == id) {
            return id.to_owned();
        }
        let prefix = if id.len() > 37 { &id[..id.len() - 37] } else { return id.to_owned() };
        let count = self.members.values().filter(|name| name.starts_with(prefix)).count();
        self.members
            .entry(id.to_owned())
            .or_insert_with(|| format!("{prefix}#{}", count + 1))
            .clone()
    }

    fn run(&mut self, command: &Command) -> String {
        let group = || command.word(0).to_owned();
        let member = || self.id_of(command.option("member").unwrap_or_default());
        let instance = || command.option("instance").map(str::to_owned);
        let generation = command.number("generation", -1);
        let mut out = String::new();
        match command.verb.as_str() {
            "join" => {
                let protocols = command.option("protocols").unwrap_or("range").split(',');
                let request = JoinGroupRequest {
                    group_id: group(),
                    member_id: member(),
                    group_instance_id: instance(),
                    session_timeout_ms: command.number("session", 10_000),
                    rebalance_timeout_ms: command.number("rebalance", 20_000),
                    protocol_type: "consumer".to_owned(),
                    protocols: protocols
                        .map(|name| JoinGroupProtocol {
                            name: name.to_owned(),
                            metadata: b"m".to_vec(),
                        })
                        .collect(),
                    ..Default::default()
                };
                let client = Client {
                    id: command.option("client").unwrap_or("c").into(),
                    host: "/h".into(),
                };
                let ticket = self.ask(command, "join");
                let version = command.number("version", 9);
                self.coordinator.join(self.now(), version, &request, &client, ticket);
            }
            "sync" => {
                let given = command.option("assigns").into_iter().flat_map(|all| all.split(','));
                let request = SyncGroupRequest {
                    group_id: group(),
                    generation_id: generation,
                    member_id: member(),
                    group_instance_id: instance(),
                    assignments: given
                        .filter_map(|one| one.split_once(':'))
                        .map(|(name, what)| SyncGroupAssignment {
                            member_id: self.id_of(name),
                            assignment: what.as_bytes().to_vec(),
                        })
                        .collect(),
                    ..Default::default()
                };
                let ticket = self.ask(command, "sync");
                self.coordinator.sync(self.now(), &request, ticket);
            }
            "heartbeat" => {
                let request = HeartbeatRequest {
                    group_id: group(),
                    generation_id: generation,
                    member_id: member(),
                    group_instance_id: instance(),
                };
                let error = self.coordinator.heartbeat(self.now(), &request);
                let _ = writeln!(out, "{}", error.name());
            }
            "leave" => {
                let leaving = LeavingMember {
                    member_id: member(),
                    group_instance_id: instance(),
                    ..Default::default()
                };
                let request = LeaveGroupRequest {
                    group_id: group(),
                    members: vec![leaving],
                    ..Default::default()
                };
                let left = self.coordinator.leave(self.now(), 5, &request);
                let of_member = left.members.first().map_or(0, |member| member.error_code);
                let _ = writeln!(out, "{}, {}", name_of(left.error_code), name_of(of_member));
            }
            "commit" => {
                let request = OffsetCommitRequest {
                    group_id: group(),
                    generation_id: generation,
                    member_id: member(),
                    group_instance_id: instance(),
                    topics: vec![OffsetCommitTopic {
                        name: "t".to_owned(),
                        partitions: vec![OffsetCommitPartition {
                            partition_index: command.number("partition", 0),
                            committed_offset: command.number("offset", 0),
                            committed_metadata: command.option("note").map(str::to_owned),
                            ..Default::default()
                        }],
                    }],
                    ..Default::default()
                };
                let done = self.coordinator.commit(self.now(), 8, &request, |_, index| index < 3);
                let _ = writeln!(out, "{}", name_of(done.topics[0].partitions[0].error_code));
            }
            "fetch" => {
                let topics = self.coordinator.fetch(command.word(0), None, false);
                for found in topics.iter().flat_map(|topic| &topic.partitions) {
                    let at = (found.partition_index, found.committed_offset);
                    let _ = writeln!(out, "t-{} at {}", at.0, at.1);
                }
            }
            "expire" => self.coordinator.expire_offsets(self.now()),
            "delete" => {
                let error = self.coordinator.delete_group(command.word(0));
                let _ = writeln!(out, "{}", error.name());
            }
            "describe" => {
                let shown = self.coordinator.describe(5, command.word(0));
                let state = (&shown.group_state, &shown.protocol_data, shown.members.len());
                let _ = writeln!(
                    out,
                    "{}, {}, protocol {:?}, {} members",
                    name_of(shown.error_code),
                    state.0,
                    state.1,
                    state.2
                );
            }
            "wait" => {
                let until = self.ms + command.number("ms", 0);
                while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= until) {
                    self.ms = self.ms.max(at);
                    self.coordinator.on_time(self.now());
                    let told = self.told();
                    if !told.is_empty() {
                        let _ = write!(out, "at {} ms:\n{told}", self.ms);
                    }
                }
                self.ms = until;
            }
            other => panic!("there is no command {other}"),
        }
        out + &self.told()
    }

    /// A request whose answer may come later, by the name that the command gives it.
    fn ask(&mut self, command: &Command, what: &str) -> Ticket {
        let ticket = Ticket(self.asked.len() as u64);
        let who = command.option("as").or(command.option("member")).unwrap_or("?");
        self.asked.insert(ticket, format!("{what} of {who}"));
        ticket
    }

    /// What the last step brought about.
    fn told(&mut self) -> String {
        let effects = self.coordinator.take_effects();
        let mut out = String::new();
        for record in effects.records {
            let _ = writeln!(out, "record: {}", self.shown(&record));
        }
        for (ticket, answer) in effects.answers {
            let who = self.asked[&ticket].clone();
            let text = match answer {
                Answer::Join(join) if join.error_code == 0 => {
                    let (member, leader) =
                        (self.name_of(&join.member_id), self.name_of(&join.leader));
                    let members: Vec<String> =
                        join.members.iter().map(|member| self.name_of(&member.member_id)).collect();
                    let protocol = join.protocol_name.unwrap_or_default();
                    format!(
                        "{member}, generation {}, {protocol}, leader {leader}, of {members:?}",
                        join.generation_id
                    )
                }
                Answer::Join(join) => {
                    let member = self.name_of(&join.member_id);
                    format!("{} {member}", name_of(join.error_code)).trim_end().to_owned()
                }
                Answer::Sync(sync) if sync.error_code == 0 => {
                    format!("assigned {:?}", String::from_utf8_lossy(&sync.assignment))
                }
                Answer::Sync(sync) => name_of(sync.error_code),
            };
            let _ = writeln!(out, "{who}: {text}");
        }
        out
    }

    fn shown(&mut self, record: &LogRecord) -> String {
        match read_record(&record.key, record.value.as_deref()).expect("written just now") {
            StoredRecord::Offset { group, topic, partition, value } => {
                let value = value.map_or("gone".to_owned(), |value| value.offset.to_string());
                format!("offset of {group} in {topic}-{partition}: {value}")
            }
            StoredRecord::Group { group, value: None } => format!("group {group}: gone"),
            StoredRecord::Group { group, value: Some(stored) } => {
                let stored = format!("{stored:?}");
                let generation = stored.split("generation: ").nth(1).unwrap_or_default();
                let generation = generation.split(',').next().unwrap_or_default();
                let members = stored.matches("member_id: ").count();
                format!("group {group}: generation {generation}, {members} members")
            }
            StoredRecord::Unknown { .. } => "unknown".to_owned(),
        }
    }
}

#[test]
fn groups() {
    check(&directory("groups"), Groups::begin, Groups::run);
}

/// Transactional ids, and the producer ids that are given out.
struct Transactions {
    coordinator: TransactionCoordinator,
    ms: u64,
    next_id: i64,
    endings: Vec<coordinator::Ending>,
}

impl Transactions {
    fn begin() -> Self {
        let config =
            TransactionConfig { timeout_ms_max: 60_000, id_expiration_ms: 100_000, ids_max: 2 };
        let coordinator = TransactionCoordinator::new(config, 7);
        Self { coordinator, ms: 0, next_id: 100, endings: Vec::new() }
    }

    fn now(&self) -> Now {
        Now { ms: self.ms, unix_ms: 1_000_000 + self.ms as i64 }
    }

    fn fresh(&mut self) -> ProducerId {
        self.next_id += 1;
        ProducerId(self.next_id)
    }

    fn run(&mut self, command: &Command) -> String {
        let id = command.words().first().cloned().unwrap_or_default();
        let producer = Producer {
            id: ProducerId(command.number("producer", -1)),
            epoch: command.number("epoch", -1),
        };
        let version = if command.says("v2") { ClientVersion::V2 } else { ClientVersion::V1 };
        let shown = |result: Result<Producer, ErrorCode>| match result {
            Ok(producer) => format!("producer {}, epoch {}\n", producer.id, producer.epoch),
            Err(error) => format!("{}\n", error.name()),
        };
        let now = self.now();
        let out = match command.verb.as_str() {
            "init" => {
                let expected = command.option("producer").map(|_| producer);
                let (timeout, fresh) = (command.number("timeout", 10_000), self.fresh());
                shown(self.coordinator.init_producer_id(now, &id, timeout, expected, fresh))
            }
            "add" => {
                let index = command.number("partition", 0);
                let partitions = [("t".to_owned(), index)];
                let added =
                    self.coordinator.add_partitions(now, &id, producer, &partitions, version);
                format!("{}\n", added.err().unwrap_or(ErrorCode::None).name())
            }
            "end" => {
                let (commit, fresh) = (command.says("commit"), self.fresh());
                shown(self.coordinator.end(now, &id, producer, commit, version, fresh))
            }
            // All partitions have their markers.
            "told" => {
                for ending in std::mem::take(&mut self.endings) {
                    self.coordinator.complete(now, &ending);
                }
                String::new()
            }
            "wait" => {
                self.ms += command.number::<u64>("ms", 0);
                let now = self.now();
                let mut next = self.next_id;
                self.coordinator.on_time(now, || {
                    next += 1;
                    ProducerId(next)
                });
                self.next_id = next;
                self.coordinator.expire(now);
                String::new()
            }
            "describe" => {
                let shown = self.coordinator.describe(&id);
                let state = (&shown.transaction_state, shown.producer_id, shown.producer_epoch);
                format!(
                    "{}, {}, producer {}, epoch {}\n",
                    name_of(shown.error_code),
                    state.0,
                    state.1,
                    state.2
                )
            }
            other => panic!("there is no command {other}"),
        };
        out + &self.told()
    }

    fn told(&mut self) -> String {
        let effects = self.coordinator.take_effects();
        let mut out = String::new();
        if !effects.records.is_empty() {
            let gone = effects.records.iter().filter(|record| record.value.is_none()).count();
            let _ = writeln!(out, "{} records, {gone} of them end an id", effects.records.len());
        }
        for ending in &effects.endings {
            let what = if ending.marker.commit { "commit" } else { "abort" };
            let producer = ending.marker.producer;
            let _ = writeln!(
                out,
                "markers: {what} of {} by producer {}, epoch {} to {:?}",
                ending.transactional_id, producer.id, producer.epoch, ending.partitions
            );
        }
        self.endings.extend(effects.endings);
        out
    }
}

#[test]
fn transactions() {
    check(&directory("transactions"), Transactions::begin, Transactions::run);
}
