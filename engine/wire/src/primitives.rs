//! The protocol's types: fixed integers, strings, arrays, tagged fields, in both encodings.

use crate::WireError;
use model::TopicId;
use model::limits::{DECODE_BYTES_FREE, STRING_BYTES_MAX};
use model::varint::{put_unsigned, take_unsigned};
use std::cell::Cell;

/// Which encoding a message uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The API version.
    pub number: i16,
    /// Whether lengths are compact and structures end in tagged fields (KIP-482).
    pub flexible: bool,
}

/// Reads a message front to back. No count is trusted before it is bounded by what remains.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        Ok(self.take(N)?.try_into().expect("took N bytes"))
    }

    /// The next int8.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn i8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    /// The next int16.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// The next int32.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// The next int64.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// The next unsigned varint of at most 32 bits.
    ///
    /// # Errors
    /// `Varint` when it is longer or cut.
    pub fn unsigned(&mut self) -> Result<u32, WireError> {
        let value = take_unsigned(&mut self.bytes).ok_or(WireError::Varint)?;
        u32::try_from(value).map_err(|_| WireError::Varint)
    }

    /// The count of an array whose elements take a byte at least; `None` is null.
    ///
    /// # Errors
    /// `Count` when the bytes that remain cannot hold so many.
    pub fn count(&mut self, flexible: bool) -> Result<Option<usize>, WireError> {
        let count = if flexible { i64::from(self.unsigned()?) - 1 } else { i64::from(self.i32()?) };
        self.bounded(count)
    }

    fn bounded(&self, count: i64) -> Result<Option<usize>, WireError> {
        match usize::try_from(count) {
            Ok(count) if count <= self.bytes.len() => Ok(Some(count)),
            _ if count == -1 => Ok(None),
            _ => Err(WireError::Count),
        }
    }

    /// A string (int16 or compact length); `None` is null.
    ///
    /// # Errors
    /// `Count`, also above 32,767 bytes, which could not be written again in every version; `Utf8`.
    pub fn string(&mut self, flexible: bool) -> Result<Option<&'a str>, WireError> {
        let length =
            if flexible { i64::from(self.unsigned()?) - 1 } else { i64::from(self.i16()?) };
        let Some(length) = self.bounded(length)? else { return Ok(None) };
        if length > STRING_BYTES_MAX {
            return Err(WireError::Count);
        }
        std::str::from_utf8(self.take(length)?).map(Some).map_err(|_| WireError::Utf8)
    }

    /// Bytes (int32 or compact length); `None` is null.
    ///
    /// # Errors
    /// `Count`.
    pub fn byte_string(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, WireError> {
        match self.count(flexible)? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// A topic id.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn topic_id(&mut self) -> Result<TopicId, WireError> {
        Ok(TopicId(self.array()?))
    }

    /// Skips the tagged fields at the end of a structure, if this encoding has them.
    ///
    /// # Errors
    /// `Count`, `Varint`.
    pub fn skip_tags(&mut self, flexible: bool) -> Result<(), WireError> {
        if flexible {
            for _ in 0..self.unsigned()? {
                self.unsigned()?;
                let bytes = self.unsigned()? as usize;
                self.take(bytes)?;
            }
        }
        Ok(())
    }
}

thread_local! {
    /// Bytes that the message being decoded may still take in memory. Beside the reader, so that the hot paths, which
    /// take no memory for what they read, carry nothing along.
    static MEMORY: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Decodes something of someone who is not trusted: what is read takes four times the reader's bytes at most, and a
/// little. An array of empty strings would take many times its bytes.
pub(crate) fn with_bounded_memory<T>(
    reader: &mut Reader<'_>,
    decode: impl FnOnce(&mut Reader<'_>) -> T,
) -> T {
    MEMORY.set(4 * reader.rest().len() + DECODE_BYTES_FREE);
    let decoded = decode(reader);
    MEMORY.set(usize::MAX);
    decoded
}

/// Notes that so many bytes of memory are about to be taken for what was read.
///
/// # Errors
/// `Memory`.
fn charge(bytes: usize) -> Result<(), WireError> {
    MEMORY.set(MEMORY.get().checked_sub(bytes).ok_or(WireError::Memory)?);
    Ok(())
}

/// What so many bytes of their own take, with what the allocator keeps beside them.
fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes + 16 }
}

/// Appends a count: int32 or compact.
pub fn put_count(out: &mut Vec<u8>, count: Option<usize>, flexible: bool) {
    if flexible {
        put_unsigned(out, count.map_or(0, |count| count as u64 + 1));
    } else {
        out.extend_from_slice(&count.map_or(-1, |count| count as i32).to_be_bytes());
    }
}

/// Appends a nullable string.
pub fn put_string(out: &mut Vec<u8>, text: Option<&str>, flexible: bool) {
    if flexible {
        put_unsigned(out, text.map_or(0, |text| text.len() as u64 + 1));
    } else {
        out.extend_from_slice(&text.map_or(-1, |text| text.len() as i16).to_be_bytes());
    }
    out.extend_from_slice(text.unwrap_or_default().as_bytes());
}

