//! From what the workers found to the result: counts that add up, and whether the run counts.

use crate::ending::Ending;
use crate::judge::result::{
    AgentClock, Anomaly, Batches, Environment, FORMAT, FORMAT_VERSION, FaultFound, Lag, Latencies,
    LatencyFound, ProcessUsed, Resources, RunResult, Throughput, Verification,
};
use crate::options::args::{Acks, Args, OffsetReset};
use crate::run::environment;
use crate::run::lag::LagSampler;
use crate::run::monitor::{Monitor, UsageSpan};
use crate::run::target::Target;
use crate::work::consumer::ConsumerOutcome;
use crate::work::histogram::Latency;
use crate::work::layout::Layout;
use crate::work::producer::{ProducerOutcome, SlotNumbers};
use crate::work::progress::Window;
use crate::work::verifier::{Seen, joined, length, shared};
use std::collections::BTreeMap;

/// Share of the planned records that must be acknowledged within the window.
const ACHIEVED_MIN: f64 = 0.99;
/// Share of CPU time the hypervisor may keep.
const STOLEN_MAX: f64 = 0.02;
/// Below this measured time the edges weigh too much: what was acknowledged at all counts then.
const SHORT_S: f64 = 2.0;
/// A fault's outage is over once acknowledgements are at this share of the plan again.
const RECOVERED: f64 = 0.95;
/// Share of the end-to-end p50 from which the clocks' error is much.
const CLOCK_ERROR_MAX: f64 = 0.1;

/// Everything a run found.
pub(crate) struct Found<'r> {
    pub(crate) args: &'r Args,
    pub(crate) run: u64,
    pub(crate) seed: u64,
    pub(crate) target: &'r Target,
    pub(crate) started_unix_ms: i64,
    pub(crate) topic_settings: BTreeMap<String, String>,
    pub(crate) agents: Vec<AgentClock>,
    pub(crate) environment: Environment,
    pub(crate) window: Window,
    pub(crate) produced: Vec<ProducerOutcome>,
    pub(crate) consumed: Vec<ConsumerOutcome>,
    pub(crate) drained: Option<f64>,
    pub(crate) sampler: &'r LagSampler,
    pub(crate) monitor: Monitor<'r>,
    pub(crate) layout: &'r Layout,
    pub(crate) faults: Vec<FaultFound>,
    pub(crate) interrupted: bool,
    /// Load machines that went away, and why.
    pub(crate) lost: Vec<String>,
}

fn merge_producers(parts: &[ProducerOutcome]) -> ProducerOutcome {
    let mut total = ProducerOutcome::default();
    for part in parts {
        for (total, part) in [
            (&mut total.ack, &part.ack),
            (&mut total.service, &part.service),
            (&mut total.lateness, &part.lateness),
            (&mut total.held_back, &part.held_back),
            (&mut total.queue, &part.queue),
            (&mut total.warmup_ack, &part.warmup_ack),
        ] {
            total.add(part);
        }
        for (total, part) in [
            (&mut total.sent, part.sent),
            (&mut total.sent_bytes, part.sent_bytes),
            (&mut total.acked, part.acked),
            (&mut total.failed, part.failed),
            (&mut total.unsent, part.unsent),
            (&mut total.acked_in_window, part.acked_in_window),
            (&mut total.batches, part.batches),
            (&mut total.batch_records, part.batch_records),
            (&mut total.batch_bytes, part.batch_bytes),
            (&mut total.raw_bytes, part.raw_bytes),
            (&mut total.requests, part.requests),
            (&mut total.retries, part.retries),
        ] {
            *total += part;
        }
        for (kind, count) in &part.errors {
            *total.errors.entry(kind.clone()).or_default() += count;
        }
    }
    total
}

/// What consumers found together, and what each group saw of each producer in each slot.
struct Consumed {
    e2e: Latency,
    warmup_e2e: Latency,
    total: ConsumerOutcome,
    seen: BTreeMap<(usize, usize, u32), Seen>,
    redelivered: u64,
}

