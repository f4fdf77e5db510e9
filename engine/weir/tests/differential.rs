//! Weir beside Apache Kafka: the same requests, valid and not, to both, and their answers compared. What differs on
//! purpose stands in compat/differences.toml, with the reason.
#![allow(clippy::disallowed_methods)]

#[path = "differential/answer.rs"]
mod answer;
mod common;
#[path = "differential/group_requests.rs"]
mod group_requests;
#[path = "differential/requests.rs"]
mod requests;

use answer::{Own, differences};
use common::{Broker, Client};
use requests::{Asked, Generator};
use std::collections::BTreeMap;
use std::time::Duration;
use wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest, MetadataResponse,
};

/// One of the two clusters.
pub(crate) struct Side {
    pub(crate) client: Client,
    address: String,
    /// Topics that are not internal: id, partitions.
    pub(crate) topics: BTreeMap<String, (model::TopicId, usize)>,
    /// What it gave each transactional producer.
    pub(crate) producers: BTreeMap<String, (i64, i16)>,
    /// What it called each group's member, and in which generation.
    pub(crate) members: BTreeMap<String, (String, i32)>,
    pub(crate) first_epoch: i32,
}

impl Side {
    fn new(address: &str, first_epoch: i32) -> Self {
        let client = Client::connect(address);
        Self {
            client,
            address: address.to_owned(),
            topics: BTreeMap::new(),
            producers: BTreeMap::new(),
            members: BTreeMap::new(),
            first_epoch,
        }
    }

    /// A closed connection is an answer, too.
    pub(crate) fn again(&mut self) {
        self.client = Client::connect(&self.address);
    }

