//! Requests of a shard that wait for answers of partitions, here or on other shards.
//!
//! Slots are reused, so that a warm shard allocates nothing per request. A token names a slot and
//! its use; an answer that comes after the request is gone finds another use and is dropped.

use crate::fetching::share::FetchShare;
use runtime::clock::Nanos;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use wire::produce::ProduceResult;

/// Names one use of a request slot of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) shard: u16,
    slot: u32,
    generation: u32,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    waker: Option<Waker>,
    /// Answers still to come.
    missing: usize,
    produced: Vec<ProduceResult>,
    /// In the order in which they came: a newer one of a shard takes the place of an older one.
    shares: VecDeque<Box<FetchShare>>,
    /// When a partition that a fetch waits for has moved.
    moved: Option<Nanos>,
    /// What of it must be read again, besides the shares that came along.
    stale: Stale,
}

/// What a waiting fetch must read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stale {
    /// Partitions of its own shard.
    pub(crate) own: bool,
    /// Partitions of other shards, which must be asked.
    pub(crate) others: bool,
}

impl Token {
    pub(crate) fn slot_number(self) -> u32 {
        self.slot
    }
}

/// The request slots of a shard.
pub(crate) struct Requests {
    shard: u16,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
}

impl Requests {
    pub(crate) fn new(shard: usize) -> Self {
        Self { shard: shard as u16, slots: RefCell::default(), free: RefCell::default() }
    }

    /// Takes a slot that expects one produce result for each of `partitions`.
    pub(crate) fn open(&self, partitions: usize) -> OpenRequest<'_> {
        let mut slots = self.slots.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::default());
            slots.len() as u32 - 1
        });
        let slot = &mut slots[index as usize];
        slot.produced.clear();
        let waiting = ProduceResult::refused(model::ErrorCode::UnknownServerError, None);
        slot.produced.resize(partitions, waiting);
        slot.missing = partitions;
        (slot.moved, slot.stale) = (None, Stale::default());
        let token = Token { shard: self.shard, slot: index, generation: slot.generation };
        OpenRequest { requests: self, token }
    }

    fn with<T>(&self, token: Token, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        assert_eq!(token.shard, self.shard, "answers go to the shard that asked");
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[token.slot as usize];
        (slot.generation == token.generation).then(|| f(slot))
    }

    fn wake(slot: &mut Slot) {
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }

    /// The result of partition number `index` of a produce request.
    pub(crate) fn on_produced(&self, token: Token, index: u32, result: ProduceResult) {
        self.with(token, |slot| {
            slot.produced[index as usize] = result;
            slot.missing -= 1;
            if slot.missing == 0 {
                Self::wake(slot);
            }
        });
    }

    /// Another shard's share of a fetch; it comes back if the fetch is gone.
    pub(crate) fn on_share(&self, token: Token, share: Box<FetchShare>) -> Option<Box<FetchShare>> {
        let mut share = Some(share);
        self.with(token, |slot| {
            slot.shares.extend(share.take());
            Self::wake(slot);
        });
        share
    }

    /// As `on_share`, of a share that has new records.
    pub(crate) fn on_refreshed(
        &self,
        token: Token,
        share: Box<FetchShare>,
        at: Nanos,
    ) -> Option<Box<FetchShare>> {
        self.with(token, |slot| *slot.moved.get_or_insert(at));
        self.on_share(token, share)
    }

    /// A partition that a fetch found empty has new records; on another shard, or on this one.
    pub(crate) fn on_moved(&self, token: Token, at: Nanos, elsewhere: bool) {
        self.with(token, |slot| {
            slot.moved.get_or_insert(at);
            slot.stale.own |= !elsewhere;
            slot.stale.others |= elsewhere;
            Self::wake(slot);
        });
    }
}

/// One request's use of a slot; dropping it frees the slot.
pub(crate) struct OpenRequest<'a> {
    requests: &'a Requests,
    pub(crate) token: Token,
}

impl OpenRequest<'_> {
    fn with<T>(&self, f: impl FnOnce(&mut Slot) -> T) -> T {
        self.requests.with(self.token, f).expect("the slot is ours until dropped")
    }

    async fn until<T>(&self, mut ready: impl FnMut(&mut Slot) -> Option<T>) -> T {
        poll_fn(|cx| {
            self.with(|slot| match ready(slot) {
                Some(value) => Poll::Ready(value),
                None => {
                    if !slot.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                        slot.waker = Some(cx.waker().clone());
                    }
                    Poll::Pending
                }
            })
        })
        .await
    }

    /// Waits for every produce result.
    pub(crate) async fn until_produced(&self) {
        self.until(|slot| (slot.missing == 0).then_some(())).await;
    }

    /// The produce results, in request order.
    pub(crate) fn take_produced(&self) -> Vec<ProduceResult> {
        self.with(|slot| std::mem::take(&mut slot.produced))
    }

    /// Gives the vector back for the next request.
    pub(crate) fn give_back(&self, produced: Vec<ProduceResult>) {
        self.with(|slot| slot.produced = produced);
    }

    /// Waits for one more share of a fetch.
    pub(crate) async fn next_share(&self) -> Box<FetchShare> {
        self.until(|slot| slot.shares.pop_front()).await
    }

    /// A share that has come meanwhile.
    pub(crate) fn take_share(&self) -> Option<Box<FetchShare>> {
        self.with(|slot| slot.shares.pop_front())
    }

    /// Waits until a partition moved; says when, and what must be read again.
    pub(crate) async fn until_moved(&self) -> (Nanos, Stale) {
        self.until(|slot| Some((slot.moved.take()?, std::mem::take(&mut slot.stale)))).await
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.with(|slot| {
            slot.generation = slot.generation.wrapping_add(1);
            slot.waker = None;
            slot.shares.clear();
        });
        self.requests.free.borrow_mut().push(self.token.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// The newer share of a shard takes the place of the older one: the other way round records would wait
    /// where nobody looks, for their shard has sent them and tells no more.
    #[test]
    fn shares_are_taken_in_the_order_in_which_they_came() {
        let requests = Requests::new(0);
        let open = requests.open(0);
        let share =
            |is_refreshed| Box::new(FetchShare { from: 1, is_refreshed, ..Default::default() });
        assert!(requests.on_share(open.token, share(false)).is_none());
        assert!(requests.on_refreshed(open.token, share(true), Nanos(1)).is_none());
        let first = pin!(open.next_share()).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(first, Poll::Ready(share) if !share.is_refreshed));
        assert!(open.take_share().is_some_and(|newer| newer.is_refreshed));
        let token = open.token;
        drop(open);
        assert!(requests.on_share(token, share(true)).is_some(), "the box comes back");
    }
}
