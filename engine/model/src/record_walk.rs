//! Whether the records of a batch are what its header says: each one looked at, none copied.
//!
//! A client's records are walked where they enter, so that whatever is stored can be read again: by consumers, by time
//! lookups, by compaction.

use crate::BatchError;
use crate::rest::at_once;
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

/// Undoes the zigzag of a varint, which gives small numbers below zero a short form.
#[inline]
fn signed(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The numbers of a word of eight bytes, each of one byte or two, not yet signed: taken from a register, where from
/// memory every byte would be looked at for the end of the batch.
struct Word {
    left: u64,
    taken: usize,
}

impl Word {
    #[inline]
    fn at(bytes: &[u8], position: usize) -> Option<Self> {
        let left = u64::from_le_bytes(*bytes.get(position..)?.first_chunk()?);
        Some(Self { left, taken: 0 })
    }

    #[inline]
    fn next(&mut self) -> Option<u64> {
        let first = self.left & 0x7f;
        if self.left & 0x80 == 0 {
            self.left >>= 8;
            self.taken += 1;
            return Some(first);
        }
        if self.left & 0x8000 != 0 {
            return None;
        }
        let second = self.left >> 1 & 0x3f80;
        self.left >>= 16;
        self.taken += 2;
        Some(first | second)
    }
}

/// The number at `position` and what lies behind it.
fn number(bytes: &[u8], position: usize) -> Option<(i64, usize)> {
    let mut rest = bytes.get(position..)?;
    let value = take_signed(&mut rest)?;
    Some((value, bytes.len() - rest.len()))
}

/// Skips bytes with their length in front; -1 is null. Returns whether there are any, and what lies behind.
fn skip(bytes: &[u8], position: usize) -> Option<(bool, usize)> {
    let (length, start) = number(bytes, position)?;
    if length == -1 {
        return Some((false, start));
    }
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= bytes.len()).then_some((true, end))
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
    at_once(walk_records_resting(body, count, base_timestamp, &mut async || ()))
}

/// Records, or headers of one, between two rests: at most a few tenths of a millisecond.
const PART: i64 = 2048;

/// The same, with rests in between.
///
/// # Errors
/// As `walk_records`.
pub async fn walk_records_resting(
    body: &[u8],
    count: i32,
    base_timestamp: i64,
    rest: &mut impl AsyncFnMut(),
) -> Result<RecordsFound, BatchError> {
    let mut walk = RecordWalk::default();
    let (count, mut rest_at) = (i64::from(count), PART);
    while walk.index < count {
        walk.walk_plain_ones(body, count.min(rest_at));
        if walk.index >= rest_at {
            rest_at = walk.index + PART;
            rest().await;
        } else if walk.index < count {
            let found = walk_any(body, walk.position, walk.index, rest).await;
            walk.on_record(found.ok_or(BatchError::Records)?);
        }
    }
    walk.found(body, base_timestamp)
}

/// How far a walk came.
struct RecordWalk {
    /// The next record's delta.
    index: i64,
    /// Where it begins.
    position: usize,
    /// Of the timestamps' deltas.
    least: i64,
    most: i64,
    without_key: usize,
}

impl Default for RecordWalk {
    fn default() -> Self {
        Self { index: 0, position: 0, least: i64::MAX, most: i64::MIN, without_key: 0 }
    }
}

impl RecordWalk {
    /// Walks up to the record with delta `until`, or to one that is not like almost all are.
    fn walk_plain_ones(&mut self, body: &[u8], until: i64) {
        let mut walk = Self { ..*self };
        while walk.index < until
            && let Some(found) = walk_plain(body, walk.position, walk.index)
        {
            walk.on_record(found);
        }
        *self = walk;
    }

    #[inline]
    fn on_record(&mut self, found: Walked) {
        self.index += 1;
        self.position = found.end;
        self.least = self.least.min(found.timestamp_delta);
        self.most = self.most.max(found.timestamp_delta);
        self.without_key += usize::from(!found.has_key);
    }

