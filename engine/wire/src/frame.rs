//! Length-prefixed frames out of a growing buffer.

use crate::WireError;
use model::limits::REQUEST_BYTES_MIN;

/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;

/// Bytes of the frame at the front of `bytes`, prefix included; `None` until the prefix is there.
///
/// # Errors
/// A length below a request header's or above `frame_bytes_max`: the stream cannot be trusted.
pub fn frame_bytes(bytes: &[u8], frame_bytes_max: usize) -> Result<Option<usize>, WireError> {
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let length = i32::from_be_bytes(*prefix);
    match usize::try_from(length) {
        Ok(bytes) if (REQUEST_BYTES_MIN..=frame_bytes_max).contains(&bytes) => {
            Ok(Some(bytes + PREFIX_BYTES))
        }
        _ => Err(WireError::FrameLength(length)),
    }
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
    }
}
