//! A rig run with one seed after the other, as the environment asks.

use std::panic::{RefUnwindSafe, catch_unwind};

/// Runs `run` with the seed that `WEIR_SEED` names, or with `WEIR_RUNS` of them (`runs` unless said) from
/// `WEIR_FROM` on, and adds the outcomes up. Also whether there were enough of them to demand that each kind of
/// event was met.
///
/// # Panics
/// A seed failed. The text names it and how to repeat it with the test file `rig`.
pub fn run_seeds<O: Default + std::fmt::Debug>(
    rig: &str,
    runs: u64,
    run: impl Fn(u64) -> O + RefUnwindSafe,
    add: impl Fn(&mut O, &O),
) -> (O, bool) {
    let asked = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let only: Option<u64> = asked("WEIR_SEED");
    let wanted = asked("WEIR_RUNS").unwrap_or(runs);
    let mut total = O::default();
    let from = asked("WEIR_FROM").unwrap_or(0);
    for seed in only.map_or(from..from + wanted, |seed| seed..seed + 1) {
        let outcome = catch_unwind(|| run(seed)).unwrap_or_else(|_| {
            panic!(
                "seed {seed} failed; repeat: WEIR_SEED={seed} cargo test --workspace --test {rig}"
            )
        });
        add(&mut total, &outcome);
    }
    println!("{total:?}");
    (total, only.is_none() && wanted >= runs)
}
