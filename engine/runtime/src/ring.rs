//! The io_uring behind a thread; every ring system call of the project is in this file.
#![allow(unsafe_code)]

use crate::op::{Op, Slot, Slots, advance_writer};
use crate::sockaddr::write_sockaddr;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

/// Completions that belong to no slot: wake-ups from other rings, and cancellations.
const NO_SLOT: u64 = u64::MAX;
const ENTRIES: u32 = 256;

pub(crate) struct Ring {
    ring: IoUring,
    pub(crate) counters: Arc<RingCounters>,
}

/// What rings did since they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations submitted.
    pub submissions: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Writes to files, each of one or more pieces.
    pub writes: u64,
    /// Of what these writes were asked to take.
    pub written_bytes: u64,
    /// Syncs of files, and writes that are synced themselves.
    pub syncs: u64,
    /// Writes whose pieces the kernel took only in part.
    pub short_writes: u64,
}

/// One ring's counters: its thread writes them, everyone may read them.
#[derive(Default)]
pub(crate) struct RingCounters {
    submissions: Counter,
    enters: Counter,
    writes: Counter,
    written_bytes: Counter,
    syncs: Counter,
    pub(crate) short_writes: Counter,
    /// Of the ring that was made next in this process.
    next: OnceLock<Arc<Self>>,
}

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// By the one thread that writes it: a load and a store, no locked instruction.
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of every ring there is and was, one behind the other: a thread's end takes nothing back.
static FIRST_RING: OnceLock<Arc<RingCounters>> = OnceLock::new();

impl RingCounters {
    fn registered() -> Arc<Self> {
        let counters = Arc::new(Self::default());
        let mut place = &FIRST_RING;
        while place.set(Arc::clone(&counters)).is_err() {
            place = &place.get().expect("set by another thread").next;
        }
        counters
    }

    pub(crate) fn read(&self) -> Counters {
        Counters {
            submissions: self.submissions.get(),
            enters: self.enters.get(),
            writes: self.writes.get(),
            written_bytes: self.written_bytes.get(),
            syncs: self.syncs.get(),
            short_writes: self.short_writes.get(),
        }
    }

    fn count(&self, op: &Op) {
        self.submissions.add(1);
        match op {
            Op::Write { pieces, dsync, .. } => {
                self.writes.add(1);
                self.written_bytes.add(pieces.iter().map(|piece| piece.len() as u64).sum());
                self.syncs.add(u64::from(*dsync));
            }
            Op::Sync { .. } => self.syncs.add(1),
            _ => {}
        }
    }
}

/// What all rings of this process did so far.
#[must_use]
pub fn process_io_counters() -> Counters {
    let mut sum = Counters::default();
    let mut place = &FIRST_RING;
    while let Some(ring) = place.get() {
        place = &ring.next;
        let one = ring.read();
        sum.submissions += one.submissions;
        sum.enters += one.enters;
        sum.writes += one.writes;
        sum.written_bytes += one.written_bytes;
        sum.syncs += one.syncs;
        sum.short_writes += one.short_writes;
    }
    sum
}

impl Ring {
    pub(crate) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(ENTRIES * 16)
            .build(ENTRIES)?;
        Ok(Self { ring, counters: RingCounters::registered() })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Queues the operation of a slot; it reaches the kernel with the next `enter`.
    pub(crate) fn push(&mut self, index: u32, slot: &mut Slot) {
        self.counters.count(&slot.op);
        let entry = entry_of(slot).user_data(u64::from(index));
        self.push_entry(&entry);
    }