fn merge_consumers(parts: Vec<ConsumerOutcome>) -> Consumed {
    let mut all = Consumed {
        e2e: Latency::default(),
        warmup_e2e: Latency::default(),
        total: ConsumerOutcome::default(),
        seen: BTreeMap::new(),
        redelivered: 0,
    };
    for part in parts {
        all.e2e.add(&part.e2e);
        all.warmup_e2e.add(&part.warmup_e2e);
        let total = &mut all.total;
        for (total, part) in [
            (&mut total.consumed, part.consumed),
            (&mut total.consumed_in_window, part.consumed_in_window),
            (&mut total.bytes_in_window, part.bytes_in_window),
            (&mut total.before_plan, part.before_plan),
            (&mut total.duplicates, part.duplicates),
            (&mut total.out_of_order, part.out_of_order),
            (&mut total.corrupt, part.corrupt),
            (&mut total.foreign, part.foreign),
            (&mut total.fetches, part.fetches),
            (&mut total.rebalances, part.rebalances),
        ] {
            *total += part;
        }
        for (kind, count) in part.errors {
            *total.errors.entry(kind).or_default() += count;
        }
        total.anomalies.extend(part.anomalies);
        // What the members of a group saw, one after the other, must be everything.
        for (key, session) in part.sessions {
            all.redelivered += all.seen.entry(key).or_default().join(&session);
        }
    }
    all
}

/// What each group should have seen against what it saw.
fn verify(found: &Found<'_>, consumed: &mut Consumed) -> Verification {
    let args = found.args;
    let mut verification = Verification {
        damaged: consumed.total.corrupt,
        redelivered: consumed.redelivered,
        assignments: consumed.total.rebalances,
        foreign: consumed.total.foreign,
        complete: args.consumer_count() > 0
            && found.drained.is_some()
            && !found.interrupted
            && found.lost.is_empty(),
        anomalies: std::mem::take(&mut consumed.total.anomalies),
        ..Verification::default()
    };
    let empty = Seen::default();
    let (mut by_retry, mut late_by_retry) = (0, 0);
    let groups = if args.consumer_count() == 0 { 0 } else { args.groups as usize };
    for group in 0..groups {
        // Who begins at the end has not seen what was before.
        let partial = args.is_late(group) && args.auto_offset_reset == OffsetReset::Latest;
        for producer in &found.produced {
            for (slot, numbers) in producer.sequences.iter().enumerate() {
                let key = (group, slot, producer.number as u32);
                let seen = consumed.seen.get(&key).unwrap_or(&empty);
                let SlotNumbers { sent, failed, unsure, .. } = numbers;
                let (failed, unsure) = (joined(failed.clone()), joined(unsure.clone()));
                // A copy that a retry made, and an order that it changed, are not the broker's.
                let tried = joined(failed.iter().chain(&unsure).copied().collect());
                by_retry += shared(&seen.repeated, &tried);
                late_by_retry += if tried.is_empty() { 0 } else { shared_late(seen, producer) };
                if partial || !verification.complete {
                    continue;
                }
                let missing = seen.lost(*sent, &failed);
                let (topic, partition) = found.layout.place(slot);
                verification.lost += length(&missing);
                verification.unsure_stored += length(&failed)
                    - length(&seen.lost(*sent, &[])).saturating_sub(length(&missing));
                for (first, behind) in missing {
                    verification.anomalies.push(Anomaly {
                        kind: "lost".to_owned(),
                        group: Some(group),
                        topic: topic.to_owned(),
                        partition,
                        offset: None,
                        producer: Some(producer.number as u32),
                        sequence: Some(first),
                        records: behind - first,
                    });
                }
            }
        }
    }
    verification.repeated_by_retry = by_retry;
    verification.duplicated = consumed.total.duplicates.saturating_sub(by_retry);
    verification.reordered_by_retry = late_by_retry;
    verification.out_of_order = consumed.total.out_of_order.saturating_sub(late_by_retry);
    verification
}

/// Records that came late while their producer was sending again: batches behind a repeated one may
/// overtake it while several requests are in flight.
fn shared_late(seen: &Seen, producer: &ProducerOutcome) -> u64 {
    if producer.retries > 0 { length(&seen.late) } else { 0 }
}

