//! DeleteTopics 1-6: v5 messages, v6 by id.

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use crate::topics;
use model::{ErrorCode, TopicId};
use std::rc::Rc;
use wire::WireError;
use wire::messages::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DeleteTopicsRequest>(request)?;
    let named = asked.topic_names.into_iter().map(|name| (Some(name), TopicId::ZERO));
    let states = asked.topics.into_iter().map(|state| (state.name, state.topic_id));
    let mut responses = Vec::new();
    for (name, id) in named.chain(states) {
        let image = shard.image();
        let topic = match &name {
            Some(name) => image.by_name.get(name),
            None => image.by_id.get(&id),
        };
        let mut result =
            DeletableTopicResult { name: name.clone(), topic_id: id, ..Default::default() };
        match topic {
            Some(topic) => {
                (result.name, result.topic_id) = (Some(topic.name.clone()), topic.id);
                let deleted = if topic.is_internal() {
                    let why = "an internal topic holds the broker's own records".to_owned();
                    Err((ErrorCode::InvalidTopicException, why))
                } else {
                    topics::delete(shard, topic.id).await
                };
                if let Err((error, why)) = deleted {
                    (result.error_code, result.error_message) = (error.code(), Some(why));
                }
            }
            None => {
                let error = if name.is_some() {
                    ErrorCode::UnknownTopicOrPartition
                } else {
                    ErrorCode::UnknownTopicId
                };
                (result.error_code, result.error_message) =
                    (error.code(), Some(error.meaning().to_owned()));
            }
        }
        responses.push(result);
    }
    Ok(respond(shard, request, &DeleteTopicsResponse { responses, ..Default::default() }))
}
