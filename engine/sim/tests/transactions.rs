//! A short budget of the transaction rig; `cargo xtask sim --rig transactions` runs a longer one.

use sim::seeds::run_seeds;
use sim::transaction_rig::{Outcome, run};

#[test]
fn transaction_guarantees_hold() {
    let (total, enough) = run_seeds("transactions", 400, run, Outcome::add);
    if enough {
        assert!(total.committed > 20_000 && total.aborted > 10_000, "{total:?}");
        assert!(
            total.fenced > 3_000 && total.timed_out > 500 && total.crashes > 2_000,
            "{total:?}"
        );
        assert!(total.duplicates > 3_000 && total.lost_answers > 5_000, "{total:?}");
        assert!(total.outputs > 10_000 && total.polled > 100_000, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed), run(seed));
    }
}
