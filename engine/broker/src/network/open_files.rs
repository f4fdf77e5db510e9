//! How the process divides the files it may have open between logs and connections.
//!
//! A log that cannot open its file has a disk that failed; a client that cannot connect waits. So the logs' share
//! is kept from the connections, however many come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// For signals, metrics, the catalog, and what is only open for a moment.
const RESERVED: usize = 64;
/// For each shard's ring and mailbox, and for each of its journals and what is open beside the logs.
const RESERVED_OF_SHARD: usize = 16;
/// With fewer there is no point in serving.
const SHARE_MIN: usize = 16;
/// Below this a start says that the limit is low.
pub(crate) const LIMIT_IS_LOW: u64 = 4096;

/// What may be open, and the connections that are.
pub(crate) struct OpenFiles {
    /// By the logs of one shard in one directory.
    pub(crate) of_log_dir: usize,
    pub(crate) connections_max: usize,
    connections: AtomicUsize,
}

/// One connection's place; given back when dropped.
pub(crate) struct ConnectionPlace(Arc<OpenFiles>);

/// Neither logs nor connections.
fn reserved(log_dirs: usize, shards: usize) -> usize {
    RESERVED + RESERVED_OF_SHARD * shards * (1 + log_dirs)
}

impl OpenFiles {
    /// Half of `limit` is for the logs, most of the rest for at most `connections_max` connections.
    pub(crate) fn divide(
        limit: u64,
        log_dirs: usize,
        shards: usize,
        connections_max: usize,
    ) -> Arc<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let rest = (limit - limit / 2).saturating_sub(reserved(log_dirs, shards));
        Arc::new(Self {
            of_log_dir: (limit / 2 / (log_dirs * shards)).max(SHARE_MIN),
            connections_max: connections_max.min(rest.max(SHARE_MIN)),
            connections: AtomicUsize::new(0),
        })
    }

    /// The connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A place for one more connection, if there is one.
    pub(crate) fn connect(self: &Arc<Self>) -> Option<ConnectionPlace> {
        let more = |open: usize| (open < self.connections_max).then_some(open + 1);
        let counted = self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.ok().map(|_| ConnectionPlace(Arc::clone(self)))
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_and_connections_never_want_more_than_the_limit() {
        for (limit, log_dirs, shards) in [(1024, 1, 2), (20_000, 3, 8), (1 << 20, 1, 1)] {
            let files = OpenFiles::divide(limit, log_dirs, shards, usize::MAX);
            let wanted = files.of_log_dir * log_dirs * shards + files.connections_max;
            let wanted = wanted + reserved(log_dirs, shards);
            assert!(wanted as u64 <= limit, "{wanted} of {limit}");
            assert!(wanted as u64 > limit * 9 / 10, "{wanted} of {limit}: some are never used");
        }
        assert_eq!(OpenFiles::divide(u64::MAX, 1, 1, 50).connections_max, 50);
        assert_eq!(OpenFiles::divide(10, 1, 4, 50).of_log_dir, SHARE_MIN);
    }

    #[test]
    fn a_place_is_free_again_once_its_connection_is_gone() {
        let files = OpenFiles::divide(1 << 20, 1, 1, 2);
        let (one, two) = (files.connect(), files.connect());
        assert!(one.is_some() && two.is_some() && files.connect().is_none());
        drop(one);
        let three = files.connect();
        assert!(three.is_some() && files.connect().is_none());
    }
}
