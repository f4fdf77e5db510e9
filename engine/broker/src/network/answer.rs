//! What becomes of a request: its answer's size is noted before its memory is taken, and its bytes are made.

use crate::network::memory::HeldAnswer;
use crate::network::request::{Request, ResponseTo};
use crate::shard::shard::Shard;
use model::limits::ANSWER_BYTES_MAX;
use runtime::Slice;
use runtime::budget::{Budget, Held};
use runtime::buffer::SharedBytes;
use std::rc::Rc;
use wire::messages::Message;
use wire::{WireError, header};

/// From here on an answer is a large one.
const LARGE_ANSWER_BYTES: usize = 64 * 1024;

/// What becomes of a request.
pub(crate) enum Outcome {
    /// Send these bytes.
    Respond(Vec<SharedBytes>),
    /// Send nothing (`acks=0`).
    Silence,
    /// End the connection, because of this.
    Close(String),
}

impl Outcome {
    /// Bytes of the answer.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Respond(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
            Self::Silence | Self::Close(_) => 0,
        }
    }
}

/// An answer that is being made: its memory is noted before it is taken, and of large ones only a few are made at a
/// time, in slices, and none while clients that do not read hold all there is for answers.
pub(crate) struct AnswerSize {
    held: HeldAnswer,
    lane: Rc<Budget>,
    place: Option<Held>,
    slice: Slice,
}

impl AnswerSize {
    pub(crate) fn new(shard: &Shard) -> Self {
        Self {
            held: shard.other_answer_memory.hold(),
            lane: Rc::clone(&shard.large_answers),
            place: None,
            slice: Slice::begin(),
        }
    }

    /// Notes so many bytes more.
    ///
    /// # Errors
    /// No client takes an answer of that size, or there is no memory for it.
    pub(crate) async fn add(&mut self, bytes: usize) -> Result<(), WireError> {
        let bytes = self.held.bytes() + bytes;
        if bytes > ANSWER_BYTES_MAX {
            return Err(WireError::AnswerTooLarge);
        }
        if bytes > LARGE_ANSWER_BYTES && self.place.is_none() {
            self.place = Some(self.held.place(&self.lane).await.ok_or(WireError::NoMemory)?);
        }
        self.held.set(bytes);
        self.slice.rest().await;
        Ok(())
    }
}

/// Reads a control request's body.
pub(crate) fn read<M: Message>(request: &Request) -> Result<M, WireError> {
    M::decode_untrusted(&mut request.body(), request.version)
}

/// A control response as bytes to send.
pub(crate) fn respond<M: Message>(shard: &Shard, to: ResponseTo, message: &M) -> Outcome {
    let ResponseTo { version, correlation_id } = to;
    let mut is_too_large = false;
    let head = shard.encode_head(|out| {
        header::begin_response(out, M::KEY, version, correlation_id);
        message.encode(out, version);
        is_too_large = out.len() > ANSWER_BYTES_MAX;
        if is_too_large {
            out.clear();
        } else {
            header::finish_frame(out, 0, 0);
        }
    });
    if is_too_large {
        return Outcome::Close(format!(
            "{} v{version}: {}",
            M::KEY.api().name,
            WireError::AnswerTooLarge
        ));
    }
    let mut pieces = shard.take_pieces();
    pieces.push(head);
    Outcome::Respond(pieces)
}
