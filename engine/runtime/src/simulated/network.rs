//! The network between simulated machines: listeners, connections, links with delay, loss and a rate.
//!
//! Of each connection bytes arrive whole and in order, as TCP has it, after a delay that is drawn, in pieces whose
//! sizes are drawn. A link that is cut loses everything in that direction: what it carries is sent again until it
//! comes through or `GIVE_UP` has passed. A process that ends closes its connections; a machine that loses power
//! forgets them without a word, and answers what still comes for them with a reset once it is back.

use crate::generator::Random;
use crate::nanos::Nanos;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The number of a machine.
pub(crate) type MachineId = usize;
/// The number of a thread in a world; never given again.
pub(crate) type CoreId = u64;
type Fd = i32;

/// Above the numbers of files.
const FIRST_FD: Fd = 1 << 24;
const FIRST_PORT: u16 = 32_768;
const BACKLOG: usize = 1024;
/// What was sent and is not acknowledged is sent again after this, and then twice as late each time.
const RESEND: Duration = Duration::from_millis(200);
const RESEND_MAX: Duration = Duration::from_secs(2);
/// A first packet that nobody answers is sent again after this, and then twice as late each time.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);
/// After so long without an answer a connection is given up.
const GIVE_UP: Duration = Duration::from_secs(120);
const SEGMENT_BYTES: u64 = 64 * 1024;

/// How one direction between two machines behaves.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The shortest and the longest way.
    pub delay: (Duration, Duration),
    /// What it carries in a millisecond.
    pub bytes_per_ms: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: (Duration::from_micros(20), Duration::from_micros(300)),
            bytes_per_ms: 1 << 20,
        }
    }
}

/// One direction of one pair of machines.
#[derive(Default)]
struct Direction {
    link: Link,
    is_cut: bool,
    /// When what was given to it last has left the sender.
    free_at: Nanos,
}

/// Who waits for an operation: a thread, and the operation's slot there.
type Waiter = (CoreId, u32);

/// An operation that is done.
pub(crate) struct Done {
    pub(crate) core: CoreId,
    pub(crate) slot: u32,
    pub(crate) result: i32,
    /// What was received.
    pub(crate) bytes: Vec<u8>,
}

struct End {
    machine: MachineId,
    kind: Kind,
}

enum Kind {
    Listener(Listening),
    Stream(Box<Stream>),
    /// The process closed it, or its machine lost power.
    Gone,
}

struct Listening {
    address: SocketAddr,
    is_shared: bool,
    backlog: VecDeque<Fd>,
    accepts: VecDeque<Waiter>,
    is_shut: bool,
}

/// What a direction of a connection carries.
enum Parcel {
    Data(Vec<u8>),
    Fin,
}

struct Sending {
    waiter: Waiter,
    bytes: Vec<u8>,
    taken: usize,
}

struct Stream {
    local: SocketAddr,
    remote: SocketAddr,
    /// The other end, once there is one.
    peer: Option<Fd>,
    connecting: Option<Waiter>,
    /// Sends that are not taken yet.
    sending: VecDeque<Sending>,
    /// Taken and not on its way.
    unsent: VecDeque<u8>,
    unsent_max: usize,
    /// On its way, in order.
    parcels: VecDeque<(Nanos, Parcel)>,
    /// Of what is on its way: not acknowledged.
    unacknowledged: usize,
    /// Since when the front of `parcels` fails to come through, and how long until it is sent again.
    stuck: Option<(Nanos, Duration)>,
    /// It will look again whether there is room.
    probes: bool,
    wants_fin: bool,
    fin_sent: bool,
    received: VecDeque<u8>,
    received_max: usize,
    fin_received: bool,
    receives: Option<(Waiter, usize)>,
    readers: Vec<Waiter>,
    broken: Option<i32>,
    is_shut: bool,
    /// The process has closed it; what is unsent still goes out.
    is_closed: bool,
}

