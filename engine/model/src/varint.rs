//! Variable-length integers: unsigned (tagged fields, compact lengths) and zigzag (records).

/// Appends `value` in 1 to 10 bytes of 7 bits, least significant first.
#[inline]
pub fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` zigzag-coded, as record fields are.
#[inline]
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Bytes `put_unsigned` takes for `value`.
#[must_use]
pub fn unsigned_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes `put_signed` takes for `value`.
#[must_use]
pub fn signed_bytes(value: i64) -> usize {
    unsigned_bytes(((value << 1) ^ (value >> 63)) as u64)
}

/// Takes an unsigned integer from the front of `bytes`; `None` if cut short or over 64 bits.
pub fn take_unsigned(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for index in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if index == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Takes a zigzag integer from the front of `bytes`.
pub fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let value = take_unsigned(bytes)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_at_every_width() {
        for shift in 0..64 {
            for value in [1i64 << shift, (1i64 << shift).wrapping_sub(1), !(1i64 << shift)] {
                let mut out = Vec::new();
                put_signed(&mut out, value);
                assert_eq!(out.len(), signed_bytes(value));
                assert_eq!(take_signed(&mut &out[..]), Some(value));
            }
        }
    }

    #[test]
    fn refuses_cut_and_overlong() {
        assert_eq!(take_unsigned(&mut &[0x80u8][..]), None);
        assert_eq!(take_unsigned(&mut &[0xffu8; 11][..]), None);
    }
}
