//! The four codecs of Kafka's batches, in the framing its clients use.

use crate::limits::DECOMPRESSED_BYTES_MAX;
use crate::rest::at_once;
use std::io::{Read, Write};

/// How the records of a batch are compressed: bits 0 to 2 of its attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// Records as they are.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Raw snappy blocks in the framing of Java's xerial library.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878 (KIP-110; Produce 7 and Fetch 10 on).
    Zstd = 4,
}

/// Why bytes could not be compressed or decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionError {
    /// The bytes are not what the codec writes.
    Malformed,
    /// They would grow beyond `limits::DECOMPRESSED_BYTES_MAX`.
    TooLarge,
}

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

impl Compression {
    /// All codecs, by number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec with this number in a batch's attributes.
    #[must_use]
    pub fn from_bits(bits: u16) -> Option<Self> {
        Self::ALL.get(usize::from(bits)).copied()
    }

    /// Kafka's name of the codec.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["none", "gzip", "snappy", "lz4", "zstd"][self as usize]
    }

    /// The codec with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// Appends the compressed form of `input` to `out`.
    pub fn compress(self, input: &[u8], out: &mut Vec<u8>) {
        at_once(self.compress_resting(input, out, &mut async || ()));
    }

    /// The same, with rests between parts of the work.
    pub async fn compress_resting(
        self,
        input: &[u8],
        out: &mut Vec<u8>,
        rest: &mut impl AsyncFnMut(),
    ) {
        const INFALLIBLE: &str = "writing to memory does not fail";
        match self {
            Self::None => out.extend_from_slice(input),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(6));
                write_resting(&mut encoder, input, rest).await;
                encoder.finish().expect(INFALLIBLE);
            }
            Self::Snappy => {
                out.extend_from_slice(&XERIAL_MAGIC);
                out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
                let mut encoder = snap::raw::Encoder::new();
                for block in input.chunks(XERIAL_BLOCK_BYTES) {
                    let start = out.len();
                    out.resize(start + 4 + snap::raw::max_compress_len(block.len()), 0);
                    let bytes = encoder.compress(block, &mut out[start + 4..]).expect(INFALLIBLE);
                    out[start..start + 4].copy_from_slice(&(bytes as u32).to_be_bytes());
                    out.truncate(start + 4 + bytes);
                    rest().await;
                }
            }
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
                write_resting(&mut encoder, input, rest).await;
                encoder.finish().expect(INFALLIBLE);
            }
            Self::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, 3).expect(INFALLIBLE);
                write_resting(&mut encoder, input, rest).await;
                encoder.finish().expect(INFALLIBLE);
            }
        }
    }

    /// Appends the decompressed form of `input` to `out`, which grows by at most
    /// `DECOMPRESSED_BYTES_MAX`.
    ///
    /// # Errors
    /// Bytes the codec did not write, or more output than the limit.
    pub fn decompress(self, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        at_once(self.decompress_resting(input, out, &mut async || ()))
    }

    /// The same, with rests between parts of the work.
    ///
    /// # Errors
    /// As `decompress`.
    pub async fn decompress_resting(
        self,
        input: &[u8],
        out: &mut Vec<u8>,
        rest: &mut impl AsyncFnMut(),
    ) -> Result<(), CompressionError> {
        match self {
            Self::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            Self::Gzip => read_resting(flate2::read::MultiGzDecoder::new(input), out, rest).await,
            Self::Snappy => decompress_snappy(input, out, rest).await,
            Self::Lz4 => read_resting(lz4_flex::frame::FrameDecoder::new(input), out, rest).await,
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)
                    .map_err(|_| CompressionError::Malformed)?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG_MAX)
                    .map_err(|_| CompressionError::Malformed)?;
                read_resting(decoder, out, rest).await
            }
        }
    }
}

/// So much is packed between two rests: gzip takes half a millisecond for it.
const PACK_PART_BYTES: usize = 16 * 1024;
/// So much comes out between two rests.
const UNPACK_PART_BYTES: usize = 128 * 1024;

async fn write_resting(out: &mut impl Write, input: &[u8], rest: &mut impl AsyncFnMut()) {
    for part in input.chunks(PACK_PART_BYTES) {
        out.write_all(part).expect("writing to memory does not fail");
        rest().await;
    }
}

/// Windows of up to 128 MiB, as Kafka reads them: levels 20 to 22 make windows above 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

