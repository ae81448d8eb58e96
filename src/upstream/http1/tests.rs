use bytes::Bytes;
use http::{HeaderMap, Method};
use proptest::prelude::*;

use super::{Connection, Decoded, Failure, Link, Malformed, decode_in_pieces, exchange};
use crate::upstream::{body::RequestBody, waiting::Waiting};

fn decode(method: &Method, bytes: &[u8], ended: bool) -> Result<Option<Decoded>, Malformed> {
    decode_in_pieces(method, [bytes], ended)
}

/// What a case comes to: the status, the body, and how much is left; or what is wrong.
type Outcome = Result<Option<(u16, String, usize)>, Malformed>;

fn outcome(method: &Method, bytes: &[u8], ended: bool) -> Outcome {
    decode(method, bytes, ended).map(|decoded| {
        decoded
            .map(|decoded| (decoded.status.as_u16(), String::from_utf8_lossy(&decoded.body).into_owned(), decoded.left))
    })
}

#[test]
fn a_response_ends_where_its_header_says() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(257));
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(64 * 1024));
    let interim = format!("{}HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n".repeat(3));
    let whole = |status, body: &str, left| Ok(Some((status, body.to_owned(), left)));
    let cases: Vec<(&str, Outcome)> = vec![
        // A length.
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", whole(200, "body", 0)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodymore", whole(200, "body", 4)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbod", Ok(None)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", whole(200, "", 0)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody", whole(200, "body", 0)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nbody", whole(200, "body", 0)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 004\r\n\r\nbody", whole(200, "body", 0)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody", Err(Malformed::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\nbody", Err(Malformed::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4,\r\n\r\nbody", Err(Malformed::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nbody", Err(Malformed::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nbody", Err(Malformed::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n\r\nbody", Err(Malformed::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4 4\r\n\r\nbody", Err(Malformed::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nbody", Err(Malformed::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nbody", Err(Malformed::Length)),
        // Chunks.
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n2;a=b\r\n..\r\n0\r\n\r\n",
            whole(200, "body..", 0),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n00A \r\n0123456789\r\n0\r\n\r\nmore",
            whole(200, "0123456789", 4),
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n", Ok(None)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", Ok(None)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbodyX0\r\n\r\n", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\nbody\n0\n\n", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 4\r\nbody\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-4\r\nbody\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a\nb\r\nbody\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a\rb\r\nbody\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a\0\r\nbody\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nbody", Err(Malformed::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\nY: 2\r\n\r\n", Err(Malformed::Trailers)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n folded\r\n\r\n", Err(Malformed::Trailers)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : 1\r\n\r\n", Err(Malformed::Trailers)),
        // Neither.
        ("HTTP/1.1 200 OK\r\n\r\nall of it", whole(200, "all of it", 0)),
        ("HTTP/1.0 200 OK\r\n\r\nall of it", whole(200, "all of it", 0)),
        ("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", whole(200, "body", 0)),
        // No body.
        ("HTTP/1.1 204 No Content\r\n\r\n", whole(204, "", 0)),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", whole(204, "", 0)),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody", Err(Malformed::Length)),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Err(Malformed::Length)),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", whole(304, "", 0)),
        (&interim, whole(200, "", 0)),
        // Both, or other codings.
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Err(Malformed::Coding)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Err(Malformed::Coding)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", Err(Malformed::Coding)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nbody", Err(Malformed::Coding)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nbody", Err(Malformed::Coding)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Err(Malformed::Coding)),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Err(Malformed::Coding),
        ),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Err(Malformed::Coding)),
        // Headers that are none.
        ("HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 200 OK\r\n X: 1\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 200 OK\r\nX: 1\rY: 2\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 200 OK\r\nX: 1\x002\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 200 OK\r\nX\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 200 OK\r\n: 1\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 200 O\rK\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 20 OK\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 099 OK\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1 2000 OK\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.1  200 OK\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/1.2 200 OK\r\n\r\n", Err(Malformed::Header)),
        ("HTTP/2 200 OK\r\n\r\n", Err(Malformed::Header)),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Err(Malformed::Header)),
        ("ICY 200 OK\r\n\r\n", Err(Malformed::Header)),
        (&long, Err(Malformed::TooLarge)),
        (&many, Err(Malformed::TooLarge)),
        (&endless, Err(Malformed::TooLarge)),
    ];
    for (bytes, expected) in cases {
        let shown = &bytes[..bytes.len().min(200)];
        assert_eq!(outcome(&Method::GET, bytes.as_bytes(), true), expected, "{shown:?}");
        // A byte at a time, it comes to the same.
        let bytewise = decode_in_pieces(&Method::GET, bytes.as_bytes().chunks(1), true);
        assert_eq!(bytewise, decode(&Method::GET, bytes.as_bytes(), true), "{shown:?}");
    }
}

