//! One client's connection: frames in, responses out in request order.
//!
//! A request starts as soon as it is read, in order, so that appends to a partition keep their
//! order; its answer is awaited behind those before it. At most `IN_FLIGHT_MAX` requests wait, and none
//! begins while a client leaves much unread: what it sends then waits in its socket.

use crate::network::answer::Outcome;
use crate::network::memory::HeldAnswer;
use crate::network::request::Request;
use crate::observe::stages::Stage;
use crate::shard::shard::{RECEIVE_CHUNK_BYTES, Shard};
use runtime::budget::Held;
use runtime::buffer::SharedBytes;
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use runtime::receive_buffer::ReceiveBuffer;
use runtime::socket::{Socket, was_interrupted};
use runtime::{Slice, timer};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use wire::frame::{PREFIX_BYTES, frame_bytes};
use wire::header::RequestHeader;
use wire::{ApiKey, WireError};

const IN_FLIGHT_MAX: usize = 32;
/// A client is looked after so often while its request waits.
const PEER_LOOK: Duration = Duration::from_secs(1);
/// While answers of so many bytes are not sent, nothing more of a connection begins.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;
/// A request of an API with small ones that is larger than this is not read beside others.
const LARGE_CONTROL_BYTES: usize = 64 * 1024;
/// A large request of which nothing comes for so long keeps no memory from others.
const LARGE_STALLS_MAX: Duration = Duration::from_secs(30);
/// While others wait for its memory a large request is to come with so many bytes a second at least, looked at each
/// `LARGE_LOOK`.
const LARGE_RATE_MIN: u64 = 256 * 1024;
const LARGE_LOOK: Duration = Duration::from_secs(4);
/// Responses sent together hold at most about this many pieces.
const SEND_PIECES_MAX: usize = 256;

/// A started request; its box is used again for later ones.
struct InFlight<F> {
    future: Pin<Box<Option<F>>>,
    outcome: Option<Outcome>,
    /// Of its answer.
    bytes: usize,
    key: ApiKey,
    request: Option<Held>,
}

struct Pipeline<F> {
    waiting: RefCell<VecDeque<InFlight<F>>>,
    spare: RefCell<Vec<Pin<Box<Option<F>>>>>,
    changed: Notify,
    read_ended: Cell<bool>,
    /// Bytes of answers to fetches that are made and not sent.
    unsent_fetched: HeldAnswer,
    /// The same of all other answers; whoever looks after connections knows it as well.
    unsent: Rc<HeldAnswer>,
    /// Fetches begun whose answers are not sent. One at a time: what many would read at once nobody may
    /// ever take.
    fetches: Cell<usize>,
    /// The same of joins and syncs of groups, which wait for other members.
    joins: Cell<usize>,
    /// The same of all others but produces. Another one begins beside them only while nothing large is made.
    others: Cell<usize>,
    /// Answers are on their way. A client that does not read them keeps them there.
    is_sending: Cell<bool>,
    /// An answer was sent since it was last asked.
    has_sent: Cell<bool>,
}

/// Serves a connection until either side ends it; `start` is what begins its requests.
pub(crate) async fn serve<F: Future<Output = Outcome>>(
    shard: Rc<Shard>,
    listener: u16,
    socket: Rc<Socket>,
    unsent: Rc<HeldAnswer>,
    start: impl Fn(Rc<Shard>, ApiKey, Request) -> F,
) {
    let pipeline = Pipeline {
        waiting: RefCell::default(),
        spare: RefCell::default(),
        changed: Notify::default(),
        read_ended: Cell::new(false),
        unsent_fetched: shard.answer_memory.hold(),
        unsent,
        fetches: Cell::new(0),
        joins: Cell::new(0),
        others: Cell::new(0),
        has_sent: Cell::new(false),
        is_sending: Cell::new(false),
    };
    let mut buffer = ReceiveBuffer::new(&mut shard.receive_pool.borrow_mut());
    let ended = {
        let mut reading = Reading {
            shard: &shard,
            listener,
            socket: &socket,
            peer: socket.peer_address(),
            pipeline: &pipeline,
            start: &start,
            large: None,
            silent_since: None,
            slice: Slice::begin(),
        };
        let mut read = pin!(reading.all(&mut buffer));
        let mut respond = pin!(respond(&shard, &socket, &pipeline));
        // Neither side is cancelled by the other: when one ends the socket is shut down, which
        // completes what the other has in flight.
        poll_fn(|cx| {
            let polled = match (read.as_mut().poll(cx), respond.as_mut().poll(cx)) {
                (Poll::Ready(result), _) => Poll::Ready(result),
                (_, Poll::Ready(result)) => Poll::Ready(result),
                _ => Poll::Pending,
            };
            if pipeline.is_sending.get() || shard.places_are_taken() {
                pipeline.go_on(cx);
            }
            polled
        })
        .await
    };
    pipeline.until_appended().await;
    buffer.retire(&mut shard.receive_pool.borrow_mut());
    if let Err(why) = ended {
        let peer = socket.peer_address().map_or_else(|| "?".to_owned(), |peer| peer.to_string());
        crate::observe::logging::warning_of!(
            socket.peer_address(),
            "connection from {peer} closed: {why}"
        );
    }
    socket.shutdown();
}

