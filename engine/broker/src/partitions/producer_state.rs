//! A partition's producers, kept across starts: a snapshot beside its log, and the batches behind it.
//!
//! A snapshot is written only once all it speaks of is durable: it never knows more than the log.

use crate::observe::logging::warning;
use crate::partitions::log_walk::walk;
use model::{Offset, RecordBatch};
use partition::Producers;
use runtime::clock;
use runtime::notify::Notify;
use std::cell::{Cell, Ref, RefCell, RefMut};
use storage::{Log, StorageError};

/// The file's name.
const FILE: &str = "producers";
/// A start reads no more than about so much of a log, and what was appended while it was synced.
const SNAPSHOT_EVERY_BYTES: u64 = 64 * 1024 * 1024;
/// What is not worth a snapshot when the broker stops, if no producer wrote any of it.
const UNWORTHY_BYTES: u64 = 4 * 1024 * 1024;

/// A snapshot: not to be written before all it speaks of is durable.
pub(crate) struct Snapshot {
    pub(crate) end: Offset,
    bytes: Vec<u8>,
    changes: u64,
}

/// What a partition knows of its producers, and how much of that is on the disk.
#[derive(Default)]
pub(crate) struct ProducerState {
    producers: RefCell<Producers>,
    unsaved_bytes: Cell<u64>,
    /// Up to where the snapshot on the disk goes.
    saved_to: Cell<Offset>,
    saved_changes: Cell<u64>,
    due: RefCell<Option<Snapshot>>,
    saving: Cell<bool>,
    saved: Notify,
}

impl ProducerState {
    /// What the snapshot and the log say, after a start. Batches that cannot be read cost what is known of
    /// producers up to them, and nothing else.
    pub(crate) async fn recover(log: &Log) -> Self {
        let (start, end) = (log.log_start(), log.log_end());
        let stored = match log.load_beside(FILE).await {
            Ok(stored) => stored,
            Err(error) => {
                warning!("partition {}: the snapshot of producers is not used: {error}", log.id());
                None
            }
        };
        let snapshot = stored.and_then(|bytes| Producers::decode(&bytes));
        // A repair may have cut the log: then the snapshot knows too much.
        let (mut producers, from) =
            snapshot.filter(|(_, to)| *to <= end).unwrap_or_else(|| (Producers::default(), start));
        let saved_changes = producers.changes();
        if from < start {
            producers.on_log_start_unread(start);
        }
        let now_ms = clock::unix_ms();
        let (mut next, mut read) = (from.max(start), 0);
        while next < end {
            let walked = walk(log, next, end, |batch| {
                producers.on_batch(batch, batch.base_offset(), now_ms);
                producers.on_written(batch.base_offset());
                read += batch.bytes().len() as u64;
                next = batch.last_offset().plus(1);
                Ok(())
            });
            let Err(error) = walked.await else { break };
            let behind = log.behind_damage(next).await;
            warning!(
                "partition {}: {error}; what producers wrote up to offset {behind} is forgotten: what they send again \
                 is not known",
                log.id()
            );
            producers.on_unread();
            next = behind;
        }
        producers.on_written(end);
        producers.on_high_watermark(end);
        producers.on_log_start(start);
        Self {
            producers: RefCell::new(producers),
            unsaved_bytes: Cell::new(read),
            saved_to: Cell::new(from),
            saved_changes: Cell::new(saved_changes),
            ..Self::default()
        }
    }

    pub(crate) fn borrow(&self) -> Ref<'_, Producers> {
        self.producers.borrow()
    }

    pub(crate) fn borrow_mut(&self) -> RefMut<'_, Producers> {
        self.producers.borrow_mut()
    }

    /// A batch was appended; the log ends at `end` now. Returns up to where the log is to be made
    /// durable for a snapshot that is due.
    pub(crate) fn on_appended(
        &self,
        batch: RecordBatch<'_>,
        base: Offset,
        end: Offset,
    ) -> Option<Offset> {
        if batch.producer_id() >= 0 {
            self.borrow_mut().on_batch(batch, base, clock::unix_ms());
        }
        let unsaved = self.unsaved_bytes.get() + batch.bytes().len() as u64;
        self.unsaved_bytes.set(unsaved);
        if unsaved < SNAPSHOT_EVERY_BYTES || self.saving.get() || self.due.borrow().is_some() {
            return None;
        }
        *self.due.borrow_mut() = Some(self.take(end));
        Some(end)
    }

    /// What is known now, when the log ends at `end`.
    pub(crate) fn take(&self, end: Offset) -> Snapshot {
        self.unsaved_bytes.set(0);
        let producers = self.borrow();
        Snapshot { end, bytes: producers.encode(end), changes: producers.changes() }
    }

    /// The log's end was cut back to `end`.
    pub(crate) fn on_dropped(&self, end: Offset) {
        self.borrow_mut().on_dropped(end);
        self.due.borrow_mut().take_if(|due| due.end > end);
    }

    /// Whether the log must not begin at `start` before there is another snapshot: what is deleted
    /// says something that the one on the disk does not.
    pub(crate) fn is_stale_at(&self, start: Offset) -> bool {
        self.saved_to.get() < start && self.borrow().changes() != self.saved_changes.get()
    }

    /// Whether a snapshot may be written, now that the log is durable up to this.
    pub(crate) fn is_due(&self, durable: Offset) -> bool {
        !self.saving.get() && self.due.borrow().as_ref().is_some_and(|due| due.end <= durable)
    }

    /// Writes the snapshot that is due.
    pub(crate) async fn save_due(&self, log: &Log) -> Result<(), StorageError> {
        let due = self.due.borrow_mut().take();
        match due {
            Some(due) => self.save(log, due).await,
            None => Ok(()),
        }
    }

    /// Writes a snapshot. One at a time: an older one never comes after.
    pub(crate) async fn save(&self, log: &Log, snapshot: Snapshot) -> Result<(), StorageError> {
        self.saved.until(|| (!self.saving.replace(true)).then_some(())).await;
        self.due.borrow_mut().take_if(|due| due.end <= snapshot.end);
        let stored = log.store_beside(FILE, &snapshot.bytes).await;
        self.saving.set(false);
        self.saved.notify();
        if stored.is_ok() {
            self.saved_changes.set(snapshot.changes);
            self.saved_to.set(snapshot.end);
        }
        stored
    }

    /// The log is closed at `end`, all of it durable: a start need not read it.
    pub(crate) async fn close(&self, log: &Log, end: Offset) -> Result<(), StorageError> {
        let changed = self.borrow().changes() != self.saved_changes.get();
        if !changed && self.unsaved_bytes.get() < UNWORTHY_BYTES {
            return Ok(());
        }
        self.save(log, self.take(end)).await
    }
}
