//! The records of `__transaction_state`, in Kafka's format (TransactionLogKey 0, TransactionLogValue 0
//! and 1): written at value version 1, whose tagged fields hold what KIP-890 added.

use crate::records::LogRecord;
use crate::transaction::{Transaction, TransactionState};
use model::varint::put_unsigned;
use model::{Producer, ProducerId};
use std::collections::BTreeSet;
use wire::WireError;
use wire::primitives::{Reader, put_count, put_string};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 1;
const TAG_PREVIOUS_PRODUCER_ID: u32 = 0;
const TAG_NEXT_PRODUCER_ID: u32 = 1;
const TAG_CLIENT_VERSION: u32 = 2;

/// The record of a transactional id, or of its end.
pub(crate) fn transaction_record(id: &str, transaction: Option<&Transaction>) -> LogRecord {
    let mut key = KEY_VERSION.to_be_bytes().to_vec();
    put_string(&mut key, Some(id), false);
    LogRecord { key, value: transaction.map(value_of) }
}

fn value_of(transaction: &Transaction) -> Vec<u8> {
    let mut out = VALUE_VERSION.to_be_bytes().to_vec();
    out.extend_from_slice(&transaction.producer.id.0.to_be_bytes());
    out.extend_from_slice(&transaction.producer.epoch.to_be_bytes());
    out.extend_from_slice(&transaction.timeout_ms.to_be_bytes());
    out.push(transaction.state.code() as u8);
    if transaction.state == TransactionState::Empty {
        put_count(&mut out, None, true);
    } else {
        let topics = transaction.by_topic();
        put_count(&mut out, Some(topics.len()), true);
        for (topic, partitions) in topics {
            put_string(&mut out, Some(topic), true);
            put_count(&mut out, Some(partitions.len()), true);
            partitions.iter().for_each(|index| out.extend_from_slice(&index.to_be_bytes()));
            put_unsigned(&mut out, 0);
        }
    }
    out.extend_from_slice(&transaction.updated_ms.to_be_bytes());
    out.extend_from_slice(&transaction.started_ms.to_be_bytes());
    let mut tags: Vec<(u32, Vec<u8>)> = Vec::new();
    let ids = [
        (TAG_PREVIOUS_PRODUCER_ID, transaction.previous_id),
        (TAG_NEXT_PRODUCER_ID, transaction.next_id),
    ];
    for (tag, id) in ids {
        tags.extend(id.map(|id| (tag, id.0.to_be_bytes().to_vec())));
    }
    if transaction.client_version != 0 {
        tags.push((TAG_CLIENT_VERSION, transaction.client_version.to_be_bytes().to_vec()));
    }
    put_unsigned(&mut out, tags.len() as u64);
    for (tag, bytes) in tags {
        put_unsigned(&mut out, u64::from(tag));
        put_unsigned(&mut out, bytes.len() as u64);
        out.extend_from_slice(&bytes);
    }
    out
}

