//! A short budget of the storage rig; `cargo xtask sim` runs a longer one.

use sim::storage_rig::{Outcome, run};

#[test]
fn storage_guarantees_hold() {
    let only = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok());
    let runs = std::env::var("WEIR_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(150);
    let seeds = only.map_or(0..runs, |seed: u64| seed..seed + 1);
    let mut total = Outcome::default();
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        let outcome = result.unwrap_or_else(|_| {
            panic!("seed {seed} failed; repeat: WEIR_SEED={seed} cargo test -p sim --test storage")
        });
        total.add(&outcome);
    }
    println!("{total:?}");
    if only.is_none() && runs >= 150 {
        assert!(total.verified > 1_000 && total.power_cuts > 50 && total.kills > 20, "{total:?}");
        assert!(total.flips > 5 && total.reported > 0 && total.frames > 100, "{total:?}");
        assert!(total.lies > 5 && total.failures > 5 && total.deleted > 50, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 4, 5] {
        assert_eq!(run(seed), run(seed));
    }
}
