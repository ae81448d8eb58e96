//! The one form of a path that is matched and forwarded.
//!
//! Proxies are walked around by paths that gate and upstream read differently. So there is one reading here: what is
//! matched is what is forwarded, and what two servers may read differently is refused (RFC 3986 §6.2.2, §7.3).
//!
//! 1. Percent-encoded unreserved characters are decoded, other percent-encoded bytes get upper-case digits.
//! 2. Characters that a path may not hold bare are encoded.
//! 3. Empty segments and `.` go, `..` removes the segment before it; a slash at the end stays.
//! 4. Everything in [`PathFault`] is refused.
//!
//! `docs/paths.md` has the table.

use std::{borrow::Cow, fmt};

use memchr::memchr;

/// A path in canonical form: it begins with `/`, has no dot segments, no empty segments but the last, and encodes
/// only what must be encoded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CanonicalPath(Box<str>);

/// Why a path is refused. The status is 400.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum PathFault {
    /// Empty, `*`, or anything else that does not begin with `/`.
    #[error("path does not begin with `/`")]
    NotAbsolute,
    /// `?` or `#`: more than a path.
    #[error("path holds `?` or `#`")]
    NotOnlyPath,
    /// `%` without two hexadecimal digits.
    #[error("path holds `%` without two hexadecimal digits")]
    PercentEncoding,
    /// `%2F`: a slash to some, part of a segment to others.
    #[error("path holds an encoded slash")]
    EncodedSlash,
    /// `\` or `%5C`: a slash to some.
    #[error("path holds a backslash")]
    Backslash,
    /// A control character or a space, bare, or an encoded control character.
    #[error("path holds a control character or a bare space")]
    Control,
    /// `%25` before two digits that encode an unreserved character, `/`, `\`, `%`, `;` or NUL: encoded twice.
    #[error("path is encoded twice")]
    DoubleEncoding,
    /// `.;x` or `..;x`: a dot segment to some, a name to others.
    #[error("path holds a dot segment with parameters")]
    DotSegmentParameters,
    /// Not UTF-8 once decoded; overlong forms included.
    #[error("path is not UTF-8")]
    NotUtf8,
    /// `..` where there is nothing left to remove.
    #[error("path climbs above the root")]
    AboveRoot,
}

impl CanonicalPath {
    /// Reads a path, without query, and makes it canonical.
    ///
    /// # Errors
    /// [`PathFault`].
    pub fn parse(raw: &(impl AsRef<[u8]> + ?Sized)) -> Result<Self, PathFault> {
        canonicalise(raw).map(|path| Self(path.into()))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path with everything decoded: what prefixes are compared by, because `%3A` and `:` are the same name to
    /// most servers. Segments stay the same, as no slash and no dot segment is ever encoded here.
    #[must_use]
    pub fn decoded(&self) -> Cow<'_, [u8]> {
        decode(&self.0)
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The canonical form of a path without query. A path that is plainly canonical already is not copied.
///
/// # Errors
/// [`PathFault`].
pub fn canonicalise(raw: &(impl AsRef<[u8]> + ?Sized)) -> Result<Cow<'_, str>, PathFault> {
    let raw = raw.as_ref();
    if raw.first() != Some(&b'/') {
        return Err(PathFault::NotAbsolute);
    }
    if let Ok(path) = str::from_utf8(raw)
        && is_plain(path)
    {
        return Ok(Cow::Borrowed(path));
    }
    let encoded = normalise_encoding(raw)?;
    refuse_double_encoding(encoded.as_bytes())?;
    let decoded = decode(&encoded);
    let text = str::from_utf8(&decoded).map_err(|_| PathFault::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(PathFault::Control);
    }
    if text.split('/').any(|segment| segment.starts_with(".;") || segment.starts_with("..;")) {
        return Err(PathFault::DotSegmentParameters);
    }
    resolve(&encoded).map(Cow::Owned)
}

/// Decodes everything that is percent-encoded in a canonical path.
pub(super) fn decode(path: &str) -> Cow<'_, [u8]> {
    if memchr(b'%', path.as_bytes()).is_some() {
        percent_encoding::percent_decode_str(path).into()
    } else {
        path.as_bytes().into()
    }
}

/// Whether a path is plainly canonical: of characters that need no encoding, and without a segment that is empty or begins with a dot.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    let mut after_slash = false;
    let is_plain = path.bytes().all(|byte| {
        let suspicious = after_slash && matches!(byte, b'/' | b'.');
        after_slash = byte == b'/';
        BARE[usize::from(byte)] && !suspicious
    });
    is_plain && path.starts_with('/')
}

/// What stands bare in a path: slashes, and `pchar` without percent-encoding (RFC 3986 §3.3).
static BARE: [bool; 256] = {
    let mut bare = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        bare[byte as usize] = byte == b'/' || stands_bare(byte);
        byte += 1;
    }
    bare
};