/// Reads a record of `__transaction_state`; `None` is a kind of key that newer software wrote.
///
/// # Errors
/// Bytes that are no such record.
#[allow(clippy::type_complexity)]
pub(crate) fn read_transaction(
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<Option<(String, Option<Transaction>)>, WireError> {
    let mut key = Reader::new(key);
    if key.i16()? != KEY_VERSION {
        return Ok(None);
    }
    let id = key.string(false)?.ok_or(WireError::Null)?.to_owned();
    Ok(Some((id, value.map(read_value).transpose()?)))
}

fn read_value(value: &[u8]) -> Result<Transaction, WireError> {
    let mut reader = Reader::new(value);
    let version = reader.i16()?;
    if !(0..=VALUE_VERSION).contains(&version) {
        return Err(WireError::Count);
    }
    let flexible = version >= 1;
    let producer = Producer { id: ProducerId(reader.i64()?), epoch: reader.i16()? };
    let timeout_ms = reader.i32()?;
    let state = TransactionState::from_code(reader.i8()?).ok_or(WireError::Count)?;
    let mut partitions = BTreeSet::new();
    for _ in 0..reader.count(flexible)?.unwrap_or(0) {
        let topic = reader.string(flexible)?.ok_or(WireError::Null)?.to_owned();
        for _ in 0..reader.count(flexible)?.unwrap_or(0) {
            partitions.insert((topic.clone(), reader.i32()?));
        }
        reader.skip_tags(flexible)?;
    }
    let mut transaction = Transaction::new(producer, timeout_ms, 0);
    (transaction.state, transaction.partitions) = (state, partitions);
    transaction.updated_ms = reader.i64()?;
    transaction.started_ms = reader.i64()?;
    if flexible {
        for _ in 0..reader.unsigned()? {
            let tag = reader.unsigned()?;
            let bytes = reader.unsigned()? as usize;
            let mut field = Reader::new(reader.take(bytes)?);
            let id = |id: i64| (id >= 0).then_some(ProducerId(id));
            match tag {
                TAG_PREVIOUS_PRODUCER_ID => transaction.previous_id = id(field.i64()?),
                TAG_NEXT_PRODUCER_ID => transaction.next_id = id(field.i64()?),
                TAG_CLIENT_VERSION => transaction.client_version = field.i16()?,
                _ => {}
            }
        }
    }
    Ok(transaction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction() -> Transaction {
        let producer = Producer { id: ProducerId(7), epoch: 3 };
        let mut transaction = Transaction::new(producer, 60_000, 1_700_000_000_000);
        transaction.state = TransactionState::Ongoing;
        transaction.partitions =
            [("a".to_owned(), 0), ("a".to_owned(), 2), ("b".to_owned(), 1)].into();
        transaction.started_ms = 1_700_000_000_001;
        transaction
    }

    #[test]
    fn records_read_back_as_written() {
        let mut one = transaction();
        let record = transaction_record("t", Some(&one));
        // Byte for byte as Kafka's schema says it.
        assert_eq!(record.key, b"\0\0\0\x01t");
        let expected = b"\0\x01\0\0\0\0\0\0\0\x07\0\x03\0\0\xea\x60\x01\x03\
            \x02a\x03\0\0\0\0\0\0\0\x02\0\x02b\x02\0\0\0\x01\0\
            \0\0\x01\x8b\xcf\xe5\x68\0\0\0\x01\x8b\xcf\xe5\x68\x01\0";
        assert_eq!(record.value.as_deref().unwrap(), expected);
        let read = |record: &LogRecord| {
            read_transaction(&record.key, record.value.as_deref()).unwrap().unwrap()
        };
        assert_eq!(read(&record), ("t".to_owned(), Some(one.clone())));
        one.previous_id = Some(ProducerId(5));
        one.next_id = Some(ProducerId(9));
        one.client_version = 2;
        assert_eq!(read(&transaction_record("t", Some(&one))).1, Some(one));
        assert_eq!(read(&transaction_record("t", None)), ("t".to_owned(), None));
        let empty = Transaction::new(Producer { id: ProducerId(1), epoch: 0 }, 1, 2);
        assert_eq!(read(&transaction_record("e", Some(&empty))).1, Some(empty));
        assert_eq!(read_transaction(b"\0\x09xyz", None).unwrap(), None);
    }

    #[test]
    fn damaged_records_are_refused_without_panic() {
        let record = transaction_record("t", Some(&transaction()));
        let value = record.value.unwrap();
        for cut in 0..value.len() {
            assert!(read_transaction(&record.key, Some(&value[..cut])).is_err(), "cut at {cut}");
            let mut damaged = value.clone();
            damaged[cut] ^= 0x80;
            let _ = read_transaction(&record.key, Some(&damaged));
        }
        assert!(read_transaction(b"", None).is_err());
    }
}