/// The side of a connection that reads.
struct Reading<'a, F, S> {
    shard: &'a Rc<Shard>,
    listener: u16,
    socket: &'a Socket,
    peer: Option<SocketAddr>,
    pipeline: &'a Pipeline<F>,
    start: &'a S,
    /// The request that is being received, if it does not fit a receive chunk.
    large: Option<Large>,
    silent_since: Option<Nanos>,
    slice: Slice,
}

impl<F, S> Reading<'_, F, S>
where
    F: Future<Output = Outcome>,
    S: Fn(Rc<Shard>, ApiKey, Request) -> F,
{
    async fn all(&mut self, buffer: &mut ReceiveBuffer) -> Result<(), String> {
        while let Some(wanted) = self.begin_whole(buffer).await? {
            if wanted > RECEIVE_CHUNK_BYTES && self.large.is_none() {
                let held = self.shard.request_memory.take_to_receive(wanted).await;
                self.large = Some(Large::begin(held, buffer.bytes().len()));
            }
            buffer.make_room(wanted, &mut self.shard.receive_pool.borrow_mut());
            match self.receive(buffer, wanted).await? {
                Ok(0) => break,
                Ok(bytes) => self.on_bytes(bytes, wanted)?,
                // Silent for a while: a chunk that once held a large request is not kept for the next one.
                Err(error) if was_interrupted(&error) => {
                    if self.on_silence(buffer, wanted).await? {
                        // As in Kafka: who wants to go on connects again.
                        break;
                    }
                }
                // A peer that resets is gone like one that closes.
                Err(_) => break,
            }
        }
        self.pipeline.read_ended.set(true);
        Ok(())
    }

    /// Begins the requests that are there whole. Returns how many bytes the next one takes, 0 if nothing of it is
    /// there; `None`: the client has gone.
    async fn begin_whole(&mut self, buffer: &mut ReceiveBuffer) -> Result<Option<usize>, String> {
        let (shard, socket, pipeline) = (self.shard, self.socket, self.pipeline);
        let bytes_max = shard.node.config.request_bytes_max as usize;
        while let Some(total) = frame_bytes(buffer.bytes(), bytes_max).map_err(said)? {
            if buffer.bytes().len() < total {
                return Ok(Some(total));
            }
            let payload = buffer.take(total).slice(PREFIX_BYTES..total);
            let (key, mut request) = parse(payload, self.peer, self.listener)?;
            if !until_room(shard, socket, pipeline, key, self.large.is_some()).await? {
                return Ok(None);
            }
            let held = match self.large.take() {
                Some(large) => large.held,
                None => {
                    let taking = shard.request_memory.take(key, total);
                    let Some(held) = while_connected(socket, taking).await else {
                        return Ok(None);
                    };
                    held
                }
            };
            let to_wait =
                (key == ApiKey::Fetch).then(|| shard.request_memory.take_to_wait(total)).flatten();
            request.may_wait = to_wait.is_some();
            if !shard.mailbox.has_room() {
                shard.mailbox.until_room().await;
            }
            // What names very much has a turn of its own: it is read, and its answer made, in one go.
            let place = match key {
                ApiKey::Produce | ApiKey::Fetch => None,
                _ if total <= LARGE_CONTROL_BYTES => None,
                _ => match while_connected(socket, shard.large_answers.take(1)).await {
                    None => return Ok(None),
                    place => place,
                },
            };
            if place.is_some() {
                timer::next_turn().await;
            }
            begin(pipeline, key, held, to_wait, (self.start)(Rc::clone(shard), key, request)).await;
            drop(place);
            // Whoever sends many requests at once does not keep the shard from others.
            self.slice.rest().await;
        }
        Ok(Some(0))
    }

    /// Waits for bytes.
    ///
    /// # Errors
    /// A large request comes too slowly.
    async fn receive(
        &mut self,
        buffer: &mut ReceiveBuffer,
        wanted: usize,
    ) -> Result<std::io::Result<usize>, String> {
        let mut receive = pin!(self.socket.receive(buffer, wanted));
        loop {
            let look_at = self.large.as_ref().map(|_| clock::now() + LARGE_LOOK);
            if let Some(received) = timer::before(look_at, receive.as_mut()).await {
                return Ok(received);
            }
            if let Err(why) = self.check_pace(wanted) {
                self.socket.shutdown();
                let _ = receive.await;
                return Err(why);
            }
        }
    }

    fn on_bytes(&mut self, bytes: usize, wanted: usize) -> Result<(), String> {
        self.silent_since = None;
        self.slice = Slice::begin();
        if let Some(large) = &mut self.large {
            large.on_bytes(bytes);
        }
        self.check_pace(wanted)
    }

    /// Whether a large request comes as fast as is expected of it.
    fn check_pace(&mut self, wanted: usize) -> Result<(), String> {
        match self.large.as_mut().and_then(|large| large.is_too_slow(self.shard)) {
            Some(why) => Err(format!("{why} of a request of {wanted} bytes")),
            None => Ok(()),
        }
    }

    /// Nothing came for a while. True: the connection is idle, and ends.
    async fn on_silence(
        &mut self,
        buffer: &mut ReceiveBuffer,
        wanted: usize,
    ) -> Result<bool, String> {
        self.check_pace(wanted)?;
        let idle_max = self.shard.node.config.connections_idle_max;
        let idle_until = *self.silent_since.get_or_insert(clock::now()) + idle_max;
        let is_idle = if buffer.bytes().is_empty() {
            buffer.rest(&mut self.shard.receive_pool.borrow_mut());
            let readable = timer::before(Some(idle_until), self.socket.until_readable()).await;
            buffer.wake(&mut self.shard.receive_pool.borrow_mut());
            readable.is_none()
        } else {
            clock::now() >= idle_until
        };
        let is_answering =
            !self.pipeline.waiting.borrow().is_empty() || self.pipeline.unsent_bytes() > 0;
        // What was sent meanwhile counts as well.
        if self.pipeline.has_sent.replace(false) || is_answering {
            self.silent_since = None;
            return Ok(false);
        }
        Ok(is_idle)
    }
}

