//! DescribeUserScramCredentials 0 (KIP-554). Nobody has any: of all there is nothing to tell, and who is named is not there.

use crate::dispatch::{AnswerSize, Outcome, read, respond};
use crate::named::each_once;
use crate::shard::{Request, Shard};
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse, ScramUserResult,
};

pub(crate) fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DescribeUserScramCredentialsRequest>(request)?;
    let size = AnswerSize::new(shard);
    let mut results = Vec::new();
    for user in each_once(asked.users.into_iter().flatten().map(|user| user.name)) {
        let why = format!("Attempt to describe a user credential that does not exist: {user}");
        size.add(user.len() + why.len() + 10)?;
        results.push(ScramUserResult {
            user,
            error_code: ErrorCode::ResourceNotFound.code(),
            error_message: Some(why),
            ..Default::default()
        });
    }
    let response = DescribeUserScramCredentialsResponse { results, ..Default::default() };
    Ok(respond(shard, request, &response))
}
