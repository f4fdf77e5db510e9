//! Operations in flight and the slots that own their memory until the last completion.
//!
//! Dropping the future of an operation only orphans its slot: the kernel may still write to the
//! buffer, so the buffer stays in the slot until the completion arrives.
#![allow(unsafe_code)]

use crate::buffer::{ChunkWriter, DiskRange, SharedBytes};
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::task::Waker;

/// One asynchronous operation with everything it needs to own.
pub(crate) enum Op {
    None,
    /// Reads at `position` to the end of the writer, at most `len_max` bytes.
    Read {
        fd: RawFd,
        into: ChunkWriter,
        position: u64,
        len_max: usize,
    },
    /// Writes `pieces` at `position`; `dsync` makes this write durable when it completes.
    Write {
        fd: RawFd,
        pieces: Vec<DiskRange>,
        position: u64,
        dsync: bool,
    },
    Sync {
        fd: RawFd,
        data_only: bool,
    },
    Allocate {
        fd: RawFd,
        position: u64,
        bytes: u64,
    },
    /// Removes a name.
    Unlink {
        path: CString,
    },
    Accept {
        fd: RawFd,
    },
    Connect {
        fd: RawFd,
        address: SocketAddr,
    },
    Receive {
        fd: RawFd,
        into: ChunkWriter,
        len_max: usize,
    },
    Send {
        fd: RawFd,
        pieces: Vec<SharedBytes>,
    },
    /// Waits until `fd` is readable: for signal descriptors.
    Readable {
        fd: RawFd,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SlotState {
    Free,
    InFlight,
    Orphaned,
    Done(i32),
}

/// Owns one operation. Boxed, so that the kernel's pointers into it stay good.
pub(crate) struct Slot {
    pub(crate) op: Op,
    pub(crate) state: SlotState,
    pub(crate) waker: Option<Waker>,
    pub(crate) iovecs: Vec<libc::iovec>,
    pub(crate) message: libc::msghdr,
    pub(crate) address: libc::sockaddr_storage,
}

/// All slots of one thread; grown on demand, reused without allocation.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<Box<Slot>>,
    free: Vec<u32>,
}

impl Slots {
    pub(crate) fn insert(&mut self, op: Op) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            // SAFETY: both are plain C structures for which all zeroes is a valid value.
            let (message, address) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
            self.slots.push(Box::new(Slot {
                op: Op::None,
                state: SlotState::Free,
                waker: None,
                iovecs: Vec::new(),
                message,
                address,
            }));
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        assert_eq!(slot.state, SlotState::Free);
        slot.op = op;
        slot.state = SlotState::InFlight;
        index
    }

    pub(crate) fn get(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// Records the result of a slot; returns who waits for it, or drops what it owned if nobody.
    pub(crate) fn complete(&mut self, index: u32, result: i32) -> Option<Waker> {
        let slot = &mut self.slots[index as usize];
        match slot.state {
            SlotState::InFlight => {
                slot.state = SlotState::Done(result);
                slot.waker.take()
            }
            SlotState::Orphaned => {
                if matches!(slot.op, Op::Accept { .. }) && result >= 0 {
                    // SAFETY: an accepted descriptor nobody will ever see; closing it is ours.
                    unsafe { libc::close(result) };
                }
                self.release(index);
                None
            }
            SlotState::Free | SlotState::Done(_) => unreachable!("one completion per operation"),
        }
    }

    pub(crate) fn release(&mut self, index: u32) -> Op {
        let slot = &mut self.slots[index as usize];
        slot.state = SlotState::Free;
        slot.waker = None;
        self.free.push(index);
        std::mem::replace(&mut slot.op, Op::None)
    }

    /// Operations the kernel has not completed.
    pub(crate) fn in_flight(&self) -> usize {
        let busy = |state| matches!(state, SlotState::InFlight | SlotState::Orphaned);
        self.slots.iter().filter(|slot| busy(slot.state)).count()
    }

    /// Gives up on operations that never completed: their memory is leaked, never reused.
    pub(crate) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
    }
}

pub(crate) fn result_of(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Counts received bytes in the writer that the operation owns.
pub(crate) fn advance_writer(slot: &mut Slot, result: i32) {
    if let Op::Read { into, .. } | Op::Receive { into, .. } = &mut slot.op
        && result > 0
    {
        into.advance(result as usize);
    }
}
