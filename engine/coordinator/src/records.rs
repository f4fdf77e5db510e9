//! The records of `__consumer_offsets`, in Kafka's format (its OffsetCommit and GroupMetadata keys
//! and values): written at value version 3, read at all versions up to it.

use wire::WireError;
use wire::primitives::{Reader, put_count, put_string};

const OFFSET_KEY_VERSION: i16 = 1;
const GROUP_KEY_VERSION: i16 = 2;
const VALUE_VERSION: i16 = 3;

/// A record to append; no value deletes its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// What it is about.
    pub key: Vec<u8>,
    /// What is so now.
    pub value: Option<Vec<u8>>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommitValue {
    /// Where the group goes on.
    pub offset: i64,
    /// The leader epoch of the record before it, -1 if unknown.
    pub leader_epoch: i32,
    /// The committer's own note.
    pub metadata: String,
    /// When, in milliseconds since the Unix epoch.
    pub commit_timestamp: i64,
    /// When it goes, if its committer said so (before KIP-211), else -1.
    pub expire_timestamp: i64,
}

/// A member as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) struct StoredMember {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    pub(crate) subscription: Vec<u8>,
    pub(crate) assignment: Vec<u8>,
}

/// A group as it is stored, once it is stable or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoredGroup {
    pub(crate) protocol_type: String,
    pub(crate) generation: i32,
    pub(crate) protocol: Option<String>,
    pub(crate) leader: Option<String>,
    pub(crate) state_timestamp: i64,
    pub(crate) members: Vec<StoredMember>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StoredRecord {
    Offset {
        group: String,
        topic: String,
        partition: i32,
        value: Option<OffsetCommitValue>,
    },
    Group {
        group: String,
        value: Option<StoredGroup>,
    },
    /// A kind of key that this version does not know: newer software wrote it.
    Unknown {
        key_version: i16,
    },
}

fn offset_key(group: &str, topic: &str, partition: i32) -> Vec<u8> {
    let mut key = OFFSET_KEY_VERSION.to_be_bytes().to_vec();
    put_string(&mut key, Some(group), false);
    put_string(&mut key, Some(topic), false);
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

fn group_key(group: &str) -> Vec<u8> {
    let mut key = GROUP_KEY_VERSION.to_be_bytes().to_vec();
    put_string(&mut key, Some(group), false);
    key
}

/// The record of a committed offset, or of its end.
pub(crate) fn offset_record(
    group: &str,
    topic: &str,
    partition: i32,
    value: Option<&OffsetCommitValue>,
) -> LogRecord {
    let value = value.map(|value| {
        // Only version 1 has room for the committer's own end.
        let version = if value.expire_timestamp >= 0 { 1 } else { VALUE_VERSION };
        let mut out = version.to_be_bytes().to_vec();
        out.extend_from_slice(&value.offset.to_be_bytes());
        if version == VALUE_VERSION {
            out.extend_from_slice(&value.leader_epoch.to_be_bytes());
        }
        put_string(&mut out, Some(&value.metadata), false);
        out.extend_from_slice(&value.commit_timestamp.to_be_bytes());
        if version == 1 {
            out.extend_from_slice(&value.expire_timestamp.to_be_bytes());
        }
        out
    });
    LogRecord { key: offset_key(group, topic, partition), value }
}

/// The record of a group, or of its end.
pub(crate) fn group_record(group: &str, value: Option<Vec<u8>>) -> LogRecord {
    LogRecord { key: group_key(group), value }
}

/// A group's value.
pub(crate) fn group_value(group: &StoredGroup) -> Vec<u8> {
    let mut out = VALUE_VERSION.to_be_bytes().to_vec();
    put_string(&mut out, Some(&group.protocol_type), false);
    out.extend_from_slice(&group.generation.to_be_bytes());
    put_string(&mut out, group.protocol.as_deref(), false);
    put_string(&mut out, group.leader.as_deref(), false);
    out.extend_from_slice(&group.state_timestamp.to_be_bytes());
    put_count(&mut out, Some(group.members.len()), false);
    for member in &group.members {
        put_string(&mut out, Some(&member.member_id), false);
        put_string(&mut out, member.instance_id.as_deref(), false);
        put_string(&mut out, Some(&member.client_id), false);
        put_string(&mut out, Some(&member.client_host), false);
        out.extend_from_slice(&member.rebalance_timeout_ms.to_be_bytes());
        out.extend_from_slice(&member.session_timeout_ms.to_be_bytes());
        for bytes in [&member.subscription, &member.assignment] {
            put_count(&mut out, Some(bytes.len()), false);
            out.extend_from_slice(bytes);
        }
    }
    out
}

/// Reads a record of `__consumer_offsets`.
///
/// # Errors
/// Bytes that are no such record.
pub fn read_record(key: &[u8], value: Option<&[u8]>) -> Result<StoredRecord, WireError> {
    let mut key = Reader::new(key);
    let text = |reader: &mut Reader<'_>| -> Result<String, WireError> {
        Ok(reader.string(false)?.ok_or(WireError::Null)?.to_owned())
    };
    match key.i16()? {
        0 | OFFSET_KEY_VERSION => Ok(StoredRecord::Offset {
            group: text(&mut key)?,
            topic: text(&mut key)?,
            partition: key.i32()?,
            value: value.map(read_offset).transpose()?,
        }),
        GROUP_KEY_VERSION => {
            let group = text(&mut key)?;
            Ok(StoredRecord::Group { group, value: value.map(read_group).transpose()? })
        }
        key_version => Ok(StoredRecord::Unknown { key_version }),
    }
}

