//! Receives a stream and hands out whole pieces of it without copying.

use crate::buffer::{ALIGNMENT, ChunkPool, ChunkWriter, SharedBytes};

/// Frames above this are received one at a time.
const LARGE_FRAME_BYTES: usize = 128 * 1024;

/// Receives a stream and hands out whole pieces of it without copying.
///
/// The chunk grows only as bytes arrive: memory is at most about twice what was received, however
/// long the announced frame.
pub struct ReceiveBuffer {
    writer: Option<ChunkWriter>,
    taken: usize,
}

impl ReceiveBuffer {
    /// Starts with a chunk of the pool.
    #[must_use]
    pub fn new(pool: &mut ChunkPool) -> Self {
        Self { writer: Some(pool.take_or_grow()), taken: 0 }
    }

    /// Gives its chunk back to the pool, for as long as nothing comes. Nothing may be left in it.
    pub fn rest(&mut self, pool: &mut ChunkPool) {
        assert!(self.bytes().is_empty(), "what was received is taken first");
        pool.retire(self.writer.take().expect("looked at above"));
    }

    /// Takes a chunk again after `rest`.
    pub fn wake(&mut self, pool: &mut ChunkPool) {
        assert!(self.writer.is_none(), "it rests");
        *self = Self::new(pool);
    }

    /// Bytes received and not taken yet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.writer.as_ref().expect("not receiving").bytes()[self.taken..]
    }

    /// Hands out the first `len` untaken bytes.
    pub fn take(&mut self, len: usize) -> SharedBytes {
        let writer = self.writer.as_ref().expect("not receiving");
        let taken = writer.share(self.taken..self.taken + len);
        self.taken += len;
        taken
    }

    /// Makes room to receive, given that the frame at the front needs `frame_bytes` in all.
    pub fn make_room(&mut self, frame_bytes: usize, pool: &mut ChunkPool) {
        let writer = self.writer.as_ref().expect("not receiving");
        let pending = writer.filled() - self.taken;
        let spare = writer.remaining();
        let missing = frame_bytes.saturating_sub(pending).max(1);
        let roomy = if pending == 0 {
            // Nothing would be copied: begin in a fresh chunk rather than at the end of this one.
            spare >= missing.max(writer.capacity() / 2)
        } else {
            // Either the frame fits, or what is here can at least double before it is copied.
            spare >= missing || spare >= pending.max(ALIGNMENT)
        };
        if roomy {
            return;
        }
        let wanted = frame_bytes.min((pending * 2).max(pool.chunk_bytes));
        let mut next = if wanted > pool.chunk_bytes {
            ChunkWriter::with_capacity(wanted)
        } else {
            pool.take_or_grow()
        };
        next.append(self.bytes());
        let old = self.writer.replace(next).expect("not receiving");
        pool.retire(old);
        self.taken = 0;
    }

    /// How much to receive at once: a large frame alone, so that the next one starts a fresh
    /// chunk instead of being copied there; small ones as they come.
    pub(crate) fn receive_max(&self, frame_bytes: usize) -> usize {
        let pending = self.bytes().len();
        if frame_bytes > pending && frame_bytes > LARGE_FRAME_BYTES {
            frame_bytes - pending
        } else {
            usize::MAX
        }
    }

    /// Lends the writer to a receive operation.
    pub(crate) fn lend(&mut self) -> ChunkWriter {
        self.writer.take().expect("one receive at a time")
    }

    /// Takes the writer back.
    pub(crate) fn give_back(&mut self, writer: ChunkWriter) {
        assert!(self.writer.is_none());
        self.writer = Some(writer);
    }

    /// Returns its chunk to the pool.
    pub fn retire(mut self, pool: &mut ChunkPool) {
        if let Some(writer) = self.writer.take() {
            pool.retire(writer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_received_across_chunks_without_taking_its_announced_size() {
        let mut pool = ChunkPool::new(8192, 4, 0);
        let mut buffer = ReceiveBuffer::new(&mut pool);
        let frame = 1_000_000;
        let mut received = 0usize;
        while received < frame {
            buffer.make_room(frame, &mut pool);
            let mut writer = buffer.lend();
            let (_, spare) = writer.spare(1000.min(frame - received));
            assert!(spare > 0, "room to receive at {received}");
            let piece: Vec<u8> = (received..received + spare).map(|i| (i % 251) as u8).collect();
            writer.append(&piece);
            received += spare;
            assert!(writer.capacity() <= 8192 + received * 3, "{} {received}", writer.capacity());
            buffer.give_back(writer);
        }
        let whole = buffer.take(frame);
        assert!(whole.iter().enumerate().all(|(i, &b)| b == (i % 251) as u8));
    }
}
