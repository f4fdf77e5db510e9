//! A short budget of the group rig; `cargo xtask sim --rig groups` runs a longer one.

use sim::group_rig::{Outcome, run};
use sim::seeds::run_seeds;

#[test]
fn group_guarantees_hold() {
    let (total, enough) = run_seeds("groups", 300, run, Outcome::add);
    if enough {
        assert!(total.assignments > 5_000 && total.commits > 20_000, "{total:?}");
        assert!(total.crashes > 200 && total.fenced > 500 && total.rewrites > 100, "{total:?}");
        assert!(total.vanished > 500 && total.lost_connections > 500, "{total:?}");
        assert!(total.moved > 10, "{total:?}");
        assert!(total.replaced > 10 && total.fetches > 5_000, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed), run(seed));
    }
}