#[derive(Debug)]
enum Event {
    /// A first packet is at its target, since then under way.
    Syn { from: Fd, since: Nanos, again: Duration },
    /// The answer to it.
    SynAck { to: Fd, from: Option<Fd> },
    /// The front of what this end has sent is at the other end.
    Arrives { from: Fd },
    /// The other end has so many bytes, since then.
    Acknowledged { to: Fd, from: Fd, bytes: usize, since: Nanos },
    /// The other end has room again.
    Room { to: Fd, from: Fd },
    /// An end that the other has no room for looks again: what would tell it may have been lost.
    Probe { from: Fd },
    /// The other end is no more; `answers` what will be sent again until it is answered.
    Reset { to: Fd, from: MachineId, answers: bool },
}

/// See the file's first lines.
pub(crate) struct Network {
    random: Random,
    now: Nanos,
    /// Of each machine.
    addresses: Vec<IpAddr>,
    is_up: Vec<bool>,
    ends: Vec<End>,
    directions: BTreeMap<(MachineId, MachineId), Direction>,
    events: BinaryHeap<Reverse<(Nanos, u64)>>,
    waiting: BTreeMap<u64, Event>,
    sequence: u64,
    next_port: u16,
    /// For the threads that wait.
    pub(crate) done: Vec<Done>,
    trace: u64,
    /// What was lost, refused and reset so far.
    pub(crate) lost: u64,
}

