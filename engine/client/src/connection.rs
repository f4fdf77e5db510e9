//! A connection to a broker as a Kafka client has it: negotiated versions, frames both ways.

use runtime::buffer::SharedBytes;
use runtime::receive_buffer::{ReceiveBuffer, ReceivePool};
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
use wire::messages::{ApiVersionsRequest, ApiVersionsResponse, Message};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const RECEIVE_CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// A connected broker.
pub struct Connection {
    /// The socket itself, for those who frame requests themselves.
    pub socket: Rc<Socket>,
    versions: BTreeMap<i16, (i16, i16)>,
    client_id: String,
    correlation_id: i32,
    pool: ReceivePool,
    buffer: Option<ReceiveBuffer>,
}

impl Connection {
    /// Connects to HOST:PORT and asks which versions are spoken.
    ///
    /// # Errors
    /// It cannot be reached, or does not speak the protocol.
    pub async fn open(address: &str, client_id: &str) -> Result<Self, String> {
        let cannot = |why: String| format!("cannot reach broker {address}: {why}");
        let resolved = address.to_socket_addrs().map_err(|error| cannot(error.to_string()))?;
        let mut last = cannot("no address".to_owned());
        for socket_address in resolved {
            let connecting = Socket::connect(socket_address);
            match within(CONNECT_TIMEOUT, connecting).await {
                Some(Ok(socket)) => {
                    let mut pool = ReceivePool::new(RECEIVE_CHUNK_BYTES, 4);
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
        let response: ApiVersionsResponse = self.ask_within(&asked, 0, ANSWER_TIMEOUT).await?;
        for api in response.api_keys {
            self.versions.insert(api.api_key, (api.min_version, api.max_version));
        }
        Ok(())
    }

    /// The highest version of an API that both sides speak and that is at most `max`.
    ///
    /// # Errors
    /// There is none.
    pub fn version(&self, key: ApiKey, max: i16) -> Result<i16, String> {
        let api = key.api();
        let (min, theirs) = self.versions.get(&(key as i16)).copied().unwrap_or((1, 0));
        let version = theirs.min(max);
        if version < min.max(api.version_min) {
            return Err(format!(
                "the broker speaks {} {}, and {} to {max} are needed",
                api.name,
                if min > theirs { "not at all".to_owned() } else { format!("{min} to {theirs}") },
                api.version_min
            ));
        }
        Ok(version)
    }

    /// One control request and its answer, within 30 s.
    ///
    /// # Errors
    /// No common version, no answer in time, a broken connection or a malformed answer.
    pub async fn ask<Q: Message, A: Message>(&mut self, request: &Q) -> Result<A, String> {
        let version = self.version(Q::KEY, Q::KEY.api().version_max)?;
        self.ask_within(request, version, ANSWER_TIMEOUT).await
    }

    /// As `ask`, in a version and within a time of one's own.
    ///
    /// # Errors
    /// As `ask`.
    pub async fn ask_within<Q: Message, A: Message>(
        &mut self,
        request: &Q,
        version: i16,
        limit: Duration,
    ) -> Result<A, String> {
        let mut out = Vec::new();
        self.begin(&mut out, Q::KEY, version);
        request.encode(&mut out, version);
        finish_frame(&mut out, 0, 0);
        let sent = self.socket.send(&mut vec![SharedBytes::copy_of(&out)]).await;
        sent.map_err(|error| format!("sending {} failed: {error}", Q::KEY.api().name))?;
        let answer = within(limit, self.receive()).await;
        let seconds = limit.as_secs();
        let frame = answer
            .ok_or_else(|| format!("no answer to {} within {seconds} s", Q::KEY.api().name))?
            .map_err(|why| format!("{}: {why}", Q::KEY.api().name))?;
        let malformed = |error| format!("malformed {} response: {error}", Q::KEY.api().name);
        let (_, mut body) = read_response_header(&frame, Q::KEY, version).map_err(malformed)?;
        A::decode(&mut body, version).map_err(malformed)
    }

    /// Starts a request frame and counts its correlation id.
    pub fn begin(&mut self, out: &mut Vec<u8>, key: ApiKey, version: i16) {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        begin_request(out, key, version, self.correlation_id, &self.client_id);
    }

    /// The payload of the next response frame.
    ///
    /// # Errors
    /// A broken connection or frame.
    pub async fn receive(&mut self) -> Result<SharedBytes, String> {
        let buffer = self.buffer.as_mut().expect("given away only with the connection");
        receive_frame(&self.socket, buffer, &mut self.pool).await
    }

    /// The receiving half, for a task of its own. Nothing can be asked afterwards.
    ///
    /// # Panics
    /// When taken twice.
    pub fn take_receiver(&mut self) -> (Rc<Socket>, ReceiveBuffer, ReceivePool) {
        let pool = std::mem::replace(&mut self.pool, ReceivePool::new(RECEIVE_CHUNK_BYTES, 0));
        (Rc::clone(&self.socket), self.buffer.take().expect("taken once"), pool)
    }
}

/// The payload of the next response frame on a socket.
///
/// # Errors
/// A broken connection or frame.
pub async fn receive_frame(
    socket: &Socket,
    buffer: &mut ReceiveBuffer,
    pool: &mut ReceivePool,
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
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut sleep = pin!(timer::sleep(limit));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
    })
    .await
}
