//! A connection to a broker as a Kafka client has it: negotiated versions, frames both ways.

use runtime::buffer::{ChunkPool, ReceiveBuffer, SharedBytes};
use runtime::socket::Socket;
use runtime::timer;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::ToSocketAddrs;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use wire::ApiKey;
use wire::frame::response_frame_bytes;
use wire::header::{begin_request, finish_frame, read_response_header};
use wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreatableTopic, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic, Message,
    MetadataRequest, MetadataRequestTopic, MetadataResponse,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECEIVE_CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// A connected broker.
pub(crate) struct Connection {
    pub(crate) socket: Rc<Socket>,
    versions: BTreeMap<i16, (i16, i16)>,
    client_id: String,
    correlation_id: i32,
    pool: ChunkPool,
    buffer: Option<ReceiveBuffer>,
}

impl Connection {
    /// Connects to HOST:PORT and asks which versions are spoken.
    pub(crate) async fn open(address: &str, client_id: &str) -> Result<Self, String> {
        let cannot = |why: String| format!("cannot reach broker {address}: {why}");
        let resolved = address.to_socket_addrs().map_err(|error| cannot(error.to_string()))?;
        let mut last = cannot("no address".to_owned());
        for socket_address in resolved {
            let connecting = Socket::connect(socket_address);
            match within(CONNECT_TIMEOUT, connecting).await {
                Some(Ok(socket)) => {
                    let mut pool = ChunkPool::new(RECEIVE_CHUNK_BYTES, 4, 1);
                    let mut connection = Self {
                        socket: Rc::new(socket),
                        versions: BTreeMap::new(),
                        client_id: client_id.to_owned(),
                        correlation_id: 0,
                        buffer: Some(ReceiveBuffer::new(&mut pool)),
                        pool,
                    };
                    connection.negotiate().await.map_err(cannot)?;
                    return Ok(connection);
                }
                Some(Err(error)) => last = cannot(error.to_string()),
                None => last = cannot(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
            }
        }
        Err(last)
    }

    async fn negotiate(&mut self) -> Result<(), String> {
        let asked = ApiVersionsRequest::default();
        let response: ApiVersionsResponse = self.ask_version(&asked, 0).await?;
        for api in response.api_keys {
            self.versions.insert(api.api_key, (api.min_version, api.max_version));
        }
        Ok(())
    }

    /// The highest version of an API that both sides speak and that is at most `max`.
    pub(crate) fn version(&self, key: ApiKey, max: i16) -> Result<i16, String> {
        let api = key.api();
        let (min, theirs) = self.versions.get(&(key as i16)).copied().unwrap_or((1, 0));
        let version = theirs.min(max);
        if version < min.max(api.version_min) {
            return Err(format!(
                "the broker speaks {} {min} to {theirs}, and loadgen {} to {max}",
                api.name, api.version_min
            ));
        }
        Ok(version)
    }

    /// One control request and its answer.
    pub(crate) async fn ask<Q: Message, A: Message>(&mut self, request: &Q) -> Result<A, String> {
        let version = self.version(Q::KEY, Q::KEY.api().version_max)?;
        self.ask_version(request, version).await
    }

    async fn ask_version<Q: Message, A: Message>(
        &mut self,
        request: &Q,
        version: i16,
    ) -> Result<A, String> {
        let mut out = Vec::new();
        self.begin(&mut out, Q::KEY, version);
        request.encode(&mut out, version);
        finish_frame(&mut out, 0, 0);
        let sent = self.socket.send(&mut vec![SharedBytes::copy_of(&out)]).await;
        sent.map_err(|error| format!("sending {} failed: {error}", Q::KEY.api().name))?;
        let answer = within(Duration::from_secs(30), self.receive()).await;
        let frame = answer
            .ok_or_else(|| format!("no answer to {} within 30 s", Q::KEY.api().name))?
            .map_err(|why| format!("{}: {why}", Q::KEY.api().name))?;
        let malformed = |error| format!("malformed {} response: {error}", Q::KEY.api().name);
        let (_, mut body) = read_response_header(&frame, Q::KEY, version).map_err(malformed)?;
        A::decode(&mut body, version).map_err(malformed)
    }

    /// Starts a request frame and counts its correlation id.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>, key: ApiKey, version: i16) {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        begin_request(out, key, version, self.correlation_id, &self.client_id);
    }

    /// The payload of the next response frame.
    pub(crate) async fn receive(&mut self) -> Result<SharedBytes, String> {
        let buffer = self.buffer.as_mut().expect("given away only with the connection");
        receive_frame(&self.socket, buffer, &mut self.pool).await
    }

    /// The receiving half, for a task of its own.
    pub(crate) fn take_receiver(&mut self) -> (Rc<Socket>, ReceiveBuffer, ChunkPool) {
        let pool = std::mem::replace(&mut self.pool, ChunkPool::new(4096, 1, 0));
        (Rc::clone(&self.socket), self.buffer.take().expect("taken once"), pool)
    }
}

/// The payload of the next response frame on a socket.
pub(crate) async fn receive_frame(
    socket: &Socket,
    buffer: &mut ReceiveBuffer,
    pool: &mut ChunkPool,
) -> Result<SharedBytes, String> {
    loop {
        let wanted = response_frame_bytes(buffer.bytes()).map_err(|error| error.to_string())?;
        if let Some(total) = wanted
            && buffer.bytes().len() >= total
        {
            return Ok(buffer.take(total).slice(4..total));
        }
        buffer.make_room(wanted.unwrap_or(0), pool);
        match socket.receive(buffer, wanted.unwrap_or(0)).await {
            Ok(0) => return Err("the broker closed the connection".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// `future`'s output, or `None` if `limit` passes first. The future is dropped then: use only
/// where the connection is given up on a time-out.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut sleep = pin!(timer::sleep(limit));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// A topic as a client sees it.
#[derive(Clone, Debug)]
pub(crate) struct TopicView {
    pub(crate) name: String,
    /// Per partition, its leader's HOST:PORT.
    pub(crate) leaders: Vec<String>,
}

/// The topic's partitions and leaders; `None` while it is unknown or a partition has no leader.
pub(crate) async fn describe(
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
pub(crate) async fn create(
    connection: &mut Connection,
    topic: &str,
    partitions: i32,
    replication_factor: i16,
) -> Result<TopicView, String> {
    let new = CreatableTopic {
        name: topic.to_owned(),
        num_partitions: partitions,
        replication_factor,
        ..Default::default()
    };
    let request =
        CreateTopicsRequest { topics: vec![new], timeout_ms: 30_000, validate_only: false };
    let response: CreateTopicsResponse = connection.ask(&request).await?;
    if let Some(result) = response.topics.first().filter(|result| result.error_code != 0) {
        let code = model::ErrorCode::from_code(result.error_code).name();
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
pub(crate) async fn delete(connection: &mut Connection, topic: &str) -> Result<(), String> {
    let state = DeleteTopicState { name: Some(topic.to_owned()), ..Default::default() };
    let request = DeleteTopicsRequest {
        topics: vec![state],
        topic_names: vec![topic.to_owned()],
        timeout_ms: 30_000,
    };
    connection.ask::<_, DeleteTopicsResponse>(&request).await.map(drop)
}

/// The end offset of each of these partitions, asked of their leader.
pub(crate) async fn end_offsets(
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
    Ok(found.map(|p| (p.partition_index, p.offset.max(0))).collect())
}
