//! A short budget of the node rig; `cargo xtask sim --rig node` runs a longer one.

use sim::node_rig::{Outcome, run};
use sim::seeds::run_seeds;

#[test]
fn node_guarantees_hold() {
    let (total, enough) = run_seeds("node", 150, run, Outcome::add);
    if enough {
        assert!(
            total.starts > 300 && total.stopped_starts > 30 && total.verified > 1_000,
            "{total:?}"
        );
        assert!(total.changes > 500 && total.unchanged > 5 && total.missing > 20, "{total:?}");
        assert!(total.refused > 20 && total.faults > 20 && total.full > 10, "{total:?}");
        assert!(total.spoilt > 50 && total.told > 10, "{total:?}");
    }
}
