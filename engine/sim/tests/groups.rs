//! A short budget of the group rig; `cargo xtask sim --rig groups` runs a longer one.

use sim::group_rig::{Outcome, run};

#[test]
fn group_guarantees_hold() {
    let only = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok());
    let runs = std::env::var("WEIR_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(300);
    let seeds = only.map_or(0..runs, |seed: u64| seed..seed + 1);
    let mut total = Outcome::default();
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        let outcome = result.unwrap_or_else(|_| {
            panic!("seed {seed} failed; repeat: WEIR_SEED={seed} cargo test -p sim --test groups")
        });
        total.add(&outcome);
    }
    println!("{total:?}");
    if only.is_none() && runs >= 300 {
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
