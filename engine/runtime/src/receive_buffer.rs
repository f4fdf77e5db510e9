//! Receives a stream and hands out whole pieces of it without copying.

use crate::buffer::{ALIGNMENT, ChunkPool, ChunkWriter, SharedBytes};

/// Frames above this are received one at a time.
const LARGE_FRAME_BYTES: usize = 128 * 1024;

/// Who says little at a time receives in chunks of so many bytes: they stay in the processor's caches, and a
/// request that waits keeps no more than one of them.
const SMALL_CHUNK_BYTES: usize = 16 * 1024;
/// Small chunks that are kept for whoever comes next.
const SMALL_SPARE_MAX: usize = 64;
/// Who receives so much at once, or in one frame, sends in bulk: in large chunks,
const BULK_BYTES: usize = SMALL_CHUNK_BYTES / 2;
/// until it received less so many times in a row.
const BULK_LASTS: u8 = 16;

/// What the connections of a thread receive in. (200 producers of 100-byte records, each with a large chunk
/// to walk through, touched new memory with all they received: 3 % of the broker's CPU was page faults.)
pub struct ReceivePool {
    small: ChunkPool,
    large: ChunkPool,
    large_spare_max: usize,
    /// So many large chunks at least were spare all the time since `trim`.
    large_unused: usize,
}

impl ReceivePool {
    /// Large chunks have `large_bytes`; of those that come back at most `large_spare_max` are kept.
    ///
    /// # Panics
    /// If large chunks are not larger than small ones (16 KiB).
    #[must_use]
    pub fn new(large_bytes: usize, large_spare_max: usize) -> Self {
        assert!(large_bytes > SMALL_CHUNK_BYTES);
        Self {
            small: ChunkPool::new(SMALL_CHUNK_BYTES, usize::MAX, 0),
            large: ChunkPool::new(large_bytes, usize::MAX, 0),
            large_spare_max,
            large_unused: 0,
        }
    }

    /// Gives to the system the large chunks that nobody has needed since this was called last: after a busy time
    /// they would else be kept for ever.
    pub fn trim(&mut self) {
        for _ in 0..self.large_unused {
            if !self.large.release_one() {
                break;
            }
        }
        self.large_unused = self.large.spare();
    }

    fn take_large(&mut self) -> ChunkWriter {
        let chunk = self.large.take_or_grow();
        self.large_unused = self.large_unused.min(self.large.spare());
        chunk
    }

    fn retire(&mut self, writer: ChunkWriter) {
        let (pool, spare_max) = if writer.capacity() == SMALL_CHUNK_BYTES {
            (&mut self.small, SMALL_SPARE_MAX)
        } else {
            (&mut self.large, self.large_spare_max)
        };
        pool.retire(writer);
        while pool.spare() > spare_max && pool.release_one() {}
    }
}

/// Receives a stream and hands out whole pieces of it without copying.
///
/// The chunk grows only as bytes arrive: memory is at most about twice what was received, however
/// long the announced frame.
pub struct ReceiveBuffer {
    writer: Option<ChunkWriter>,
    taken: usize,
    /// After so many more small receives it does not send in bulk any more; 0: it does not.
    bulk_lasts: u8,
}

impl ReceiveBuffer {
    /// Starts with a small chunk of the pool.
    #[must_use]
    pub fn new(pool: &mut ReceivePool) -> Self {
        Self { writer: Some(pool.small.take_or_grow()), taken: 0, bulk_lasts: 0 }
    }

    /// Gives its chunk back to the pool, for as long as nothing comes. Nothing may be left in it.
    pub fn rest(&mut self, pool: &mut ReceivePool) {
        assert!(self.bytes().is_empty(), "what was received is taken first");
        pool.retire(self.writer.take().expect("looked at above"));
    }

