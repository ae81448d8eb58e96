//! The code of strings (RFC 7541 §5.2 and appendix B).
//!
//! It is canonical: codes follow from their lengths, the shorter first, and of one length in the order of what they stand for.

/// The longest code, in bits.
const LONGEST: usize = 30;

/// The longest code that is found in one step.
const SHORT: usize = 8;

/// How long the code of each byte is, in bits, and that of the end, which is never sent.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

const END: u16 = 256;

/// What short codes stand for: by the next bits, a byte and the length of its code; 0: it is longer.
static FIRST: [(u8, u8); 1 << SHORT] = first();

/// All that have a code, in the order of their codes.
static SYMBOLS: [u16; 257] = symbols();

/// Of each length: the first code that is longer, aligned to the left of 32 bits; and how many symbols come before those of this length, less
/// its first code.
static LONGER: [(u64, i64); LONGEST + 1] = longer();

const fn symbols() -> [u16; 257] {
    let mut symbols = [0; 257];
    let (mut count, mut length) = (0, 1);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol <= END {
            if LENGTHS[symbol as usize] as usize == length {
                symbols[count] = symbol;
                count += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
}

const fn longer() -> [(u64, i64); LONGEST + 1] {
    let mut longer = [(0, 0); LONGEST + 1];
    let (mut code, mut count, mut length) = (0_u64, 0_i64, 1);
    while length <= LONGEST {
        code <<= 1;
        let first = code;
        let before = count;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code += 1;
                count += 1;
            }
            symbol += 1;
        }
        longer[length] = (code << (32 - length), before - first.cast_signed());
        length += 1;
    }
    longer
}

#[expect(clippy::cast_possible_truncation, reason = "short codes stand for bytes")]
const fn first() -> [(u8, u8); 1 << SHORT] {
    let mut first = [(0, 0); 1 << SHORT];
    let symbols = symbols();
    let (mut next, mut number) = (0, 0);
    while LENGTHS[symbols[number] as usize] as usize <= SHORT {
        let length = LENGTHS[symbols[number] as usize];
        let mut times = 1 << (SHORT - length as usize);
        while times > 0 {
            first[next] = (symbols[number] as u8, length);
            next += 1;
            times -= 1;
        }
        number += 1;
    }
    first
}

/// How long the text of so many coded bytes may be: the shortest code has five bits.
pub(super) const fn longest(coded: usize) -> usize {
    coded * 8 / 5
}

/// Decodes into `text`, which is [as long as needed](longest). How much of it was written; `None`: this is no code.
pub(super) fn decode(mut coded: &[u8], text: &mut [u8]) -> Option<usize> {
    let (mut bits, mut count, mut written) = (0_u64, 0_u32, 0);
    loop {
        // The next bits are the highest ones. Whatever they begin with is there once there are thirty.
        if let Some((more, rest)) = coded.split_first_chunk::<4>().filter(|_| count <= 32) {
            bits |= u64::from(u32::from_be_bytes(*more)) << (32 - count);
            count += 32;
            coded = rest;
        } else {
            while let Some((&byte, rest)) = coded.split_first().filter(|_| count <= 56) {
                bits |= u64::from(byte) << (56 - count);
                count += 8;
                coded = rest;
            }
            if coded.is_empty() {
                break;
            }
        }
        while count >= 30 {
            let (byte, length) = next(bits)?;
            *text.get_mut(written)? = byte;
            written += 1;
            bits <<= length;
            count -= length;
        }
    }
    while count > 0 {
        match next(bits).filter(|(_, length)| *length <= count) {
            Some((byte, length)) => {
                *text.get_mut(written)? = byte;
                written += 1;
                bits <<= length;
                count -= length;
            }
            // Less than a byte of ones fills the last one.
            None => return (count < 8 && bits >> (64 - count) == (1 << count) - 1).then_some(written),
        }
    }
    Some(written)
}

/// What these bits begin with, and how many of them it takes.
fn next(bits: u64) -> Option<(u8, u32)> {
    let top = usize::try_from(bits >> (64 - SHORT)).unwrap_or_default();
    let (byte, length) = FIRST[top];
    if length != 0 { Some((byte, u32::from(length))) } else { long(bits >> 32) }
}

#[cold]
fn long(bits: u64) -> Option<(u8, u32)> {
    for (length, (end, offset)) in LONGER.iter().enumerate().skip(SHORT + 1) {
        if bits < *end {
            let code = (bits >> (32 - length)).cast_signed();
            let symbol = *SYMBOLS.get(usize::try_from(code + offset).ok()?)?;
            return Some((u8::try_from(symbol).ok()?, u32::try_from(length).ok()?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The code of a symbol, from the definition of a canonical code.
    fn code(symbol: u16) -> (u64, u8) {
        let length = |symbol: u16| LENGTHS[usize::from(symbol)];
        let (mut code, mut of) = (0_u64, length(SYMBOLS[0]));
        for &other in &SYMBOLS {
            code <<= length(other) - of;
            of = length(other);
            if other == symbol {
                return (code, of);
            }
            code += 1;
        }
        panic!("{symbol} has no code")
    }

    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for &byte in text {
            let (code, length) = code(byte.into());
            write!(bits, "{code:0width$b}", width = usize::from(length)).unwrap();
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        bits.as_bytes().chunks(8).map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 2).unwrap()).collect()
    }

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut text = vec![0; longest(coded.len())];
        let length = decode(coded, &mut text)?;
        text.truncate(length);
        Some(text)
    }

    /// Some codes of RFC 7541, appendix B.
    #[test]
    fn codes_are_those_of_the_standard() {
        for (symbol, expected) in [
            (u16::from(b'0'), (0x0, 5)),
            (b'a'.into(), (0x3, 5)),
            (b' '.into(), (0x14, 6)),
            (b':'.into(), (0x5c, 7)),
            (b'&'.into(), (0xf8, 8)),
            (b'!'.into(), (0x3f8, 10)),
            (b'~'.into(), (0x1ffd, 13)),
            (b'\\'.into(), (0x7fff0, 19)),
            (0, (0x1ff8, 13)),
            (255, (0x3ff_ffee, 26)),
            (22, (0x3fff_fffe, 30)),
            (END, (0x3fff_ffff, 30)),
        ] {
            assert_eq!(code(symbol), expected, "{symbol}");
        }
        assert_eq!(
            decoded(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]).unwrap(),
            b"www.example.com"
        );
    }

    #[test]
    fn what_is_no_code_is_refused() {
        // A whole byte of filling, filling that is none, and the end.
        for coded in [&[0xff][..], &[0x1f, 0xff], &[0x00], &[0x3f, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decoded(coded), None, "{coded:x?}");
        }
        assert_eq!(decoded(&[]).unwrap(), b"");
        assert_eq!(decoded(&[0x1f]).unwrap(), b"a");
    }

    proptest::proptest! {
        #[test]
        fn texts_are_read_as_they_were_written(text: Vec<u8>, plain in "[ -~]{0,200}") {
            for text in [&text[..], plain.as_bytes()] {
                proptest::prop_assert_eq!(decoded(&encode(text)).unwrap(), text);
            }
        }

        #[test]
        fn nonsense_does_no_harm(coded: Vec<u8>) {
            if let Some(text) = decoded(&coded) {
                proptest::prop_assert_eq!(encode(&text), coded);
            }
        }
    }
}