/// Waits until a request may begin. False: its client has gone meanwhile.
async fn until_room<F>(
    shard: &Shard,
    socket: &Socket,
    pipeline: &Pipeline<F>,
    key: ApiKey,
    is_large: bool,
) -> Result<bool, String> {
    let until = clock::now() + LARGE_STALLS_MAX;
    // Looked at again also unasked: what others of the shard have taken tells nobody when it is given back.
    while pipeline.is_full(shard, key) {
        let room = pipeline.changed.until(|| (!pipeline.is_full(shard, key)).then_some(()));
        if timer::before(Some(clock::now() + PEER_LOOK), room).await.is_some() {
            break;
        }
        if socket.has_hung_up() {
            return Ok(false);
        }
        if is_large && clock::now() >= until {
            let seconds = LARGE_STALLS_MAX.as_secs();
            return Err(format!(
                "a large request waited {seconds} s for those before it, and kept its memory from others"
            ));
        }
    }
    Ok(true)
}

/// What this gives, unless the client goes before.
async fn while_connected<T>(socket: &Socket, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    // Nearly always it is there at once.
    let at_once = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    if let Poll::Ready(done) = at_once {
        return Some(done);
    }
    loop {
        let look_at = Some(clock::now() + PEER_LOOK);
        if let Some(done) = timer::before(look_at, future.as_mut()).await {
            return Some(done);
        }
        if socket.has_hung_up() {
            return None;
        }
    }
}

