use bytes::Bytes;
use proptest::prelude::*;

use super::{
    Refused,
    head::{Fault, HeadLimits, Unread},
};

const LIMITS: HeadLimits = HeadLimits { size: 4096, fields: 20 };

const MALFORMED: Refused = Refused::Head(Fault::Malformed);

fn read_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<(String, Vec<u8>)>, Refused> {
    super::read_pieces(pieces, LIMITS)
}

fn read(bytes: &[u8]) -> Result<usize, Refused> {
    read_pieces([bytes]).map(|requests| requests.len())
}

const HEAD: &str = "POST /a HTTP/1.1\r\nHost: a\r\n";

#[test]
fn what_leaves_no_doubt_is_read() {
    let cases: &[(&str, usize)] = &[
        ("", 0),
        ("\r", 0),
        ("GET / HTTP/1.1\r\nHost: a\r\n", 0),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("{}Content-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n", 2),
        ("{}CONTENT-LENGTH:\t3 \r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n", 2),
        ("{}Content-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("{}Content-Lengths: x\r\nContent-Lengt: x\r\nTE: x\r\nTrailer: x\r\nCookie: x\r\n\r\n", 1),
        ("{}Content-Length: 4\r\n\r\nGET ", 1),
        ("{}Content-Length: 4\r\n\r\nGET", 0),
        ("{}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        (
            "{}transfer-encoding:CHUNKED\r\n\r\n2\r\n\n\n\r\nA;x=\"y\"\r\n\n\n\n\n\n\n\n\n\n\n\r\n00\r\nX: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            2,
        ),
        ("{}Transfer-Encoding: chunked\r\n\r\n1 ; x\r\n\n\r\n0\r\n\r\n", 1),
        // Refused by those who know what it means.
        ("{}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("CONNECT a:1 HTTP/1.1\r\n\r\n", 1),
    ];
    for (bytes, requests) in cases {
        assert_eq!(read(bytes.replace("{}", HEAD).as_bytes()), Ok(*requests), "{bytes:?}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    // `!` stands before the byte that must not be there.
    let cases = [
        "GET / HTTP/1.1!\nHost: a\r\n\r\n",
        "!\nGET / HTTP/1.1\r\n\r\n",
        "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r!\nGET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a!\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n!\n",
        "GET / HTTP/1.1\r\nX: a!\nContent-Length: 5\r\n\r\n",
        "GET /a#b HTTP/1.1\r!\nHost: a\r\n\r\n",
        "{}Content-Length: 3\r\nTransfer-Encoding: chunked\r!\n\r\n",
        "{}Transfer-Encoding: chunked\r\nContent-Length: 3\r!\n\r\n",
        "{}Content-Length: 3\r\nContent-Length: 3\r!\n\r\n",
        "{}Content-Length: 3\r\nContent-Length: 4\r!\n\r\n",
        "{}Content-Length: 3, 3\r!\n\r\n",
        "{}Content-Length: +3\r!\n\r\n",
        "{}Content-Length: -3\r!\n\r\n",
        "{}Content-Length: 0x3\r!\n\r\n",
        "{}Content-Length: 3_0\r!\n\r\n",
        "{}Content-Length: 3 0\r!\n\r\n",
        "{}Content-Length: 3.0\r!\n\r\n",
        "{}Content-Length: 03\r!\n\r\n",
        "{}Content-Length: 00\r!\n\r\n",
        "{}Content-Length:\r!\n\r\n",
        "{}Content-Length: 99999999999999999999\r!\n\r\n",
        "{}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r!\n\r\n",
        "{}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r!\n\r\n",
        "{}Transfer-Encoding: chunked, chunked\r!\n\r\n",
        "{}Transfer-Encoding: chunked, gzip\r!\n\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n!x\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n!\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n! 1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n!+1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n!-1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n0!x1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1!_0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1 !\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1 !0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1!\nx\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1\r!\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1;x!\ny\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1;x\r!y\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1;!\0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1111111111111111!1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1\r\nx!y\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1\r\nx!\n0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r!0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n0\r\nX: 1!\n\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n0\r\n!\n",
    ];
    for case in cases {
        let case = case.replace("{}", HEAD);
        let at = case.find('!').unwrap();
        let bytes = case.replacen('!', "", 1);
        let expected = if bytes[..at].contains("\r\n\r\n") && bytes.contains("chunked\r\n\r\n") {
            Refused::Content
        } else {
            MALFORMED
        };
        assert_eq!(read(bytes.as_bytes()), Err(expected), "{case:?}");
        let each = bytes.as_bytes().chunks(1);
        assert_eq!(read_pieces(each), Err(expected), "{case:?}");
        // One byte sooner there is nothing wrong yet.
        assert!(read(&bytes.as_bytes()[..at]).is_ok(), "{case:?}");
    }
}

#[test]
fn what_is_no_request_is_refused() {
    for bytes in [
        "GET  / HTTP/1.1\r\n\r\n",
        "GET /\tHTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/1.2\r\n\r\n",
        "GET /\r\n\r\n",
        "get\0 / HTTP/1.1\r\n\r\n",
        "GET /\0 HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\n X: y\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\n: y\r\n\r\n",
        "GET / HTTP/1.1\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nX: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        "\rGET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(read(bytes.as_bytes()), Err(MALFORMED), "{bytes:?}");
        assert_eq!(read_pieces(bytes.as_bytes().chunks(1)), Err(MALFORMED), "{bytes:?}");
    }
}

#[test]
fn a_header_has_its_limits() {
    let too_large = Err(Refused::Head(Fault::TooLarge));
    let of = |size: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(size - 23));
    assert_eq!(of(LIMITS.size).len(), LIMITS.size);
    assert_eq!(read(of(LIMITS.size).as_bytes()), Ok(1));
    assert_eq!(read(of(LIMITS.size + 1).as_bytes()), too_large);
    let endless = "x".repeat(LIMITS.size + 1);
    assert_eq!(read_pieces(["GET / HTTP/1.1\r\nX: ", &endless].map(str::as_bytes)).map(|read| read.len()), too_large);
    assert_eq!(read(endless.as_bytes()), too_large);
    let fields = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert_eq!(read(fields(LIMITS.fields).as_bytes()), Ok(1));
    assert_eq!(read(fields(LIMITS.fields + 1).as_bytes()), too_large);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    let limits = HeadLimits { size: 100_000, ..LIMITS };
    let taken = Unread::default().take(&mut Bytes::from(long), limits);
    assert_eq!(taken.map(|_| ()), Err(Fault::TargetTooLong));
    // More than there is usually room for.
    let limits = HeadLimits { fields: 300, ..LIMITS };
    let taken = Unread::default().take(&mut Bytes::from(fields(300)), limits).unwrap();
    assert_eq!(taken.unwrap().request.headers().len(), 300);
}

#[test]
fn a_header_says_whether_the_connection_goes_on() {
    for (head, expected) in [
        ("HTTP/1.1\r\n", true),
        ("HTTP/1.1\r\nConnection: close\r\n", false),
        ("HTTP/1.1\r\nConnection: x, Close\r\n", false),
        ("HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive\r\n", false),
        ("HTTP/1.1\r\nConnection: keep-alive\r\nConnection: close\r\n", false),
        ("HTTP/1.1\r\nConnection: keep-alive, close\r\n", false),
        ("HTTP/1.0\r\n", false),
        ("HTTP/1.0\r\nConnection: Keep-Alive\r\n", true),
        ("HTTP/1.0\r\nConnection: keep-alive, close\r\n", false),
    ] {
        let bytes = format!("GET / {head}\r\n");
        let taken = Unread::default().take(&mut Bytes::from(bytes), LIMITS).unwrap();
        assert_eq!(taken.unwrap().persistent, expected, "{head:?}");
    }
}

/// Pieces that mean something, so that random bytes are interesting ones.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(
        &[
            "POST / HTTP/1.1\r\n",
            "Content-Length: 3\r\n",
            "Content-Length: 1",
            "Transfer-Encoding: chunked\r\n",
            "Host: a\r\n",
            "\r\n",
            "\n",
            "\r",
            "0\r\n\r\n",
            "3\r\nabc\r\n",
            "1;x=y\r\n\n\r\n",
            "a",
            "#",
            " ",
            "0",
            ";",
            "X: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
        ][..],
    );
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However bytes come, they mean the same.
    #[test]
    fn pieces_are_read_like_the_whole(bytes in pieces(), sizes in prop::collection::vec(1..40_usize, 1..40)) {
        // What is wrong in a line is noticed at its end at the latest.
        let bytes = [&bytes[..], b"\r\n\r\n"].concat();
        let (mut rest, mut sizes) = (&bytes[..], sizes.into_iter().cycle());
        let pieces = std::iter::from_fn(|| {
            let (piece, after) = rest.split_at_checked(sizes.next().unwrap_or(1)).unwrap_or((rest, b""));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(read_pieces(pieces), read_pieces([&bytes[..]]));
    }
}
