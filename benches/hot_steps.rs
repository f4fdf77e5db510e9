//! How long does each hot step on the way of a record take?
#![allow(clippy::disallowed_methods)]

#[path = "src/hot.rs"]
mod hot;

use criterion::{Criterion, criterion_group, criterion_main};

fn hot_steps(c: &mut Criterion) {
    for (name, mut step) in hot::steps() {
        let mut check = 0u64;
        c.bench_function(name, |b| b.iter(|| check = check.wrapping_mul(31).wrapping_add(step())));
        assert_ne!(check, 0, "{name} did its work");
        println!("  check: {check:x}");
    }
}

criterion_group!(benches, hot_steps);
criterion_main!(benches);
