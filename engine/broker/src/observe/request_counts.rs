//! How many requests of each API a shard has begun: written by its shard alone and readable by all.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use wire::ApiKey;
use wire::api_key::APIS;

/// Keys that are served are below.
const KEYS: usize = 128;

/// The requests of one shard, by API key.
pub(crate) struct RequestCounts([AtomicU64; KEYS]);

impl Default for RequestCounts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; KEYS])
    }
}

impl RequestCounts {
    /// One more has begun.
    pub(crate) fn begun(&self, key: ApiKey) {
        let count = &self.0[key as usize];
        // Only its shard writes: no locked instruction is needed.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// All shards' requests together, as a Prometheus counter.
pub(crate) fn put_counts(shards: &[RequestCounts], out: &mut String) {
    out.push_str(
        "# HELP weir_requests_total Requests begun, by API.\n# TYPE weir_requests_total counter\n",
    );
    for api in APIS {
        let of = |shard: &RequestCounts| shard.0[api.key as usize].load(Ordering::Relaxed);
        let count: u64 = shards.iter().map(of).sum();
        let _ = writeln!(out, "weir_requests_total{{api=\"{}\"}} {count}", api.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_has_a_count_and_shards_add_up() {
        let shards = [RequestCounts::default(), RequestCounts::default()];
        for api in APIS {
            shards[0].begun(api.key);
        }
        shards[1].begun(ApiKey::Fetch);
        let mut out = String::new();
        put_counts(&shards, &mut out);
        assert!(out.contains("weir_requests_total{api=\"Fetch\"} 2\n"), "{out}");
        assert_eq!(out.matches("\"} 1\n").count(), APIS.len() - 1);
    }
}