/// The longest time without an acknowledgement after a fault, and when the rate was back.
fn outages(found: &mut Found<'_>) {
    let points = &found.monitor.acked_at;
    let plan = found.args.plan();
    let mut faults = std::mem::take(&mut found.faults);
    let begins: Vec<f64> = faults.iter().map(|fault| fault.began_s).collect();
    for (at, fault) in faults.iter_mut().enumerate() {
        let until = begins.get(at + 1).copied().unwrap_or(f64::INFINITY);
        let mut longest: Option<(f64, f64)> = None;
        let mut still_since = None;
        for pair in points.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if to.0 < fault.began_s || from.0 > until {
                continue;
            }
            if to.1 > from.1 {
                still_since = None;
                continue;
            }
            let since = *still_since.get_or_insert(from.0);
            if longest.is_none_or(|(a, b)| to.0 - since > b - a) {
                longest = Some((since, to.0));
            }
        }
        fault.outage_s = longest;
        // Back to the plan: over half a second, as many acknowledged as planned, or nearly so.
        let after = longest.map_or(fault.ended_s, |(_, to)| to);
        let wanted = |at: f64| plan.as_ref().map(|plan| plan.rate_at(at) * RECOVERED);
        let back = points.iter().filter(|(at, _)| *at >= after).find_map(|&(at, count)| {
            let later = points.iter().find(|(later, _)| *later >= at + 0.5)?;
            let rate = later.1.saturating_sub(count) as f64 / (later.0 - at);
            wanted(at).is_some_and(|wanted| rate >= wanted).then_some(at)
        });
        fault.recovered_after_s = back.map(|at| at - fault.began_s);
    }
    found.faults = faults;
}

pub(crate) fn judge(mut found: Found<'_>) -> RunResult {
    let args = found.args;
    outages(&mut found);
    let produced = merge_producers(&found.produced);
    let mut consumed = merge_consumers(std::mem::take(&mut found.consumed));
    let verification = verify(&found, &mut consumed);
    let seconds = found.window.seconds();
    let offered = produced.sent + produced.unsent;
    let share = |records: u64| records as f64 / offered.max(1) as f64;
    let met = share(produced.acked_in_window);
    let record_bytes = produced.sent_bytes as f64 / produced.sent.max(1) as f64;
    let gb = produced.acked_in_window as f64 * record_bytes / 1e9;
    let millions = produced.acked_in_window as f64 / 1e6;
    let used = |span: &UsageSpan| ProcessUsed {
        cpu_s: span.cpu_s(),
        user_s: span.user_s,
        system_s: span.system_s,
        cpu_s_per_gb: span.cpu_s() / gb.max(1e-9),
        cpu_s_per_million_records: span.cpu_s() / millions.max(1e-9),
        resident_peak_bytes: span.resident_peak_bytes,
        disk_write_bytes: span.disk_write_bytes,
    };
    let mut acked = vec![0; found.layout.slots()];
    for producer in &found.produced {
        producer.sequences.iter().enumerate().for_each(|(slot, n)| acked[slot] += n.acked);
    }
    let mut errors = produced.errors.clone();
    for (kind, count) in &consumed.total.errors {
        *errors.entry(kind.clone()).or_default() += count;
    }
    let value = serde_json::to_value(args).expect("options become values");
    let options = value.as_object().cloned().unwrap_or_default().into_iter().collect();
    let (invalid, notes) = doubts(&found, &produced, &consumed, &verification, met);
    let sampler = found.sampler;
    let mut result = RunResult {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: environment::commit(),
        command: environment::command(),
        options,
        run: format!("{:012x}", found.run),
        seed: found.seed,
        started_unix_ms: found.started_unix_ms,
        broker: found.target.servers().to_owned(),
        embedded: found.target.is_embedded(),
        topic_settings: found.topic_settings.clone(),
        agents: found.agents.clone(),
        open_loop: args.plan().is_some(),
        latency_origin: "planned send time".to_owned(),
        environment: found.environment.clone(),
        measured_s: seconds,
        throughput: Throughput {
            offered_records: offered,
            sent_records: produced.sent,
            acknowledged_records: produced.acked_in_window,
            consumed_records: consumed.total.consumed_in_window,
            acknowledged_per_s: produced.acked_in_window as f64 / seconds,
            consumed_per_s: consumed.total.consumed_in_window as f64 / seconds,
            record_bytes,
            schedule_met: met,
        },
        latency: Latencies {
            produce: LatencyFound::of(&produced.ack),
            end_to_end: LatencyFound::of(&consumed.e2e),
            service: LatencyFound::of(&produced.service),
            client_queue: LatencyFound::of(&produced.queue),
            held_back: LatencyFound::of(&produced.held_back),
            generator_lateness: LatencyFound::of(&produced.lateness),
            warmup_produce: LatencyFound::of(&produced.warmup_ack),
            warmup_end_to_end: LatencyFound::of(&consumed.warmup_e2e),
        },
        lag: Lag {
            interval_s: args.lag_interval.as_secs_f64(),
            samples: sampler.samples.len() as u64,
            errors: sampler.errors,
            groups: sampler.groups(found.window.start(), found.window.end()),
            drain_s: found.drained,
            worst: sampler.worst(),
            end_records: sampler.last().map_or(0, |sample| sample.behind.iter().sum()),
        },
        batches: Batches {
            count: produced.batches,
            records: produced.batch_records,
            bytes: produced.batch_bytes,
            requests: produced.requests,
            fetches: consumed.total.fetches,
            compression_ratio: produced.raw_bytes as f64 / produced.batch_bytes.max(1) as f64,
            retries: produced.retries,
        },
        failed_records: produced.failed,
        unsent_records: produced.unsent,
        errors,
        resources: Resources {
            broker: found.monitor.broker.as_ref().map(used),
            loadgen: used(&found.monitor.own),
        },
        broker_stages: std::mem::take(&mut found.monitor.broker_stages),
        faults: found.faults.clone(),
        partitions: sampler.partitions(&acked),
        series: std::mem::take(&mut found.monitor.samples),
        heat: std::mem::take(&mut found.monitor.heat),
        verification,
        objectives: Vec::new(),
        bottleneck: None,
        invalid,
        notes,
        verdict: String::new(),
        exit_code: 0,
    };
    result.bottleneck = bottleneck(&found, &produced, met);
    result.objectives = args.assert.iter().map(|objective| objective.judge(&result)).collect();
    let ending = ending(&found, &result);
    result.exit_code = ending as i32;
    result.verdict = ending.verdict().to_owned();
    result
}

