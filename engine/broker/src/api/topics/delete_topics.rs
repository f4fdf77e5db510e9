//! DeleteTopics 1-6: v5 messages, v6 by id.

use crate::api::rooms::Topics;
use crate::metadata::named::repeated;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use metadata::changes::Refusal;
use metadata::image::{MetadataImage, TopicImage};
use model::{ErrorCode, TopicId};
use std::collections::BTreeSet;
use std::sync::Arc;
use wire::WireError;
use wire::messages::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<DeleteTopicsResponse, WireError> {
    let asked = read::<DeleteTopicsRequest>(request)?;
    let named = asked.topic_names.into_iter().map(|name| (Some(name), TopicId::ZERO));
    let states = asked.topics.into_iter().map(|state| (state.name, state.topic_id));
    let image = topics.image();
    // What each entry means first: a topic that is named twice, however, is not deleted at all.
    let find = |(name, id): (Option<String>, TopicId)| {
        let found = find(&image, name.as_deref(), id);
        (name, id, found)
    };
    let entries: Vec<_> = named.chain(states).map(find).collect();
    let of = |found: &Result<&Arc<TopicImage>, Refusal>| found.as_ref().ok().map(|topic| topic.id);
    // Of the same one answer, however it is named.
    let key = |(name, id, found): &(Option<String>, TopicId, _)| match of(found) {
        Some(id) => (None, id),
        None => (name.clone(), *id),
    };
    let twice = repeated(entries.iter().map(key));
    let (mut responses, mut told) = (Vec::new(), BTreeSet::new());
    for entry in entries {
        let key = key(&entry);
        let (name, id, found) = entry;
        let is_twice = twice.contains(&key);
        if !told.insert(key) {
            continue;
        }
        let mut result = DeletableTopicResult { name, topic_id: id, ..Default::default() };
        let deleted = match found {
            Ok(topic) => {
                // Of one that is named twice it is told how it was named.
                if !is_twice {
                    (result.name, result.topic_id) = (Some(topic.name.to_string()), topic.id);
                }
                if is_twice {
                    invalid("the request names this topic twice")
                } else if topic.is_internal() {
                    let why = "an internal topic holds the broker's own records".to_owned();
                    Err((ErrorCode::InvalidTopicException, why))
                } else {
                    topics.delete(topic.id).await.map(|()| topic)
                }
            }
            Err(_) if is_twice && result.name.is_some() => {
                invalid("the request names this topic twice")
            }
            Err(refusal) => Err(refusal),
        };
        let text = deleted.as_ref().err().map_or(0, |(_, why)| why.len());
        size.add(40 + result.name.as_ref().map_or(0, String::len) + text).await?;
        if let Err((error, why)) = deleted {
            (result.error_code, result.error_message) = (error.code(), Some(why));
        }
        responses.push(result);
    }
    Ok(DeleteTopicsResponse { responses, ..Default::default() })
}

fn invalid<T>(why: &str) -> Result<T, Refusal> {
    Err((ErrorCode::InvalidRequest, why.to_owned()))
}

/// What an entry of the request means.
fn find<'i>(
    image: &'i MetadataImage,
    name: Option<&str>,
    id: TopicId,
) -> Result<&'i Arc<TopicImage>, Refusal> {
    match (name, id) {
        (Some(_), id) if id != TopicId::ZERO => {
            invalid("a topic has a name and an id: one of them is expected")
        }
        (None, TopicId::ZERO) => invalid("a topic has neither a name nor an id"),
        (Some(name), _) => {
            let unknown = ErrorCode::UnknownTopicOrPartition;
            image.topic(name).ok_or((unknown, unknown.meaning().to_owned()))
        }
        (None, id) => {
            let unknown = ErrorCode::UnknownTopicId;
            image.by_id.get(&id).ok_or((unknown, unknown.meaning().to_owned()))
        }
    }
}
