//! The io_uring behind a thread; every ring system call of the project is in this file.
#![allow(unsafe_code)]

use crate::op::{Op, Slot, Slots};
use crate::socket::write_sockaddr;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::task::Waker;

/// Completions that belong to no slot: wake-ups from other rings, and cancellations.
const NO_SLOT: u64 = u64::MAX;
const ENTRIES: u32 = 256;

pub(crate) struct Ring {
    ring: IoUring,
    pub(crate) counters: Counters,
}

/// What the ring did since it was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Operations submitted.
    pub submissions: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Writes whose pieces the kernel took only in part.
    pub short_writes: u64,
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
        Ok(Self { ring, counters: Counters::default() })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Queues the operation of a slot; it reaches the kernel with the next `enter`.
    pub(crate) fn push(&mut self, index: u32, slot: &mut Slot) {
        let entry = entry_of(slot).user_data(u64::from(index));
        self.push_entry(&entry);
        self.counters.submissions += 1;
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
            self.counters.enters += 1;
        }
    }

    /// Wakes the thread that waits on the ring with this descriptor.
    pub(crate) fn wake_ring(&mut self, target: RawFd) {
        let entry = opcode::MsgRingData::new(types::Fd(target), 0, NO_SLOT, None).build();
        self.push_entry(&entry.user_data(NO_SLOT));
    }

    /// Submits everything queued; waits for a completion if `wait`, at most until `timeout_ns`.
    pub(crate) fn enter(&mut self, wait: bool, timeout_ns: Option<u64>) -> io::Result<()> {
        self.counters.enters += 1;
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
            self.counters.enters += 1;
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

/// Counts received bytes in the writer that the operation owns.
pub(crate) fn advance_writer(slot: &mut Slot, result: i32) {
    if let Op::Read { into, .. } | Op::Receive { into, .. } = &mut slot.op
        && result > 0
    {
        into.advance(result as usize);
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
