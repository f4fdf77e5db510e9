//! A short budget of the compaction rig; `cargo xtask sim --rig compaction` runs a longer one.

use sim::compaction_rig::{Outcome, run};
use sim::seeds::run_seeds;

#[test]
fn compaction_guarantees_hold() {
    let (total, enough) = run_seeds("compaction", 8, run, Outcome::add);
    if enough {
        assert!(total.records > 10_000 && total.compactions > 100, "{total:?}");
        assert!(total.bytes_removed > 200_000 && total.given_up > 0, "{total:?}");
        assert!(total.aborted > 100 && total.markers_forgotten > 20, "{total:?}");
        assert!(total.holes > 100 && total.deleted > 10 && total.power_cuts > 40, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    for seed in [1, 2] {
        assert_eq!(run(seed), run(seed));
    }
}
