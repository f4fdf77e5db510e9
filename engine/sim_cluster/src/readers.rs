//! Readers: consumers that go on from where they are, and the last read of all.

use crate::peer::{Got, Peer};
use crate::shared::{Phase, Shared, TOPICS, is_for_now, name_of, tick};
use model::ErrorCode;
use sim::history::{FinalRead, Operation, Outcome as Ended, Record, Step};
use std::rc::Rc;

/// What a reader saw, as the history has it.
pub(crate) fn seen(topic: &str, got: &Got) -> Vec<Record> {
    let record = |(offset, value): &(i64, u64)| Record {
        partition: name_of(topic, got.partition),
        offset: *offset,
        value: *value,
    };
    got.records.iter().map(record).collect()
}

/// Reads all partitions of a topic, from their beginnings to their ends, as long as somebody writes.
pub(crate) async fn read_on(shared: Rc<Shared>, process: u64, topic: (&str, i32), committed: bool) {
    let mut peer = Peer::new(&shared);
    let mut positions: Vec<(i32, i64)> = (0..topic.1).map(|partition| (partition, 0)).collect();
    loop {
        let drains = shared.phase.get() == Phase::Reading;
        let bytes = if drains { 1 << 20 } else { 1 << (9 + shared.below(8)) };
        shared.does(process, format!("reads {} from {positions:?}", topic.0));
        let Some(got) = peer.fetch(topic.0, &positions, committed, bytes).await else {
            shared.rest(20).await;
            continue;
        };
        let mut is_at_end = got.len() == positions.len();
        for got in got {
            if got.error != ErrorCode::None {
                assert!(is_for_now(got.error), "{}: {:?}", topic.0, got.error);
                shared.count(|outcome| outcome.refused_for_now += 1);
                is_at_end = false;
                continue;
            }
            positions[got.partition as usize].1 = got.next;
            is_at_end &= got.next == got.high_watermark;
            let records = seen(topic.0, &got);
            if !records.is_empty() {
                shared.count(|outcome| outcome.polled += records.len() as u64);
                let poll = Operation::Poll { records, uncommitted: !committed, at: Some(tick()) };
                let operations = vec![poll];
                shared.keep(Step {
                    process,
                    outcome: Ended::Committed,
                    operations,
                    ..Step::default()
                });
            }
        }
        if drains && is_at_end {
            return;
        }
        shared.rest(10).await;
    }
}

/// All committed records of all partitions, once nobody writes any more.
pub(crate) async fn read_all(shared: Rc<Shared>) {
    let mut peer = Peer::new(&shared);
    for (topic, partitions) in TOPICS {
        for partition in 0..partitions {
            let (mut records, mut position) = (Vec::new(), 0);
            loop {
                let asked = [(partition, position)];
                let Some(got) = peer.fetch(topic, &asked, true, 1 << 20).await else {
                    shared.rest(20).await;
                    continue;
                };
                let got = &got[0];
                if got.error != ErrorCode::None {
                    assert!(is_for_now(got.error), "{topic}: {:?}", got.error);
                    shared.rest(20).await;
                    continue;
                }
                records.extend(&got.records);
                position = got.next;
                if position == got.high_watermark {
                    assert_eq!(got.last_stable, position, "every transaction has ended");
                    break;
                }
            }
            let partition = name_of(topic, partition);
            shared.history.borrow_mut().finals.push(FinalRead {
                partition,
                records,
                log_start: None,
            });
        }
    }
}
