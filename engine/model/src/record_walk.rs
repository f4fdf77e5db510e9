//! Whether the records of a batch are what its header says: each one looked at, none copied.
//!
//! A client's records are walked where they enter, so that whatever is stored can be read again: by consumers, by time
//! lookups, by compaction.

use crate::BatchError;
use crate::varint::take_signed;

/// What a batch's records say that its header also does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsFound {
    /// Smallest timestamp, ms since the Unix epoch.
    pub min_timestamp: i64,
    /// Largest timestamp.
    pub max_timestamp: i64,
    /// Records without a key.
    pub without_key: usize,
}

/// A number that takes one or two bytes, as almost all do; anything else by the general way.
#[inline]
fn small(bytes: &mut &[u8]) -> Option<i64> {
    let value = match **bytes {
        [first, ..] if first < 0x80 => {
            *bytes = &bytes[1..];
            u64::from(first)
        }
        [first, second, ..] if second < 0x80 => {
            *bytes = &bytes[2..];
            u64::from(first & 0x7f) | u64::from(second) << 7
        }
        _ => return take_signed(bytes),
    };
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// Skips bytes with their length in front; -1 is null. Returns whether there are any.
#[inline]
fn skip(bytes: &mut &[u8]) -> Option<bool> {
    let length = small(bytes)?;
    if length == -1 {
        return Some(false);
    }
    *bytes = bytes.get(usize::try_from(length).ok()?..)?;
    Some(true)
}

/// Walks the records of an uncompressed body: `count` of them, one after another up to its end, with the deltas 0, 1,
/// 2 and so on, every field within its record, header keys not null.
///
/// # Errors
/// `Records`: they are not that.
pub fn walk_records(
    body: &[u8],
    count: i32,
    base_timestamp: i64,
) -> Result<RecordsFound, BatchError> {
    let (mut rest, mut without_key) = (body, 0);
    let (mut least, mut most) = (i64::MAX, i64::MIN);
    for index in 0..i64::from(count) {
        let found = walk_one(&mut rest, index).ok_or(BatchError::Records)?;
        least = least.min(found.timestamp_delta);
        most = most.max(found.timestamp_delta);
        without_key += usize::from(!found.has_key);
    }
    if !rest.is_empty() {
        return Err(BatchError::Records);
    }
    let at = |delta: i64| base_timestamp.checked_add(delta).ok_or(BatchError::Records);
    Ok(RecordsFound { min_timestamp: at(least)?, max_timestamp: at(most)?, without_key })
}

struct Walked {
    timestamp_delta: i64,
    has_key: bool,
}

#[inline]
fn walk_one(rest: &mut &[u8], index: i64) -> Option<Walked> {
    let length = usize::try_from(small(rest)?).ok()?;
    let (mut record, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    // Attributes: none are defined.
    record = record.get(1..)?;
    let timestamp_delta = small(&mut record)?;
    if small(&mut record)? != index {
        return None;
    }
    let has_key = skip(&mut record)?;
    skip(&mut record)?;
    match record {
        // Without headers, as most are.
        [0] => {}
        _ => {
            for _ in 0..usize::try_from(small(&mut record)?).ok()? {
                if !skip(&mut record)? {
                    return None;
                }
                skip(&mut record)?;
            }
            if !record.is_empty() {
                return None;
            }
        }
    }
    Some(Walked { timestamp_delta, has_key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::varint::put_signed;
    use crate::{BatchBuilder, Compression, RecordBatch};

    /// A record with every field as given, for making wrong ones.
    fn record(out: &mut Vec<u8>, time: i64, offset: i64, key: Option<&[u8]>, tail: &[u8]) {
        let mut body = vec![0];
        put_signed(&mut body, time);
        put_signed(&mut body, offset);
        match key {
            None => put_signed(&mut body, -1),
            Some(key) => {
                put_signed(&mut body, key.len() as i64);
                body.extend_from_slice(key);
            }
        }
        body.extend_from_slice(tail);
        put_signed(out, body.len() as i64);
        out.extend_from_slice(&body);
    }

    /// A value of one byte, and no headers.
    const PLAIN: &[u8] = &[2, b'v', 0];

    #[test]
    fn what_clients_write_is_what_its_header_says() {
        for count in [1, 2, 63, 64, 65, 300] {
            let mut builder = BatchBuilder::default();
            builder.begin(1_000);
            for n in 0..count {
                let key = (n % 3 > 0).then_some(&b"key"[..]);
                let headers: &[(&str, Option<&[u8]>)] = &[("h", None), ("i", Some(b"x"))];
                let headers = &headers[..n as usize % 3];
                builder.push(
                    1_000 + (n * 7919) % 100_000,
                    key,
                    Some(&vec![7; n as usize * 9]),
                    headers,
                );
            }
            let bytes = builder.finish(Compression::None);
            let (batch, _) = RecordBatch::split_first(bytes).unwrap();
            let found = walk_records(batch.body(), batch.record_count(), 1_000).unwrap();
            assert_eq!(found.max_timestamp, batch.max_timestamp());
            assert_eq!(found.min_timestamp, 1_000);
            assert_eq!(found.without_key, (0..count).filter(|n| n % 3 == 0).count());
            // Nothing that is cut, longer or counted otherwise passes.
            for len in 0..batch.body().len() {
                assert!(walk_records(&batch.body()[..len], batch.record_count(), 0).is_err());
            }
            let mut longer = batch.body().to_vec();
            longer.push(0);
            assert!(walk_records(&longer, batch.record_count(), 0).is_err());
            for wrong in [batch.record_count() - 1, batch.record_count() + 1, i32::MAX] {
                assert!(walk_records(batch.body(), wrong, 0).is_err(), "{wrong}");
            }
        }
    }

    #[test]
    fn what_no_reader_gets_past_is_refused() {
        let of = |records: &[(i64, i64, Option<&[u8]>, &[u8])]| {
            let mut body = Vec::new();
            records.iter().for_each(|(t, o, k, tail)| record(&mut body, *t, *o, *k, tail));
            walk_records(&body, records.len() as i32, 10)
        };
        let found = of(&[(5, 0, None, PLAIN), (-3, 1, Some(b"k"), PLAIN)]).unwrap();
        assert_eq!(found, RecordsFound { min_timestamp: 7, max_timestamp: 15, without_key: 1 });
        for deltas in [[0, 0], [1, 0], [0, 5], [-1, 0]] {
            let records = deltas.map(|delta| (0, delta, None, PLAIN));
            assert!(of(&records).is_err(), "{deltas:?}");
        }
        // A null header key, a negative header count, bytes behind the fields, a value beyond the record.
        let tails: [&[u8]; 5] =
            [&[2, b'v', 2, 1, 1], &[2, b'v', 1], &[2, b'v', 0, 0], &[40, b'v', 0], &[2, b'v']];
        for tail in tails {
            assert!(of(&[(0, 0, None, tail)]).is_err(), "{tail:?}");
        }
        assert!(of(&[(i64::MAX, 0, None, PLAIN)]).is_err(), "no such time");
        assert!(walk_records(&[0xff], 1, 0).is_err());
        assert!(walk_records(b"", 1, 0).is_err());
    }

    #[test]
    fn any_bytes_are_walked_without_panic() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut body = Vec::new();
            record(&mut body, 3, 0, Some(b"key"), PLAIN);
            record(&mut body, 4, 1, None, PLAIN);
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % body.len();
                body[at] = (state >> 20) as u8;
            }
            let _ = walk_records(&body, 2, 0);
        }
    }
}
