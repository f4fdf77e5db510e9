//! Records inside a batch: varint fields over borrowed bytes.

use crate::BatchError;
use crate::varint::{put_signed, signed_bytes, take_signed};

/// One record of a batch; keys and values are borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Milliseconds after the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Offset after the batch's base offset.
    pub offset_delta: i32,
    /// The key, or null.
    pub key: Option<&'a [u8]>,
    /// The value, or null (a tombstone on compacted topics).
    pub value: Option<&'a [u8]>,
    header_count: usize,
    header_bytes: &'a [u8],
    /// All of it, from the length on.
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record as it is stored in an uncompressed batch, its length in front.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Appends the record with another timestamp delta.
    pub(crate) fn put_shifted(self, out: &mut Vec<u8>, timestamp_delta: i64) {
        let length = 1
            + signed_bytes(timestamp_delta)
            + signed_bytes(i64::from(self.offset_delta))
            + bytes_bytes(self.key)
            + bytes_bytes(self.value)
            + signed_bytes(self.header_count as i64)
            + self.header_bytes.len();
        put_signed(out, length as i64);
        out.push(0);
        put_signed(out, timestamp_delta);
        put_signed(out, i64::from(self.offset_delta));
        put_bytes(out, self.key);
        put_bytes(out, self.value);
        put_signed(out, self.header_count as i64);
        out.extend_from_slice(self.header_bytes);
    }

    /// Its headers: (key, value) pairs.
    #[must_use]
    pub fn headers(self) -> Headers<'a> {
        Headers { left: self.header_count, bytes: self.header_bytes }
    }
}

/// Iterates the headers of a record.
pub struct Headers<'a> {
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<(&'a [u8], Option<&'a [u8]>), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let mut take = || Some((take_bytes(&mut self.bytes)??, take_bytes(&mut self.bytes)?));
        let header = take();
        if header.is_none() {
            self.left = 0;
        }
        Some(header.ok_or(BatchError::Count))
    }
}

/// Iterates the records of a decompressed batch body; stops after the first malformed one.
#[derive(Clone)]
pub struct Records<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Records<'a> {
    /// The first `count` records of a body that is not compressed.
    #[must_use]
    pub fn new(bytes: &'a [u8], count: usize) -> Self {
        Self { bytes, left: count }
    }

    fn take(&mut self) -> Option<Record<'a>> {
        let whole = self.bytes;
        let length = usize::try_from(take_signed(&mut self.bytes)?).ok()?;
        let mut body = self.bytes.get(..length)?;
        self.bytes = &self.bytes[length..];
        let (_attributes, rest) = body.split_first()?;
        body = rest;
        let timestamp_delta = take_signed(&mut body)?;
        let offset_delta = i32::try_from(take_signed(&mut body)?).ok()?;
        let key = take_bytes(&mut body)?;
        let value = take_bytes(&mut body)?;
        let header_count = usize::try_from(take_signed(&mut body)?).ok()?;
        let bytes = &whole[..whole.len() - self.bytes.len()];
        let header_bytes = body;
        Some(Record {
            timestamp_delta,
            offset_delta,
            key,
            value,
            header_count,
            header_bytes,
            bytes,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let record = self.take();
        if record.is_none() {
            self.left = 0;
        }
        Some(record.ok_or(BatchError::Count))
    }
}

/// Length-prefixed bytes; the outer `None` is malformed, the inner one null.
fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = take_signed(bytes)?;
    if length == -1 {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    let taken = bytes.get(..length)?;
    *bytes = &bytes[length..];
    Some(Some(taken))
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_signed(out, -1),
        Some(bytes) => {
            put_signed(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

fn bytes_bytes(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |b| signed_bytes(b.len() as i64) + b.len())
}

/// The short numbers at a record's front and between its fields, put together before they are appended.
struct Numbers {
    bytes: [u8; 32],
    len: usize,
}

impl Numbers {
    #[inline]
    fn new() -> Self {
        Self { bytes: [0; 32], len: 0 }
    }

    #[inline]
    fn put(&mut self, value: i64) {
        let mut value = ((value << 1) ^ (value >> 63)) as u64;
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
    }

    #[inline]
    fn append_to(&self, out: &mut Vec<u8>) {
        // Of a fixed length, which is a few moves where any length is a call.
        let end = out.len() + self.len;
        out.extend_from_slice(&self.bytes);
        out.truncate(end);
    }
}

/// Appends one record to `out`.
pub(crate) fn put_record(
    out: &mut Vec<u8>,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&str, Option<&[u8]>)],
) {
    let header_bytes: usize =
        headers.iter().map(|(k, v)| bytes_bytes(Some(k.as_bytes())) + bytes_bytes(*v)).sum();
    let of = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
    let (mut front, mut middle, mut length) = (Numbers::new(), Numbers::new(), Numbers::new());
    // Attributes: none are defined.
    front.put(0);
    front.put(timestamp_delta);
    front.put(i64::from(offset_delta));
    front.put(of(key));
    middle.put(of(value));
    let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
    let headers_bytes = signed_bytes(headers.len() as i64) + header_bytes;
    length.put((front.len + key.len() + middle.len + value.len() + headers_bytes) as i64);
    length.append_to(out);
    front.append_to(out);
    out.extend_from_slice(key);
    middle.append_to(out);
    out.extend_from_slice(value);
    put_signed(out, headers.len() as i64);
    for (key, value) in headers {
        put_bytes(out, Some(key.as_bytes()));
        put_bytes(out, *value);
    }
}
