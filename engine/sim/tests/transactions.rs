//! A short budget of the transaction rig; `cargo xtask sim --rig transactions` runs a longer one.

use sim::transaction_rig::{Outcome, run};

#[test]
fn transaction_guarantees_hold() {
    let only = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok());
    let runs = std::env::var("WEIR_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(400);
    let seeds = only.map_or(0..runs, |seed: u64| seed..seed + 1);
    let mut total = Outcome::default();
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        let outcome = result.unwrap_or_else(|_| {
            panic!(
                "seed {seed} failed; repeat: WEIR_SEED={seed} cargo test -p sim --test transactions"
            )
        });
        total.add(&outcome);
    }
    println!("{total:?}");
    if only.is_none() && runs >= 400 {
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
