//! Long work that is written once, and run at once or with rests in between, in which others have their turn.
//!
//! Such work takes a `rest: &mut impl AsyncFnMut()`, which it awaits wherever it can be interrupted: `async || ()` never
//! rests.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Runs work that never rests.
///
/// # Panics
/// When it rests after all.
pub fn at_once<T>(work: impl Future<Output = T>) -> T {
    match try_at_once(work) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("it was given nothing to wait for"),
    }
}

/// Runs work up to its first rest; `Pending` if there was one, and what was begun is dropped.
pub fn try_at_once<T>(work: impl Future<Output = T>) -> Poll<T> {
    pin!(work).poll(&mut Context::from_waker(Waker::noop()))
}
