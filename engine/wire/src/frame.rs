//! Length-prefixed frames out of a growing buffer.

use crate::{ApiKey, WireError};
use model::limits::{CONTROL_FRAME_BYTES_MAX, REQUEST_BYTES_MIN};

/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;

/// Bytes of the frame at the front of `bytes`, prefix included; `None` until the prefix is there, and of a large one the
/// API key.
///
/// # Errors
/// A length below a request header's or above `frame_bytes_max`, or above what an API other than Produce may have: the
/// stream cannot be trusted.
pub fn frame_bytes(bytes: &[u8], frame_bytes_max: usize) -> Result<Option<usize>, WireError> {
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let length = i32::from_be_bytes(*prefix);
    let found = match usize::try_from(length) {
        Ok(found) if (REQUEST_BYTES_MIN..=frame_bytes_max).contains(&found) => found,
        _ => return Err(WireError::FrameLength(length)),
    };
    if found > CONTROL_FRAME_BYTES_MAX {
        let Some(key) = bytes[PREFIX_BYTES..].first_chunk::<2>() else { return Ok(None) };
        let key = i16::from_be_bytes(*key);
        if key != ApiKey::Produce as i16 {
            return Err(WireError::ControlFrameLength(key, length));
        }
    }
    Ok(Some(found + PREFIX_BYTES))
}

/// Bytes of the response frame at the front of `bytes`, prefix included.
///
/// # Errors
/// A length that cannot be a response's.
pub fn response_frame_bytes(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let length = i32::from_be_bytes(*prefix);
    match usize::try_from(length) {
        Ok(bytes) if bytes >= 4 => Ok(Some(bytes + PREFIX_BYTES)),
        _ => Err(WireError::FrameLength(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bounded_before_anything_is_read() {
        assert_eq!(frame_bytes(&[0, 0, 0], 100), Ok(None));
        assert_eq!(frame_bytes(&[0, 0, 0, 10], 100), Ok(Some(14)));
        assert_eq!(frame_bytes(&[0, 0, 0, 7], 100), Err(WireError::FrameLength(7)));
        assert_eq!(frame_bytes(&[0, 0, 0, 101], 100), Err(WireError::FrameLength(101)));
        assert_eq!(frame_bytes(&[0xff; 4], 100), Err(WireError::FrameLength(-1)));
        // Only a produce request may be large.
        let announced = |length: usize, rest: &[u8]| {
            let mut bytes = (length as u32).to_be_bytes().to_vec();
            bytes.extend_from_slice(rest);
            frame_bytes(&bytes, 100 << 20)
        };
        let large = CONTROL_FRAME_BYTES_MAX + 1;
        assert_eq!(announced(large, &[0]), Ok(None), "whose request it is comes next");
        assert_eq!(announced(large, &[0, 0]), Ok(Some(large + 4)));
        assert_eq!(announced(large, &[0, 3]), Err(WireError::ControlFrameLength(3, large as i32)));
        assert_eq!(announced(large - 1, &[]), Ok(Some(large + 3)));
    }
}
