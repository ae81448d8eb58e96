//! Server-sent events, as they come: the event stream format of the HTML standard (WHATWG HTML §9.2.6).
//!
//! 1. Bytes come in pieces of any size; lines end with CR, LF, or both.
//! 2. A line, and the data of an event, have a greatest length. An event that is longer is passed over, and said to have been: its
//!    id counts, so that it does not come again.
//! 3. What is not UTF-8 is replaced, not refused.
//! 4. An event that is not ended by an empty line never was.

use std::time::Duration;

/// What a stream says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// An event.
    Event(Event),
    /// An event that was longer than may be, with the id that it had, if any.
    TooLong(Option<Box<str>>),
    /// A line that means nothing, but that the stream lives.
    Comment,
    /// How long to wait before connecting again.
    Retry(Duration),
}

/// An event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its type; empty: none was given.
    pub kind: Box<str>,
    /// Its data; lines are separated by LF.
    pub data: String,
    /// Its own id, or else that of the latest event that had one.
    pub id: Option<Box<str>>,
}

/// Reads a stream.
#[derive(Debug)]
pub struct Parser {
    max: usize,
    line: Line,
    event: Pending,
    id: Option<Box<str>>,
    /// The last byte was CR: an LF now is the same line's end.
    after_cr: bool,
    begun: bool,
}

/// The line under way.
#[derive(Default, Debug)]
struct Line {
    bytes: Vec<u8>,
    /// There was more.
    overrun: bool,
}

/// The event under way.
#[derive(Default, Debug)]
struct Pending {
    kind: String,
    data: Option<String>,
    /// There was more.
    overrun: bool,
}

