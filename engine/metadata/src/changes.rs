//! Changes of topics, as they are decided: what there is before, what there is after, or why not.

use crate::image::{MetadataImage, TopicImage};
use crate::in_force::{InForce, SettingValues};
use model::limits::PARTITIONS_MAX;
use model::{ErrorCode, Topic, TopicId, TopicName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A topic to create; its settings are checked.
#[derive(Clone, Debug)]
pub struct NewTopic {
    /// Its name.
    pub name: TopicName,
    /// How many partitions it is to have.
    pub partitions: i32,
    /// What is set on it.
    pub settings: SettingValues,
}

/// A topic that was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id; zero if it only would be created.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
}

/// Why not: the code and a sentence.
pub type Refusal = (ErrorCode, String);

/// Creates topics; one result each. `fresh_id` makes ids that no topic ever had.
pub fn create(
    topics: &mut Vec<Topic>,
    new: Vec<NewTopic>,
    mut fresh_id: impl FnMut() -> TopicId,
) -> Vec<Result<Created, Refusal>> {
    let mut taken = Taken::of(topics);
    let create = |NewTopic { name, partitions, settings }| {
        taken.add(&name, partitions)?;
        let id = fresh_id();
        topics.push(Topic { id, name, partitions, settings });
        Ok(Created { id, partitions })
    };
    new.into_iter().map(create).collect()
}

/// What `create` would answer, as far as it can be told without doing it.
#[must_use]
pub fn would_create(image: &MetadataImage, new: &[NewTopic]) -> Vec<Result<Created, Refusal>> {
    let name = |topic: &Arc<TopicImage>| (likeness(&topic.name), topic.name.clone());
    let mut taken = Taken {
        names: image.by_name.values().map(name).collect(),
        partitions: image.by_name.values().map(|topic| topic.partitions.len()).sum(),
    };
    let would = |new: &NewTopic| {
        taken.add(&new.name, new.partitions)?;
        Ok(Created { id: TopicId::ZERO, partitions: new.partitions })
    };
    new.iter().map(would).collect()
}

/// Gives a topic more partitions.
///
/// # Errors
/// There is no such topic, it has as many already, or there would be too many.
pub fn grow(topics: &mut [Topic], id: TopicId, count: i32) -> Result<(), Refusal> {
    let there = partitions_of(topics);
    let topic = find(topics, id)?;
    more_partitions(there, (count.max(topic.partitions) - topic.partitions) as usize)?;
    if count <= topic.partitions {
        return Err((ErrorCode::InvalidPartitions, "it has as many already".to_owned()));
    }
    topic.partitions = count;
    Ok(())
}

/// Changes what is set on a topic.
///
/// # Errors
/// There is no such topic, or `change` refuses: then nothing is changed.
pub fn alter(
    topics: &mut [Topic],
    id: TopicId,
    change: impl FnOnce(&mut SettingValues) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let topic = find(topics, id)?;
    let mut settings = topic.settings.clone();
    change(&mut settings)?;
    topic.settings = settings;
    Ok(())
}

/// Deletes a topic.
///
/// # Errors
/// There is no such topic.
pub fn delete(topics: &mut Vec<Topic>, id: TopicId) -> Result<(), Refusal> {
    find(topics, id)?;
    topics.retain(|topic| topic.id != id);
    Ok(())
}

/// Applies a change to what is set on a topic, and checks what comes of it as a whole.
///
/// # Errors
/// `change` refuses, settings contradict each other, or an internal topic would be cleaned in another way.
pub fn change_settings(
    set: &mut SettingValues,
    on_broker: &SettingValues,
    is_internal: bool,
    change: impl FnOnce(&mut SettingValues) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let before = set.get("cleanup.policy").cloned();
    change(set)?;
    let in_force = InForce { on_topic: set, on_broker };
    in_force.check_together().map_err(|why| (ErrorCode::InvalidConfig, why))?;
    if is_internal && set.get("cleanup.policy") != before.as_ref() {
        let why = "an internal topic's cleanup.policy stays as it is";
        return Err((ErrorCode::InvalidConfig, why.to_owned()));
    }
    Ok(())
}

/// Whether a name is too much like another topic's.
///
/// # Errors
/// It is.
pub fn check_collision(image: &MetadataImage, name: &str) -> Result<(), Refusal> {
    if !name.contains(['.', '_']) {
        return Ok(());
    }
    let like = likeness(name);
    match image.by_name.keys().find(|other| likeness(other) == like) {
        Some(other) => Err(collides(name, other)),
        None => Ok(()),
    }
}

/// There is a topic of this name.
#[must_use]
pub fn exists(name: &str) -> Refusal {
    (ErrorCode::TopicAlreadyExists, format!("topic {name} exists already"))
}