/// Appends "no tagged fields", if this encoding has them.
pub fn put_no_tags(out: &mut Vec<u8>, flexible: bool) {
    if flexible {
        out.push(0);
    }
}

/// A type that can be a field of a control message.
pub trait Field: Sized {
    /// Appends its bytes.
    fn write(&self, out: &mut Vec<u8>, version: Version);

    /// Reads it.
    ///
    /// # Errors
    /// As `Reader`.
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError>;

    /// Some value, for tests that compare codecs.
    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, version: Version) -> Self;
}

macro_rules! fixed_field {
    ($($type:ty, $read:expr;)*) => {$(
        impl Field for $type {
            fn write(&self, out: &mut Vec<u8>, _: Version) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn read(reader: &mut Reader<'_>, _: Version) -> Result<Self, WireError> {
                $read(reader)
            }

            #[cfg(test)]
            fn sample(random: &mut dyn FnMut() -> u64, _: Version) -> Self {
                random() as Self
            }
        }
    )*};
}

fixed_field! {
    i8, Reader::i8;
    i16, Reader::i16;
    i32, Reader::i32;
    i64, Reader::i64;
}

impl Field for bool {
    fn write(&self, out: &mut Vec<u8>, _: Version) {
        out.push(u8::from(*self));
    }

    fn read(reader: &mut Reader<'_>, _: Version) -> Result<Self, WireError> {
        Ok(reader.i8()? != 0)
    }

    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, _: Version) -> Self {
        random() & 1 == 1
    }
}

impl Field for TopicId {
    fn write(&self, out: &mut Vec<u8>, _: Version) {
        out.extend_from_slice(&self.0);
    }

    fn read(reader: &mut Reader<'_>, _: Version) -> Result<Self, WireError> {
        reader.topic_id()
    }

    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, _: Version) -> Self {
        Self(std::array::from_fn(|_| random() as u8))
    }
}

impl Field for String {
    fn write(&self, out: &mut Vec<u8>, version: Version) {
        put_string(out, Some(self), version.flexible);
    }

    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError> {
        Option::<Self>::read(reader, version)?.ok_or(WireError::Null)
    }

    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, _: Version) -> Self {
        "täst-name"[..random() as usize % 2].to_owned() + &random().to_string()
    }
}

impl Field for Option<String> {
    fn write(&self, out: &mut Vec<u8>, version: Version) {
        put_string(out, self.as_deref(), version.flexible);
    }

    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError> {
        let Some(text) = reader.string(version.flexible)? else { return Ok(None) };
        charge(allocated(text.len()))?;
        Ok(Some(text.to_owned()))
    }

    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, version: Version) -> Self {
        Some(String::sample(random, version))
    }
}

impl Field for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>, version: Version) {
        put_count(out, Some(self.len()), version.flexible);
        out.extend_from_slice(self);
    }

    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError> {
        let bytes = reader.byte_string(version.flexible)?.ok_or(WireError::Null)?;
        charge(allocated(bytes.len()))?;
        Ok(bytes.to_vec())
    }

    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, _: Version) -> Self {
        (0..random() % 20).map(|_| random() as u8).collect()
    }
}

impl<T: Field> Field for Vec<T> {
    fn write(&self, out: &mut Vec<u8>, version: Version) {
        put_count(out, Some(self.len()), version.flexible);
        self.iter().for_each(|item| item.write(out, version));
    }

    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError> {
        Option::<Self>::read(reader, version)?.ok_or(WireError::Null)
    }

    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, version: Version) -> Self {
        (0..random() % 3).map(|_| T::sample(random, version)).collect()
    }
}

impl<T: Field> Field for Option<Vec<T>> {
    fn write(&self, out: &mut Vec<u8>, version: Version) {
        match self {
            Some(items) => items.write(out, version),
            None => put_count(out, None, version.flexible),
        }
    }

    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError> {
        let Some(count) = reader.count(version.flexible)? else { return Ok(None) };
        // Grown as elements really come: a count alone takes next to no memory.
        let mut items = Vec::with_capacity(count.min(16));
        for _ in 0..count {
            charge(size_of::<T>())?;
            items.push(T::read(reader, version)?);
        }
        Ok(Some(items))
    }

    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, version: Version) -> Self {
        Some(Vec::sample(random, version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_no_longer_than_every_version_can_write_it() {
        let read = |bytes: usize| {
            let text = "s".repeat(bytes);
            let mut out = Vec::new();
            put_unsigned(&mut out, bytes as u64 + 1);
            out.extend_from_slice(text.as_bytes());
            Reader::new(&out).string(true).map(|read| read.map(str::len))
        };
        assert_eq!(read(32_767), Ok(Some(32_767)));
        for bytes in [32_768, 65_535, 65_536, 70_000] {
            assert_eq!(read(bytes), Err(WireError::Count), "{bytes}");
        }
    }
}
