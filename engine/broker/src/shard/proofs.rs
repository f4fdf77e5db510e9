//! The coordinator's word on the partitions of a produce, as it travels between shards.

use model::ErrorCode;
use partition::Proof;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the coordinator's word was asked with, by place in the request; or why it was refused. Most
/// requests need none, and it costs them no memory.
#[derive(Clone, Default)]
pub(crate) struct Proofs(Option<Arc<BTreeMap<u32, Result<Proof, ErrorCode>>>>);

impl Proofs {
    pub(crate) fn new(of: BTreeMap<u32, Result<Proof, ErrorCode>>) -> Self {
        Self(Some(Arc::new(of)))
    }

    /// The proof for what is at this place, if it needed one.
    ///
    /// # Errors
    /// The coordinator refused.
    pub(crate) fn of(&self, index: u32) -> Result<Option<Proof>, ErrorCode> {
        self.0.as_ref().and_then(|proofs| proofs.get(&index).copied()).transpose()
    }
}