/// `pchar` without percent-encoding.
const fn stands_bare(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes what need not be encoded and encodes what must be.
fn normalise_encoding(raw: &[u8]) -> Result<String, PathFault> {
    let mut path = String::with_capacity(raw.len() + 16);
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let value = hex_pair(tail).ok_or(PathFault::PercentEncoding)?;
                rest = &tail[2..];
                match value {
                    b'/' => return Err(PathFault::EncodedSlash),
                    b'\\' => return Err(PathFault::Backslash),
                    value if value.is_ascii_control() => return Err(PathFault::Control),
                    value if is_unreserved(value) => path.push(char::from(value)),
                    value => push_encoded(&mut path, value),
                }
            }
            b'\\' => return Err(PathFault::Backslash),
            b'?' | b'#' => return Err(PathFault::NotOnlyPath),
            b' ' => return Err(PathFault::Control),
            byte if byte.is_ascii_control() => return Err(PathFault::Control),
            byte if byte == b'/' || stands_bare(byte) => path.push(char::from(byte)),
            byte => push_encoded(&mut path, byte),
        }
    }
    Ok(path)
}

fn push_encoded(path: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    path.push('%');
    path.push(char::from(DIGITS[usize::from(byte >> 4)]));
    path.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex_pair(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(0)? << 4 | digit(1)?)
}

/// Looks at the normalised form, so that digits which were encoded themselves (`%25%32%65`) are seen too.
fn refuse_double_encoding(path: &[u8]) -> Result<(), PathFault> {
    let twice = |window: &[u8]| {
        window.starts_with(b"%25")
            && hex_pair(&window[3..]).is_some_and(|byte| is_unreserved(byte) || b"/\\%;\0".contains(&byte))
    };
    if path.windows(5).any(twice) { Err(PathFault::DoubleEncoding) } else { Ok(()) }
}

