//! DescribeClientQuotas 0-1 (KIP-546): v1 flexible. Nobody has any.

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use wire::WireError;
use wire::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

pub(crate) fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    read::<DescribeClientQuotasRequest>(request)?;
    let entries = Some(Vec::new());
    Ok(respond(shard, request, &DescribeClientQuotasResponse { entries, ..Default::default() }))
}