fn error(number: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(number)
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            now: Nanos(0),
            addresses: Vec::new(),
            is_up: Vec::new(),
            ends: Vec::new(),
            directions: BTreeMap::new(),
            events: BinaryHeap::new(),
            waiting: BTreeMap::new(),
            sequence: 0,
            next_port: FIRST_PORT,
            done: Vec::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            lost: 0,
        }
    }

    pub(crate) fn add_machine(&mut self, address: IpAddr) -> MachineId {
        self.addresses.push(address);
        self.is_up.push(true);
        self.addresses.len() - 1
    }

    /// A number over everything that happened.
    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    fn record(&mut self, numbers: &[u64]) {
        for byte in numbers.iter().flat_map(|number| number.to_be_bytes()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn direction(&mut self, from: MachineId, to: MachineId) -> &mut Direction {
        self.directions.entry((from, to)).or_default()
    }

    pub(crate) fn set_link(&mut self, from: MachineId, to: MachineId, link: Link) {
        self.direction(from, to).link = link;
    }

    /// Loses everything from one machine to the other, or carries it again.
    pub(crate) fn set_cut(&mut self, from: MachineId, to: MachineId, is_cut: bool) {
        self.direction(from, to).is_cut = is_cut;
    }

    /// Whether nothing comes through: the link is cut, or one of them is down.
    fn is_lost(&mut self, from: MachineId, to: MachineId) -> bool {
        let is_lost = self.direction(from, to).is_cut || !self.is_up[to] || !self.is_up[from];
        self.lost += u64::from(is_lost);
        is_lost
    }

    /// When so many bytes that leave now are there.
    fn arrival(&mut self, from: MachineId, to: MachineId, bytes: usize) -> Nanos {
        let now = self.now;
        let direction = self.directions.entry((from, to)).or_default();
        let Link { delay: (least, most), bytes_per_ms } = direction.link;
        let transfer_ns = bytes as u64 * 1_000_000 / bytes_per_ms.max(1);
        let left = direction.free_at.max(now) + Duration::from_nanos(transfer_ns);
        direction.free_at = left;
        let span = most.saturating_sub(least).as_nanos() as u64;
        left + least + Duration::from_nanos(self.random.below(span + 1))
    }

    fn schedule(&mut self, at: Nanos, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence)));
        self.waiting.insert(self.sequence, event);
    }

    pub(crate) fn next_at(&self) -> Option<Nanos> {
        self.events.peek().map(|Reverse((at, _))| *at)
    }

    fn complete(&mut self, (core, slot): Waiter, result: i32, bytes: Vec<u8>) {
        self.done.push(Done { core, slot, result, bytes });
    }

    fn end(&self, fd: Fd) -> Option<&End> {
        self.ends.get(usize::try_from(fd - FIRST_FD).ok()?)
    }

    fn kind(&mut self, fd: Fd) -> &mut Kind {
        &mut self.ends[(fd - FIRST_FD) as usize].kind
    }

    fn machine_of(&self, fd: Fd) -> MachineId {
        self.ends[(fd - FIRST_FD) as usize].machine
    }

    fn stream(&mut self, fd: Fd) -> Option<&mut Stream> {
        match self.kind(fd) {
            Kind::Stream(stream) => Some(stream),
            Kind::Listener(_) | Kind::Gone => None,
        }
    }

    fn add(&mut self, machine: MachineId, kind: Kind) -> Fd {
        self.ends.push(End { machine, kind });
        FIRST_FD + self.ends.len() as Fd - 1
    }

    fn free_port(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        self.next_port
    }

    pub(crate) fn bind(
        &mut self,
        machine: MachineId,
        mut address: SocketAddr,
        is_shared: bool,
    ) -> std::io::Result<Fd> {
        let ip = address.ip();
        if !ip.is_unspecified() && !ip.is_loopback() && ip != self.addresses[machine] {
            return Err(error(libc::EADDRNOTAVAIL));
        }
        if address.port() == 0 {
            let port = self.free_port();
            address.set_port(port);
        }
        let is_taken = self.ends.iter().any(|end| match &end.kind {
            Kind::Listener(other) => {
                end.machine == machine
                    && other.address.port() == address.port()
                    && !(other.is_shared && is_shared)
            }
            _ => false,
        });
        if is_taken {
            return Err(error(libc::EADDRINUSE));
        }
        let listening = Listening {
            address,
            is_shared,
            backlog: VecDeque::new(),
            accepts: VecDeque::new(),
            is_shut: false,
        };
        Ok(self.add(machine, Kind::Listener(listening)))
    }

    pub(crate) fn local_address(&self, fd: Fd) -> std::io::Result<SocketAddr> {
        match self.end(fd).map(|end| &end.kind) {
            Some(Kind::Listener(listening)) => Ok(listening.address),
            Some(Kind::Stream(stream)) => Ok(stream.local),
            _ => Err(error(libc::EBADF)),
        }
    }

    pub(crate) fn peer_address(&self, fd: Fd) -> Option<SocketAddr> {
        match &self.end(fd)?.kind {
            Kind::Stream(stream) if stream.peer.is_some() && stream.broken.is_none() => {
                Some(stream.remote)
            }
            _ => None,
        }
    }

    pub(crate) fn has_hung_up(&self, fd: Fd) -> bool {
        match self.end(fd).map(|end| &end.kind) {
            Some(Kind::Stream(s)) => s.fin_received || s.broken.is_some() || s.is_shut,
            _ => true,
        }
    }

    pub(crate) fn unacknowledged_bytes(&self, fd: Fd) -> i32 {
        match self.end(fd).map(|end| &end.kind) {
            Some(Kind::Stream(s)) => (s.unsent.len() + s.unacknowledged) as i32,
            _ => 0,
        }
    }

    fn new_stream(&mut self, machine: MachineId, local: SocketAddr, remote: SocketAddr) -> Fd {
        // From a few KiB to what a kernel gives: clients meet both.
        let mut bytes = || 4096usize << self.random.below(8);
        let (unsent_max, received_max) = (bytes(), bytes());
        let stream = Stream {
            local,
            remote,
            peer: None,
            connecting: None,
            sending: VecDeque::new(),
            unsent: VecDeque::new(),
            unsent_max,
            parcels: VecDeque::new(),
            unacknowledged: 0,
            stuck: None,
            probes: false,
            wants_fin: false,
            fin_sent: false,
            received: VecDeque::new(),
            received_max,
            fin_received: false,
            receives: None,
            readers: Vec::new(),
            broken: None,
            is_shut: false,
            is_closed: false,
        };
        self.add(machine, Kind::Stream(Box::new(stream)))
    }

    /// A socket that is to connect to there.
    pub(crate) fn socket(&mut self, machine: MachineId, remote: SocketAddr) -> Fd {
        let ip = if remote.ip().is_loopback() { remote.ip() } else { self.addresses[machine] };
        let local = SocketAddr::new(ip, self.free_port());
        self.new_stream(machine, local, remote)
    }

    pub(crate) fn connect(&mut self, waiter: Waiter, fd: Fd) {
        let now = self.now;
        let Some(stream) = self.stream(fd) else {
            return self.complete(waiter, -libc::EBADF, Vec::new());
        };
        stream.connecting = Some(waiter);
        let remote = stream.remote;
        let from = self.machine_of(fd);
        let Some(to) = self.machine_at(from, remote.ip()) else {
            return self.complete(waiter, -libc::EHOSTUNREACH, Vec::new());
        };
        let at = self.arrival(from, to, 0);
        self.schedule(at, Event::Syn { from: fd, since: now, again: CONNECT_AGAIN });
    }

    fn machine_at(&self, from: MachineId, ip: IpAddr) -> Option<MachineId> {
        if ip.is_loopback() {
            return Some(from);
        }
        self.addresses.iter().position(|address| *address == ip)
    }

    pub(crate) fn accept(&mut self, waiter: Waiter, fd: Fd) {
        let Kind::Listener(listening) = self.kind(fd) else {
            return self.complete(waiter, -libc::EBADF, Vec::new());
        };
        if listening.is_shut {
            self.complete(waiter, -libc::EINVAL, Vec::new());
        } else if let Some(accepted) = listening.backlog.pop_front() {
            self.complete(waiter, accepted, Vec::new());
        } else {
            listening.accepts.push_back(waiter);
        }
    }

    pub(crate) fn send(&mut self, waiter: Waiter, fd: Fd, bytes: Vec<u8>) {
        let errno = match self.kind(fd) {
            Kind::Stream(stream) => match stream.broken {
                Some(errno) => errno,
                None if stream.is_shut || stream.peer.is_none() => libc::EPIPE,
                None => {
                    stream.sending.push_back(Sending { waiter, bytes, taken: 0 });
                    return self.pump(fd);
                }
            },
            _ => libc::EBADF,
        };
        self.complete(waiter, -errno, Vec::new());
    }

    pub(crate) fn receive(&mut self, waiter: Waiter, fd: Fd, len_max: usize) {
        match self.kind(fd) {
            Kind::Stream(stream) => {
                assert!(stream.receives.is_none(), "a socket has one receive at a time");
                stream.receives = Some((waiter, len_max));
                self.tell_receiver(fd);
            }
            _ => self.complete(waiter, -libc::EBADF, Vec::new()),
        }
    }

    pub(crate) fn readable(&mut self, waiter: Waiter, fd: Fd) {
        match self.kind(fd) {
            Kind::Stream(stream) => {
                stream.readers.push(waiter);
                self.tell_receiver(fd);
            }
            _ => self.complete(waiter, -libc::EBADF, Vec::new()),
        }
    }

    /// Ends what waits for bytes, if it does still.
    pub(crate) fn cancel(&mut self, waiter: Waiter, fd: Fd) {
        let Some(stream) = self.stream(fd) else { return };
        if stream.receives.is_some_and(|(waits, _)| waits == waiter) {
            stream.receives = None;
            self.complete(waiter, -libc::ECANCELED, Vec::new());
        }
    }

    /// Ends both directions; what was taken still goes out.
    pub(crate) fn shutdown(&mut self, fd: Fd) {
        if self.end(fd).is_none() {
            return;
        }
        match self.kind(fd) {
            Kind::Listener(listening) => {
                listening.is_shut = true;
                let accepts = std::mem::take(&mut listening.accepts);
                for waiter in accepts {
                    self.complete(waiter, -libc::EINVAL, Vec::new());
                }
            }
            Kind::Stream(stream) => {
                stream.is_shut = true;
                stream.wants_fin = true;
                let sending = std::mem::take(&mut stream.sending);
                for Sending { waiter, taken, .. } in sending {
                    let result = if taken > 0 { taken as i32 } else { -libc::EPIPE };
                    self.complete(waiter, result, Vec::new());
                }
                self.tell_receiver(fd);
                self.pump(fd);
            }
            Kind::Gone => {}
        }
    }

    /// The process has no more use for it.
    pub(crate) fn close(&mut self, fd: Fd) {
        if self.end(fd).is_none() {
            return;
        }
        self.shutdown(fd);
        match self.kind(fd) {
            Kind::Listener(listening) => {
                let backlog = std::mem::take(&mut listening.backlog);
                *self.kind(fd) = Kind::Gone;
                for waiting in backlog {
                    self.reset_peer(waiting);
                    *self.kind(waiting) = Kind::Gone;
                }
            }
            // Nobody will ever read these: the other end is told so.
            Kind::Stream(stream) if !stream.received.is_empty() || stream.peer.is_none() => {
                self.reset_peer(fd);
                *self.kind(fd) = Kind::Gone;
            }
            Kind::Stream(stream) => {
                stream.is_closed = true;
                self.forget_if_over(fd);
            }
            Kind::Gone => {}
        }
    }

    /// A closed end is kept until what it sent is acknowledged.
    fn forget_if_over(&mut self, fd: Fd) {
        if self.stream(fd).is_some_and(|s| {
            s.is_closed
                && (s.broken.is_some()
                    || s.fin_sent && s.parcels.is_empty() && s.unacknowledged == 0)
        }) {
            *self.kind(fd) = Kind::Gone;
        }
    }

    /// Whether something is still to come from connections that were closed.
    pub(crate) fn has_last_words(&self) -> bool {
        let speaks = |end: &End| matches!(&end.kind, Kind::Stream(stream) if stream.is_closed);
        self.ends.iter().any(speaks)
    }

    fn reset_peer(&mut self, fd: Fd) {
        let from = self.machine_of(fd);
        let Some(to) = self.stream(fd).and_then(|stream| stream.peer) else { return };
        let at = self.arrival(from, self.machine_of(to), 0);
        self.schedule(at, Event::Reset { to, from, answers: false });
    }

    /// The processes of a machine have ended: the kernel closes what they had open.
    pub(crate) fn on_killed(&mut self, machine: MachineId) {
        for number in 0..self.ends.len() {
            if self.ends[number].machine == machine {
                self.close(FIRST_FD + number as Fd);
            }
        }
    }

    /// The machine has lost power: it knows of nothing any more.
    pub(crate) fn on_power_cut(&mut self, machine: MachineId) {
        self.is_up[machine] = false;
        for end in self.ends.iter_mut().filter(|end| end.machine == machine) {
            end.kind = Kind::Gone;
        }
    }

    /// It has power again.
    pub(crate) fn on_power(&mut self, machine: MachineId) {
        self.is_up[machine] = true;
    }

    /// Takes what is to be sent, and sends what there is room for.
    fn pump(&mut self, fd: Fd) {
        let from = self.machine_of(fd);
        let Some(stream) = self.stream(fd) else { return };
        let Some(peer) = stream.peer else { return };
        if stream.broken.is_some() {
            return;
        }
        let to = self.machine_of(peer);
        let (held, held_max) = match self.stream(peer) {
            Some(other) => (other.received.len(), other.received_max),
            None => (0, usize::MAX),
        };
        loop {
            let segment = 1 + self.random.below(SEGMENT_BYTES) as usize;
            let Some(stream) = self.stream(fd) else { return };
            let mut taken = Vec::new();
            while let Some(sending) = stream.sending.front_mut() {
                let room = stream.unsent_max - stream.unsent.len();
                let bytes = room.min(sending.bytes.len() - sending.taken);
                stream.unsent.extend(&sending.bytes[sending.taken..sending.taken + bytes]);
                sending.taken += bytes;
                if sending.taken < sending.bytes.len() {
                    break;
                }
                taken.push((sending.waiter, sending.taken as i32));
                stream.sending.pop_front();
            }
            let window = held_max.saturating_sub(held + stream.unacknowledged);
            let bytes = stream.unsent.len().min(window).min(segment);
            let parcel = if bytes > 0 {
                stream.unacknowledged += bytes;
                Some(Parcel::Data(stream.unsent.drain(..bytes).collect()))
            } else if stream.wants_fin && !stream.fin_sent && stream.unsent.is_empty() {
                stream.fin_sent = true;
                Some(Parcel::Fin)
            } else {
                None
            };
            for (waiter, result) in taken {
                self.complete(waiter, result, Vec::new());
            }
            let Some(parcel) = parcel else { return self.probe_if_stuck(fd) };
            let arrives = self.arrival(from, to, bytes);
            let Some(stream) = self.stream(fd) else { return };
            let in_order = stream.parcels.back().map_or(arrives, |(at, _)| arrives.max(*at));
            stream.parcels.push_back((in_order, parcel));
            if stream.parcels.len() == 1 && stream.stuck.is_none() {
                self.schedule(in_order, Event::Arrives { from: fd });
            }
        }
    }

    fn probe_if_stuck(&mut self, fd: Fd) {
        let at = self.now + RESEND;
        let Some(stream) = self.stream(fd) else { return };
        let is_stuck = !stream.unsent.is_empty() && stream.unacknowledged == 0;
        if is_stuck && !std::mem::replace(&mut stream.probes, true) {
            self.schedule(at, Event::Probe { from: fd });
        }
    }

    /// Gives whoever waits for bytes what there is.
    fn tell_receiver(&mut self, fd: Fd) {
        let part = self.random.next_u64();
        let is_part = self.random.one_in(8);
        let Some(stream) = self.stream(fd) else { return };
        let is_over = stream.fin_received || stream.is_shut;
        if stream.received.is_empty() && !is_over && stream.broken.is_none() {
            return;
        }
        let readers = std::mem::take(&mut stream.readers);
        let peer = stream.peer;
        let receives = stream.receives.take();
        let mut was_full = false;
        let done = receives.map(|(waiter, len_max)| {
            let there = stream.received.len().min(len_max);
            // Sometimes only a part has come.
            let bytes = if is_part && there > 1 { 1 + part as usize % there } else { there };
            was_full = stream.received.len() * 2 > stream.received_max;
            let taken: Vec<u8> = stream.received.drain(..bytes).collect();
            let result = match (taken.len(), stream.broken) {
                (0, Some(errno)) if !stream.is_shut => -errno,
                (bytes, _) => bytes as i32,
            };
            (waiter, result, taken)
        });
        for waiter in readers {
            self.complete(waiter, 1, Vec::new());
        }
        if let Some((waiter, result, taken)) = done {
            let has_room = was_full && !taken.is_empty();
            self.complete(waiter, result, taken);
            if let Some(peer) = peer.filter(|_| has_room) {
                let (from, to) = (self.machine_of(fd), self.machine_of(peer));
                let at = self.arrival(from, to, 0);
                self.schedule(at, Event::Room { to: peer, from: fd });
            }
        }
    }

    /// This end learns that the connection is no more.
    fn break_off(&mut self, fd: Fd, errno: i32) {
        let Some(stream) = self.stream(fd) else { return };
        if stream.broken.is_some() {
            return;
        }
        stream.broken = Some(errno);
        stream.parcels.clear();
        stream.unsent.clear();
        stream.received.clear();
        stream.unacknowledged = 0;
        let sending = std::mem::take(&mut stream.sending);
        let connecting = stream.connecting.take();
        for Sending { waiter, .. } in sending {
            self.complete(waiter, -errno, Vec::new());
        }
        if let Some(waiter) = connecting {
            self.complete(waiter, -errno, Vec::new());
        }
        self.tell_receiver(fd);
        self.forget_if_over(fd);
    }

    /// Lets time pass to the next event, and has it happen.
    pub(crate) fn step(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        while let Some(Reverse((at, number))) = self.events.peek().copied()
            && at <= now
        {
            self.events.pop();
            let event = self.waiting.remove(&number).expect("scheduled with its number");
            self.record(&[at.0, number]);
            match event {
                Event::Syn { from, since, again } => self.on_syn(from, since, again),
                Event::SynAck { to, from } => self.on_syn_ack(to, from),
                Event::Arrives { from } => self.on_arrival(from),
                Event::Acknowledged { to, from, bytes, since } => {
                    self.on_acknowledged(to, from, bytes, since);
                }
                Event::Room { to, from } => {
                    let (there, here) = (self.machine_of(from), self.machine_of(to));
                    if self.is_lost(there, here) {
                        // A full window is asked for again.
                        self.schedule(now + RESEND, Event::Room { to, from });
                    } else {
                        self.pump(to);
                    }
                }
                Event::Probe { from } => {
                    if let Some(stream) = self.stream(from) {
                        stream.probes = false;
                        self.pump(from);
                    }
                }
                Event::Reset { to, from, answers } => {
                    let here = self.machine_of(to);
                    match (self.is_lost(from, here), answers) {
                        (false, _) => self.break_off(to, libc::ECONNRESET),
                        (true, true) => {
                            self.schedule(now + RESEND, Event::Reset { to, from, answers });
                        }
                        (true, false) => {}
                    }
                }
            }
        }
    }

    /// Keeps the clock of the network with that of the world.
    pub(crate) fn set_now(&mut self, now: Nanos) {
        self.now = self.now.max(now);
    }

    fn on_syn(&mut self, from: Fd, since: Nanos, again: Duration) {
        let here = self.machine_of(from);
        let Some(remote) = self.stream(from).filter(|s| s.connecting.is_some()).map(|s| s.remote)
        else {
            return;
        };
        let Some(to) = self.machine_at(here, remote.ip()) else { return };
        let is_lost = self.is_lost(here, to) || self.is_lost(to, here);
        let listens = |end: &End| match &end.kind {
            Kind::Listener(listening) => {
                let ip = listening.address.ip();
                end.machine == to
                    && listening.address.port() == remote.port()
                    && (ip == remote.ip() || ip.is_unspecified())
                    && !listening.is_shut
            }
            _ => false,
        };
        let found: Vec<usize> = (0..self.ends.len()).filter(|n| listens(&self.ends[*n])).collect();
        if !is_lost && found.is_empty() {
            let at = self.arrival(to, here, 0);
            return self.schedule(at, Event::SynAck { to: from, from: None });
        }
        let chosen =
            if found.is_empty() { 0 } else { self.random.below(found.len() as u64) as usize };
        let listener = found.get(chosen).map(|number| FIRST_FD + *number as Fd);
        let is_full = match listener.map(|fd| self.kind(fd)) {
            Some(Kind::Listener(listening)) => listening.backlog.len() >= BACKLOG,
            _ => true,
        };
        if is_lost || is_full {
            if self.now >= since + GIVE_UP {
                return self.break_off(from, libc::ETIMEDOUT);
            }
            return self.schedule(self.now + again, Event::Syn { from, since, again: again * 2 });
        }
        let local = self.stream(from).map_or(remote, |stream| stream.local);
        let accepted = self.new_stream(to, remote, local);
        self.stream(accepted).expect("just made").peer = Some(from);
        if let Some(Kind::Listener(listening)) = listener.map(|fd| self.kind(fd)) {
            match listening.accepts.pop_front() {
                Some(waiter) => self.complete(waiter, accepted, Vec::new()),
                None => listening.backlog.push_back(accepted),
            }
        }
        let at = self.arrival(to, here, 0);
        self.schedule(at, Event::SynAck { to: from, from: Some(accepted) });
    }

    fn on_syn_ack(&mut self, to: Fd, from: Option<Fd>) {
        let here = self.machine_of(to);
        let connecting = self.stream(to).and_then(|stream| stream.connecting.take());
        match (connecting, from) {
            (Some(waiter), Some(from)) => {
                self.stream(to).expect("it connects").peer = Some(from);
                self.complete(waiter, 0, Vec::new());
            }
            (Some(waiter), None) => {
                self.lost += 1;
                self.complete(waiter, -libc::ECONNREFUSED, Vec::new());
            }
            // Whoever wanted it is gone.
            (None, Some(from)) => {
                let at = self.arrival(here, self.machine_of(from), 0);
                self.schedule(at, Event::Reset { to: from, from: here, answers: false });
            }
            (None, None) => {}
        }
    }

    fn on_arrival(&mut self, from: Fd) {
        let now = self.now;
        let here = self.machine_of(from);
        let Some(stream) = self.stream(from) else { return };
        let Some(peer) = stream.peer else { return };
        let there = self.machine_of(peer);
        let is_lost = self.is_lost(here, there);
        let stream = self.stream(from).expect("looked at above");
        if is_lost {
            let (since, again) = stream.stuck.unwrap_or((now, RESEND));
            if now >= since + GIVE_UP {
                return self.break_off(from, libc::ETIMEDOUT);
            }
            stream.stuck = Some((since, (again * 2).min(RESEND_MAX)));
            return self.schedule(now + again, Event::Arrives { from });
        }
        stream.stuck = None;
        let Some((_, parcel)) = stream.parcels.pop_front() else { return };
        if let Some((at, _)) = stream.parcels.front() {
            let at = (*at).max(now);
            self.schedule(at, Event::Arrives { from });
        }
        let bytes = match &parcel {
            Parcel::Data(bytes) => bytes.len(),
            Parcel::Fin => 0,
        };
        self.record(&[peer as u64, bytes as u64]);
        let is_known = match self.stream(peer) {
            Some(other) if other.broken.is_none() && !(other.is_closed && bytes > 0) => {
                match parcel {
                    Parcel::Data(bytes) if other.is_shut => drop(bytes),
                    Parcel::Data(bytes) => other.received.extend(bytes),
                    Parcel::Fin => other.fin_received = true,
                }
                true
            }
            _ => false,
        };
        let at = self.arrival(there, here, 0);
        if is_known {
            self.schedule(at, Event::Acknowledged { to: from, from: peer, bytes, since: now });
            self.tell_receiver(peer);
        } else {
            // A machine that knows of no such connection, or has closed it, says so.
            self.schedule(at, Event::Reset { to: from, from: there, answers: true });
        }
    }

    fn on_acknowledged(&mut self, to: Fd, from: Fd, bytes: usize, since: Nanos) {
        let now = self.now;
        let (there, here) = (self.machine_of(from), self.machine_of(to));
        if self.is_lost(there, here) {
            if now >= since + GIVE_UP {
                return self.break_off(to, libc::ETIMEDOUT);
            }
            return self.schedule(now + RESEND, Event::Acknowledged { to, from, bytes, since });
        }
        let Some(stream) = self.stream(to) else { return };
        stream.unacknowledged = stream.unacknowledged.saturating_sub(bytes);
        self.pump(to);
        self.forget_if_over(to);
    }
}