/// The names and the number of partitions that there are.
struct Taken {
    /// By their likeness.
    names: BTreeMap<String, TopicName>,
    partitions: usize,
}

impl Taken {
    fn of(topics: &[Topic]) -> Self {
        let name = |topic: &Topic| (likeness(&topic.name), topic.name.clone());
        Self { names: topics.iter().map(name).collect(), partitions: partitions_of(topics) }
    }

    fn add(&mut self, name: &TopicName, partitions: i32) -> Result<(), Refusal> {
        let like = likeness(name);
        match self.names.get(&like) {
            Some(other) if other == name => return Err(exists(name)),
            Some(other) => return Err(collides(name, other)),
            None => {}
        }
        self.partitions = more_partitions(self.partitions, partitions as usize)?;
        self.names.insert(like, name.clone());
        Ok(())
    }
}

/// What is left of a name where '.' and '_' are the same, as in the names of metrics.
fn likeness(name: &str) -> String {
    name.replace('.', "_")
}

fn collides(name: &str, other: &str) -> Refusal {
    let why = format!("topic {name} collides with {other}: '.' and '_' are the same in metrics");
    (ErrorCode::InvalidTopicException, why)
}

fn partitions_of(topics: &[Topic]) -> usize {
    topics.iter().map(|topic| topic.partitions as usize).sum()
}

/// How many partitions there are with `added` more.
fn more_partitions(there: usize, added: usize) -> Result<usize, Refusal> {
    let sum = there + added;
    if sum <= PARTITIONS_MAX {
        return Ok(sum);
    }
    let why =
        format!("{there} partitions and {added} more; this broker has {PARTITIONS_MAX} at most");
    Err((ErrorCode::PolicyViolation, why))
}

fn find(topics: &mut [Topic], id: TopicId) -> Result<&mut Topic, Refusal> {
    let gone = || (ErrorCode::UnknownTopicOrPartition, "no such topic".to_owned());
    topics.iter_mut().find(|topic| topic.id == id).ok_or_else(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, partitions: i32) -> NewTopic {
        let name = TopicName::new(name).expect("a valid name");
        NewTopic { name, partitions, settings: SettingValues::new() }
    }

    fn codes(results: &[Result<Created, Refusal>]) -> Vec<ErrorCode> {
        let code =
            |result: &Result<_, Refusal>| result.as_ref().err().map_or(ErrorCode::None, |r| r.0);
        results.iter().map(code).collect()
    }

    #[test]
    fn names_and_partitions_are_had_once() {
        use ErrorCode::{InvalidTopicException, None, PolicyViolation, TopicAlreadyExists};
        let (mut topics, mut ids) = (Vec::new(), 0);
        let mut fresh = || {
            ids += 1;
            TopicId([ids; 16])
        };
        let most = PARTITIONS_MAX as i32;
        let asked =
            [new("a.b", 2), new("a_b", 1), new("a.b", 1), new("c", most), new("d", most - 2)];
        let results = create(&mut topics, asked.to_vec(), &mut fresh);
        let expected = [None, InvalidTopicException, TopicAlreadyExists, PolicyViolation, None];
        assert_eq!(codes(&results), expected);
        assert_eq!(topics.len(), 2);
        let node = crate::image::OneNode { id: model::BrokerId(1), epoch: model::LeaderEpoch(0) };
        let none = MetadataImage::default();
        let image = MetadataImage::new(&[], &SettingValues::new(), node, &none);
        assert_eq!(codes(&would_create(&image, &asked)), expected);
        let id = topics[0].id;
        let code = |result: Result<(), Refusal>| result.map_or_else(|refusal| refusal.0, |()| None);
        assert_eq!(code(grow(&mut topics, id, 3)), PolicyViolation);
        assert_eq!(code(delete(&mut topics, TopicId([2; 16]))), None);
        assert_eq!(code(grow(&mut topics, id, 2)), ErrorCode::InvalidPartitions);
        assert_eq!(code(grow(&mut topics, id, 3)), None);
        assert_eq!(code(delete(&mut topics, TopicId([2; 16]))), ErrorCode::UnknownTopicOrPartition);
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut topics = Vec::new();
        drop(create(&mut topics, vec![new("t", 1)], || TopicId([1; 16])));
        let before = topics.clone();
        let refused = alter(&mut topics, TopicId([1; 16]), |set| {
            set.insert("retention.ms".to_owned(), "1".to_owned());
            change_settings(set, &SettingValues::new(), true, |set| {
                set.insert("cleanup.policy".to_owned(), "delete".to_owned());
                Ok(())
            })
        });
        assert_eq!(refused.unwrap_err().0, ErrorCode::InvalidConfig);
        assert_eq!(topics, before);
    }
}
