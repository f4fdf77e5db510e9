//! Whoever waits for records is told as soon as there are some, on whichever shards they and their partitions are.

use crate::peer::{Peer, one_record};
use crate::readers::seen;
use crate::sessions::ends_of;
use crate::shared::{PLAIN, Shared, TOPICS, name_of, tick};
use model::ErrorCode;
use runtime::clock;
use sim::history::{Operation, Outcome as Ended, Send, Step};
use std::rc::Rc;
use std::time::Duration;

const ROUNDS: u64 = 8;
/// As long as the reader would wait, and as long as it may take.
const WAIT_MS: i32 = 20_000;
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// Numbers of these two in the history.
const READER: u64 = 900;
const WRITER: u64 = 901;

/// Waits for records of all partitions, while somebody sends one to one of them. To be called when nothing goes wrong.
pub(crate) async fn are_told(shared: Rc<Shared>) {
    for _ in 0..ROUNDS {
        // Another connection is another shard, perhaps.
        let mut reader = Peer::new(&shared);
        let Some(ends) = ends_of(&mut reader, TOPICS[2]).await else {
            panic!("the ends of partitions are not told while nothing goes wrong");
        };
        let from: Vec<(i32, i64)> = ends.into_iter().collect();
        let (partition, value) = (shared.below(from.len() as u64) as i32, shared.next_value());
        let began = clock::now();
        let waits = async {
            let got = reader.fetch_within(PLAIN, &from, true, 1 << 20, WAIT_MS).await;
            (got, Duration::from_nanos(clock::now().since(began)))
        };
        let ((got, waited), ()) =
            runtime::both(waits, send_one(Rc::clone(&shared), partition, value)).await;
        assert!(waited < TOLD_WITHIN, "a reader waited {waited:?} for a record that was there");
        let got = got.expect("an answer while nothing goes wrong");
        let records: Vec<_> = got.iter().flat_map(|got| seen(PLAIN, got)).collect();
        assert!(records.iter().any(|record| record.value == value), "{records:?}");
        let poll = Operation::Poll { records, uncommitted: false, at: Some(tick()) };
        let operations = vec![poll];
        shared.keep(Step {
            process: READER,
            outcome: Ended::Committed,
            operations,
            ..Step::default()
        });
    }
}

async fn send_one(shared: Rc<Shared>, partition: i32, value: u64) {
    shared.rest(60).await;
    let batch = one_record(value);
    let answer = Peer::new(&shared).produce(9, None, -1, (PLAIN, partition), &batch).await;
    let (error, base) = answer.expect("an answer while nothing goes wrong");
    assert_eq!(error, ErrorCode::None);
    let partition = name_of(PLAIN, partition);
    let send = Send { partition, value, offset: Some(base), acknowledged: true, input: None };
    let operations = vec![Operation::Send(send)];
    shared.keep(Step { process: WRITER, operations, end: Some(tick()), ..Step::default() });
}
