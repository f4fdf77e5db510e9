//! What shards contribute to a fetch: records are the log's own memory.

use model::{ErrorCode, Offset};
use partition::Producers;
use runtime::buffer::{ChunkWriter, SharedBytes};
use storage::Log;
use wire::fetch::{AbortedTransaction, FetchResult};

/// What one shard contributes to a fetch. Boxes of it travel between shards and are used again.
#[derive(Default)]
pub(crate) struct FetchShare {
    pub(crate) entries: Vec<Entry>,
    pub(crate) aborted: Vec<AbortedTransaction>,
    pub(crate) pieces: Vec<SharedBytes>,
    pub(crate) bytes: usize,
    pub(crate) failed: bool,
    /// Who read it, and whether unasked, because something moved: then it is not parked there any more.
    pub(crate) from: usize,
    pub(crate) is_refreshed: bool,
    /// To the shard that reads: most bytes, and whether to leave the token.
    pub(crate) asked: Option<(usize, bool)>,
    /// For the shard that answers: the other shares, and where each partition's entry is.
    pub(crate) others: Vec<Box<Self>>,
    pub(crate) order: Vec<(u32, u32)>,
    pub(crate) cuts: Vec<usize>,
}

/// What is told of one partition, and where its records and aborted transactions are.
pub(crate) struct Entry {
    pub(crate) index: u32,
    pub(crate) result: FetchResult,
    pub(crate) pieces: (u32, u32),
    pub(crate) aborted: (u32, u32),
}

impl FetchShare {
    pub(crate) fn clear(&mut self) {
        self.clear_own();
        self.is_refreshed = false;
        self.others.clear();
        self.order.clear();
        self.cuts.clear();
    }

    /// Forgets what was read here, and keeps the other shards' shares.
    pub(crate) fn clear_own(&mut self) {
        self.entries.clear();
        self.aborted.clear();
        self.pieces.clear();
        (self.bytes, self.failed) = (0, false);
    }

    /// Slabs that answers hold cannot be used again. If these make the cache larger than it is meant to be,
    /// the pieces from `first` on become a copy: an answer that nobody takes then holds its own bytes only.
    pub(crate) fn let_go_of_slabs(&mut self, log: &Log, first: usize) {
        if !log.home().cache_is_over_budget() || self.pieces.len() == first {
            return;
        }
        let bytes = self.pieces[first..].iter().map(|piece| piece.len()).sum();
        let mut copy = ChunkWriter::with_capacity(bytes);
        for piece in self.pieces.drain(first..) {
            copy.append(&piece);
        }
        self.pieces.push(copy.share(0..bytes));
    }

    /// Leaves out what was just read if it is one batch that is larger than may be: only the first that has records
    /// is given whole however large it is, so that its reader gets on.
    pub(crate) fn keep_within(&mut self, first_piece: usize, bytes_max: usize) {
        let read: usize = self.pieces[first_piece..].iter().map(|piece| piece.len()).sum();
        if self.bytes > 0 && read > bytes_max {
            self.pieces.truncate(first_piece);
        }
    }

    /// Takes another shard's share, in place of an older one of the same shard, which is given back.
    pub(crate) fn put(&mut self, other: Box<Self>) -> Option<Box<Self>> {
        match self.others.iter_mut().find(|before| before.from == other.from) {
            Some(before) => Some(std::mem::replace(before, other)),
            None => {
                self.others.push(other);
                None
            }
        }
    }

    /// Leaves out the records of the last partitions until all shares together hold `bytes_max` at most;
    /// the first partition that has records keeps them. Each share was read within a part of
    /// `bytes_max`, but for one whole batch.
    pub(crate) fn trim(&mut self, bytes_max: usize) {
        let total =
            |share: &Self| share.bytes + share.others.iter().map(|o| o.bytes).sum::<usize>();
        let mut over = total(self).saturating_sub(bytes_max);
        if over == 0 {
            return;
        }
        let mut all: Vec<&mut Entry> = self.entries.iter_mut().collect();
        all.extend(self.others.iter_mut().flat_map(|other| &mut other.entries));
        all.retain(|entry| entry.result.records_bytes > 0);
        all.sort_by_key(|entry| entry.index);
        for entry in all.into_iter().skip(1).rev() {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(entry.result.records_bytes);
            entry.result.records_bytes = 0;
            entry.aborted.1 = entry.aborted.0;
        }
    }

    /// Puts the aborted transactions beside the records that were pushed last.
    pub(crate) fn tell_aborted(&mut self, producers: &Producers) {
        if producers.none_aborted() {
            return;
        }
        let entry = self.entries.last_mut().expect("pushed just now");
        let records = &self.pieces[entry.pieces.0 as usize..entry.pieces.1 as usize];
        let Some((from, to)) = span_of(records) else { return };
        self.aborted.extend(producers.aborted(from, to).map(|aborted| AbortedTransaction {
            producer_id: aborted.producer.0,
            first_offset: aborted.first.0,
        }));
        entry.aborted.1 = self.aborted.len() as u32;
    }

    pub(crate) fn push(&mut self, index: u32, mut result: FetchResult, first_piece: usize) {
        let range = first_piece..self.pieces.len();
        result.records_bytes = self.pieces[range.clone()].iter().map(|piece| piece.len()).sum();
        self.bytes += result.records_bytes;
        self.failed |= result.error != ErrorCode::None;
        let pieces = (range.start as u32, range.end as u32);
        let aborted = (self.aborted.len() as u32, self.aborted.len() as u32);
        self.entries.push(Entry { index, result, pieces, aborted });
    }
}

/// The offset of the first batch in these bytes, and the one behind the last batch.
fn span_of(pieces: &[SharedBytes]) -> Option<(Offset, Offset)> {
    const HEAD: usize = 27;
    let byte = |mut at: usize| {
        pieces.iter().find_map(|piece| match piece.get(at) {
            Some(byte) => Some(*byte),
            None => {
                at -= piece.len();
                None
            }
        })
    };
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    let (mut at, mut span) = (0, None);
    while at + HEAD <= total {
        let mut head = [0; HEAD];
        for (index, place) in head.iter_mut().enumerate() {
            *place = byte(at + index)?;
        }
        let base = i64::from_be_bytes(head[..8].try_into().expect("8 bytes"));
        let delta = i32::from_be_bytes(head[23..].try_into().expect("4 bytes"));
        let (first, _) = *span.get_or_insert((Offset(base), Offset(base)));
        span = Some((first, Offset(base.saturating_add(i64::from(delta) + 1))));
        at += model::RecordBatch::total_bytes(&head)?;
    }
    span
}