#[test]
fn a_response_to_head_has_no_body() {
    for (fields, expected) in [("Content-Length: 4", Ok(0)), ("Transfer-Encoding: chunked", Ok(0)), ("", Ok(0))] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").replace("\r\n\r\n\r\n", "\r\n\r\n");
        let found = decode(&Method::HEAD, bytes.as_bytes(), false).map(|decoded| decoded.unwrap().body.len());
        assert_eq!(found, expected, "{fields}");
    }
}

#[test]
fn what_a_length_says_twice_is_passed_on_once() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\nContent-Length: 04\r\n\r\nbody";
    let headers = decode(&Method::GET, bytes, false).unwrap().unwrap().headers;
    assert_eq!(headers.get_all("content-length").iter().collect::<Vec<_>>(), ["4"]);
}

#[test]
fn trailers_are_read_without_those_that_frame() {
    let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\nConnection: x\r\n\r\n";
    let trailers = decode(&Method::GET, bytes, false).unwrap().unwrap().trailers.unwrap();
    assert_eq!(trailers, HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]));
}

#[test]
fn what_is_around_chunks_is_bounded() {
    let extension = |size: usize| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(size))
    };
    assert!(decode(&Method::GET, extension(4000).as_bytes(), false).unwrap().is_some());
    assert_eq!(decode(&Method::GET, extension(5000).as_bytes(), false), Err(Malformed::Chunk));
    let trailers = |size: usize| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: {}\r\n\r\n", "t".repeat(size))
    };
    assert!(decode(&Method::GET, trailers(16_000).as_bytes(), false).unwrap().is_some());
    assert_eq!(decode(&Method::GET, trailers(17_000).as_bytes(), false), Err(Malformed::Trailers));
}

/// The chunked coding once more, of all of it at once, word by word. `None`: it is not complete, or not right.
fn dechunk(mut text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    loop {
        let end = text.windows(2).position(|pair| pair == b"\r\n")?;
        let size = std::str::from_utf8(&text[..end]).ok()?.split(';').next()?.trim_end_matches([' ', '\t']);
        let size = usize::from_str_radix(size, 16).ok().filter(|_| !size.starts_with('+'))?;
        text = &text[end + 2..];
        if size == 0 {
            // Trailers are passed over: those that frame are told to nobody.
            while !text.starts_with(b"\r\n") {
                text = &text[text.windows(2).position(|pair| pair == b"\r\n")? + 2..];
            }
            return Some((body, text.len() - 2));
        }
        if text.len() < size + 2 || &text[size..size + 2] != b"\r\n" {
            return None;
        }
        body.extend_from_slice(&text[..size]);
        text = &text[size + 2..];
    }
}

/// Cuts `bytes` at these places.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.sort_unstable();
    let ends = places.iter().copied().chain([bytes.len()]);
    let mut begin = 0;
    ends.map(|end| &bytes[std::mem::replace(&mut begin, end)..end]).collect()
}

