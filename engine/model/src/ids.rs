//! Names and numbers of topics, partitions and brokers.

use crate::limits::TOPIC_NAME_BYTES_MAX;
use std::fmt;
use std::sync::Arc;

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Identifies one incarnation of a topic for ever (KIP-516); 16 bytes, never reused.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// "No id": what old versions and unknown topics carry.
    pub const ZERO: Self = Self([0; 16]);

    /// A version-4 UUID made of 16 random bytes.
    #[must_use]
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Reads what `Display` wrote; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 22 {
            return None;
        }
        let mut bits: u128 = 0;
        for (index, byte) in text.bytes().enumerate() {
            let value = BASE64_URL.iter().position(|&c| c == byte)? as u128;
            bits = if index == 21 { bits << 2 | value >> 4 } else { bits << 6 | value };
        }
        Some(Self(bits.to_be_bytes()))
    }
}

/// 22 characters of URL-safe base64, as Kafka's tools print ids.
impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        for index in 0..22u32 {
            let value = if index == 21 { bits << 4 } else { bits >> (122 - 6 * index) } & 63;
            write!(f, "{}", BASE64_URL[value as usize] as char)?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which partition of its topic, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIndex(pub i32);

impl fmt::Display for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `broker.id` / `node.id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerId(pub i32);

impl fmt::Display for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a producer for its partitions (KIP-98): given out once, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub i64);

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A producer id and its epoch: whoever has an older epoch of the same id is a zombie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Producer {
    /// The id.
    pub id: ProducerId,
    /// The epoch, from 0.
    pub epoch: i16,
}

/// The sequence number so many records after another: after the largest number comes 0 (KIP-98).
#[must_use]
pub fn sequence_after(sequence: i32, records: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(records);
    (sum % (i64::from(i32::MAX) + 1)) as i32
}

/// One partition of one topic incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's id.
    pub topic_id: TopicId,
    /// The partition in it.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}

impl TopicPartition {
    /// Reads what `Display` wrote; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, index) = text.rsplit_once('-')?;
        let partition = PartitionIndex(index.parse().ok().filter(|index| *index >= 0)?);
        let parsed = Self { topic_id: TopicId::parse(id)?, partition };
        (parsed.to_string() == text).then_some(parsed)
    }
}

/// A topic's name, which obeys Kafka's rules; copies share it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// `None` if Kafka would have no topic of this name.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        topic_name_is_valid(name).then(|| Self(name.into()))
    }
}

/// The id of a consumer group, as its members say it: any text.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(Arc<str>);

impl GroupId {
    /// The group of this id.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }
}

macro_rules! reads_as_text {
    ($($name:ident)*) => {$(
        impl std::ops::Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                *self.0 == *other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                *self.0 == **other
            }
        }
    )*};
}

reads_as_text!(TopicName GroupId);

/// Whether `name` is 1 to 249 of `[a-zA-Z0-9._-]` and neither "." nor "..".
#[must_use]
pub fn topic_name_is_valid(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=TOPIC_NAME_BYTES_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_id_text_round_trips() {
        let mut state = 1u128;
        for _ in 0..200 {
            state = state.wrapping_mul(0xda94_2042_e4dd_58b5_9c3e_8d1f_0b27_e4c5).wrapping_add(7);
            let id = TopicId::from_random(state.to_be_bytes());
            assert_eq!(TopicId::parse(&id.to_string()), Some(id));
        }
        assert_eq!(TopicId::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(TopicId::parse("not base64 of an id!!!"), None);
        let partition =
            TopicPartition { topic_id: TopicId([251; 16]), partition: PartitionIndex(7) };
        assert_eq!(TopicPartition::parse(&partition.to_string()), Some(partition));
        assert_eq!(TopicPartition::parse(&format!("{}-07", partition.topic_id)), None);
    }

    #[test]
    fn topic_names_follow_kafkas_rules() {
        assert!(topic_name_is_valid("a.b_c-9"));
        for bad in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
            assert!(!topic_name_is_valid(bad), "{bad:?}");
        }
    }
}
