//! Random numbers: from the kernel, or from the twin's seed.
#![allow(unsafe_code)]

pub use crate::generator::Random;
use crate::thread_core::{Backend, try_with_core};

/// 64 random bits: the kernel's, or in the twin the simulation's.
#[must_use]
pub fn seed() -> u64 {
    let simulated = try_with_core(|core| match &mut *core.backend.borrow_mut() {
        Backend::Ring(_) => None,
        Backend::Simulated(twin) => Some(twin.random()),
    });
    simulated.flatten().unwrap_or_else(|| {
        let mut bytes = [0u8; 8];
        // SAFETY: the pointer and length name `bytes`.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        assert_eq!(got, 8, "getrandom gives 8 bytes on every supported kernel");
        u64::from_ne_bytes(bytes)
    })
}
