//! A cluster as a client sees it: brokers, leaders, coordinators, and a connection to each that is
//! asked for something.

use crate::connection::Connection;
use model::ErrorCode;
use runtime::timer;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::messages::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopic, Message, MetadataRequest, MetadataRequestTopic, MetadataResponse,
    OffsetFetchGroup, OffsetFetchRequest, OffsetFetchResponse, OffsetFetchTopic,
    OffsetFetchTopicResponse,
};

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: i32,
    /// HOST:PORT.
    pub address: String,
}

/// A topic as a client sees it.
#[derive(Clone, Debug)]
pub struct TopicView {
    /// Its name.
    pub name: String,
    /// Per partition, its leader's HOST:PORT.
    pub leaders: Vec<String>,
}

/// A cluster and the connections to it.
pub struct Cluster {
    servers: String,
    client_id: String,
    connections: BTreeMap<String, Connection>,
    nodes: Vec<Node>,
    controller: i32,
}

impl Cluster {
    /// Connects to the first of HOST:PORT[,...] that answers, and asks who else there is.
    ///
    /// # Errors
    /// None of them answers.
    pub async fn open(servers: &str, client_id: &str) -> Result<Self, String> {
        let mut cluster = Self {
            servers: servers.to_owned(),
            client_id: client_id.to_owned(),
            connections: BTreeMap::new(),
            nodes: Vec::new(),
            controller: -1,
        };
        cluster.metadata(Some(Vec::new())).await?;
        Ok(cluster)
    }