fn read_offset(value: &[u8]) -> Result<OffsetCommitValue, WireError> {
    let mut reader = Reader::new(value);
    let version = reader.i16()?;
    if !(0..=VALUE_VERSION).contains(&version) {
        return Err(WireError::Count);
    }
    Ok(OffsetCommitValue {
        offset: reader.i64()?,
        leader_epoch: if version == 3 { reader.i32()? } else { -1 },
        metadata: reader.string(false)?.unwrap_or_default().to_owned(),
        commit_timestamp: reader.i64()?,
        expire_timestamp: if version == 1 { reader.i64()? } else { -1 },
    })
}

fn read_group(value: &[u8]) -> Result<StoredGroup, WireError> {
    let mut reader = Reader::new(value);
    let version = reader.i16()?;
    if !(0..=VALUE_VERSION).contains(&version) {
        return Err(WireError::Count);
    }
    let mut group = StoredGroup {
        protocol_type: reader.string(false)?.unwrap_or_default().to_owned(),
        generation: reader.i32()?,
        protocol: reader.string(false)?.map(str::to_owned),
        leader: reader.string(false)?.map(str::to_owned),
        state_timestamp: if version >= 2 { reader.i64()? } else { -1 },
        members: Vec::new(),
    };
    for _ in 0..reader.count(false)?.unwrap_or(0) {
        let member_id = reader.string(false)?.ok_or(WireError::Null)?.to_owned();
        let instance_id =
            if version >= 3 { reader.string(false)?.map(str::to_owned) } else { None };
        let client_id = reader.string(false)?.unwrap_or_default().to_owned();
        let client_host = reader.string(false)?.unwrap_or_default().to_owned();
        let rebalance_timeout = if version >= 1 { Some(reader.i32()?) } else { None };
        let session_timeout_ms = reader.i32()?;
        group.members.push(StoredMember {
            member_id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: rebalance_timeout.unwrap_or(session_timeout_ms),
            session_timeout_ms,
            subscription: reader.byte_string(false)?.unwrap_or_default().to_vec(),
            assignment: reader.byte_string(false)?.unwrap_or_default().to_vec(),
        });
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> StoredGroup {
        let member = StoredMember {
            member_id: "m-1".to_owned(),
            instance_id: Some("i".to_owned()),
            client_id: "c".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            rebalance_timeout_ms: 300_000,
            session_timeout_ms: 45_000,
            subscription: vec![0, 1, 2],
            assignment: vec![3, 4],
        };
        StoredGroup {
            protocol_type: "consumer".to_owned(),
            generation: 7,
            protocol: Some("range".to_owned()),
            leader: Some("m-1".to_owned()),
            state_timestamp: 1_700_000_000_000,
            members: vec![member, StoredMember::default()],
        }
    }

    #[test]
    fn records_read_back_as_written() {
        let mut value = OffsetCommitValue {
            offset: 42,
            leader_epoch: 3,
            metadata: "näh".to_owned(),
            commit_timestamp: 1_700_000_000_000,
            expire_timestamp: -1,
        };
        let record = offset_record("g", "t", 5, Some(&value));
        // Byte for byte what Kafka writes: any lag tool reads it.
        assert_eq!(record.key, b"\0\x01\0\x01g\0\x01t\0\0\0\x05");
        let expected =
            b"\0\x03\0\0\0\0\0\0\0\x2a\0\0\0\x03\0\x04n\xc3\xa4h\0\0\x01\x8b\xcf\xe5\x68\0";
        assert_eq!(record.value.as_deref().unwrap(), expected);
        let offset = |value| StoredRecord::Offset {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            partition: 5,
            value,
        };
        let read = read_record(&record.key, record.value.as_deref()).unwrap();
        assert_eq!(read, offset(Some(value.clone())));
        assert_eq!(read_record(&record.key, None).unwrap(), offset(None));
        (value.expire_timestamp, value.leader_epoch) = (9, -1);
        let record = offset_record("g", "t", 5, Some(&value));
        let read = read_record(&record.key, record.value.as_deref()).unwrap();
        assert_eq!(read, offset(Some(value)));

        let record = group_record("g", Some(group_value(&group())));
        let stored = |value| StoredRecord::Group { group: "g".to_owned(), value };
        let read = read_record(&record.key, record.value.as_deref()).unwrap();
        assert_eq!(read, stored(Some(group())));
        assert_eq!(read_record(&record.key, None).unwrap(), stored(None));
        let newer = StoredRecord::Unknown { key_version: 9 };
        assert_eq!(read_record(b"\0\x09xyz", None).unwrap(), newer);
    }

    #[test]
    fn damaged_records_are_refused_without_panic() {
        let record = group_record("g", Some(group_value(&group())));
        let value = record.value.unwrap();
        for cut in 0..value.len() {
            assert!(read_record(&record.key, Some(&value[..cut])).is_err(), "cut at {cut}");
            let mut damaged = value.clone();
            damaged[cut] ^= 0x80;
            let _ = read_record(&record.key, Some(&damaged));
        }
        assert!(read_record(b"", None).is_err());
    }
}