/// Who could not keep up, if someone could not.
fn bottleneck(found: &Found<'_>, produced: &ProducerOutcome, met: f64) -> Option<String> {
    if late_beyond(produced).is_some() && found.args.plan().is_some() {
        return Some("generator".to_owned());
    }
    let reached = reached(found, produced, met);
    (found.args.plan().is_some() && reached < ACHIEVED_MIN && !found.interrupted)
        .then(|| "cluster".to_owned())
}

fn reached(found: &Found<'_>, produced: &ProducerOutcome, met: f64) -> f64 {
    let short = found.window.seconds() < SHORT_S || found.args.num_records.is_some();
    if short {
        produced.acked as f64 / (produced.sent + produced.unsent).max(1) as f64
    } else {
        met
    }
}

/// The generator's own p99 delay and what is allowed, if it is beyond.
fn late_beyond(produced: &ProducerOutcome) -> Option<(f64, f64)> {
    let late = produced.lateness.percentile_ms(99.0).unwrap_or(0.0);
    let allowed = (produced.ack.percentile_ms(99.0).unwrap_or(0.0) * 0.1).max(1.0);
    (late > allowed).then_some((late, allowed))
}

/// Why the run does not count, and what to keep in mind.
fn doubts(
    found: &Found<'_>,
    produced: &ProducerOutcome,
    consumed: &Consumed,
    verification: &Verification,
    met: f64,
) -> (Vec<String>, Vec<String>) {
    let args = found.args;
    let (mut invalid, mut notes) = (Vec::new(), found.monitor.notes.clone());
    let planned = args.plan().is_some();
    if planned && !found.interrupted {
        if let Some((late, allowed)) = late_beyond(produced) {
            invalid.push(format!(
                "the generator was the bottleneck: its own p99 delay from plan to hand-over is \
                 {late:.3} ms, allowed are {allowed:.3} ms"
            ));
        }
        let reached = reached(found, produced, met);
        if reached < ACHIEVED_MIN {
            let held = if produced.held_back.count() > 0 {
                "; the client's buffers were full, so it was the cluster that did not keep up"
            } else {
                ""
            };
            invalid.push(format!(
                "the rate was not reached: {:.1} % of the planned records were acknowledged in the \
                 measured time{held}",
                reached * 100.0
            ));
        }
    }
    for why in &found.lost {
        invalid.push(format!("{why}: what it sent and saw is not in the figures"));
    }
    if produced.ack.clamped() + consumed.e2e.clamped() > 0 {
        invalid.push("latencies above one hour were cut".to_owned());
    }
    if args.consumer_count() > 0 && found.drained.is_none() && !found.interrupted {
        invalid.push(
            "not everything was consumed before the drain time-out: loss is unknown".to_owned(),
        );
    }
    if produced.sent == 0 && !found.interrupted {
        invalid.push("no record was sent in the measured time".to_owned());
    }
    for clock in &found.agents {
        let uncertain = 2.0 * clock.clock_error_ms;
        let p50 = consumed.e2e.percentile_ms(50.0).unwrap_or(f64::INFINITY);
        let much = if uncertain > p50 * CLOCK_ERROR_MAX { ": MUCH, beside its p50" } else { "" };
        notes.push(format!(
            "{}: its clock is known to {:.3} ms; end-to-end between it and another is true to plus or \
             minus {uncertain:.3} ms{much}; its positions are up to 100 ms old in the lag",
            clock.address, clock.clock_error_ms
        ));
    }
    if consumed.total.before_plan > 0 {
        notes.push(format!(
            "{} records arrived before they were planned, by the clocks: counted as 0",
            consumed.total.before_plan
        ));
    }
    if found.monitor.stolen > STOLEN_MAX {
        notes.push(format!(
            "the hypervisor took {:.1} % of the CPU time: latencies include it",
            found.monitor.stolen * 100.0
        ));
    }
    if !planned {
        notes.push("as fast as it goes: CLOSED LOOP, latency is not a response time".to_owned());
    }
    if args.without_timing {
        notes.push("--without-timing: latencies were not taken".to_owned());
    }
    if found.target.is_embedded() {
        notes.push(
            "broker and load generator share this machine, over loopback: compare CPU seconds, not \
             peak rates"
                .to_owned(),
        );
    }
    if produced.ack.open() > 0 {
        notes.push(format!(
            "{} records were never acknowledged: their latency counts as a lower bound (>=)",
            produced.ack.open()
        ));
    }
    if verification.repeated_by_retry + verification.reordered_by_retry > 0 {
        notes.push(format!(
            "retries without idempotence stored {} records twice and {} out of order: not the broker's \
             fault",
            verification.repeated_by_retry, verification.reordered_by_retry
        ));
    }
    if args.acks == Acks::None {
        notes.push("acks=0: what was sent is not known to have arrived".to_owned());
    }
    for fault in &found.faults {
        if let Some(why) = &fault.error {
            notes.push(format!("fault {}: {why}", fault.fault));
        }
    }
    (invalid, notes)
}

fn ending(found: &Found<'_>, result: &RunResult) -> Ending {
    let verified = &result.verification;
    let broken = verified.lost + verified.duplicated + verified.out_of_order + verified.damaged > 0;
    let outcome = |name: &str| result.objectives.iter().any(|o| o.outcome == name);
    // At the end no broker told where its partitions end: it is gone.
    let gone = found.sampler.errors > 0
        && found.sampler.last().is_none_or(|last| last.at < found.window.end())
        && !result.invalid.is_empty();
    if found.interrupted {
        Ending::Interrupted
    } else if found.args.consumer_count() > 0 && broken {
        Ending::RecordsLostOrRepeated
    } else if gone || !found.lost.is_empty() {
        Ending::Unreachable
    } else if !result.invalid.is_empty() {
        Ending::Invalid
    } else if outcome("FAIL") {
        Ending::ObjectiveMissed
    } else if outcome("INCONCLUSIVE") {
        Ending::Inconclusive
    } else {
        Ending::Fine
    }
}
