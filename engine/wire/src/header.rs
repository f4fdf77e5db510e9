//! Headers of requests (versions 1 and 2) and responses (versions 0 and 1).

use crate::primitives::{Reader, put_no_tags, put_string};
use crate::{ApiKey, WireError};

/// What precedes the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// The API's number; perhaps one that is not served.
    pub api_code: i16,
    /// The API's version.
    pub version: i16,
    /// What the response repeats.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<&'a str>,
}

impl<'a> RequestHeader<'a> {
    /// Reads the header of a frame's payload (without length prefix); returns the body's reader.
    ///
    /// # Errors
    /// Malformed bytes, an unknown API, or a version that is not served. ApiVersions of any
    /// version is let through: it must be answered (KIP-511).
    pub fn read(payload: &'a [u8]) -> Result<(ApiKey, Self, Reader<'a>), WireError> {
        let mut reader = Reader::new(payload);
        let api_code = reader.i16()?;
        let version = reader.i16()?;
        let correlation_id = reader.i32()?;
        let key = ApiKey::from_code(api_code).ok_or(WireError::UnknownApi(api_code))?;
        let api = key.api();
        let served = (api.version_min..=api.version_max).contains(&version);
        if !served && key != ApiKey::ApiVersions {
            return Err(WireError::UnsupportedVersion(api_code, version));
        }
        if !served {
            // The rest of a version from the future may look like anything.
            let header = Self { api_code, version, correlation_id, client_id: None };
            return Ok((key, header, reader));
        }
        // Even in flexible headers the client id keeps its int16 length.
        let client_id = reader.string(false)?;
        reader.skip_tags(key.is_flexible(version))?;
        Ok((key, Self { api_code, version, correlation_id, client_id }, reader))
    }
}

/// Starts a request frame in `out`: length to be filled in by `finish_frame`, and the header.
pub fn begin_request(
    out: &mut Vec<u8>,
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: &str,
) {
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(key as i16).to_be_bytes());
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&correlation_id.to_be_bytes());
    put_string(out, Some(client_id), false);
    put_no_tags(out, key.is_flexible(version));
}

/// Starts a response frame in `out`.
pub fn begin_response(out: &mut Vec<u8>, key: ApiKey, version: i16, correlation_id: i32) {
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&correlation_id.to_be_bytes());
    put_no_tags(out, key.has_response_header_tags(version));
}

/// Fills in the length of the frame that starts at `start`; `beside` counts payload bytes that are
/// sent with the frame but not held in `out`.
pub fn finish_frame(out: &mut [u8], start: usize, beside: usize) {
    let length = out.len() - start - 4 + beside;
    let length = i32::try_from(length).expect("a frame is below 2 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Reads a response's header from its payload (without length prefix).
///
/// # Errors
/// Malformed bytes.
pub fn read_response_header(
    payload: &[u8],
    key: ApiKey,
    version: i16,
) -> Result<(i32, Reader<'_>), WireError> {
    let mut reader = Reader::new(payload);
    let correlation_id = reader.i32()?;
    reader.skip_tags(key.has_response_header_tags(version))?;
    Ok((correlation_id, reader))
}
