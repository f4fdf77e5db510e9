//! The coordinators there are: which state follows from which internal topic, and who looks after it.

use crate::coordinators::groups::{self, GroupLog};
use crate::coordinators::transactions::{self, TransactionLog};
use crate::shard::shard::{FollowerKind, Shard};
use metadata::topic_settings::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use runtime::spawn;
use std::rc::Rc;

/// What follows from the records of internal topics. A new coordinator is one more row.
pub(crate) const FOLLOWERS: &[FollowerKind] = &[
    FollowerKind {
        topic: OFFSETS_TOPIC,
        begin: |shard, slot| GroupLog::new(shard, slot),
        look_after: |shard| Box::pin(groups::look_after(shard)),
    },
    FollowerKind {
        topic: TRANSACTIONS_TOPIC,
        begin: |shard, slot| TransactionLog::new(shard, slot),
        look_after: |shard| Box::pin(transactions::look_after(shard)),
    },
];

/// Does for each what is done from time to time, for ever.
pub(crate) fn look_after(shard: &Rc<Shard>) {
    FOLLOWERS.iter().for_each(|kind| spawn((kind.look_after)(Rc::clone(shard))));
}
