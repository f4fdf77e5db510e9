//! A short budget of whole brokers in a simulated world; `cargo xtask sim --rig cluster` runs a longer one.

use sim::seeds::run_seeds;
use sim_cluster::{Outcome, run};

#[test]
fn cluster_guarantees_hold() {
    let (total, enough) = run_seeds("cluster", 60, run, Outcome::add);
    if enough {
        assert!(total.committed > 100, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    assert_eq!(run(1), run(1));
}