async fn read_resting(
    mut reader: impl Read,
    out: &mut Vec<u8>,
    rest: &mut impl AsyncFnMut(),
) -> Result<(), CompressionError> {
    let before = out.len();
    loop {
        let part = (&mut reader).take(UNPACK_PART_BYTES as u64).read_to_end(out);
        let bytes = part.map_err(|_| CompressionError::Malformed)?;
        if out.len() - before > DECOMPRESSED_BYTES_MAX {
            return Err(CompressionError::TooLarge);
        }
        if bytes < UNPACK_PART_BYTES {
            return Ok(());
        }
        rest().await;
    }
}

/// Java and kafka-python write xerial frames; some clients write one raw block: both are read.
async fn decompress_snappy(
    input: &[u8],
    out: &mut Vec<u8>,
    rest: &mut impl AsyncFnMut(),
) -> Result<(), CompressionError> {
    let before = out.len();
    let Some(mut left) = input.strip_prefix(&XERIAL_MAGIC) else {
        return decompress_snappy_block(input, before, out, rest).await;
    };
    left = left.get(XERIAL_HEADER_BYTES - 8..).ok_or(CompressionError::Malformed)?;
    while let Some((length, tail)) = left.split_first_chunk::<4>() {
        let bytes = u32::from_be_bytes(*length) as usize;
        let block = tail.get(..bytes).ok_or(CompressionError::Malformed)?;
        decompress_snappy_block(block, before, out, rest).await?;
        rest().await;
        left = &tail[bytes..];
    }
    if left.is_empty() { Ok(()) } else { Err(CompressionError::Malformed) }
}

async fn decompress_snappy_block(
    block: &[u8],
    before: usize,
    out: &mut Vec<u8>,
    rest: &mut impl AsyncFnMut(),
) -> Result<(), CompressionError> {
    let bytes = snap::raw::decompress_len(block).map_err(|_| CompressionError::Malformed)?;
    let start = out.len();
    if start - before + bytes > DECOMPRESSED_BYTES_MAX {
        return Err(CompressionError::TooLarge);
    }
    // A snappy block expands at most 64-fold a copy tag of 3 bytes: a larger claim is a lie, and
    // no memory is taken for it.
    if bytes > block.len().saturating_mul(64) {
        return Err(CompressionError::Malformed);
    }
    if bytes > SNAPPY_AT_ONCE_BYTES {
        out.reserve(bytes);
        return decompress_large_snappy_block(block, bytes, out, rest)
            .await
            .ok_or(CompressionError::Malformed);
    }
    out.resize(start + bytes, 0);
    snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(|_| CompressionError::Malformed)?;
    Ok(())
}

/// The library unpacks a block in one go: larger ones, which no known client writes by default, are unpacked here.
const SNAPPY_AT_ONCE_BYTES: usize = 1024 * 1024;