    /// Takes a chunk again after `rest`.
    pub fn wake(&mut self, pool: &mut ReceivePool) {
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
    pub fn make_room(&mut self, frame_bytes: usize, pool: &mut ReceivePool) {
        let writer = self.writer.as_ref().expect("not receiving");
        let pending = writer.filled() - self.taken;
        let spare = writer.remaining();
        let missing = frame_bytes.saturating_sub(pending).max(1);
        let is_bulk = frame_bytes.max(pending) >= BULK_BYTES || self.bulk_lasts > 0;
        let roomy = if pending == 0 {
            // Nothing would be copied: begin in a fresh chunk rather than at the end of this one, or in a large
            // one for small receives.
            spare >= missing.max(writer.capacity() / 2)
                && (is_bulk || writer.capacity() == SMALL_CHUNK_BYTES)
        } else {
            // Either the frame fits, or what is here can at least double before it is copied.
            spare >= missing || spare >= pending.max(ALIGNMENT)
        };
        if roomy {
            return;
        }
        let wanted = frame_bytes.max(pending + 1).min((pending * 2).max(pool.large.chunk_bytes()));
        let mut next = if wanted > pool.large.chunk_bytes() {
            ChunkWriter::with_capacity(wanted)
        } else if is_bulk {
            pool.take_large()
        } else {
            pool.small.take_or_grow()
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

    /// Takes the writer back, with so much more in it.
    pub(crate) fn give_back(&mut self, writer: ChunkWriter, received: usize) {
        assert!(self.writer.is_none());
        self.bulk_lasts =
            if received >= BULK_BYTES { BULK_LASTS } else { self.bulk_lasts.saturating_sub(1) };
        self.writer = Some(writer);
    }

    /// Returns its chunk to the pool.
    pub fn retire(mut self, pool: &mut ReceivePool) {
        if let Some(writer) = self.writer.take() {
            pool.retire(writer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 64 * 1024;

    /// As a socket would: as much of `bytes` as fits; returns how much that was.
    fn receive(buffer: &mut ReceiveBuffer, bytes: &[u8]) -> usize {
        let mut writer = buffer.lend();
        let received = writer.append(bytes);
        assert!(received > 0, "there is room");
        buffer.give_back(writer, received);
        received
    }

    fn pattern(from: usize, len: usize) -> Vec<u8> {
        (from..from + len).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn a_frame_is_received_across_chunks_without_taking_its_announced_size() {
        let mut pool = ReceivePool::new(LARGE, 4);
        let mut buffer = ReceiveBuffer::new(&mut pool);
        let frame = 1_000_000;
        let mut received = 0;
        while received < frame {
            buffer.make_room(frame, &mut pool);
            received += receive(&mut buffer, &pattern(received, 1000.min(frame - received)));
            let capacity = buffer.writer.as_ref().unwrap().capacity();
            assert!(capacity <= LARGE + received * 3, "{capacity} {received}");
        }
        assert_eq!(&*buffer.take(frame), &pattern(0, frame));
    }

    #[test]
    fn what_has_no_announced_size_is_received_whole() {
        let mut pool = ReceivePool::new(LARGE, 4);
        let mut buffer = ReceiveBuffer::new(&mut pool);
        let mut received = 0;
        while received < 4 * LARGE {
            buffer.make_room(0, &mut pool);
            received += receive(&mut buffer, &pattern(received, 7000));
        }
        assert_eq!(buffer.bytes(), &pattern(0, received));
    }

    #[test]
    fn who_says_little_has_little_and_who_sends_in_bulk_has_much() {
        let mut pool = ReceivePool::new(LARGE, 4);
        let mut buffer = ReceiveBuffer::new(&mut pool);
        let mut capacity_after = |len: usize| {
            for round in 0..20 {
                buffer.make_room(0, &mut pool);
                let mut received = receive(&mut buffer, &pattern(round, len));
                while received < len {
                    buffer.make_room(len, &mut pool);
                    received += receive(&mut buffer, &pattern(round + received, len - received));
                }
                assert_eq!(&*buffer.take(len), &pattern(round, len));
            }
            buffer.writer.as_ref().unwrap().capacity()
        };
        for _ in 0..2 {
            assert_eq!(capacity_after(300), SMALL_CHUNK_BYTES);
            assert_eq!(capacity_after(BULK_BYTES), LARGE);
            assert_eq!(capacity_after(50_000), LARGE);
        }
    }

    #[test]
    fn large_chunks_that_nobody_needs_go_back_to_the_system() {
        let mut pool = ReceivePool::new(LARGE, 4);
        let use_large = |pool: &mut ReceivePool, count: usize| {
            let mut buffers: Vec<_> = (0..count).map(|_| ReceiveBuffer::new(pool)).collect();
            buffers.iter_mut().for_each(|buffer| buffer.make_room(LARGE, pool));
            buffers.into_iter().for_each(|buffer| buffer.retire(pool));
        };
        use_large(&mut pool, 4);
        pool.trim();
        assert_eq!(pool.large.bytes_made(), 4 * LARGE, "they were all in use since");
        use_large(&mut pool, 1);
        pool.trim();
        assert_eq!(pool.large.bytes_made(), LARGE, "one of them was needed");
        use_large(&mut pool, 1);
        pool.trim();
        assert_eq!(pool.large.bytes_made(), LARGE);
        pool.trim();
        assert_eq!(pool.large.bytes_made(), 0, "none was");
    }

    #[test]
    fn only_some_chunks_are_kept_for_whoever_comes_next() {
        let mut pool = ReceivePool::new(LARGE, 4);
        for _ in 0..2 {
            let mut buffers: Vec<_> = (0..100).map(|_| ReceiveBuffer::new(&mut pool)).collect();
            let (bulk, _) = buffers.split_at_mut(10);
            bulk.iter_mut().for_each(|buffer| buffer.make_room(LARGE, &mut pool));
            assert_eq!(pool.large.bytes_made(), 10 * LARGE);
            buffers.iter_mut().for_each(|buffer| buffer.rest(&mut pool));
            assert_eq!(pool.large.bytes_made(), 4 * LARGE);
            assert_eq!(pool.small.bytes_made(), SMALL_SPARE_MAX * SMALL_CHUNK_BYTES);
        }
    }
}
