//! Compaction of a shard's partitions, one at a time, the dirtiest first, for ever.

use crate::observe::logging::{info, warning};
use crate::partitions::partition_slot::PartitionSlot;
use crate::shard::shard::Shard;
use metadata::image::TopicImage;
use metadata::in_force::CompactionRules;
use runtime::{clock, timer};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::{AbortedSpan, CompactionPlan, Dirt};

/// While there are requests a shard rests so long after each slice of compaction, so that neither
/// they nor whatever else runs on the core wait for it.
const RESTS: Duration = Duration::from_micros(300);

/// How much a log wants to be compacted: the dirty part of it; `None` while it need not be.
fn urgency(rules: &CompactionRules, dirt: Dirt, now_ms: i64) -> Option<f64> {
    let ratio = dirt.dirty_bytes as f64 / (dirt.dirty_bytes + dirt.clean_bytes).max(1) as f64;
    let is_late =
        dirt.dirty_since_ms.is_some_and(|at| now_ms.saturating_sub(at) > rules.lag_ms_max);
    let is_due = dirt.dirty_bytes > 0 && (is_late || ratio >= rules.dirty_ratio_min);
    is_due.then_some(if is_late { 1.0 + ratio } else { ratio })
}

/// Looks for logs to compact, for ever.
pub(crate) async fn look_after(shard: Rc<Shard>) {
    let every = Duration::from_millis(shard.node.config.cleaner_backoff_ms);
    loop {
        timer::sleep(every).await;
        while let Some((slot, topic, rules)) = dirtiest(&shard).await {
            if !compact(&shard, &slot, &topic.name, rules).await {
                break;
            }
        }
    }
}

async fn dirtiest(
    shard: &Rc<Shard>,
) -> Option<(Rc<PartitionSlot>, Arc<TopicImage>, CompactionRules)> {
    let now_ms = clock::unix_ms();
    let mut found: Option<(f64, _, _, _)> = None;
    for slot in shard.all_slots() {
        let image = shard.image();
        let Some(topic) = image.by_id.get(&slot.id.topic_id) else { continue };
        let Some(rules) = topic.compaction else { continue };
        if slot.is_closing() || slot.log.is_offline() || slot.compaction_rests() {
            continue;
        }
        let dirt = slot.log.dirt(slot.last_stable_offset(), now_ms, rules.lag_ms_min).await;
        match dirt {
            Ok(dirt) => {
                let urgency = urgency(&rules, dirt, now_ms);
                if let Some(urgency) = urgency
                    && found.as_ref().is_none_or(|(most, ..)| urgency > *most)
                {
                    found = Some((urgency, Rc::clone(&slot), Arc::clone(topic), rules));
                }
            }
            Err(error) => slot.complain(&format!("what to compact is not known: {error}")),
        }
    }
    found.map(|(_, slot, topic, rules)| (slot, topic, rules))
}

/// Compacts one log. False: the shard stops.
async fn compact(
    shard: &Rc<Shard>,
    slot: &Rc<PartitionSlot>,
    topic: &str,
    rules: CompactionRules,
) -> bool {
    let began = clock::now();
    let stops = || slot.is_closing() || shard.stopping.get();
    let (last_batches, aborted) = {
        let producers = slot.producers.borrow();
        let span = |aborted: partition::Aborted| AbortedSpan {
            producer: aborted.producer,
            first: aborted.first,
            last: aborted.last,
        };
        let last_batches: BTreeMap<_, _> = producers.last_batches().collect();
        let from = slot.log.log_start();
        (last_batches, producers.aborted(from, slot.log.log_end()).map(span).collect())
    };
    let served = Cell::new(shard.requests_begun.get());
    let rest = || {
        let begun = shard.requests_begun.get();
        let idle = served.replace(begun) == begun;
        if idle { Duration::ZERO } else { RESTS }
    };
    let plan = CompactionPlan {
        below: slot.last_stable_offset(),
        now_ms: clock::unix_ms(),
        min_lag_ms: rules.lag_ms_min,
        delete_retention_ms: rules.delete_retention_ms,
        map_bytes: shard.node.config.cleaner_map_bytes,
        last_batches,
        aborted,
        stops: &stops,
        rest: &rest,
    };
    let forget = async |markers: &[model::Offset]| {
        slot.producers.borrow_mut().forget_aborted(markers);
        slot.save_producers_now().await
    };
    match slot.log.compact(&plan, forget).await {
        Ok(done) if done.stopped => {
            slot.rest_compaction();
            !shard.stopping.get()
        }
        Ok(done) => {
            info!(
                "partition {} of {topic}: compacted up to offset {}: {} KB are {} KB, in {} ms",
                slot.id.partition,
                done.cleaned_to,
                done.bytes_before / 1024,
                done.bytes_after / 1024,
                clock::now().since(began) / 1_000_000
            );
            true
        }
        Err(error) => {
            // A topic that is being deleted takes its files away.
            if !slot.is_closing() {
                warning!("partition {}: compaction failed: {error}", slot.id);
                slot.rest_compaction();
            }
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dirty_part_and_the_longest_wait_decide() {
        let rules = CompactionRules {
            dirty_ratio_min: 0.5,
            lag_ms_min: 0,
            lag_ms_max: 1_000,
            delete_retention_ms: 0,
        };
        let dirt = |clean_bytes, dirty_bytes| Dirt {
            clean_bytes,
            dirty_bytes,
            dirty_since_ms: (dirty_bytes > 0).then_some(5_000),
        };
        assert_eq!(urgency(&rules, dirt(100, 99), 5_500), None);
        assert_eq!(urgency(&rules, dirt(100, 100), 5_500), Some(0.5));
        assert_eq!(urgency(&rules, dirt(0, 1), 5_500), Some(1.0));
        assert_eq!(urgency(&rules, dirt(100, 0), 9_000), None);
        assert!(urgency(&rules, dirt(900, 100), 6_001).is_some_and(|urgency| urgency > 1.0));
        assert_eq!(urgency(&rules, dirt(900, 100), 6_000), None);
    }
}
