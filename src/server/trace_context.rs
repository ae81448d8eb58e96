//! `traceparent` (W3C Trace Context §3.2): passed on as it is, read for the access log, made where that is asked for.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::random;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What a trace is called: 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The trace that a request belongs to, if it says so in a form that can be read.
pub(super) fn trace_id(fields: &HeaderMap) -> Option<TraceId> {
    let mut parents = fields.get_all(TRACEPARENT).iter();
    let parent = parents.next()?;
    if parents.next().is_some() {
        return None;
    }
    let parent = parent.to_str().ok()?;
    let (head, rest) = parent.split_at_checked(55)?;
    let [version, trace, span, flags] = head.split('-').collect::<Vec<_>>().try_into().ok()?;
    let hex = |text: &str, length| {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_hex = text.len() == length && text.bytes().all(digit);
        is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
    };
    let version = hex(version, 2)?;
    // A later version may say more, after another dash.
    if version == 0xff || !rest.is_empty() && (version == 0 || !rest.starts_with('-')) {
        return None;
    }
    hex(flags, 2)?;
    (hex(span, 16)? > 0).then(|| hex(trace, 32).filter(|&trace| trace > 0).map(TraceId)).flatten()
}

/// Begins a trace where a request belongs to none that can be read (§4.3); `tracestate` belongs to what could not be.
///
/// It says that it is recorded: where it did not, upstreams that go by their caller would record nothing.
pub(super) fn begin(fields: &mut HeaderMap) {
    if trace_id(fields).is_some() {
        return;
    }
    let trace = u128::from(random::number()) << 64 | u128::from(random::number() | 1);
    let span = random::number() | 1;
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    random::write_hex(&trace.to_be_bytes(), &mut text[3..35]);
    random::write_hex(&span.to_be_bytes(), &mut text[36..52]);
    if let Ok(parent) = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text)) {
        fields.insert(TRACEPARENT, parent);
        fields.remove(TRACESTATE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(parents: &[&str]) -> HeaderMap {
        parents.iter().map(|parent| (TRACEPARENT, HeaderValue::try_from(*parent).unwrap())).collect()
    }

    #[test]
    fn a_trace_is_read_as_the_standard_writes_it() {
        const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (parent, known) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-011", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", false),
            ("0+-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("", false),
        ] {
            let mut fields = fields(&[parent]);
            let found = trace_id(&fields);
            assert_eq!(found.map(|id| id.to_string()).as_deref(), known.then_some(ID), "{parent}");
            fields.insert(TRACESTATE, HeaderValue::from_static("a=b"));
            begin(&mut fields);
            assert_eq!(trace_id(&fields) == found, known, "{parent}");
            assert!(trace_id(&fields).is_some(), "{parent}");
            assert_eq!(fields.contains_key(TRACESTATE), known, "{parent}");
        }
        assert_eq!(trace_id(&fields(&["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"; 2])), None);
        assert_eq!(trace_id(&HeaderMap::new()), None);
    }
}