/// Text that is nearly a response.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(
        &[
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 200 OK\r\n",
            "HTTP/1.1 204 No Content\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "Content-Length: 4\r\n",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "X: y\r\n",
            "\r\n",
            "\r\n\r\n",
            "4\r\nbody\r\n",
            "0\r\n\r\n",
            "0\r\nX: y\r\n\r\n",
            "a;b=c\r\n0123456789\r\n",
            "body",
            "\n",
            "\r",
            " ",
            "\0",
            "0",
            ";",
            ":",
        ][..],
    );
    (any::<bool>(), prop::collection::vec(piece, 0..12)).prop_map(|(begins, pieces)| {
        let begin = if begins { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" } else { "" };
        [begin, &pieces.concat()].concat().into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// How a response arrives makes no difference.
    #[test]
    fn pieces_come_to_the_same_as_the_whole(
        bytes in prop_oneof![nearly(), prop::collection::vec(any::<u8>(), 0..200)],
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ended in any::<bool>(),
    ) {
        let whole = decode(&Method::GET, &bytes, ended);
        prop_assert_eq!(decode_in_pieces(&Method::GET, cut(&bytes, &places), ended), whole);
    }

    /// Chunks of any sizes, with or without extensions, come out as they went in.
    #[test]
    fn chunks_are_taken_off(
        chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), "(;[a-z]{1,5}(=[a-z0-9]{1,5})?)?"), 0..6),
        rest in prop::collection::vec(any::<u8>(), 0..10),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut text = Vec::new();
        for (data, extension) in &chunks {
            text.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
            text.extend_from_slice(data);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"0\r\n\r\n");
        text.extend_from_slice(&rest);
        let expected = dechunk(&text).unwrap();
        let head = &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..];
        let bytes = [head, &text].concat();
        let decoded = decode_in_pieces(&Method::GET, cut(&bytes, &places), false).unwrap().unwrap();
        prop_assert_eq!((decoded.body, decoded.left), expected);
    }

    /// What is taken for chunks is what the plain model takes for them.
    #[test]
    fn what_is_read_as_chunks_is_chunks(bytes in nearly()) {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (Some(text), Ok(Some(decoded))) = (bytes.strip_prefix(head), decode(&Method::GET, &bytes, true)) else {
            return Ok(());
        };
        if decoded.trailers.is_none() {
            prop_assert_eq!(dechunk(text), Some((decoded.body, decoded.left)));
        }
    }
}

#[test]
fn a_part_of_what_was_read_is_not_copied() {
    let mut buffer = Bytes::from_static(b"HTTP/1.1 200 OK\r\nX-Long: 0123456789\r\nContent-Length: 4\r\n\r\nbody");
    let range = buffer.as_ptr_range();
    let head = super::head::Unread::default().parse(&mut buffer, &Method::GET).unwrap().unwrap();
    assert!(range.contains(&head.headers["x-long"].as_bytes().as_ptr()));
    assert_eq!(buffer, "body");
}

/// A kept connection of which the system knows more than the runtime has heard of.
struct Told {
    is_disturbed: bool,
    written: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Link for Told {
    fn is_disturbed(&self) -> bool {
        self.is_disturbed
    }
}

impl tokio::io::AsyncRead for Told {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.written.lock().unwrap().is_empty() {
            return std::task::Poll::Pending;
        }
        // What came before it was asked for looks like an answer.
        buffer.put_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Told {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.written.lock().unwrap().extend(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_came_before_a_request_does_not_answer_it() {
    for method in [Method::GET, Method::DELETE, Method::POST] {
        for (is_disturbed, is_reused) in [(true, true), (false, true), (true, false)] {
            let written = std::sync::Arc::default();
            let stream = Told { is_disturbed, written: std::sync::Arc::clone(&written) };
            let mut connection = Connection::new(stream);
            connection.reused = is_reused;
            let request = http::Request::builder().method(&method).uri("/").body(()).unwrap();
            let limit = std::time::Duration::from_secs(5);
            let within = (tokio::time::Instant::now(), limit);
            match exchange(connection, request.into(), RequestBody::default(), within, &Waiting::default()).await {
                Ok(_) => assert!(!(is_disturbed && is_reused), "{method}"),
                Err(unanswered) => {
                    assert!(is_disturbed && is_reused, "{method}");
                    assert!(matches!(unanswered.failure, Failure::BrokeOff(_)) && !unanswered.sent, "{method}");
                    assert!(written.lock().unwrap().is_empty(), "{method}");
                }
            }
        }
    }
}