impl Parser {
    /// A parser at the beginning of a stream, whose lines and data may have `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, line: Line::default(), event: Pending::default(), id: None, after_cr: false, begun: false }
    }

    /// Reads on.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        let mut rest = bytes;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|&byte| matches!(byte, b'\n' | b'\r')) {
            self.extend(&rest[..end]);
            items.extend(self.end_line());
            let is_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if is_cr {
                self.after_cr = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
        }
        self.extend(rest);
        items
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = self.max.saturating_sub(self.line.bytes.len());
        self.line.overrun |= bytes.len() > room;
        self.line.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self) -> Option<Item> {
        let Line { bytes: mut line, overrun } = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.begun, true) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        let item = self.take_line(&line, overrun);
        line.clear();
        self.line.bytes = line;
        item
    }

    fn take_line(&mut self, line: &[u8], overrun: bool) -> Option<Item> {
        if line.is_empty() && !overrun {
            return self.dispatch();
        }
        if line.first() == Some(&b':') {
            return Some(Item::Comment);
        }
        if overrun {
            self.event.overrun = true;
            return None;
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = colon.map_or((line, &b""[..]), |colon| (&line[..colon], &line[colon + 1..]));
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match name {
            b"event" => self.event.kind = value.into_owned(),
            b"data" => self.event.add(&value, self.max),
            b"id" if !value.contains('\0') => self.id = Some(value.into()),
            b"retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Some(Item::Retry(Duration::from_millis(value.parse().unwrap_or(u64::MAX))));
            }
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Item> {
        let Pending { kind, data, overrun } = std::mem::take(&mut self.event);
        let id = self.id.clone().filter(|id| !id.is_empty());
        if overrun {
            return Some(Item::TooLong(id));
        }
        data.map(|data| Item::Event(Event { kind: kind.into(), data, id }))
    }
}

impl Pending {
    fn add(&mut self, line: &str, max: usize) {
        if self.data.as_ref().map_or(0, |data| data.len() + 1) + line.len() > max {
            self.overrun = true;
            return;
        }
        match &mut self.data {
            Some(data) => {
                data.push('\n');
                data.push_str(line);
            }
            None => self.data = Some(line.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(stream: impl AsRef<[u8]>) -> Vec<Item> {
        Parser::new(100).push(stream.as_ref())
    }

    fn event(kind: &str, data: &str, id: Option<&str>) -> Item {
        Item::Event(Event { kind: kind.into(), data: data.into(), id: id.map(Into::into) })
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let cases: [(&str, &[Item]); 22] = [
            ("data: a\n\n", &[event("", "a", None)]),
            ("data:a\ndata:  b\ndata\n\n", &[event("", "a\n b\n", None)]),
            ("event: add\nid: 1\ndata: a\n\ndata: b\n\n", &[event("add", "a", Some("1")), event("", "b", Some("1"))]),
            ("id: 1\ndata: a\n\nid\ndata: b\n\n", &[event("", "a", Some("1")), event("", "b", None)]),
            ("id: 1\ndata: a\n\nid: 2\n\ndata: b\n\n", &[event("", "a", Some("1")), event("", "b", Some("2"))]),
            ("id: a\0b\ndata: a\n\n", &[event("", "a", None)]),
            (":\n: heartbeat\n:connected\n\n", &[Item::Comment, Item::Comment, Item::Comment]),
            ("retry: 2000\n\n", &[Item::Retry(Duration::from_secs(2))]),
            ("retry: 99999999999999999999999\n", &[Item::Retry(Duration::from_millis(u64::MAX))]),
            ("retry: 1s\nretry:\nretry: -1\nretry\n", &[]),
            ("data\n\n", &[event("", "", None)]),
            ("data:\n\n", &[event("", "", None)]),
            ("event: add\n\n\n\n", &[]),
            ("event: lost\n\ndata: a\n\n", &[event("", "a", None)]),
            ("Data: a\ndata : b\n data: c\ndata: d\n\n", &[event("", "d", None)]),
            ("\u{feff}data: a\n\n", &[event("", "a", None)]),
            ("data: a\n\n\u{feff}data: b\n\n", &[event("", "a", None)]),
            (
                "data: a\r\rdata: b\r\n\r\ndata: c\n\n",
                &[event("", "a", None), event("", "b", None), event("", "c", None)],
            ),
            ("data: a\r\n\n", &[event("", "a", None)]),
            ("data: a:b: c\n\n", &[event("", "a:b: c", None)]),
            ("data: a\n", &[]),
            ("", &[]),
        ];
        for (stream, expected) in cases {
            assert_eq!(read(stream), expected, "{stream:?}");
        }
        assert_eq!(read(b"data: \xff\xfe\xc3\xa9\n\n"), [event("", "\u{fffd}\u{fffd}\u{e9}", None)]);
    }

    #[test]
    fn what_auth0_shows_of_its_stream_is_read() {
        let stream = include_str!("../../../tests/fixtures/auth0/events-api/stream.sse.txt");
        let items = Parser::new(1000).push(stream.as_bytes());
        let kinds: Vec<&str> = items
            .iter()
            .map(|item| match item {
                Item::Event(event) => &*event.kind,
                Item::Comment => ":",
                Item::Retry(_) => "retry",
                Item::TooLong(_) => panic!("{item:?}"),
            })
            .collect();
        assert_eq!(kinds, [":", "retry", "user.created", "offset-only", ":", "user.updated"]);
        let Some(Item::Event(event)) = items.last() else { panic!("{items:?}") };
        assert_eq!(event.id.as_deref(), Some("NTY3ODkwMTIzCg=="));
        assert!(event.data.starts_with("{\"offset\":\"NTY3ODkwMTIzCg==\","));
    }

    #[test]
    fn what_is_too_long_is_passed_over_and_its_id_counts() {
        let long = "x".repeat(101);
        let after = event("", "b", Some("2"));
        for stream in [
            format!("id: 1\ndata: {long}\n\nid: 2\ndata: b\n\n"),
            format!("data: {long}\nid: 1\n\nid: 2\ndata: b\n\n"),
            format!("id: 1\n{}\nid: 2\ndata: b\n\n", "data: 123456789\n".repeat(11)),
            format!("id: 1\n{long}: x\ndata: a\n\nid: 2\ndata: b\n\n"),
            format!("id: 1\ndata: {}\n\nid: 2\ndata: b\n\n", "x".repeat(10_000_000)),
        ] {
            assert_eq!(read(&stream), [Item::TooLong(Some("1".into())), after.clone()], "{}", &stream[..40]);
        }
        assert_eq!(read(format!("data: {long}\n\n")), [Item::TooLong(None)]);
        assert_eq!(read(format!(": {long}\n\n")), [Item::Comment], "a comment has no length");
        let fits = "x".repeat(94);
        assert_eq!(read(format!("data: {fits}\n\n")), [event("", &fits, None)]);
        let mut parser = Parser::new(100);
        for _ in 0..10_000 {
            assert_eq!(parser.push(&[b'x'; 100]), []);
        }
        assert!(parser.line.bytes.capacity() <= 256 && parser.event.data.is_none());
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            Just(&b"data: a"[..]),
            Just(&b"data:"[..]),
            Just(&b"id: 7"[..]),
            Just(&b"event: e"[..]),
            Just(&b"retry: 10"[..]),
            Just(&b": c"[..]),
            Just(&b"\n"[..]),
            Just(&b"\r"[..]),
            Just(&b"\r\n"[..]),
            Just(&b"\xef\xbb\xbf"[..]),
            Just("\u{e9}".as_bytes()),
            Just(&b"\xff"[..]),
            Just(&b"0123456789"[..]),
        ];
        prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_a_stream_comes(
            stream in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut parser = Parser::new(24);
            let (mut items, mut from) = (Vec::new(), 0);
            for cut in cuts {
                items.extend(parser.push(&stream[from..cut]));
                from = cut;
            }
            items.extend(parser.push(&stream[from..]));
            prop_assert_eq!(items, Parser::new(24).push(&stream));
        }
    }
}
