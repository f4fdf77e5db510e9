//! What every record's value begins with: whose it is, its number, and when it was planned.

use model::crc32c;
use runtime::clock::Nanos;

/// Bytes of the envelope.
pub(crate) const ENVELOPE_BYTES: usize = 40;
const MAGIC: &[u8; 4] = b"WLG1";

/// One record's identity. Sequence numbers count the records of a producer in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) run: u64,
    pub(crate) producer: u32,
    pub(crate) sequence: u64,
    /// Planned send time on the machine's monotonic clock.
    pub(crate) planned: Nanos,
}

impl Envelope {
    pub(crate) fn write(&self, out: &mut [u8]) {
        let length = out.len() as u32;
        out[..4].copy_from_slice(MAGIC);
        out[4..12].copy_from_slice(&self.run.to_be_bytes());
        out[12..16].copy_from_slice(&self.producer.to_be_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        out[24..32].copy_from_slice(&self.planned.0.to_be_bytes());
        out[32..36].copy_from_slice(&length.to_be_bytes());
        let crc = checksum(out);
        out[36..40].copy_from_slice(&crc.to_be_bytes());
    }

    /// The envelope at the front of a value; `None` if it is not one, or the value was cut.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let u64_at = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_be_bytes(value[at..at + 4].try_into().expect("4 bytes"));
        if value.len() < ENVELOPE_BYTES
            || value[..4] != *MAGIC
            || u32_at(32) as usize != value.len()
        {
            return None;
        }
        Some(Self {
            run: u64_at(4),
            producer: u32_at(12),
            sequence: u64_at(16),
            planned: Nanos(u64_at(24)),
        })
    }
}

/// Over everything but the checksum itself: who, which and when, and the payload.
fn checksum(value: &[u8]) -> u32 {
    crc32c::checksum(&value[..36]) ^ crc32c::checksum(&value[ENVELOPE_BYTES..]).rotate_left(1)
}

/// Whether a value that begins with an envelope is what was written.
pub(crate) fn is_intact(value: &[u8]) -> bool {
    value[36..ENVELOPE_BYTES] == checksum(value).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_round_trips_and_a_cut_value_is_noticed() {
        let envelope = Envelope { run: 7, producer: 3, sequence: 1 << 40, planned: Nanos(99) };
        let mut value = vec![0xee; 100];
        envelope.write(&mut value);
        assert_eq!(Envelope::read(&value), Some(envelope));
        assert_eq!(Envelope::read(&value[..99]), None);
        assert_eq!(Envelope::read(b"short"), None);
        assert!(is_intact(&value));
        for at in [4, 20, 30, 37, 99] {
            let mut bent = value.clone();
            bent[at] ^= 1;
            assert!(!is_intact(&bent), "byte {at}");
        }
    }
}
