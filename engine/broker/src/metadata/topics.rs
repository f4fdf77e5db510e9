//! Creating, growing and deleting topics: carried out on shard 0, durable before any shard sees it.

use crate::shard::catalogue::Catalogue;
use crate::shard::shard::Shard;
use metadata::changes::{self, Created, NewTopic, Refusal};
use metadata::image::MetadataImage;
use metadata::in_force::SettingValues;
use model::{ErrorCode, Topic, TopicId};
use runtime::{clock, random};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::StorageError;
use storage::directory::topic_changes::{NotChanged, TopicChange};

const QUIET: Duration = Duration::from_secs(10);

/// Creates topics; one result each.
pub(crate) async fn create(shard: &Rc<Shard>, new: Vec<NewTopic>) -> Vec<Result<Created, Refusal>> {
    let body = |shard: Rc<Shard>| async move {
        let mut results = Vec::new();
        let change = |topics: &mut Vec<Topic>| {
            results = changes::create(topics, new, fresh_id);
            Ok(())
        };
        let changed = shard.catalogue().change(&shard, change).await;
        changed.map_or_else(|refusal| vec![Err(refusal)], |()| results)
    };
    shard.call(0, body).await
}

fn fresh_id() -> TopicId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random::seed().to_be_bytes());
    bytes[8..].copy_from_slice(&random::seed().to_be_bytes());
    TopicId::from_random(bytes)
}

/// Gives a topic more partitions.
pub(crate) async fn grow(shard: &Rc<Shard>, id: TopicId, count: i32) -> Result<(), Refusal> {
    change(shard, move |topics| changes::grow(topics, id, count)).await
}

/// Changes a topic's settings; what `change` refuses is not changed at all.
pub(crate) async fn alter(
    shard: &Rc<Shard>,
    id: TopicId,
    to: impl FnOnce(&mut SettingValues) -> Result<(), Refusal> + Send + 'static,
) -> Result<(), Refusal> {
    change(shard, move |topics| changes::alter(topics, id, to)).await
}

/// Deletes a topic and its data.
pub(crate) async fn delete(shard: &Rc<Shard>, id: TopicId) -> Result<(), Refusal> {
    change(shard, move |topics| changes::delete(topics, id)).await
}

async fn change(
    shard: &Rc<Shard>,
    change: impl FnOnce(&mut Vec<Topic>) -> Result<(), Refusal> + Send + 'static,
) -> Result<(), Refusal> {
    shard.call(0, move |shard| async move { shard.catalogue().change(&shard, change).await }).await
}

impl Catalogue {
    /// Applies a change: durable in the catalogue first, then on every shard.
    async fn change(
        &self,
        shard: &Rc<Shard>,
        change: impl FnOnce(&mut Vec<Topic>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let turn = self.turns.take(());
        turn.come().await;
        self.change_alone(shard, change).await
    }

    async fn change_alone(
        &self,
        shard: &Rc<Shard>,
        change: impl FnOnce(&mut Vec<Topic>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let image = RefCell::new(None);
        let on_shard = async |to, step, change: &Arc<TopicChange>| {
            let new_image = || {
                let (set, node) = (&shard.node.config.set, shard.node.alone());
                MetadataImage::new(&change.catalog.topics, set, node, &shard.image())
            };
            let image = Arc::clone(image.borrow_mut().get_or_insert_with(new_image));
            let change = Arc::clone(change);
            let body = move |shard: Rc<Shard>| async move {
                shard.change_topics(step, &change, image).await
            };
            shard.call(to, body).await
        };
        let shards = shard.mailbox.shards();
        match self
            .store
            .change(|catalog| change(&mut catalog.topics), shard.homes(), shards, on_shard)
            .await
        {
            Ok(done) => done.map_err(|error| self.storage_refusal(&error)),
            Err(NotChanged::Refused(refusal)) => Err(refusal),
            Err(NotChanged::Disk(error)) => Err(self.storage_refusal(&error)),
        }
    }

    /// Clients try again many times a second: one line in ten seconds says it.
    fn storage_refusal(&self, error: &StorageError) -> Refusal {
        let now = clock::now();
        if now >= self.quiet_until.get() {
            self.quiet_until.set(now + QUIET);
            crate::observe::logging::error!("changing the topics failed: {error}");
        }
        (ErrorCode::KafkaStorageError, error.to_string())
    }
}
