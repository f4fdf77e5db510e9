//! A short budget of whole brokers in a simulated world; `cargo xtask sim --rig cluster` runs a longer one.

use sim::seeds::run_seeds;
use sim_cluster::{Outcome, run};

#[test]
fn cluster_guarantees_hold() {
    let (total, enough) = run_seeds("cluster", 60, run, Outcome::add);
    if enough {
        assert!(total.committed > 3_000 && total.aborted > 1_000, "{total:?}");
        assert!(total.fenced > 500 && total.outputs > 2_000 && total.polled > 50_000, "{total:?}");
        assert!(total.acknowledged > 20_000 && total.lost_answers > 10_000, "{total:?}");
        assert!(total.kills > 100 && total.power_cuts > 25 && total.stops > 50, "{total:?}");
        assert!(total.pauses > 40 && total.cut_links > 60, "{total:?}");
        assert!(total.packets_lost > 5_000 && total.refused_for_now > 500, "{total:?}");
        assert!(total.joins > 150 && total.commits > 1_000, "{total:?}");
        assert!(total.topics_made > 150 && total.topics_deleted > 60, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    assert_eq!(run(1), run(1));
}
