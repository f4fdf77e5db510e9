//! Facts that all shards share, fixed at the start.

use crate::config::Config;
use crate::network::listeners::Endpoint;
use crate::network::open_files::OpenFiles;
use crate::network::peers::Peers;
use crate::network::request::Request;
use crate::observe::request_counts::RequestCounts;
use crate::observe::stages::StageTimes;
use crate::shard::producer_ids::ProducerIdAuthority;
use metadata::image::{MetadataImage, OneNode};
use model::{BrokerId, Topic};
use std::sync::Arc;
use storage::directory::log_manager::SharedDir;

/// A listener that is served.
pub(crate) struct ServedListener {
    pub(crate) name: String,
    /// Where it listens: the host as it was given.
    pub(crate) at: Endpoint,
    /// What its clients are told to connect to.
    pub(crate) advertised: Endpoint,
}

/// Facts all shards share, fixed at the start.
pub(crate) struct Node {
    pub(crate) config: Config,
    /// Where it listens.
    pub(crate) listeners: Vec<ServedListener>,
    pub(crate) cluster_id: String,
    pub(crate) epoch: model::LeaderEpoch,
    pub(crate) producer_id_authority: ProducerIdAuthority,
    pub(crate) dirs: Vec<SharedDir>,
    /// Of each shard.
    pub(crate) stages: Vec<StageTimes>,
    /// Of each shard.
    pub(crate) requests: Vec<RequestCounts>,
    /// When the process began, in milliseconds since the Unix epoch.
    pub(crate) began_unix_ms: i64,
    pub(crate) open_files: Arc<OpenFiles>,
    pub(crate) peers: Arc<Peers>,
}

impl Node {
    /// This broker.
    pub(crate) fn id(&self) -> BrokerId {
        self.config.node_id
    }

    /// Where partitions are, as long as there is one node.
    pub(crate) fn alone(&self) -> OneNode {
        OneNode { id: self.id(), epoch: self.epoch }
    }

    /// What all shards see of these topics, of which nothing is known yet.
    pub(crate) fn first_image(&self, topics: &[Topic]) -> Arc<MetadataImage> {
        MetadataImage::new(topics, &self.config.set, self.alone(), &MetadataImage::default())
    }

    /// What whoever sent this is told to connect to.
    pub(crate) fn advertised_to(&self, request: &Request) -> &Endpoint {
        &self.listeners[usize::from(request.listener)].advertised
    }
}