/// A raw block after snappy's `format_description.txt`: literals and copies, told apart by the two low bits of a tag.
async fn decompress_large_snappy_block(
    block: &[u8],
    bytes: usize,
    out: &mut Vec<u8>,
    rest: &mut impl AsyncFnMut(),
) -> Option<()> {
    let start = out.len();
    // Behind the length, a varint.
    let mut left = &block[block.iter().position(|byte| byte & 0x80 == 0)? + 1..];
    let mut rest_at = start + UNPACK_PART_BYTES;
    while let Some((&tag, tail)) = left.split_first() {
        let number = |bytes: usize| -> Option<(usize, &[u8])> {
            let (little, tail) = tail.split_at_checked(bytes)?;
            let number = little.iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte));
            Some((number, tail))
        };
        let high = usize::from(tag >> 2);
        if tag & 3 == 0 {
            let (length, tail) = if high < 60 { (high, tail) } else { number(high - 59)? };
            let (literal, tail) = tail.split_at_checked(length + 1)?;
            out.extend_from_slice(literal);
            left = tail;
        } else {
            let (length, (back, tail)) = match tag & 3 {
                1 => {
                    let (low, tail) = number(1)?;
                    (4 + (high & 7), (high >> 3 << 8 | low, tail))
                }
                2 => (high + 1, number(2)?),
                _ => (high + 1, number(4)?),
            };
            let from = out.len().checked_sub(back).filter(|from| back > 0 && *from >= start)?;
            if back >= length {
                out.extend_from_within(from..from + length);
            } else {
                // What is copied is made on the way.
                (from..from + length).for_each(|at| out.push(out[at]));
            }
            left = tail;
        }
        if out.len() - start > bytes {
            return None;
        }
        if out.len() >= rest_at {
            rest_at = out.len() + UNPACK_PART_BYTES;
            rest().await;
        }
    }
    (out.len() - start == bytes).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_round_trips() {
        let text: Vec<u8> = (0..100_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for codec in Compression::ALL {
            for input in [&b""[..], b"a", &text] {
                let (mut packed, mut out) = (Vec::new(), b"kept".to_vec());
                codec.compress(input, &mut packed);
                codec.decompress(&packed, &mut out).unwrap();
                assert_eq!(&out[4..], input, "{}", codec.name());
            }
            assert_eq!(Compression::from_name(codec.name()), Some(codec));
        }
    }

    /// Rests come so often that no part of the work is long.
    #[test]
    fn work_with_rests_does_the_same() {
        let text: Vec<u8> = (0..800_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for codec in &Compression::ALL[1..] {
            let (mut packed, mut sliced, mut out) = (Vec::new(), Vec::new(), b"kept".to_vec());
            let mut rests = 0;
            codec.compress(&text, &mut packed);
            at_once(codec.compress_resting(&text, &mut sliced, &mut async || rests += 1));
            assert_eq!(packed, sliced, "{}", codec.name());
            assert!(rests >= text.len() / XERIAL_BLOCK_BYTES, "{}: {rests}", codec.name());
            rests = 0;
            let mut rest = async || rests += 1;
            at_once(codec.decompress_resting(&packed, &mut out, &mut rest)).unwrap();
            assert_eq!(&out[4..], text);
            assert!(rests >= text.len() / UNPACK_PART_BYTES, "{}: {rests}", codec.name());
        }
    }

    #[test]
    fn large_raw_snappy_blocks_are_unpacked_as_the_library_does() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize
        };
        for round in 0..40 {
            // Runs, repeats at near and far distances, noise.
            let mut text: Vec<u8> = Vec::new();
            while text.len() <= SNAPPY_AT_ONCE_BYTES {
                let length = 1 + random() % 90_000;
                match (random() % 3, text.len()) {
                    (0, have) if have > 0 => {
                        let back = 1 + random() % have.min(70_000);
                        (0..length).for_each(|_| text.push(text[text.len() - back]));
                    }
                    (1, _) => text.resize(text.len() + length, random() as u8),
                    _ => text.extend((0..length).map(|_| random() as u8)),
                }
            }
            let mut packed = snap::raw::Encoder::new().compress_vec(&text).unwrap();
            let mut out = Vec::new();
            Compression::Snappy.decompress(&packed, &mut out).unwrap();
            assert!(out == text, "round {round}");
            // Of what is broken both think the same.
            for _ in 0..20 {
                let at = random() % packed.len();
                packed[at] ^= 1 << (random() % 8);
                if random() % 4 == 0 {
                    packed.truncate(at.max(8));
                }
                let library = snap::raw::Decoder::new().decompress_vec(&packed);
                out.clear();
                let ours = Compression::Snappy.decompress(&packed, &mut out);
                let lies = snap::raw::decompress_len(&packed)
                    .is_ok_and(|bytes| bytes > packed.len() * 64 || bytes > DECOMPRESSED_BYTES_MAX);
                if !lies {
                    assert_eq!(ours.is_ok(), library.is_ok(), "round {round}");
                    assert!(library.map_or(true, |library| library == out), "round {round}");
                }
            }
        }
    }

    #[test]
    fn raw_snappy_without_framing_is_read() {
        let packed = snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap();
        let mut out = Vec::new();
        Compression::Snappy.decompress(&packed, &mut out).unwrap();
        assert_eq!(out, b"hello hello hello");
    }

    #[test]
    fn garbage_and_cut_input_are_errors() {
        let mut packed = Vec::new();
        for codec in &Compression::ALL[1..] {
            assert!(codec.decompress(b"\x99\x99\x99 not packed", &mut Vec::new()).is_err());
            packed.clear();
            codec.compress(&[7; 5000], &mut packed);
            let cut = &packed[..packed.len() / 2];
            assert!(codec.decompress(cut, &mut Vec::new()).is_err(), "{}", codec.name());
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut packed = Vec::new();
        Compression::Zstd.compress(&vec![0; DECOMPRESSED_BYTES_MAX + 1], &mut packed);
        let result = Compression::Zstd.decompress(&packed, &mut Vec::new());
        assert_eq!(result, Err(CompressionError::TooLarge));
        // A 6-byte snappy block that claims 60 MiB.
        let lie = [0x80, 0x80, 0x80, 0x1e, 0, 0];
        assert!(Compression::Snappy.decompress(&lie, &mut Vec::new()).is_err());
    }
}
