//! DescribeUserScramCredentials 0 (KIP-554). Nobody has any: of all there is nothing to tell, and who is named is not there.

use crate::metadata::named::{each_once, repeated};
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse, ScramUserResult,
};

pub(crate) async fn handle(
    request: &Request,
    size: &mut AnswerSize,
) -> Result<DescribeUserScramCredentialsResponse, WireError> {
    let asked = read::<DescribeUserScramCredentialsRequest>(request)?;
    let mut results = Vec::new();
    let names: Vec<String> = asked.users.into_iter().flatten().map(|user| user.name).collect();
    let twice = repeated(names.iter().cloned());
    for user in each_once(names) {
        let (error, why) = if twice.contains(&user) {
            (ErrorCode::DuplicateResource, format!("the request names this user twice: {user}"))
        } else {
            (ErrorCode::ResourceNotFound, format!("there is no such user: {user}"))
        };
        size.add(user.len() + why.len() + 10).await?;
        results.push(ScramUserResult {
            user,
            error_code: error.code(),
            error_message: Some(why),
            ..Default::default()
        });
    }
    let response = DescribeUserScramCredentialsResponse { results, ..Default::default() };
    Ok(response)
}
