//! HTTP/2, frame by frame: what is refused, and what the upstream gets of the rest.

use super::{
    document::Table,
    frames::{Answer, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Http2, block, frame, get},
    recorder::Recorder,
};
use crate::support::gate::TestGate;

/// A field of a request.
type Field = (&'static str, &'static str);

/// The fields of a request, and its content.
type Sent = (Vec<Field>, &'static str);

const METHOD: Field = (":method", "GET");
const SCHEME: Field = (":scheme", "http");
const PATH: Field = (":path", "/first");
const AUTHORITY: Field = (":authority", "a");

/// A request of these fields; with content, unless it is empty.
fn sent(fields: &[Field], content: &str) -> Vec<u8> {
    let block = block(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    if content.is_empty() {
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    } else {
        [frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, END_STREAM, 1, content.as_bytes())].concat()
    }
}

/// The pseudo-headers with one of them changed.
fn with(changed: Field) -> Vec<Field> {
    [METHOD, SCHEME, PATH, AUTHORITY].map(|field| if field.0 == changed.0 { changed } else { field }).to_vec()
}

/// Without one of them.
fn without(name: &str) -> Vec<Field> {
    [METHOD, SCHEME, PATH, AUTHORITY].into_iter().filter(|field| field.0 != name).collect()
}

/// The pseudo-headers, and these fields.
fn and(fields: &[Field]) -> Vec<Field> {
    [&[METHOD, SCHEME, PATH, AUTHORITY], fields].concat()
}

/// Such requests, by what the documentation calls them.
fn refused() -> Vec<(&'static str, Vec<Sent>)> {
    let bare = |requests: Vec<Vec<Field>>| requests.into_iter().map(|fields| (fields, "")).collect::<Vec<_>>();
    vec![
        ("upper-case letters in a field's name", bare(vec![and(&[("X-Upper", "1")]), and(&[("xY", "1")])])),
        (
            "CR, LF or NUL in a value",
            bare(vec![
                and(&[("x", "a\rb")]),
                and(&[("x", "a\nb")]),
                and(&[("x", "a\0b")]),
                and(&[("x", "a\r\ntransfer-encoding: chunked")]),
                and(&[("x\r\ny", "1")]),
                and(&[("x: y", "1")]),
                and(&[("", "1")]),
                with((":method", "GET / HTTP/1.1\r\nhost: b\r\n\r\n")),
                with((":authority", "a\r\nx: y")),
            ]),
        ),
        (
            "white space around a value",
            bare(vec![and(&[("x", " a")]), and(&[("x", "a ")]), and(&[("x", "\ta")]), and(&[("x", " ")])]),
        ),
        (
            "a pseudo-header that is unknown, comes twice, or comes after a field",
            bare(vec![
                and(&[(":unknown", "x")]),
                and(&[(":status", "200")]),
                and(&[(":path", "/second")]),
                and(&[(":method", "POST")]),
                and(&[(":authority", "b")]),
                vec![METHOD, SCHEME, AUTHORITY, ("x", "1"), PATH],
            ]),
        ),
        (
            "no :method, :scheme or :path, or an empty :path",
            bare(vec![
                without(":method"),
                without(":scheme"),
                without(":path"),
                with((":path", "")),
                with((":method", "")),
            ]),
        ),
        (
            "a :path with spaces or control characters",
            bare(vec![
                with((":path", "/a b")),
                with((":path", "/ HTTP/1.1\r\nhost: b\r\n\r\n")),
                with((":path", "/a\tb")),
                with((":path", "/a\0")),
                with((":path", "/a?b c")),
                with((":path", " /a")),
            ]),
        ),
        ("a :path that does not begin with /", bare(vec![with((":path", "*"))])),
        ("a :scheme other than http and https", bare(vec![with((":scheme", "ftp")), with((":scheme", "wss"))])),
        (
            "Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding or Upgrade",
            bare(vec![
                and(&[("connection", "x-forwarded-user")]),
                and(&[("keep-alive", "5")]),
                and(&[("proxy-connection", "close")]),
                and(&[("transfer-encoding", "chunked")]),
                and(&[("transfer-encoding", "identity")]),
                and(&[("upgrade", "h2c")]),
            ]),
        ),
        ("TE other than trailers", bare(vec![and(&[("te", "gzip")]), and(&[("te", "trailers, gzip")])])),
        (
            "a Content-Length that is not the length of its content, or not a number",
            vec![
                (and(&[("content-length", "5")]), "body"),
                (and(&[("content-length", "3")]), "body"),
                (and(&[("content-length", "0")]), "body"),
                (and(&[("content-length", "4")]), ""),
                (and(&[("content-length", "+4")]), "body"),
                (and(&[("content-length", "4,4")]), "body"),
                (and(&[("content-length", "0x4")]), "body"),
                (and(&[("content-length", "")]), "body"),
                (and(&[("content-length", "99999999999999999999")]), "body"),
            ],
        ),
        (
            "Content-Length more than once, or with zeros in front",
            vec![
                (and(&[("content-length", "4"), ("content-length", "4")]), "body"),
                (and(&[("content-length", "04")]), "body"),
            ],
        ),
        (
            "a :authority and a Host that differ, several Host, or neither",
            bare(vec![
                and(&[("host", "b")]),
                and(&[("host", "a:80")]),
                and(&[("host", "a"), ("host", "a")]),
                without(":authority"),
            ]),
        ),
        (
            "an authority that is no name and no address with an optional port",
            bare(vec![
                with((":authority", "x@a")),
                with((":authority", "a:99999")),
                with((":authority", "a..b")),
                [without(":authority"), vec![("host", "a, b")]].concat(),
                [without(":authority"), vec![("host", "a/b")]].concat(),
            ]),
        ),
        (
            "a field that some servers take for Content-Length or Transfer-Encoding, such as content_length",
            vec![(and(&[("content_length", "10")]), ""), (and(&[("transfer_encoding", "chunked")]), "body")],
        ),
        (
            "the method CONNECT or TRACE, or one that differs from a standard one only in case",
            bare(vec![
                vec![(":method", "CONNECT"), AUTHORITY],
                with((":method", "TRACE")),
                with((":method", "get")),
                with((":method", "Connect")),
            ]),
        ),
        ("more fields than max_headers", bare(vec![and(&[("x", "1"); 101])])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_one_reading_is_refused() {
    let recorder = Recorder::start().await;
    let gate = TestGate::start(&recorder.route("auth = \"none\"")).await;
    let mut table = Table::under("Refused over HTTP/2");
    let mut wrong = Vec::new();
    for (what, requests) in refused() {
        let expected = table.row(what)[0].clone();
        for (fields, content) in requests {
            let mut connection = Http2::connect(gate.address()).await;
            connection.send(sent(&fields, content)).await;
            let answer = connection.answer(1).await;
            let found = match &answer {
                Answer::Response(status, content) => {
                    let problem: serde_json::Value = serde_json::from_slice(content).unwrap_or_default();
                    format!("{status} {}", problem["code"].as_str().unwrap_or_default())
                }
                Answer::Reset(1) | Answer::GoAway(1) => "PROTOCOL_ERROR".to_owned(),
                other => format!("{other:?}"),
            };
            // Other requests go on.
            if !matches!(answer, Answer::GoAway(_) | Answer::Closed) {
                connection.send(get(3, "/next")).await;
                assert_eq!(connection.answer(3).await, Answer::Response(200, b"ok".to_vec()), "after {fields:?}");
            }
            let came: Vec<String> = recorder.take().into_iter().map(|(read, _)| read.target).collect();
            if found != expected || came.iter().any(|target| target != "/next") {
                wrong
                    .push(format!("{what}\n    {fields:.300?} {content:?}\n    {answer:?}, the upstream got {came:?}"));
            }
        }
    }
    table.finish();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the upstream gets: the request line, fields that tell, and the content as it is framed.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_one_reading_arrives_in_one_form() {
    let recorder = Recorder::start().await;
    let gate = TestGate::start(&recorder.route("auth = \"none\"")).await;
    #[expect(clippy::type_complexity, reason = "a table")]
    let cases: Vec<(Vec<Field>, &str, &str, Vec<Field>, &str)> = vec![
        (and(&[]), "", "GET /first HTTP/1.1", vec![("host", "a")], ""),
        (with((":path", "//x/../y?a#b")), "", "GET /y?a HTTP/1.1", vec![("host", "a")], ""),
        (with((":path", "/first#/../b")), "", "GET /first HTTP/1.1", vec![("host", "a")], ""),
        (with((":scheme", "https")), "", "GET /first HTTP/1.1", vec![("x-forwarded-proto", "http")], ""),
        (and(&[("host", "A")]), "", "GET /first HTTP/1.1", vec![("host", "A")], ""),
        ([without(":authority"), vec![("host", "b:1")]].concat(), "", "GET /first HTTP/1.1", vec![("host", "b:1")], ""),
        (and(&[("content-length", "4")]), "body", "GET /first HTTP/1.1", vec![("content-length", "4")], "body"),
        (and(&[]), "body", "GET /first HTTP/1.1", vec![("transfer-encoding", "chunked")], "4\r\nbody\r\n0\r\n\r\n"),
        (with((":path", "?a")), "", "GET /?a HTTP/1.1", vec![("host", "a")], ""),
        (
            and(&[("x", "1"), ("x", "2"), ("cookie", "a=1"), ("cookie", "b=2")]),
            "",
            "GET /first HTTP/1.1",
            vec![("x", "1"), ("x", "2"), ("cookie", "a=1; b=2")],
            "",
        ),
        (and(&[("te", "trailers")]), "", "GET /first HTTP/1.1", vec![("te", "trailers")], ""),
        (
            and(&[("x-forwarded-user", "eve"), ("x_forwarded_for", "6.6.6.6")]),
            "",
            "GET /first HTTP/1.1",
            vec![("x-forwarded-for", "127.0.0.1")],
            "",
        ),
    ];
    for (fields, content, line, shown, framed) in cases {
        let mut connection = Http2::connect(gate.address()).await;
        connection.send(sent(&fields, content)).await;
        assert_eq!(connection.answer(1).await, Answer::Response(200, b"ok".to_vec()), "{fields:?}");
        let [(read, raw)] = &*recorder.take() else { panic!("one request came of {fields:?}") };
        let raw = String::from_utf8_lossy(raw);
        assert!(raw.starts_with(&format!("{line}\r\n")), "{raw}");
        assert_eq!(raw.split_once("\r\n\r\n").unwrap().1, framed, "{raw}");
        for (name, _) in &shown {
            let expected: Vec<&[u8]> =
                shown.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_bytes()).collect();
            assert_eq!(read.values(name), expected, "{raw}");
        }
        for name in ["x-forwarded-user", "x_forwarded_for"] {
            assert_eq!(read.values(name), [] as [&[u8]; 0], "{raw}");
        }
        let framings = read.values("content-length").len() + read.values("transfer-encoding").len();
        assert_eq!(framings, usize::from(!framed.is_empty()), "{raw}");
    }
}

/// Trailers, and headers in pieces, are read whole.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_and_pieces_of_headers_are_one_request() {
    let recorder = Recorder::start().await;
    let gate = TestGate::start(&recorder.route("auth = \"none\"")).await;
    let mut connection = Http2::connect(gate.address()).await;
    let fields = [vec![(":method", "PUT")], without(":method"), vec![("trailer", "x-sum, host")]].concat();
    let head = block(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    let (first, second) = head.split_at(head.len() / 2);
    let trailers =
        block([(&b"x-sum"[..], &b"1"[..]), (b"host", b"b"), (b"x_forwarded_user", b"eve"), (b"content_length", b"0")]);
    let sent = [
        frame(HEADERS, 0, 1, first),
        frame(CONTINUATION, END_HEADERS, 1, second),
        frame(DATA, 0, 1, b"body"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers),
    ];
    connection.send(sent.concat()).await;
    assert_eq!(connection.answer(1).await, Answer::Response(200, b"ok".to_vec()));
    let [(read, _)] = &*recorder.take() else { panic!("one request came") };
    assert_eq!((&*read.body, &*read.trailers), (&b"body"[..], &[("x-sum".to_owned(), b"1".to_vec())][..]));

    // Pseudo-headers and fields of one connection make trailers malformed (RFC 9113 §§8.1, 8.2.2).
    for name in [":path", "connection", "transfer-encoding"] {
        let mut connection = Http2::connect(gate.address()).await;
        let trailers = block([(name.as_bytes(), &b"/second"[..])]);
        let sent = [
            frame(HEADERS, END_HEADERS, 1, &head),
            frame(DATA, 0, 1, b"body"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers),
        ];
        connection.send(sent.concat()).await;
        assert_eq!(connection.answer(1).await, Answer::Reset(1), "{name}");
        let came = recorder.take();
        assert_eq!(came.len(), 0, "{name}: {came:?}");
    }
}