    /// Waits until all of it has started: before, it may accept and not answer, or know no controller.
    fn until_whole(&mut self) {
        for _ in 0..300 {
            let all = MetadataRequest { topics: None, ..Default::default() };
            let frame = self.client.frame(wire::ApiKey::Metadata, 9, |out| {
                wire::messages::Message::encode(&all, out, 9)
            });
            self.client.send(&frame);
            let Some(payload) = self.client.receive() else {
                self.again();
                std::thread::sleep(Duration::from_millis(200));
                continue;
            };
            let mut body = common::body(&payload, wire::ApiKey::Metadata, 9);
            let answer =
                <MetadataResponse as wire::messages::Message>::decode(&mut body, 9).unwrap();
            if answer.controller_id >= 0 && !answer.brokers.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("{} does not serve", self.address);
    }

    /// Makes the internal topics, and waits until they are led.
    fn begin_coordinators(&mut self) {
        for key_type in [0, 1] {
            for name in ["g", "h", "rare", "t1", "t2"] {
                let request = FindCoordinatorRequest {
                    key_type,
                    coordinator_keys: vec![name.to_owned()],
                    ..Default::default()
                };
                for _ in 0..100 {
                    let found: FindCoordinatorResponse = self.client.ask(&request, 4);
                    if found.coordinators[0].error_code == 0 {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        std::thread::sleep(Duration::from_secs(1));
    }

    fn look(&mut self) {
        let all = MetadataRequest { topics: None, ..Default::default() };
        let response: MetadataResponse = self.client.ask(&all, 12);
        let topic = |topic: wire::messages::MetadataTopic| {
            (topic.name.unwrap_or_default(), (topic.topic_id, topic.partitions.len()))
        };
        let public = response.topics.into_iter().filter(|topic| !topic.is_internal);
        self.topics = public.map(topic).collect();
    }

    fn own(&self) -> Own {
        let shown = |(name, (id, _)): (&String, &(model::TopicId, usize))| {
            (format!("{id:?}"), name.clone())
        };
        Own { ids: self.topics.iter().map(shown).collect(), first_epoch: self.first_epoch }
    }

    fn counts(&self) -> BTreeMap<String, usize> {
        self.topics.iter().map(|(name, (_, count))| (name.clone(), *count)).collect()
    }

    fn delete_all(&mut self) {
        self.look();
        let request = DeleteTopicsRequest {
            topic_names: self.topics.keys().cloned().collect(),
            timeout_ms: 10_000,
            ..Default::default()
        };
        let _: DeleteTopicsResponse = self.client.ask(&request, 5);
        self.look();
    }
}

/// What is different on purpose, or known to be.
struct Known {
    api: String,
    /// Has to be in the request as it is shown.
    request: String,
    /// Has to be in the line of the difference, after what is in brackets was taken out.
    differs: String,
}

fn known() -> Vec<Known> {
    let text = include_str!("compat/differences.toml");
    let table: toml::Table = text.parse().unwrap();
    let entry = |entry: &toml::Value| {
        let text = |key: &str| entry.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        assert!(!text("reason").is_empty(), "every difference has a reason");
        Known {
            api: text("api").to_owned(),
            request: text("request").to_owned(),
            differs: text("differs").to_owned(),
        }
    };
    table["difference"].as_array().unwrap().iter().map(entry).collect()
}

/// A path without the names of the lists' elements.
fn without_names(line: &str) -> String {
    let (mut out, mut depth) = (String::new(), 0);
    for character in line.chars() {
        match character {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ if depth > 0 => {}
            other => out.push(other),
        }
    }
    out
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
#[ignore = "needs Apache Kafka: cargo xtask differential"]
fn answers_are_those_of_apache_kafka() {
    let kafka = std::env::var("WEIR_KAFKA").expect("the address of an Apache Kafka");
    let (seed, runs) = (number("WEIR_SEED", 1), number("WEIR_RUNS", 3000));
    // Requests with this part are told with both answers.
    let story = std::env::var("WEIR_STORY").ok();
    let only = std::env::var("WEIR_ONLY").unwrap_or_default();
    let broker = Broker::start(&[
        "--weir.shards",
        "2",
        "--group.initial.rebalance.delay.ms",
        "0",
        "--auto.create.topics.enable",
        "false",
        "--log.retention.check.interval.ms",
        "86400000",
    ]);
    let mut theirs = Side::new(&kafka, 0);
    let mut ours = Side::new(&broker.address, 1);
    let served = |side: &mut Side| -> BTreeMap<i16, (i16, i16)> {
        let answer: ApiVersionsResponse = side.client.ask(&ApiVersionsRequest::default(), 0);
        answer.api_keys.iter().map(|a| (a.api_key, (a.min_version, a.max_version))).collect()
    };
    theirs.until_whole();
    let (their_apis, our_apis) = (served(&mut theirs), served(&mut ours));
    for side in [&mut theirs, &mut ours] {
        side.delete_all();
        side.begin_coordinators();
    }
    let known = known();
    let mut generator = Generator::new(seed, &their_apis, &our_apis);
    // By API and difference: how often, and the first request that showed it.
    let mut found: BTreeMap<(String, String), (u64, String)> = BTreeMap::new();
    let mut asked: BTreeMap<String, u64> = BTreeMap::new();
    for run in 0..runs {
        let Asked { api, shown, changes, ask } = generator.next();
        *asked.entry(api.clone()).or_default() += 1;
        let mut answers = [ask(&mut theirs), ask(&mut ours)];
        if story.as_ref().is_some_and(|part| shown.contains(part)) {
            let [theirs, ours] = answers.each_ref().map(|a| a.replace(['\n', ' '], ""));
            println!("run {run}: {api} {shown}\n  Kafka {theirs}\n  Weir  {ours}");
        }
        let mut differ = compare(&answers, &theirs, &ours);
        // Kafka's broker learns from its controller a moment after the answer.
        for _ in 0..6 {
            if differ.is_empty() || changes {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            answers = [ask(&mut theirs), ask(&mut ours)];
            differ = compare(&answers, &theirs, &ours);
        }
        if changes {
            for _ in 0..40 {
                std::thread::sleep(Duration::from_millis(25));
                theirs.look();
                ours.look();
                if theirs.counts() == ours.counts() {
                    break;
                }
            }
            if theirs.counts() != ours.counts() {
                let (theirs_now, ours_now) = (theirs.counts(), ours.counts());
                differ.push(format!("topics afterwards: {theirs_now:?} | {ours_now:?}"));
                theirs.delete_all();
                ours.delete_all();
                std::thread::sleep(Duration::from_millis(500));
            }
        }
        for line in differ {
            let line_without = without_names(&line);
            let is_known = known.iter().any(|known| {
                (known.api.is_empty() || known.api == api)
                    && shown.contains(&known.request)
                    && line_without.contains(&known.differs)
            });
            if !is_known && (only.is_empty() || api == only) {
                let entry = found.entry((api.clone(), line_without));
                entry.or_insert_with(|| (0, format!("run {run}: {shown}\n      {line}"))).0 += 1;
            }
        }
    }
    println!("asked: {asked:?}");
    for ((api, line), (count, first)) in &found {
        println!("{api}: {line}: {count} times, first in {first}");
    }
    assert!(found.is_empty(), "seed {seed}: {} differences from Kafka are not listed", found.len());
}

fn compare(answers: &[String; 2], theirs: &Side, ours: &Side) -> Vec<String> {
    let [a, b] = answers;
    differences(&answer::of(a, &theirs.own()), &answer::of(b, &ours.own()))
}
