//! A short budget of the storage rig; `cargo xtask sim` runs a longer one.

use sim::seeds::run_seeds;
use sim::storage_rig::{Outcome, run};

#[test]
fn storage_guarantees_hold() {
    let (total, enough) = run_seeds("storage", 150, run, Outcome::add);
    if enough {
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
