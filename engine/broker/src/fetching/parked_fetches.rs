//! Fetches of other shards' clients that found too little here. When one of their partitions moves they are
//! read again at once and the share is sent: asking the client's shard to ask once more would wake each
//! thread once more, and waking is what a hop costs (`benches/mailbox.rs`).

use crate::network::request::Request;
use crate::shard::requests::Token;
use metadata::image::MetadataImage;
use runtime::clock::Nanos;
use runtime::notify::Notify;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use wire::primitives::Reader;

/// A longer request is not kept: its client's shard asks again.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Nor is one beyond so many bytes of a shard's.
const ALL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// One fetch, as it is to be read again.
pub(crate) struct ParkedFetch {
    pub(crate) token: Token,
    pub(crate) version: i16,
    pub(crate) bytes_max: usize,
    pub(crate) image: Arc<MetadataImage>,
    /// A copy: the request's own memory is its connection's, which may be gone before anything moves.
    body: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    /// It will be, or was, sent: what moves later is seen when its client's shard asks again, or not wanted.
    Due,
    /// Its client's shard has asked again.
    Gone,
}

impl ParkedFetch {
    pub(crate) fn body(&self) -> Reader<'_> {
        Reader::new(&self.body)
    }
}

/// The parked fetches of a shard: at most one for each request slot of each other shard, whose memory is used
/// again. One that its client's shard has answered meanwhile stays until its slot asks again.
#[derive(Default)]
pub(crate) struct ParkedFetches {
    /// By the client's shard, and there by request slot.
    fetches: RefCell<Vec<Vec<Option<ParkedFetch>>>>,
    /// What the bodies take.
    bytes: Cell<usize>,
    due: RefCell<VecDeque<(Token, Nanos)>>,
    changed: Notify,
}

impl ParkedFetches {
    /// Keeps a request for when one of its partitions moves.
    pub(crate) fn park(
        &self,
        request: &Request,
        image: Arc<MetadataImage>,
        token: Token,
        bytes_max: usize,
    ) {
        let mut fetches = self.fetches.borrow_mut();
        let (shard, slot) = (usize::from(token.shard), token.slot_number() as usize);
        if fetches.len() <= shard {
            fetches.resize_with(shard + 1, Vec::new);
        }
        if fetches[shard].len() <= slot {
            fetches[shard].resize_with(slot + 1, || None);
        }
        let place = &mut fetches[shard][slot];
        let bytes = request.body_bytes();
        let mut body = place.take().map_or_else(Vec::new, |before| before.body);
        let others = self.bytes.get() - body.capacity();
        if bytes.len() > BODY_BYTES_MAX || others + bytes.len() > ALL_BYTES_MAX {
            self.bytes.set(others);
            return;
        }
        body.clear();
        body.extend_from_slice(bytes);
        // Of a large request before this one.
        body.shrink_to(4 * bytes.len());
        self.bytes.set(others + body.capacity());
        let version = request.version;
        let state = State::Waits;
        *place = Some(ParkedFetch { token, version, bytes_max, image, body, state });
    }

    /// A partition that this fetch waits for has moved; false if it is not kept here, so that its shard must
    /// be told to ask again.
    pub(crate) fn on_moved(&self, token: Token, at: Nanos) -> bool {
        self.with(token, |parked| {
            if parked.state == State::Waits {
                parked.state = State::Due;
                self.due.borrow_mut().push_back((token, at));
                self.changed.notify();
            }
        })
        .is_some()
    }

    /// Waits for a fetch that is due, and since when. What moves within the same turn of the loop is one
    /// movement.
    pub(crate) async fn next_due(&self) -> (Token, Nanos) {
        self.changed.until(|| self.due.borrow_mut().pop_front()).await
    }

    /// Its client's shard asks again: nothing of the last time counts.
    pub(crate) fn unpark(&self, token: Token) {
        self.with(token, |parked| {
            parked.state = State::Gone;
            // Its memory is used again, unless there is much of it.
            if self.bytes.get() > ALL_BYTES_MAX / 2 {
                self.bytes.set(self.bytes.get() - parked.body.capacity());
                parked.body = Vec::new();
            }
        });
    }

    /// Looks at a fetch, if it is still the one of this token.
    pub(crate) fn with<T>(
        &self,
        token: Token,
        look: impl FnOnce(&mut ParkedFetch) -> T,
    ) -> Option<T> {
        let mut fetches = self.fetches.borrow_mut();
        let slots = fetches.get_mut(usize::from(token.shard))?;
        let parked = slots.get_mut(token.slot_number() as usize)?.as_mut()?;
        (parked.token == token && parked.state != State::Gone).then(|| look(parked))
    }

    /// Partitions may have other owners now, or be gone.
    pub(crate) fn forget_all(&self) {
        self.fetches.borrow_mut().clear();
        self.bytes.set(0);
    }
}
