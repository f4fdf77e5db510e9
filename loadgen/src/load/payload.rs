//! What records are filled with: bytes that shrink as much as asked, and never the same ones twice
//! within 64 MiB.

use super::{kept_as_text, named};
use runtime::random::Random;
use std::str::FromStr;
use std::sync::Arc;

/// Far more than any codec's window sees of a batch.
const POOL_BYTES: usize = 64 * 1024 * 1024;
/// Random and repeated bytes take turns within so many.
const BLOCK_BYTES: usize = 128;

const WORDS: &str = "order user account payment created updated shipped cancelled pending total \
    price item quantity customer address city street country email phone session click page view \
    search result error warning info service request response latency timeout retry queue broker \
    partition offset topic record batch consumer producer group member leader follower replica \
    segment index flush commit abort begin end start stop true false null none some every other";

/// Where payload bytes come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PayloadKind {
    Random,
    /// English words, which shrink about as text does.
    Text,
    File(String),
}

impl FromStr for PayloadKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match named(text) {
            ("random", "") => Ok(Self::Random),
            ("text", "") => Ok(Self::Text),
            ("file", path) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            _ => Err("expected random, text or file:PATH".to_owned()),
        }
    }
}

impl std::fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Text => f.write_str("text"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}
kept_as_text!(PayloadKind);

/// The bytes that all producers of a run walk through, each from another place.
#[derive(Debug)]
pub(crate) struct Payloads {
    pool: Vec<u8>,
    bytes: usize,
}

impl Payloads {
    /// `record_bytes` is the largest record; `compressibility` the share of bytes that repeat.
    pub(crate) fn new(
        kind: &PayloadKind,
        compressibility: f64,
        seed: u64,
        record_bytes: usize,
    ) -> Result<Arc<Self>, String> {
        let mut random = Random::new(seed);
        let mut pool = vec![0; POOL_BYTES];
        match kind {
            PayloadKind::Random => {
                random.fill(&mut pool);
                let repeated = (BLOCK_BYTES as f64 * compressibility).round() as usize;
                let pattern: Vec<u8> = pool[..repeated].to_vec();
                for block in pool.chunks_exact_mut(BLOCK_BYTES) {
                    block[BLOCK_BYTES - repeated..].copy_from_slice(&pattern);
                }
            }
            PayloadKind::Text => {
                let words: Vec<&[u8]> = WORDS.split_whitespace().map(str::as_bytes).collect();
                let mut at = 0;
                while at < pool.len() {
                    let word = words[random.below(words.len() as u64) as usize];
                    let take = word.len().min(pool.len() - at);
                    pool[at..at + take].copy_from_slice(&word[..take]);
                    if let Some(space) = pool.get_mut(at + take) {
                        *space = b' ';
                    }
                    at += take + 1;
                }
            }
            PayloadKind::File(path) => {
                pool = std::fs::read(path).map_err(|error| format!("--payload {path}: {error}"))?;
                if pool.is_empty() {
                    return Err(format!("--payload {path}: the file is empty"));
                }
            }
        }
        let bytes = pool.len();
        // The end goes on with the beginning, so that a record is always one slice.
        while pool.len() < bytes + record_bytes {
            let take = (bytes + record_bytes - pool.len()).min(bytes);
            pool.extend_from_within(..take);
        }
        Ok(Arc::new(Self { pool, bytes }))
    }

    /// Where producer `number` of `producers` begins to read.
    pub(crate) fn start_of(&self, number: usize, producers: usize) -> usize {
        (self.bytes as u128 * number as u128 / producers.max(1) as u128) as usize
    }

    /// The next `len` bytes from `cursor`, which moves on. Going in order suits the cache.
    pub(crate) fn take(&self, cursor: &mut usize, len: usize) -> &[u8] {
        let from = *cursor;
        *cursor = (from + len) % self.bytes;
        &self.pool[from..from + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Compression;

    fn ratio(kind: &str, compressibility: f64) -> f64 {
        let payloads = Payloads::new(&kind.parse().unwrap(), compressibility, 1, 1024).unwrap();
        let mut cursor = payloads.start_of(1, 3);
        let mut out = Vec::new();
        let bytes: Vec<u8> =
            (0..64).flat_map(|_| payloads.take(&mut cursor, 1000).to_vec()).collect();
        Compression::Zstd.compress(&bytes, &mut out);
        out.len() as f64 / bytes.len() as f64
    }

    #[test]
    fn payloads_shrink_as_much_as_was_asked() {
        assert!(ratio("random", 0.0) > 0.99);
        for asked in [0.25, 0.5, 0.75] {
            let found = ratio("random", asked);
            assert!((found - (1.0 - asked)).abs() < 0.06, "{asked}: {found}");
        }
        assert!((0.1..0.5).contains(&ratio("text", 0.0)));
    }

    #[test]
    fn the_end_goes_on_with_the_beginning() {
        let dir = runtime::fs::TemporaryDir::new(&std::env::temp_dir(), "payload").unwrap();
        let path = dir.path().join("corpus");
        std::fs::write(&path, b"abcde").unwrap();
        let kind = PayloadKind::File(path.display().to_string());
        let payloads = Payloads::new(&kind, 0.0, 1, 12).unwrap();
        let mut cursor = 0;
        assert_eq!(payloads.take(&mut cursor, 12), b"abcdeabcdeab");
        assert_eq!(payloads.take(&mut cursor, 4), b"cdea");
        let gone = PayloadKind::File("/no/such".to_owned());
        assert!(Payloads::new(&gone, 0.0, 1, 1).unwrap_err().contains("/no/such"));
    }
}
