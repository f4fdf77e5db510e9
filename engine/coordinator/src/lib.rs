//! Consumer groups and their committed offsets: request + state -> records + response.
//!
//! In: requests, the time, records that were read back. Out: responses, and the records of
//! `__consumer_offsets` that they may not leave before. Never: disk, sockets, clock, random source.
//!
//! State changes at once; who asks appends the records and holds every response, also of a reading
//! request, until all that was appended before it is durable. If an append fails the state is
//! thrown away and replayed from the log.
#![forbid(unsafe_code)]

mod group;
mod group_coordinator;
mod groups_shown;
mod offset_commits;
mod offsets;
mod pending_offsets;
mod records;
mod step;
mod transaction;
mod transaction_coordinator;
mod transaction_records;
mod transactional_offsets;

pub use group::GroupState;
pub use group_coordinator::{Answer, CoordinatorConfig, Effects, GroupCoordinator};
pub use records::{LogRecord, OffsetCommitValue, StoredRecord, read_record};
pub use step::{Client, Now, Ticket};
pub use transaction::TransactionState;
pub use transaction_coordinator::{
    ClientVersion, Ending, TransactionConfig, TransactionCoordinator, TransactionEffects,
};