/// A request that does not fit a receive chunk, while it comes.
struct Large {
    held: Held,
    came_at: Nanos,
    /// Since it was last looked at.
    looked_at: Nanos,
    bytes: u64,
}

impl Large {
    fn begin(held: Held, bytes: usize) -> Self {
        let now = clock::now();
        Self { held, came_at: now, looked_at: now, bytes: bytes as u64 }
    }

    fn on_bytes(&mut self, bytes: usize) {
        self.came_at = clock::now();
        self.bytes += bytes as u64;
    }

    /// Why its memory is not kept for it any longer, if it is not.
    fn is_too_slow(&mut self, shard: &Shard) -> Option<String> {
        let now = clock::now();
        if now >= self.came_at + LARGE_STALLS_MAX {
            return Some(format!("nothing more in {} s", LARGE_STALLS_MAX.as_secs()));
        }
        if now < self.looked_at + LARGE_LOOK {
            return None;
        }
        let ms = (now.0 - self.looked_at.0) / 1_000_000;
        let (bytes, least) = (self.bytes, LARGE_RATE_MIN * ms / 1000);
        (self.looked_at, self.bytes) = (now, 0);
        let is_slow = bytes < least && shard.request_memory.receiving.has_waiters();
        is_slow.then(|| format!("{bytes} bytes in {ms} ms while others wait for its memory, at least {least} are expected,"))
    }
}

fn said(error: WireError) -> String {
    error.to_string()
}

fn parse(
    payload: SharedBytes,
    peer: Option<SocketAddr>,
    listener: u16,
) -> Result<(ApiKey, Request), String> {
    let (key, header, body) = RequestHeader::read(&payload).map_err(said)?;
    let request = Request {
        version: header.version,
        correlation_id: header.correlation_id,
        body_at: (payload.len() - body.rest().len()) as u32,
        payload,
        peer,
        listener,
        may_wait: true,
    };
    Ok((key, request))
}

/// Runs a request up to its first wait, which fixes its order, and queues it.
async fn begin<F: Future<Output = Outcome>>(
    pipeline: &Pipeline<F>,
    key: ApiKey,
    held: Held,
    to_wait: Option<Held>,
    future: F,
) {
    let mut place = pipeline.spare.borrow_mut().pop().unwrap_or_else(|| Box::pin(None));
    place.as_mut().set(Some(future));
    pipeline.count(key, 1);
    let mut in_flight =
        InFlight { future: place, outcome: None, bytes: 0, key, request: Some(held) };
    poll_fn(|cx| {
        in_flight.poll(pipeline, cx);
        Poll::Ready(())
    })
    .await;
    if in_flight.outcome.is_none() {
        // What waits as long as its client likes keeps nothing from others.
        match key {
            ApiKey::Fetch if to_wait.is_some() => in_flight.request = to_wait,
            ApiKey::JoinGroup | ApiKey::SyncGroup => in_flight.request = None,
            _ => {}
        }
    }
    pipeline.waiting.borrow_mut().push_back(in_flight);
    pipeline.changed.notify();
}

impl<F: Future<Output = Outcome>> Pipeline<F> {
    /// Goes on with every request, also behind an answer that its client does not read: it may hold memory or a place
    /// that others of the shard wait for, or be the next to get one.
    fn go_on(&self, cx: &mut std::task::Context<'_>) {
        for in_flight in &mut *self.waiting.borrow_mut() {
            in_flight.poll(self, cx);
        }
    }

