//! HTTP/1.1, byte by byte: what is refused, and what the upstream gets of the rest.

use super::{document::Table, recorder::Recorder, strict::Read};
use crate::support::{client::Raw, gate::TestGate};

/// Comes after every request: where a request ends is where this one begins, or nowhere.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: next\r\nConnection: close\r\n\r\n";

/// Such requests, by what the documentation calls them. `{}` is a beginning without fault.
const REFUSED: [(&str, &[&str]); 30] = [
    (
        "a line that ends in a bare LF",
        &[
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "{}X: a\nContent-Length: 10\r\n\r\n",
            "{}X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\n\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "a bare CR, NUL or another control character",
        &[
            "{}X: a\rContent-Length: 10\r\n\r\n",
            "{}X: a\r\r\n\r\n",
            "{}\rX: a\r\n\r\n",
            "{}X: a\0b\r\n\r\n",
            "{}X: a\x01\r\n\r\n",
            "{}X: a\x7f\r\n\r\n",
            "{}X: \x0bchunked\r\n\r\n",
            "{}X\0: a\r\n\r\n",
            "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n",
            "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "{}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        ],
    ),
    (
        "a folded line, or white space before a field's name",
        &[
            "{}X: a\r\n b\r\n\r\n",
            "{}X: a\r\n\tb\r\n\r\n",
            "{}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
            "{}X: a\r\n \r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "white space before the colon of a field, no colon, no name, or a name that is no token",
        &[
            "{}Content-Length : 10\r\n\r\n",
            "{}Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "{}X\r\n\r\n",
            "{}: a\r\n\r\n",
            "{}X Y: a\r\n\r\n",
            "{}X(y): a\r\n\r\n",
            "{}\u{e9}: a\r\n\r\n",
            "{}\"X\": a\r\n\r\n",
        ],
    ),
    (
        "anything but single spaces between method, target and version",
        &[
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "more than eight empty lines before it",
        &["\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"],
    ),
    (
        "another version than HTTP/1.0 and HTTP/1.1, or none",
        &[
            "GET /\r\n\r\n",
            "GET / \r\n\r\n",
            "GET / HTTP/0.9\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/3\r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/01.1\r\nHost: a\r\n\r\n",
            "GET / HTTPS/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "a fragment in its target",
        &["GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?b#/../admin HTTP/1.1\r\nHost: a\r\n\r\n"],
    ),
    (
        "Content-Length more than once, the same or not",
        &[
            "{}Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
            "{}Content-Length: 4\r\nContent-Length: 10\r\n\r\nbody",
            "{}Content-Length: 0\r\ncontent-length: 10\r\n\r\n",
        ],
    ),
    (
        "a Content-Length that is not a plain decimal number",
        &[
            "{}Content-Length: 4, 4\r\n\r\nbody",
            "{}Content-Length: +4\r\n\r\nbody",
            "{}Content-Length: -1\r\n\r\nbody",
            "{}Content-Length: 0x4\r\n\r\nbody",
            "{}Content-Length: 04\r\n\r\nbody",
            "{}Content-Length: 4 4\r\n\r\nbody",
            "{}Content-Length: 4.0\r\n\r\nbody",
            "{}Content-Length: 1e1\r\n\r\nbody",
            "{}Content-Length: 1_0\r\n\r\nbody",
            "{}Content-Length: \"4\"\r\n\r\nbody",
            "{}Content-Length: 4;\r\n\r\nbody",
            "{}Content-Length:\r\n\r\nbody",
            "{}Content-Length: chunked\r\n\r\nbody",
            "{}Content-Length: 18446744073709551616\r\n\r\nbody",
            "{}Content-Length: 18446744073709551620\r\n\r\nbody",
            "{}Content-Length: 99999999999999999999999\r\n\r\nbody",
        ],
    ),
    (
        "Content-Length beside Transfer-Encoding",
        &[
            // CL.TE, TE.CL, and what is left of either for those who know only one.
            "{}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
            "{}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            "{}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nbody",
            "GET / HTTP/1.0\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nbody",
        ],
    ),
    (
        "a transfer coding that does not end in chunked",
        &[
            "{}Transfer-Encoding: gzip\r\n\r\nbody",
            "{}Transfer-Encoding: identity\r\n\r\nbody",
            "{}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked;\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked;x=y\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding:\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: ch\u{212a}unked\r\n\r\n0\r\n\r\n",
        ],
    ),
    (
        "Transfer-Encoding in HTTP/1.0",
        &[
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    ),
    (
        "another transfer coding before chunked",
        &[
            "{}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        ],
    ),
    (
        "Transfer-Encoding more than once, or chunked anywhere but at its end",
        &[
            "{}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "{}Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    ),
    (
        "a chunk whose size is not a hexadecimal number, or too large",
        &[
            "{}Transfer-Encoding: chunked\r\n\r\nzz\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n-1\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n+4\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4_0\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4 0\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n 4\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n;x\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n10000000000000004\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n00000000000000000000004\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\nzz\r\n",
        ],
    ),
    (
        "white space after the size of a chunk, or lines between chunks that do not end in CRLF",
        &[
            "{}Transfer-Encoding: chunked\r\n\r\n4 \r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4\t\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4\rbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4;x\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4;x\rbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n0\r\n\n",
            "{}Transfer-Encoding: chunked\r\n\r\n0\n\r\n",
        ],
    ),
    (
        "a chunk that is longer or shorter than its size",
        &[
            "{}Transfer-Encoding: chunked\r\n\r\n4\r\nbodyX\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4\r\nbody0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4\r\nbod\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4\r\nbodyXX0\r\n\r\n",
        ],
    ),
    (
        "control characters in a chunk's extensions, or more than 16 KiB of them",
        &[
            "{}Transfer-Encoding: chunked\r\n\r\n4;\0\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4;a=\"\x01\"\r\nbody\r\n0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n4;{long}\r\nbody\r\n0\r\n\r\n",
        ],
    ),
    (
        "trailers that are malformed",
        &[
            "{}Transfer-Encoding: chunked\r\n\r\n0\r\nX : 1\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n0\r\nX\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n0\r\nX: 1\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n folded\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n0\r\nX: \0\r\n\r\n",
            "{}Transfer-Encoding: chunked\r\n\r\n0\r\nX: {long}{long}\r\n\r\n",
        ],
    ),
    (
        "no Host, or several",
        &[
            "GET / HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost:\r\n\r\n",
        ],
    ),
    (
        "a host that is no name and no address with an optional port",
        &[
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x@a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a..b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: .a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: .\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:080\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:http\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:80:81\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [a]\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: []\r\n\r\n",
        ],
    ),
    (
        "an absolute target of another authority than Host says",
        &[
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://x@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://x:y@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a. HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "an absolute target of another scheme than http and https, or a target that is no path",
        &[
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET file://a/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "a path that can be read in two ways",
        &[
            "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a/..;/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a/%2e%2e%3bx/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /%252e%252e/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /%c0%ae/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /../b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a/..%5cb HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "a field that some servers take for Content-Length or Transfer-Encoding, such as content_length",
        &[
            "{}Content_Length: 10\r\n\r\n",
            "{}Content.Length: 10\r\n\r\n",
            "{}Transfer_Encoding: chunked\r\n\r\n",
            "{}Transfer~Encoding: chunked\r\nContent-Length: 4\r\n\r\nbody",
        ],
    ),
    (
        "Connection that lists Host or Content-Length",
        &[
            "{}Connection: host\r\n\r\n",
            "{}Connection: keep-alive, Host\r\n\r\n",
            "{}Connection: keep-alive\r\nConnection: x,content-length\r\nContent-Length: 4\r\n\r\nbody",
        ],
    ),
    (
        "the method CONNECT or TRACE, or one that differs from a standard one only in case",
        &[
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
            "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
            "trace / HTTP/1.1\r\nHost: a\r\n\r\n",
            "get / HTTP/1.1\r\nHost: a\r\n\r\n",
            "Post / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
            "heaD / HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "an expectation other than one 100-continue",
        &[
            "{}Expect: 200-ok\r\n\r\n",
            "{}Expect: 100-continue, x\r\n\r\n",
            "{}Expect: 100-continue\r\nExpect: x\r\n\r\n",
            "{}Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n",
            "{}Expect:\r\n\r\n",
        ],
    ),
    (
        "more fields than max_headers, or a header larger than max_header_size",
        &["{}X: {long}{long}\r\n\r\n", "{}{many}\r\n", "GET /{long}{long} HTTP/1.1\r\nHost: a\r\n\r\n"],
    ),
];

fn expand(request: &str) -> String {
    request
        .replace("{}", "POST /first HTTP/1.1\r\nHost: a\r\n")
        .replace("{long}", &"x".repeat(20_000))
        .replace("{many}", &"X: 1\r\n".repeat(101))
}

/// The status and the code of each response. Those of refusals have problem bodies.
fn answers(reply: &str) -> Vec<(String, String)> {
    let starts: Vec<usize> = reply.match_indices("HTTP/1.1 ").map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([reply.len()]);
    let answer = |(start, end): (usize, usize)| {
        let text = &reply[start..end];
        let code = text.split_once("\"code\":\"").and_then(|(_, rest)| rest.split_once('"')).map(|(code, _)| code);
        assert_eq!(code.is_some(), text.contains("content-type: application/problem+json"), "{text}");
        (text["HTTP/1.1 ".len()..][..3].to_owned(), code.unwrap_or_default().to_owned())
    };
    starts.iter().copied().zip(ends).map(answer).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_one_reading_is_refused() {
    let recorder = Recorder::start().await;
    let limits = "[listener]\nmax_headers = 100\nmax_header_size = \"32KiB\"\n";
    let gate = TestGate::start(&[limits, &recorder.route("auth = \"none\"")].concat()).await;
    let mut table = Table::under("Refused over HTTP/1.1");
    let mut wrong = Vec::new();
    for (what, requests) in REFUSED {
        let [status, code, connection] = table.row(what) else { panic!("a row has four cells") };
        for request in requests {
            let request = expand(request);
            let reply = Raw::exchange(gate.address(), format!("{request}{NEXT}")).await;
            let came: Vec<String> = recorder.take().into_iter().map(|(read, _)| read.target).collect();
            let mut expected = vec![(status.clone(), code.clone())];
            let mut next: &[&str] = &[];
            if connection == "goes on" {
                expected.push(("200".to_owned(), String::new()));
                next = &["/next"];
            }
            let found = answers(&reply);
            if found != expected || came != next {
                wrong.push(format!("{what}\n    {request:.100?}\n    {found:?}, the upstream got {came:?}"));
            }
        }
    }
    table.finish();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the gate adds to each request.
const ADDED: [&str; 5] = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id", "via"];

/// The request line and the fields in order of their names, without what the gate adds; and what comes after the header, byte by byte.
fn shown(read: &Read, raw: &[u8]) -> (Vec<String>, String) {
    let text = String::from_utf8_lossy(raw);
    let (head, content) = text.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<String> = head.split("\r\n").map(ToOwned::to_owned).collect();
    let first = lines.remove(0);
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_ascii_lowercase();
    // Where nothing is said of content, that there is none may be said.
    lines.retain(|line| !ADDED.contains(&&*name(line)) && line != "content-length: 0");
    let mut lines: Vec<String> =
        lines.into_iter().map(|line| format!("{}:{}", name(&line), &line[name(&line).len() + 1..])).collect();
    lines.sort_by_key(|line| name(line));
    lines.insert(0, first);
    assert_eq!(read.values("via").len(), 1, "{text}");
    (lines, content.to_ascii_lowercase())
}

/// Requests, and what the upstream gets of them.
const PASSED: [(&str, &[(&str, &str)]); 16] = [
    (
        "no content",
        &[
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", "DELETE / HTTP/1.1\r\nhost: a\r\n\r\n"),
        ],
    ),
    (
        "Content-Length",
        &[
            ("{}Content-Length: 4\r\n\r\nbody", "{}content-length: 4\r\nhost: a\r\n\r\nbody"),
            ("{}CONTENT-LENGTH:4\t\r\n\r\nGET ", "{}content-length: 4\r\nhost: a\r\n\r\nGET "),
            ("{}Content-Length: 0\r\n\r\n", "{}host: a\r\n\r\n"),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
                "GET / HTTP/1.1\r\ncontent-length: 4\r\nhost: a\r\n\r\nbody",
            ),
            (
                "{}Content-Length: 18\r\n\r\nGET /x HTTP/1.1\r\n\r",
                "{}content-length: 18\r\nhost: a\r\n\r\nGET /x HTTP/1.1\r\n\r",
            ),
        ],
    ),
    (
        "Transfer-Encoding: chunked",
        &[
            (
                "{}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
                "{}host: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            ),
            (
                "{}transfer-encoding:\tCHUNKED \r\n\r\n0004;x=\"y\";z\r\nbody\r\n000\r\n\r\n",
                "{}host: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            ),
            (
                "{}Transfer-Encoding: chunked\r\n\r\n4 ; x\r\nbody\r\n0;y\r\n\r\n",
                "{}host: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            ),
            (
                "{}Transfer-Encoding: chunked\r\n\r\nA\r\n\n\r\n0\r\n\r\n01\r\n0\r\n\r\n",
                "{}host: a\r\ntransfer-encoding: chunked\r\n\r\nA\r\n\n\r\n0\r\n\r\n01\r\n0\r\n\r\n",
            ),
        ],
    ),
    (
        "trailers",
        &[
            (
                "{}Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n",
                "{}host: a\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n",
            ),
            (
                "{}Trailer: x-sum, host, x-forwarded-user, x_forwarded_user, x_forwarded_for, x-real-ip, content_length, authorization\r\n\
                 Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nHost: b\r\nX-Forwarded-User: eve\r\nx_forwarded_user: eve\r\n\
                 x_forwarded_for: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\ncontent_length: 0\r\nContent-Length: 0\r\nTransfer-Encoding: x\r\n\
                 Authorization: Bearer x\r\nCookie: a=b\r\nContent-Type: a/b\r\nConnection: close\r\nX-Sum: 1\r\n\r\n",
                "{}host: a\r\ntrailer: x-sum, host, x-forwarded-user, x_forwarded_user, x_forwarded_for, x-real-ip, content_length, authorization\r\n\
                 transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n",
            ),
        ],
    ),
    (
        "empty lines before the request line",
        &[("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n")],
    ),
    (
        "an absolute target",
        &[
            ("GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("GET HTTPS://A:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "GET / HTTP/1.1\r\nhost: a:1\r\n\r\n"),
            ("GET http://[::1]?y HTTP/1.1\r\nHost: [::1]\r\n\r\n", "GET /?y HTTP/1.1\r\nhost: [::1]\r\n\r\n"),
        ],
    ),
    (
        "a path that is not canonical",
        &[
            (
                "GET //a/./b/../%7Ec?%2e//../ HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /a/~c?%2e//../ HTTP/1.1\r\nhost: a\r\n\r\n",
            ),
            ("GET /a./b%20/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a./b%20/ HTTP/1.1\r\nhost: a\r\n\r\n"),
        ],
    ),
    ("white space around a value", &[("{}X:  \t a \t b\t \r\nY:\r\n\r\n", "{}host: a\r\nx: a \t b\r\ny: \r\n\r\n")]),
    ("bytes above 127 in a value", &[("{}X: \u{e9}\u{1f600}\r\n\r\n", "{}host: a\r\nx: \u{e9}\u{1f600}\r\n\r\n")]),
    (
        "several fields of one name",
        &[
            ("{}X: 1\r\nx: 2\r\nX: 3\r\n\r\n", "{}host: a\r\nx: 1\r\nx: 2\r\nx: 3\r\n\r\n"),
            ("{}Cookie: a=1\r\nCookie: b=2\r\n\r\n", "{}cookie: a=1; b=2\r\nhost: a\r\n\r\n"),
        ],
    ),
    (
        "fields that Connection lists, and those meant for one connection",
        &[
            (
                "{}Connection: keep-alive, X-Hop ,,y\r\nX-Hop: 1\r\nY: 2\r\nZ: 3\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n\
                 Proxy-Authorization: Basic x\r\n\r\n",
                "{}host: a\r\nz: 3\r\n\r\n",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
                "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
                "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            ),
            (
                "{}Connection: x-forwarded-for, via, x-forwarded-host, x-forwarded-proto, X-Forwarded-User\r\n\r\n",
                "{}host: a\r\n\r\n",
            ),
            (
                "{}Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
                "{}host: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            ),
        ],
    ),
    (
        "TE",
        &[
            ("{}TE: gzip, Trailers;q=0\r\n\r\n", "{}host: a\r\n\r\n"),
            ("{}TE: gzip, Trailers\r\n\r\n", "{}host: a\r\nte: trailers\r\n\r\n"),
        ],
    ),
    (
        "Expect: 100-continue",
        &[("{}Expect: 100-Continue\r\nContent-Length: 4\r\n\r\nbody", "{}content-length: 4\r\nhost: a\r\n\r\nbody")],
    ),
    (
        "identity or forwarded fields, in every spelling that may be taken for them",
        &[(
            "{}X-Forwarded-User: eve\r\nx_forwarded_user: eve\r\nX.FORWARDED-USER: eve\r\nportcullis_stale: no\r\n\
             Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Port: 1\r\n\
             X-Real-Ip: 6.6.6.6\r\nx_real_ip: 6.6.6.6\r\nX-Forwarded-Hostess: 1\r\n\r\n",
            "{}host: a\r\n\r\n",
        )],
    ),
    (
        "HTTP/1.0",
        &[
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nhost: {upstream}\r\n\r\n"),
            ("GET http://a/x HTTP/1.0\r\n\r\n", "GET /x HTTP/1.1\r\nhost: a\r\n\r\n"),
        ],
    ),
    (
        "a method that is no standard one, such as PURGE",
        &[
            ("PURGE / HTTP/1.1\r\nHost: a\r\n\r\n", "PURGE / HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("m-search / HTTP/1.1\r\nHost: a_b.c\r\n\r\n", "m-search / HTTP/1.1\r\nhost: a_b.c\r\n\r\n"),
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_has_one_reading_arrives_in_one_form() {
    let recorder = Recorder::start().await;
    let gate = TestGate::start(&recorder.route("auth = \"none\"")).await;
    let mut table = Table::under("What the upstream gets");
    // `http2.rs` tries these.
    table.row("content of unknown length over HTTP/2");
    table.row("a fragment in an HTTP/2 :path");
    let start = |text: &str| {
        let (head, content) = text.split_once("\r\n\r\n").unwrap();
        let head =
            head.replace("{}", "POST /first HTTP/1.1\r\n").replace("{upstream}", &recorder.address().to_string());
        format!("{head}\r\n\r\n{}", content.to_ascii_lowercase())
    };
    let mut wrong = Vec::new();
    for (what, requests) in PASSED {
        table.row(what);
        for (request, expected) in requests {
            let old = request.contains("HTTP/1.0");
            let expanded = request.replace("{}", "POST /first HTTP/1.1\r\nHost: a\r\n");
            // HTTP/1.0 closes by itself.
            let reply = Raw::exchange(gate.address(), format!("{expanded}{}", if old { "" } else { NEXT })).await;
            let came = recorder.take();
            let found = came.first().map(|(read, raw)| {
                let (lines, content) = shown(read, raw);
                format!("{}\r\n\r\n{content}", lines.join("\r\n"))
            });
            if found.as_deref() != Some(&*start(expected)) || came.len() != if old { 1 } else { 2 } {
                wrong.push(format!("{what}\n    {request:?}\n    {found:?}\n    {:?}\n    {reply:?}", start(expected)));
            }
        }
    }
    table.finish();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A request that is refused before its content has come, or answered without it: the content is never taken for a request.
#[tokio::test(flavor = "multi_thread")]
async fn the_content_of_a_refused_request_is_no_request() {
    let recorder = Recorder::start().await;
    let gate = TestGate::start(&recorder.route("path = \"/first\"")).await;
    let hidden = "GET /first/hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for (path, status, code) in [
        ("/first", "401", "missing_token"),
        ("/elsewhere", "404", "no_route"),
        ("/first/%2f", "400", "invalid_path"),
        ("/.portcullis/nothing", "404", "no_endpoint"),
        ("/.portcullis/logout", "401", "missing_token"),
        ("/.portcullis/session", "405", "method"),
    ] {
        for framed in [
            format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
            format!("Expect: 100-continue\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
        ] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n");
            let reply = Raw::exchange(gate.address(), format!("{head}{framed}{NEXT}")).await;
            let found = answers(&reply);
            // What comes after it is served as what it is, or not at all.
            let next = ("404".to_owned(), "no_route".to_owned());
            assert_eq!(found[0], (status.to_owned(), code.to_owned()), "{path} {reply}");
            assert!(found.len() == 1 || found[1..] == [next], "{path} {reply}");
            assert_eq!(recorder.take(), [], "{path}");
        }
    }
}
