//! Fields, chunks and trailers as bytes (RFC 9112 §5, §7.1).

use http::HeaderMap;

/// Writes a field.
pub(crate) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes `Content-Length`.
pub(crate) fn length(out: &mut Vec<u8>, length: u64) {
    const MOST: usize = 20;
    let (mut digits, mut at, mut left) = ([0; MOST], MOST, length);
    loop {
        at -= 1;
        // A digit is a byte.
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        if left == 0 {
            break;
        }
    }
    field(out, b"content-length", &digits[at..]);
}

/// What comes before the data of a chunk. A chunk of no bytes would be the last one.
pub(crate) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|digit| DIGITS[size >> (4 * digit) & 15]));
    out.extend_from_slice(b"\r\n");
}

/// The last chunk with trailers after it.
pub(crate) fn trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_decimal_numbers() {
        for number in [0, 1, 9, 10, 19, 100, 65_536, u64::MAX] {
            let mut out = Vec::new();
            length(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), format!("content-length: {number}\r\n"));
        }
    }
}