/// Removes empty segments and dot segments (RFC 3986 §5.2.4).
fn resolve(path: &str) -> Result<String, PathFault> {
    let mut resolved = String::with_capacity(path.len());
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                let parent = resolved.rfind('/').ok_or(PathFault::AboveRoot)?;
                resolved.truncate(parent);
            }
            segment => {
                resolved.push('/');
                resolved.push_str(segment);
            }
        }
    }
    if resolved.is_empty() || path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..") {
        resolved.push('/');
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_take_their_canonical_form() {
        let cases = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/A-Z._~!$&'()*+,;=:@", "/A-Z._~!$&'()*+,;=:@"),
            // unreserved characters are decoded, the others keep their encoding in upper case
            ("/%61%2Db", "/a-b"),
            ("/%7euser", "/~user"),
            ("/a%3ab%20c", "/a%3Ab%20c"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/{a}|[b]\"<c>^`", "/%7Ba%7D%7C%5Bb%5D%22%3Cc%3E%5E%60"),
            // dot segments and empty ones
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("//", "/"),
            ("//a///b//", "/a/b/"),
            ("/a//../b", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a..b/..c", "/a..b/..c"),
            ("/..a", "/..a"),
            // a literal percent sign, and encodings of more than path characters twice, which do no harm here
            ("/100%25", "/100%25"),
            ("/100%25/x", "/100%25/x"),
            ("/a%2520b", "/a%2520b"),
            ("/a%253ab", "/a%253ab"),
            ("/a;b=c/d", "/a;b=c/d"),
        ];
        for (raw, canonical) in cases {
            assert_eq!(canonicalise(raw).as_deref(), Ok(canonical), "{raw}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        let cases: &[(&[u8], PathFault)] = &[
            (b"", PathFault::NotAbsolute),
            (b"*", PathFault::NotAbsolute),
            (b"a/b", PathFault::NotAbsolute),
            (b"%2Fa", PathFault::NotAbsolute),
            (b"http://host/", PathFault::NotAbsolute),
            (b"/a?b", PathFault::NotOnlyPath),
            (b"/a#b", PathFault::NotOnlyPath),
            (b"/%", PathFault::PercentEncoding),
            (b"/%4", PathFault::PercentEncoding),
            (b"/%zz", PathFault::PercentEncoding),
            (b"/%+1", PathFault::PercentEncoding),
            (b"/%u002e", PathFault::PercentEncoding),
            (b"/a%2fb", PathFault::EncodedSlash),
            (b"/a%2Fb", PathFault::EncodedSlash),
            (b"/..%2fa", PathFault::EncodedSlash),
            (b"/a\\b", PathFault::Backslash),
            (b"/a%5cb", PathFault::Backslash),
            (b"/a\0", PathFault::Control),
            (b"/a%00", PathFault::Control),
            (b"/a%0a", PathFault::Control),
            (b"/a\x7f", PathFault::Control),
            (b"/a%7F", PathFault::Control),
            (b"/a b", PathFault::Control),
            (b"/a%C2%85", PathFault::Control),
            ("/a\u{85}".as_bytes(), PathFault::Control),
            (b"/%252e%252e/a", PathFault::DoubleEncoding),
            (b"/a%252fb", PathFault::DoubleEncoding),
            (b"/a%252Fb", PathFault::DoubleEncoding),
            (b"/a%255cb", PathFault::DoubleEncoding),
            (b"/a%2525b", PathFault::DoubleEncoding),
            (b"/a%252525b", PathFault::DoubleEncoding),
            (b"/%2561dmin", PathFault::DoubleEncoding),
            (b"/a%253Bb", PathFault::DoubleEncoding),
            (b"/a%2500", PathFault::DoubleEncoding),
            (b"/a%25%32%65", PathFault::DoubleEncoding),
            (b"/a%25%32e", PathFault::DoubleEncoding),
            (b"/a/..;/b", PathFault::DotSegmentParameters),
            (b"/a/.;x/b", PathFault::DotSegmentParameters),
            (b"/a/..;x", PathFault::DotSegmentParameters),
            (b"/a/%2e%2e;/b", PathFault::DotSegmentParameters),
            (b"/a/..%3b/b", PathFault::DotSegmentParameters),
            (b"/\xff", PathFault::NotUtf8),
            (b"/%ff", PathFault::NotUtf8),
            (b"/%c0%ae%c0%ae/a", PathFault::NotUtf8),
            (b"/%c0%af", PathFault::NotUtf8),
            (b"/%ed%a0%80", PathFault::NotUtf8),
            (b"/..", PathFault::AboveRoot),
            (b"/a/../..", PathFault::AboveRoot),
            (b"/%2e%2e/a", PathFault::AboveRoot),
            (b"//../a", PathFault::AboveRoot),
        ];
        for (raw, fault) in cases {
            assert_eq!(canonicalise(raw), Err(*fault), "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn a_clean_path_is_not_copied() {
        for path in ["/", "/v1/users/42", "/v1/users/", "/a;b=c", "/a.b/c-d_e~f"] {
            assert!(matches!(canonicalise(path), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    /// Pieces that mean something here, so that random paths are interesting ones.
    fn raw_path() -> impl Strategy<Value = Vec<u8>> {
        let pieces: &[&[u8]] = &[
            b"/",
            b"/",
            b"/",
            b"a",
            b"admin",
            b"ADMIN",
            b".",
            b"..",
            b";",
            b"%",
            b"%2",
            b"%2e",
            b"%2E",
            b"%2f",
            b"%5c",
            b"%61",
            b"%64",
            b"%25",
            b"%252",
            b"%3b",
            b"%3A",
            b":",
            b"%00",
            b"%c3%a9",
            b"%c0%ae",
            b"\xc3\xa9",
            b"\xff",
            b"\\",
            b"5",
            b"e",
            b"2e",
            b" ",
            b"{",
            b"?",
            b"#",
            b"%32",
        ];
        prop_oneof![
            prop::collection::vec(prop::sample::select(pieces), 0..12).prop_map(|pieces| pieces.concat()),
            any::<Vec<u8>>(),
        ]
        .prop_map(|mut path| {
            path.insert(0, b'/');
            path
        })
    }

    /// What a server makes of a path, the plain way: decode all of it, then walk the segments.
    fn model(raw: &[u8]) -> Option<Vec<Vec<u8>>> {
        let decoded: Vec<u8> = percent_encoding::percent_decode(raw).collect();
        let mut walked: Vec<Vec<u8>> = Vec::new();
        for segment in decoded.split(|&byte| byte == b'/' || byte == b'\\') {
            match segment {
                b"" | b"." => {}
                b".." => {
                    walked.pop()?;
                }
                segment => walked.push(segment.to_vec()),
            }
        }
        Some(walked)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_canonical_path_is_its_own_canonical_form(raw in raw_path()) {
            if let Ok(path) = canonicalise(&raw) {
                prop_assert_eq!(canonicalise(&*path), Ok(Cow::Borrowed(&*path)));
            }
        }

        #[test]
        fn a_canonical_path_holds_nothing_ambiguous(raw in raw_path()) {
            if let Ok(path) = canonicalise(&raw) {
                prop_assert!(path.starts_with('/'));
                prop_assert!(path.is_ascii());
                for pattern in ["//", "/./", "/../", "%2F", "%2f", "%5C", "\\", "%00", "%2E", "?", "#", " "] {
                    prop_assert!(!path.contains(pattern), "{} holds {}", path, pattern);
                }
                prop_assert!(!path.ends_with("/.") && !path.ends_with("/.."));
                prop_assert!(http::uri::PathAndQuery::try_from(&*path).is_ok());
            }
        }

        #[test]
        fn every_reading_of_the_raw_path_is_the_reading_of_the_canonical_one(raw in raw_path()) {
            if let Ok(path) = canonicalise(&raw) {
                let walked = model(&raw);
                prop_assert!(walked.is_some());
                prop_assert_eq!(&walked, &model(path.as_bytes()));
                // Decoded once more, as some servers do, plain names stay where they are.
                let twice: Vec<u8> = percent_encoding::percent_decode(&decode(&path)).collect();
                let depth = walked.map(|walked| walked.len());
                prop_assert_eq!(model(&twice).map(|walked| walked.len()), depth);
            }
        }
    }
}