    fn found(self, body: &[u8], base_timestamp: i64) -> Result<RecordsFound, BatchError> {
        if self.position != body.len() {
            return Err(BatchError::Records);
        }
        let at = |delta: i64| base_timestamp.checked_add(delta).ok_or(BatchError::Records);
        let (min_timestamp, max_timestamp) = (at(self.least)?, at(self.most)?);
        Ok(RecordsFound { min_timestamp, max_timestamp, without_key: self.without_key })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Walked {
    timestamp_delta: i64,
    has_key: bool,
    /// Where the next record begins.
    end: usize,
}

/// Walks a record as almost all are: short numbers, a value, no headers. `None`: it is not like that, or is wrong.
#[inline]
fn walk_plain(bytes: &[u8], position: usize, index: i64) -> Option<Walked> {
    let mut word = Word::at(bytes, position)?;
    let length = word.next()?;
    let length_end = word.taken;
    // Attributes: none are defined.
    word.left >>= 8;
    word.taken += 1;
    let timestamp_delta = signed(word.next()?);
    let offset_delta = word.next()?;
    let key_length = word.next()?;
    // Beyond the word there were only zeros of the shifts.
    if word.taken > 8 || offset_delta != (index as u64) << 1 {
        return None;
    }
    let has_key = key_length != 1;
    // An odd one is below zero: of a key only -1 has a meaning.
    if length & 1 != 0 || has_key && key_length & 1 != 0 {
        return None;
    }
    let end = position + length_end + (length >> 1) as usize;
    let value_at = position + word.taken + (key_length >> 1) as usize;
    let value_length = match *bytes.get(value_at..)? {
        [first, ..] if first < 0x80 => u64::from(first) | 1 << 32,
        [first, second, ..] if second < 0x80 => {
            u64::from(first & 0x7f) | u64::from(second) << 7 | 2 << 32
        }
        _ => return None,
    };
    if value_length & 1 != 0 {
        return None;
    }
    let headers_at = value_at + (value_length >> 32) as usize + (value_length as u32 >> 1) as usize;
    if headers_at + 1 != end || *bytes.get(headers_at)? != 0 {
        return None;
    }
    Some(Walked { timestamp_delta, has_key, end })
}

/// Walks a record of any shape.
async fn walk_any(
    bytes: &[u8],
    position: usize,
    index: i64,
    rest: &mut impl AsyncFnMut(),
) -> Option<Walked> {
    let (length, start) = number(bytes, position)?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    let record = bytes.get(..end)?;
    // Behind the attributes, of which none are defined.
    let (timestamp_delta, position) = number(record, start + 1)?;
    let (offset_delta, position) = number(record, position)?;
    if offset_delta != index {
        return None;
    }
    let (has_key, position) = skip(record, position)?;
    let (_, position) = skip(record, position)?;
    let (headers, mut position) = number(record, position)?;
    for header in 1..=usize::try_from(headers).ok()? {
        if header as i64 % PART == 0 {
            rest().await;
        }
        let (has_name, value_at) = skip(record, position)?;
        if !has_name {
            return None;
        }
        (_, position) = skip(record, value_at)?;
    }
    (position == end).then_some(Walked { timestamp_delta, has_key, end })
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
    fn a_long_walk_rests_and_finds_the_same() {
        let (mut body, mut headers) = (Vec::new(), vec![2, b'v']);
        put_signed(&mut headers, 50_000);
        headers.extend(std::iter::repeat_n([2, b'h', 1], 50_000).flatten());
        for n in 0..100_000 {
            let tail = if n == 70_000 { &headers[..] } else { PLAIN };
            record(&mut body, n % 7, n, (n % 2 > 0).then_some(b"k"), tail);
        }
        let mut rests = 0;
        let found = at_once(walk_records_resting(&body, 100_000, 5, &mut async || rests += 1));
        assert_eq!(found, walk_records(&body, 100_000, 5));
        let expected = RecordsFound { min_timestamp: 5, max_timestamp: 11, without_key: 50_000 };
        assert_eq!(found, Ok(expected));
        assert!(rests >= 150_000 / PART - 2, "{rests}");
        for count in [0, -1, i32::MIN] {
            assert!(walk_records(&body, count, 5).is_err());
        }
    }

    #[test]
    fn any_bytes_are_walked_without_panic_and_both_ways_alike() {
        let (mut state, mut alike) = (1u64, 0);
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
            // Both ways of walking a record say the same.
            if let Some(plain) = walk_plain(&body, 0, 0) {
                assert_eq!(
                    Some(plain),
                    at_once(walk_any(&body, 0, 0, &mut async || ())),
                    "{body:02x?}"
                );
                alike += 1;
            }
        }
        assert!(alike > 1_000, "{alike}");
    }
}
