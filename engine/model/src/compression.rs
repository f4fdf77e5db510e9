//! The four codecs of Kafka's batches, in the framing its clients use.

use crate::limits::DECOMPRESSED_BYTES_MAX;
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
        const INFALLIBLE: &str = "writing to memory does not fail";
        match self {
            Self::None => out.extend_from_slice(input),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(6));
                encoder
                    .write_all(input)
                    .and_then(|()| encoder.finish().map(drop))
                    .expect(INFALLIBLE);
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
                }
            }
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
                encoder.write_all(input).expect(INFALLIBLE);
                encoder.finish().expect(INFALLIBLE);
            }
            Self::Zstd => {
                zstd::stream::copy_encode(input, out, 3).expect(INFALLIBLE);
            }
        }
    }

    /// Appends the decompressed form of `input` to `out`, which grows by at most
    /// `DECOMPRESSED_BYTES_MAX`.
    ///
    /// # Errors
    /// Bytes the codec did not write, or more output than the limit.
    pub fn decompress(self, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        match self {
            Self::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            Self::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(input), out),
            Self::Snappy => decompress_snappy(input, out),
            Self::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(input), out),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)
                    .map_err(|_| CompressionError::Malformed)?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG_MAX)
                    .map_err(|_| CompressionError::Malformed)?;
                read_bounded(decoder, out)
            }
        }
    }
}

/// Windows of up to 128 MiB, as Kafka reads them: levels 20 to 22 make windows above 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

fn read_bounded(reader: impl Read, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let before = out.len();
    let limit = DECOMPRESSED_BYTES_MAX as u64;
    reader.take(limit + 1).read_to_end(out).map_err(|_| CompressionError::Malformed)?;
    if (out.len() - before) as u64 > limit {
        return Err(CompressionError::TooLarge);
    }
    Ok(())
}

/// Java and kafka-python write xerial frames; some clients write one raw block: both are read.
fn decompress_snappy(input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let before = out.len();
    let Some(mut rest) = input.strip_prefix(&XERIAL_MAGIC) else {
        return decompress_snappy_block(input, before, out);
    };
    rest = rest.get(XERIAL_HEADER_BYTES - 8..).ok_or(CompressionError::Malformed)?;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let bytes = u32::from_be_bytes(*length) as usize;
        let block = tail.get(..bytes).ok_or(CompressionError::Malformed)?;
        decompress_snappy_block(block, before, out)?;
        rest = &tail[bytes..];
    }
    if rest.is_empty() { Ok(()) } else { Err(CompressionError::Malformed) }
}

fn decompress_snappy_block(
    block: &[u8],
    before: usize,
    out: &mut Vec<u8>,
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
    out.resize(start + bytes, 0);
    snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(|_| CompressionError::Malformed)?;
    Ok(())
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
