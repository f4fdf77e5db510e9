//! What a step is told besides its request: the time, who asks, and by what name its answer may come later.

/// What time it is, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Milliseconds of a clock that never jumps: for timeouts.
    pub ms: u64,
    /// Milliseconds since the Unix epoch: for what is stored.
    pub unix_ms: i64,
}

/// Names a request whose answer may come later. Chosen by who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The client id in its request's header.
    pub id: String,
    /// Its address, as Kafka shows it: `/127.0.0.1`.
    pub host: String,
}
