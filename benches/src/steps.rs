//! The hot steps on the way of a record, one at a time: instructions under callgrind, which looks for
//! `counted` here. A program of its own, so that what else is compiled changes nothing.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods)]

mod hot;

use clap::Parser;
use hot::Step;
use std::hint::black_box;

#[derive(Parser)]
enum Args {
    /// The names of the steps
    List,
    /// One step so many times, for callgrind
    Step {
        name: String,
        #[arg(default_value_t = 100)]
        rounds: u64,
    },
}

fn main() {
    match Args::parse() {
        Args::List => hot::steps().iter().for_each(|(name, _)| println!("{name}")),
        Args::Step { name, rounds } => {
            let mut step = named(&name);
            // Once before: what is made at first use is not what a step costs.
            let check = counted(&mut *step, 1);
            println!("check {}", check.wrapping_add(counted(&mut *step, rounds)));
        }
    }
}

fn named(name: &str) -> Step {
    let found = hot::steps().into_iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no step {name:?}; see `steps list`")).1
}

/// What is counted: callgrind collects from its entry to its end. Returns a check of the work done.
#[inline(never)]
fn counted(step: &mut dyn FnMut() -> u64, rounds: u64) -> u64 {
    (0..rounds)
        .fold(0, |check: u64, _| check.wrapping_mul(31).wrapping_add(black_box(&mut *step)()))
}