    fn push_entry(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every pointer in the entry is into its boxed slot or into memory the slot
            // owns, and the slot stays as it is until the completion of this entry is reaped.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it to the kernel without waiting. On failure the entries
            // stay queued, and the loop tries again.
            let _ = self.ring.submit();
            self.counters.enters.add(1);
        }
    }

    /// Wakes the thread that waits on the ring with this descriptor.
    pub(crate) fn wake_ring(&mut self, target: RawFd) {
        let entry = opcode::MsgRingData::new(types::Fd(target), 0, NO_SLOT, None).build();
        self.push_entry(&entry.user_data(NO_SLOT));
    }

    /// Asks for the operation of a slot to be cancelled.
    pub(crate) fn cancel(&mut self, index: u32) {
        let entry = opcode::AsyncCancel::new(u64::from(index)).build();
        self.push_entry(&entry.user_data(NO_SLOT));
    }

    /// Submits everything queued; waits for a completion if `wait`, at most until `timeout_ns`.
    pub(crate) fn enter(&mut self, wait: bool, timeout_ns: Option<u64>) -> io::Result<()> {
        self.counters.enters.add(1);
        let result = match (wait, timeout_ns) {
            (false, _) => self.ring.submitter().submit(),
            (true, None) => self.ring.submitter().submit_and_wait(1),
            (true, Some(ns)) => {
                let at = types::Timespec::new()
                    .sec(ns / 1_000_000_000)
                    .nsec((ns % 1_000_000_000) as u32);
                let args = types::SubmitArgs::new().timespec(&at);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Timed out, interrupted, or completions must be reaped first: entries stay queued.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Hands every queued operation to the kernel now, without waiting.
    pub(crate) fn submit_all(&mut self) {
        for _ in 0..1000 {
            if self.ring.submission().is_empty() {
                return;
            }
            self.counters.enters.add(1);
            let _ = self.ring.submit();
        }
    }

    /// Moves completions into their slots and collects whom to wake.
    pub(crate) fn reap(&mut self, slots: &mut Slots, wake: &mut Vec<Waker>) {
        for entry in self.ring.completion() {
            debug_assert!(!cqueue::more(entry.flags()), "no multishot operation is used");
            if entry.user_data() == NO_SLOT {
                continue;
            }
            let index = entry.user_data() as u32;
            advance_writer(slots.get(index), entry.result());
            wake.extend(slots.complete(index, entry.result()));
        }
    }

    /// Cancels what is in flight and waits for it, so that no memory is written after.
    pub(crate) fn drain(&mut self, slots: &mut Slots) {
        let any = types::CancelBuilder::any();
        self.push_entry(&opcode::AsyncCancel2::new(any).build().user_data(NO_SLOT));
        for _ in 0..200 {
            if slots.in_flight() == 0 {
                return;
            }
            let _ = self.enter(true, Some(10_000_000));
            self.reap(slots, &mut Vec::new());
        }
        slots.leak();
    }
}

fn entry_of(slot: &mut Slot) -> squeue::Entry {
    match &mut slot.op {
        Op::None => unreachable!("an empty slot is never submitted"),
        Op::Read { fd, into, position, len_max } => {
            let (start, len) = into.spare(*len_max);
            opcode::Read::new(types::Fd(*fd), start, len as u32).offset(*position).build()
        }
        Op::Write { fd, pieces, position, dsync } => {
            slot.iovecs.clear();
            slot.iovecs.extend(pieces.iter().map(|piece| libc::iovec {
                iov_base: piece.start_ptr().cast_mut().cast(),
                iov_len: piece.len(),
            }));
            opcode::Writev::new(types::Fd(*fd), slot.iovecs.as_ptr(), slot.iovecs.len() as u32)
                .offset(*position)
                .rw_flags(if *dsync { libc::RWF_DSYNC } else { 0 })
                .build()
        }
        Op::Sync { fd, data_only } => {
            let flags =
                if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
            opcode::Fsync::new(types::Fd(*fd)).flags(flags).build()
        }
        Op::Allocate { fd, position, bytes } => {
            // Mode 0 extends the file, so that later writes never grow it.
            opcode::Fallocate::new(types::Fd(*fd), *bytes).offset(*position).mode(0).build()
        }
        Op::Unlink { path } => {
            opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build()
        }
        Op::Accept { fd } => {
            opcode::Accept::new(types::Fd(*fd), std::ptr::null_mut(), std::ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build()
        }
        Op::Connect { fd, address } => {
            let bytes = write_sockaddr(*address, &mut slot.address);
            let start = (&raw const slot.address).cast();
            opcode::Connect::new(types::Fd(*fd), start, bytes).build()
        }
        Op::Receive { fd, into, len_max } => {
            let (start, len) = into.spare(*len_max);
            opcode::Recv::new(types::Fd(*fd), start, len as u32).build()
        }
        Op::Send { fd, pieces } => {
            slot.iovecs.clear();
            slot.iovecs.extend(pieces.iter().map(|piece| libc::iovec {
                iov_base: piece.as_ptr().cast_mut().cast(),
                iov_len: piece.len(),
            }));
            slot.message.msg_iov = slot.iovecs.as_mut_ptr();
            slot.message.msg_iovlen = slot.iovecs.len() as _;
            opcode::SendMsg::new(types::Fd(*fd), &raw const slot.message)
                .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
                .build()
        }
        Op::Readable { fd } => opcode::PollAdd::new(types::Fd(*fd), libc::POLLIN as u32).build(),
    }
}