    /// The brokers there were when last asked.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    async fn connection(&mut self, address: &str) -> Result<&mut Connection, String> {
        if !self.connections.contains_key(address) {
            let connection = Connection::open(address, &self.client_id).await?;
            self.connections.insert(address.to_owned(), connection);
        }
        Ok(self.connections.get_mut(address).expect("inserted above"))
    }

    /// Any broker that answers.
    async fn any(&mut self) -> Result<&mut Connection, String> {
        let known = self.nodes.iter().map(|node| node.address.clone());
        let servers = self.servers.split(',').map(|server| server.trim().to_owned());
        let all: Vec<String> = known.chain(servers).filter(|server| !server.is_empty()).collect();
        let mut last = format!("{:?} names no broker, as HOST:PORT does", self.servers);
        for address in all {
            match self.connection(&address).await {
                Ok(_) => return self.connection(&address).await,
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Asks any broker.
    ///
    /// # Errors
    /// As `Connection::ask`.
    pub async fn ask<Q: Message, A: Message>(&mut self, request: &Q) -> Result<A, String> {
        self.any().await?.ask(request).await
    }

    /// A group's committed offsets, asked of its coordinator.
    ///
    /// # Errors
    /// As `committed_offsets`, or there is no coordinator.
    pub async fn committed_offsets(
        &mut self,
        group: &str,
    ) -> Result<Result<Vec<OffsetFetchTopicResponse>, ErrorCode>, String> {
        let address = self.coordinator_of(group).await?;
        committed_offsets(self.connection(&address).await?, group, None).await
    }

    /// Asks the broker at an address.
    ///
    /// # Errors
    /// As `Connection::ask`.
    pub async fn ask_at<Q: Message, A: Message>(
        &mut self,
        address: &str,
        request: &Q,
    ) -> Result<A, String> {
        self.connection(address).await?.ask(request).await
    }

    /// Asks the controller, which creates and deletes topics.
    ///
    /// # Errors
    /// As `Connection::ask`.
    pub async fn ask_controller<Q: Message, A: Message>(
        &mut self,
        request: &Q,
    ) -> Result<A, String> {
        match self.nodes.iter().find(|node| node.id == self.controller).cloned() {
            Some(node) => self.ask_at(&node.address, request).await,
            None => self.ask(request).await,
        }
    }

    /// Whether the broker asked last speaks an API at all.
    ///
    /// # Errors
    /// No broker answers.
    pub async fn speaks(&mut self, key: wire::ApiKey) -> Result<bool, String> {
        Ok(self.any().await?.version(key, i16::MAX).is_ok())
    }

    /// Topics, brokers and leaders; `None`: all topics.
    ///
    /// # Errors
    /// As `Connection::ask`.
    pub async fn metadata(
        &mut self,
        topics: Option<Vec<String>>,
    ) -> Result<MetadataResponse, String> {
        let named = |name| MetadataRequestTopic { name: Some(name), ..Default::default() };
        let request = MetadataRequest {
            topics: topics.map(|topics| topics.into_iter().map(named).collect()),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let response: MetadataResponse = self.ask(&request).await?;
        self.nodes = response
            .brokers
            .iter()
            .map(|b| Node { id: b.node_id, address: format!("{}:{}", b.host, b.port) })
            .collect();
        self.controller = response.controller_id;
        Ok(response)
    }

    /// The address of a broker, by its id.
    #[must_use]
    pub fn address_of(&self, id: i32) -> Option<String> {
        self.nodes.iter().find(|node| node.id == id).map(|node| node.address.clone())
    }

    /// The address of a group's coordinator; asks again for a while where it is not up yet.
    ///
    /// # Errors
    /// There is none.
    pub async fn coordinator_of(&mut self, group: &str) -> Result<String, String> {
        self.find(Coordinated::Group, group).await
    }

    /// The address of a transactional id's coordinator; asks again for a while.
    ///
    /// # Errors
    /// There is none.
    pub async fn transaction_coordinator_of(&mut self, id: &str) -> Result<String, String> {
        self.find(Coordinated::Transaction, id).await
    }

    async fn find(&mut self, what: Coordinated, key: &str) -> Result<String, String> {
        let mut last = String::new();
        for _ in 0..50 {
            match find_coordinator_of(self.any().await?, what, key).await? {
                Ok(address) => return Ok(address),
                Err(error) if error.is_retriable() => last = error.name().to_owned(),
                Err(error) => return Err(format!("{} {key}: {}", what.name(), error.name())),
            }
            timer::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("{} {key} has no coordinator: {last}", what.name()))
    }
}

/// A group's committed offsets of these topics (`None`: of all), or the error to act on. Older
/// brokers are asked for one group, newer ones for a list of one (KIP-709).
///
/// # Errors
/// As `Connection::ask`.
pub async fn committed_offsets(
    coordinator: &mut Connection,
    group: &str,
    topics: Option<Vec<OffsetFetchTopic>>,
) -> Result<Result<Vec<OffsetFetchTopicResponse>, ErrorCode>, String> {
    let asked = OffsetFetchGroup {
        group_id: group.to_owned(),
        topics: topics.clone(),
        ..Default::default()
    };
    let request = OffsetFetchRequest {
        group_id: group.to_owned(),
        topics,
        groups: vec![asked],
        ..Default::default()
    };
    let mut response: OffsetFetchResponse = coordinator.ask(&request).await?;
    let (topics, error) = match response.groups.pop() {
        Some(group) => (group.topics, group.error_code),
        None => (response.topics, response.error_code),
    };
    Ok(match ErrorCode::from_code(error) {
        ErrorCode::None => Ok(topics),
        error => Err(error),
    })
}

/// What a coordinator is asked for (the protocol's number).
#[derive(Clone, Copy)]
enum Coordinated {
    Group = 0,
    Transaction = 1,
}

impl Coordinated {
    fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Transaction => "transactional id",
        }
    }
}

/// Asks who coordinates a group: HOST:PORT, or the error to act on.
///
/// # Errors
/// As `Connection::ask`.
pub async fn find_coordinator(
    connection: &mut Connection,
    group: &str,
) -> Result<Result<String, ErrorCode>, String> {
    find_coordinator_of(connection, Coordinated::Group, group).await
}

async fn find_coordinator_of(
    connection: &mut Connection,
    what: Coordinated,
    key: &str,
) -> Result<Result<String, ErrorCode>, String> {
    let request = FindCoordinatorRequest {
        key: key.to_owned(),
        key_type: what as i8,
        coordinator_keys: vec![key.to_owned()],
    };
    let response: FindCoordinatorResponse = connection.ask(&request).await?;
    let (error, host, port) = match response.coordinators.into_iter().next() {
        Some(found) => (found.error_code, found.host, found.port),
        None => (response.error_code, response.host, response.port),
    };
    Ok(match ErrorCode::from_code(error) {
        ErrorCode::None => Ok(format!("{host}:{port}")),
        error => Err(error),
    })
}

/// The topic's partitions and leaders; `None` while it is unknown or a partition has no leader.
///
/// # Errors
/// The broker does not answer.
pub async fn describe(
    connection: &mut Connection,
    topic: &str,
) -> Result<Option<TopicView>, String> {
    let asked = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
    let request = MetadataRequest {
        topics: Some(vec![asked]),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let response: MetadataResponse = connection.ask(&request).await?;
    let Some(found) = response.topics.iter().find(|t| t.name.as_deref() == Some(topic)) else {
        return Ok(None);
    };
    let address = |id: i32| {
        let broker = response.brokers.iter().find(|broker| broker.node_id == id)?;
        Some(format!("{}:{}", broker.host, broker.port))
    };
    let mut partitions = found.partitions.clone();
    partitions.sort_by_key(|partition| partition.partition_index);
    let leaders: Option<Vec<_>> = partitions.iter().map(|p| address(p.leader_id)).collect();
    let leaders = leaders.filter(|leaders| found.error_code == 0 && !leaders.is_empty());
    Ok(leaders.map(|leaders| TopicView { name: topic.to_owned(), leaders }))
}

/// Makes a topic and waits until every partition has a leader.
///
/// # Errors
/// The broker refuses, or does not answer.
pub async fn create(
    connection: &mut Connection,
    topic: &str,
    partitions: i32,
    replication_factor: i16,
    configs: Vec<CreatableTopicConfig>,
) -> Result<TopicView, String> {
    let new = CreatableTopic {
        name: topic.to_owned(),
        num_partitions: partitions,
        replication_factor,
        configs,
        ..Default::default()
    };
    let request =
        CreateTopicsRequest { topics: vec![new], timeout_ms: 30_000, validate_only: false };
    let response: CreateTopicsResponse = connection.ask(&request).await?;
    if let Some(result) = response.topics.first().filter(|result| result.error_code != 0) {
        let code = ErrorCode::from_code(result.error_code).name();
        let why = result.error_message.clone().unwrap_or_default();
        return Err(format!("the broker refused to make topic {topic}: {code} {why}"));
    }
    for _ in 0..100 {
        if let Some(view) = describe(connection, topic).await? {
            return Ok(view);
        }
        timer::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("topic {topic} has no leaders after 10 s"))
}

/// Deletes a topic.
///
/// # Errors
/// The broker does not answer.
pub async fn delete(connection: &mut Connection, topic: &str) -> Result<(), String> {
    let state = DeleteTopicState { name: Some(topic.to_owned()), ..Default::default() };
    let request = DeleteTopicsRequest {
        topics: vec![state],
        topic_names: vec![topic.to_owned()],
        timeout_ms: 30_000,
    };
    connection.ask::<_, DeleteTopicsResponse>(&request).await.map(drop)
}

/// The end offset of each of these partitions, asked of their leader; those with an error are left
/// out.
///
/// # Errors
/// The broker does not answer.
pub async fn end_offsets(
    connection: &mut Connection,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, i64>, String> {
    let ask = |index: &i32| ListOffsetsPartition {
        partition_index: *index,
        timestamp: -1,
        ..Default::default()
    };
    let asked = ListOffsetsTopic {
        name: topic.to_owned(),
        partitions: partitions.iter().map(ask).collect(),
    };
    let request = ListOffsetsRequest { topics: vec![asked], ..Default::default() };
    let response: ListOffsetsResponse = connection.ask(&request).await?;
    let found = response.topics.iter().flat_map(|topic| &topic.partitions);
    let good = found.filter(|p| p.error_code == 0 && p.offset >= 0);
    Ok(good.map(|p| (p.partition_index, p.offset)).collect())
}