    /// Goes on with produces alone, until what they sent is appended: whoever sends without waiting for answers may have
    /// gone by then, and their bytes stay counted as long as they are here.
    async fn until_appended(&self) {
        poll_fn(|cx| {
            let mut waiting = self.waiting.borrow_mut();
            waiting.retain_mut(|in_flight| {
                in_flight.key == ApiKey::Produce && !in_flight.poll(self, cx)
            });
            if waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl<F> Pipeline<F> {
    /// What answers of this kind that are not sent are counted in.
    fn unsent_of(&self, key: ApiKey) -> &HeldAnswer {
        if key == ApiKey::Fetch { &self.unsent_fetched } else { &self.unsent }
    }

    fn unsent_bytes(&self) -> usize {
        self.unsent_fetched.bytes() + self.unsent.bytes()
    }

    /// Whether a request of this kind must wait until answers before it are sent.
    fn is_full(&self, shard: &Shard, key: ApiKey) -> bool {
        // Behind what waits as long as its client likes nothing begins, as in Kafka: what it took, and its answer,
        // would be held as long.
        let is_waiting = self.fetches.get() + self.joins.get() > 0;
        is_waiting
            || self.waiting.borrow().len() >= IN_FLIGHT_MAX
            || self.unsent_bytes() >= UNSENT_BYTES_MAX
            || self.has_its_one(key, shard)
    }

    /// Of requests of a kind that are counted.
    fn counter(&self, key: ApiKey) -> Option<&Cell<usize>> {
        match key {
            ApiKey::Fetch => Some(&self.fetches),
            ApiKey::JoinGroup | ApiKey::SyncGroup => Some(&self.joins),
            ApiKey::Produce => None,
            _ => Some(&self.others),
        }
    }

    /// Whether a connection has a request of this kind already, and is to have one at a time.
    fn has_its_one(&self, key: ApiKey, shard: &Shard) -> bool {
        let Some(counter) = self.counter(key) else { return false };
        let one_at_a_time = !std::ptr::eq(counter, &self.others) || shard.places_are_taken();
        counter.get() > 0 && one_at_a_time
    }

    fn count(&self, key: ApiKey, by: isize) {
        if let Some(counter) = self.counter(key) {
            counter.set(counter.get().wrapping_add_signed(by));
        }
    }
}

impl<F: Future<Output = Outcome>> InFlight<F> {
    /// True once it is done; its answer is then among the unsent.
    fn poll(&mut self, pipeline: &Pipeline<F>, cx: &mut std::task::Context<'_>) -> bool {
        if self.outcome.is_none()
            && let Some(future) = self.future.as_mut().as_pin_mut()
            && let Poll::Ready(outcome) = future.poll(cx)
        {
            self.future.as_mut().set(None);
            self.request = None;
            self.bytes = outcome.bytes();
            let unsent = pipeline.unsent_of(self.key);
            unsent.set(unsent.bytes() + self.bytes);
            self.outcome = Some(outcome);
        }
        self.outcome.is_some()
    }
}

async fn respond<F: Future<Output = Outcome>>(
    shard: &Rc<Shard>,
    socket: &Socket,
    pipeline: &Pipeline<F>,
) -> Result<(), String> {
    let mut pieces: Vec<SharedBytes> = Vec::new();
    let mut answered: Vec<(ApiKey, usize)> = Vec::new();
    loop {
        // Wait for the oldest request, then take along whatever else is done behind it.
        let there = || !pipeline.waiting.borrow().is_empty();
        pipeline.changed.until(|| there().then_some(())).await;
        poll_fn(|cx| {
            let mut waiting = pipeline.waiting.borrow_mut();
            let done = waiting.front_mut().is_none_or(|oldest| oldest.poll(pipeline, cx));
            if done { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let mut close = None;
        poll_fn(|cx| {
            let mut waiting = pipeline.waiting.borrow_mut();
            while pieces.len() < SEND_PIECES_MAX
                && close.is_none()
                && waiting.front_mut().is_some_and(|oldest| oldest.poll(pipeline, cx))
            {
                let done = waiting.pop_front().expect("looked at above");
                pipeline.spare.borrow_mut().push(done.future);
                answered.push((done.key, done.bytes));
                match done.outcome.expect("polled to its end") {
                    Outcome::Respond(mut response) => {
                        pieces.append(&mut response);
                        shard.give_back_pieces(response);
                    }
                    Outcome::Silence => {}
                    Outcome::Close(why) => close = Some(why),
                }
            }
            Poll::Ready(())
        })
        .await;
        pipeline.changed.notify();
        if !pieces.is_empty() {
            let began = clock::now();
            pipeline.is_sending.set(true);
            let sent = socket.send(&mut pieces).await;
            pipeline.is_sending.set(false);
            if sent.is_err() {
                return Ok(());
            }
            pipeline.has_sent.set(true);
            shard.stages().ended(Stage::Send, began);
        }
        for (key, bytes) in answered.drain(..) {
            let unsent = pipeline.unsent_of(key);
            unsent.set(unsent.bytes() - bytes);
            pipeline.count(key, -1);
        }
        pipeline.changed.notify();
        if let Some(why) = close {
            return Err(why);
        }
    }
}
