//! A request as its connection read it.

use runtime::buffer::SharedBytes;
use std::net::SocketAddr;

/// A request frame: its payload, and where the body begins in it.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) payload: SharedBytes,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) body_at: u32,
    /// Who sent it, if its connection knows.
    pub(crate) peer: Option<SocketAddr>,
    /// The listener that its connection came through, of `Node::listeners`.
    pub(crate) listener: u16,
    /// A fetch may wait for records as long as it asks to: there is memory for that.
    pub(crate) may_wait: bool,
}

/// What a response needs of its request.
#[derive(Clone, Copy)]
pub(crate) struct ResponseTo {
    /// The version to answer in.
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
}

impl Request {
    /// What its response needs of it.
    pub(crate) fn response_to(&self) -> ResponseTo {
        ResponseTo { version: self.version, correlation_id: self.correlation_id }
    }

    pub(crate) fn body(&self) -> wire::primitives::Reader<'_> {
        wire::primitives::Reader::new(self.body_bytes())
    }

    pub(crate) fn body_bytes(&self) -> &[u8] {
        &self.payload[self.body_at as usize..]
    }

    /// Who asks, as group members are shown.
    pub(crate) fn client(&self) -> coordinator::Client {
        let header = wire::header::RequestHeader::read(&self.payload).ok();
        let id = header.and_then(|(_, header, _)| header.client_id).unwrap_or_default();
        let host =
            self.peer.map_or_else(|| "/unknown".to_owned(), |peer| format!("/{}", peer.ip()));
        coordinator::Client { id: id.to_owned(), host }
    }
}
