//! What RFC 9113 says of frames that are wrong, or come at the wrong time: what each is answered by, and that nothing else is.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::frames::{
    ACK, Answer, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame, get, request, setting,
};
use crate::support::{
    eventually,
    gate::TestGate,
    upstream::{StreamBody, text},
};

const PUSH_PROMISE: u8 = 5;
const PADDED: u8 = 8;
const HAS_PRIORITY: u8 = 32;

const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

const OPEN: &str = "[[routes]]\nauth = \"none\"\nupstream = \"{upstream}\"\n";

/// How the gate takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    /// The connection goes on, and so does stream 1.
    Well,
    /// Stream 1 is reset, and the connection goes on.
    Stream(u32),
    /// The connection ends.
    Connection(u32),
}

use Taken::{Connection, Stream, Well};

/// A request whose content is still to come.
fn begun(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", "/"))
}

/// A request with content.
fn posted(stream: u32, content: &[u8]) -> Vec<u8> {
    [begun(stream), frame(DATA, END_STREAM, stream, content)].concat()
}

fn number(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// Frames after the client's first `SETTINGS`, with what section they are about. Those that are taken well end the request of stream 1, if
/// there is one.
fn cases() -> Vec<(&'static str, Vec<u8>, Taken)> {
    let last = || frame(DATA, END_STREAM, 1, b"");
    let fields = request("POST", "/");
    let (first, second) = fields.split_at(7);
    let padded = |padding: u8, payload: &[u8]| [&[padding], payload].concat();
    let code = number(CANCEL);
    let to_slow = frame(HEADERS, END_HEADERS, 1, &request("POST", "/slow"));
    vec![
        ("4.1 frames of unknown kinds mean nothing", [frame(0xfe, 0xff, 0, b"x"), get(1, "/")].concat(), Well),
        ("4.1 flags that are not defined mean nothing", frame(HEADERS, 0xd2 | 0x05, 1, &fields), Well),
        (
            "4.1 the reserved bit means nothing",
            [begun(0x8000_0001), frame(DATA, END_STREAM, 0x8000_0001, b"")].concat(),
            Well,
        ),
        ("4.2 the largest frame", posted(1, &[b'x'; 16_384]), Well),
        ("4.2 a frame that is too large", frame(DATA, 0, 1, &[b'x'; 16_385]), Connection(FRAME_SIZE_ERROR)),
        ("4.3 a block that cannot be read", frame(HEADERS, 5, 1, &[0xff; 8]), Connection(COMPRESSION_ERROR)),
        ("4.3 a block that is cut off", frame(HEADERS, 5, 1, &[0x00, 0x05, b'a']), Connection(COMPRESSION_ERROR)),
        (
            "4.3 a block that is interrupted by another frame",
            [frame(HEADERS, 0, 1, first), frame(PRIORITY, 0, 1, &[0; 5])].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "4.3 a block that goes on in another stream",
            [frame(HEADERS, 0, 1, first), frame(CONTINUATION, 4, 3, second)].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "4.3 a block that is interrupted by a frame of no known kind",
            [frame(HEADERS, 0, 1, first), frame(0xfe, 0, 0, b"")].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        ("5.1 DATA for a stream that was never begun", frame(DATA, END_STREAM, 1, b"x"), Connection(PROTOCOL_ERROR)),
        ("5.1 RST_STREAM for one", frame(RST_STREAM, 0, 1, &code), Connection(PROTOCOL_ERROR)),
        ("5.1 WINDOW_UPDATE for one", frame(WINDOW_UPDATE, 0, 1, &number(1)), Connection(PROTOCOL_ERROR)),
        ("5.1 CONTINUATION for one", frame(CONTINUATION, 4, 1, &fields), Connection(PROTOCOL_ERROR)),
        ("5.1 PRIORITY for one", [frame(PRIORITY, 0, 1, &[0; 5]), get(1, "/")].concat(), Well),
        ("5.1 DATA after the end", [get(1, "/slow"), frame(DATA, 0, 1, b"x")].concat(), Stream(STREAM_CLOSED)),
        ("5.1 HEADERS after the end", [get(1, "/slow"), frame(HEADERS, 5, 1, &fields)].concat(), Stream(STREAM_CLOSED)),
        ("5.1 WINDOW_UPDATE after the end", [get(1, "/"), frame(WINDOW_UPDATE, 0, 1, &number(1))].concat(), Well),
        (
            "5.1 DATA after RST_STREAM",
            [to_slow, frame(RST_STREAM, 0, 1, &code), get(3, "/"), frame(DATA, 0, 1, b"x")].concat(),
            Well,
        ),
        ("5.1.1 a stream with an even number", get(2, "/"), Connection(PROTOCOL_ERROR)),
        ("5.1.1 no stream", get(0, "/"), Connection(PROTOCOL_ERROR)),
        ("5.1.1 a stream before another", [get(3, "/"), get(1, "/")].concat(), Stream(STREAM_CLOSED)),
        (
            "5.3.1 a stream that depends on itself",
            [frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0]), get(1, "/")].concat(),
            Well,
        ),
        ("6.1 DATA for no stream", frame(DATA, 0, 0, b"x"), Connection(PROTOCOL_ERROR)),
        ("6.1 DATA with padding", [begun(1), frame(DATA, PADDED | END_STREAM, 1, &padded(2, b"x--"))].concat(), Well),
        (
            "6.1 DATA of padding alone",
            [begun(1), frame(DATA, PADDED | END_STREAM, 1, &padded(2, b"--"))].concat(),
            Well,
        ),
        (
            "6.1 more padding than payload",
            [begun(1), frame(DATA, PADDED, 1, &padded(2, b"x"))].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.1 padding without its length",
            [begun(1), frame(DATA, PADDED, 1, b"")].concat(),
            Connection(FRAME_SIZE_ERROR),
        ),
        ("6.2 HEADERS with padding", frame(HEADERS, PADDED | 5, 1, &padded(1, &[&fields[..], b"-"].concat())), Well),
        ("6.2 HEADERS with a priority", frame(HEADERS, HAS_PRIORITY | 5, 1, &[&[0; 5], &fields[..]].concat()), Well),
        (
            "6.2 more padding than a block",
            frame(HEADERS, PADDED | 5, 1, &padded(255, &fields)),
            Connection(PROTOCOL_ERROR),
        ),
        ("6.3 PRIORITY for no stream", frame(PRIORITY, 0, 0, &[0; 5]), Connection(PROTOCOL_ERROR)),
        (
            "6.3 PRIORITY of another length",
            [begun(1), frame(PRIORITY, 0, 1, &[0; 4])].concat(),
            Stream(FRAME_SIZE_ERROR),
        ),
        ("6.4 RST_STREAM for no stream", frame(RST_STREAM, 0, 0, &code), Connection(PROTOCOL_ERROR)),
        (
            "6.4 RST_STREAM of another length",
            [begun(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.5 an acknowledgement that says something",
            frame(SETTINGS, ACK, 0, &setting(3, 1)),
            Connection(FRAME_SIZE_ERROR),
        ),
        ("6.5 SETTINGS of a stream", frame(SETTINGS, 0, 1, &setting(3, 1)), Connection(PROTOCOL_ERROR)),
        ("6.5 SETTINGS of another length", frame(SETTINGS, 0, 0, &[0; 5]), Connection(FRAME_SIZE_ERROR)),
        ("6.5.2 ENABLE_PUSH other than 0 and 1", frame(SETTINGS, 0, 0, &setting(2, 2)), Connection(PROTOCOL_ERROR)),
        (
            "6.5.2 a window that is too large",
            frame(SETTINGS, 0, 0, &setting(4, 0x8000_0000)),
            Connection(FLOW_CONTROL_ERROR),
        ),
        ("6.5.2 frames that are too small", frame(SETTINGS, 0, 0, &setting(5, 16_383)), Connection(PROTOCOL_ERROR)),
        ("6.5.2 frames that are too large", frame(SETTINGS, 0, 0, &setting(5, 16_777_216)), Connection(PROTOCOL_ERROR)),
        ("6.5.2 a setting that nobody knows", [frame(SETTINGS, 0, 0, &setting(0xff, 1)), get(1, "/")].concat(), Well),
        (
            "6.6 PUSH_PROMISE of a client",
            [begun(1), frame(PUSH_PROMISE, 4, 1, &[&number(2)[..], &fields].concat())].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        ("6.7 PING of a stream", frame(PING, 0, 1, &[0; 8]), Connection(PROTOCOL_ERROR)),
        ("6.7 PING of another length", frame(PING, 0, 0, &[0; 6]), Connection(FRAME_SIZE_ERROR)),
        ("6.7 an acknowledgement that was not asked for", [frame(PING, ACK, 0, &[0; 8]), get(1, "/")].concat(), Well),
        ("6.8 GOAWAY of a stream", frame(GOAWAY, 0, 1, &[0; 8]), Connection(PROTOCOL_ERROR)),
        ("6.8 GOAWAY that is cut off", frame(GOAWAY, 0, 0, &[0; 7]), Connection(FRAME_SIZE_ERROR)),
        ("6.9 a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &number(0)), Connection(PROTOCOL_ERROR)),
        (
            "6.9 a stream's window that grows by nothing",
            [begun(1), frame(WINDOW_UPDATE, 0, 1, &number(0))].concat(),
            Stream(PROTOCOL_ERROR),
        ),
        ("6.9 WINDOW_UPDATE of another length", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), Connection(FRAME_SIZE_ERROR)),
        (
            "6.9.1 a window that is too large",
            frame(WINDOW_UPDATE, 0, 0, &number(0x7fff_ffff)),
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.1 a stream's window that is too large",
            [begun(1), frame(WINDOW_UPDATE, 0, 1, &number(0x7fff_ffff))].concat(),
            Stream(FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2 a window that becomes too large by a setting",
            [
                begun(1),
                frame(WINDOW_UPDATE, 0, 1, &number(0x7fff_0000)),
                frame(SETTINGS, 0, 0, &setting(4, 0x7fff_ffff)),
            ]
            .concat(),
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.10 CONTINUATION after the end of a block",
            [begun(1), frame(CONTINUATION, 4, 1, &fields)].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.10 blocks in pieces, one of them empty",
            [frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, 4, 1, second)]
                .concat(),
            Well,
        ),
        (
            "8.1 a second header that does not end the request",
            [begun(1), frame(HEADERS, END_HEADERS, 1, &block([(&b"x"[..], &b"y"[..])]))].concat(),
            Stream(PROTOCOL_ERROR),
        ),
        ("8.1 trailers", [begun(1), frame(HEADERS, 5, 1, &block([(&b"x"[..], &b"y"[..])]))].concat(), Well),
        ("8.1 content of a request that has all of it", [begun(1), frame(DATA, 0, 1, b"x"), last()].concat(), Well),
        (
            "RFC 7541 4.2 a table that is too large",
            frame(HEADERS, 5, 1, &[&[0x3f, 0xe2, 0x1f], &fields[..]].concat()),
            Connection(COMPRESSION_ERROR),
        ),
        (
            "RFC 7541 6.1 a field that nobody has named",
            frame(HEADERS, 5, 1, &[&fields[..], &[0xbe]].concat()),
            Connection(COMPRESSION_ERROR),
        ),
        ("RFC 7541 4.2 a table that is made empty", frame(HEADERS, 5, 1, &[&[0x20], &fields[..]].concat()), Well),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_taken_as_the_standard_says() {
    let gate = TestGate::start(OPEN).await;
    gate.upstream.handle(|request| async move {
        if request.uri().path() == "/slow" {
            std::future::pending::<()>().await;
        }
        http::Response::new(StreamBody::from("ok"))
    });
    let mut wrong = Vec::new();
    for (what, bytes, expected) in cases() {
        for pieces in [bytes.len().max(1), 1] {
            let found = taken(&gate, &bytes, pieces, &expected).await;
            if found != expected {
                wrong.push(format!("{what}: {found:?} instead of {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Sends this in such pieces, and a request behind it.
async fn taken(gate: &TestGate, bytes: &[u8], pieces: usize, expected: &Taken) -> Taken {
    let mut connection = Http2::connect(gate.address()).await;
    for piece in bytes.chunks(pieces) {
        connection.send(piece).await;
    }
    // Of a frame that cannot be understood nothing more is.
    connection.send(get(1001, "/")).await;
    let mut reset = None;
    let mut answered = std::collections::BTreeSet::new();
    while let Some(frame) = connection.next().await {
        match frame.kind {
            GOAWAY => return Connection(frame.code(8)),
            // An answer came without the content that was still to come (RFC 9113 §8.1).
            RST_STREAM if frame.code(4) == 0 => {}
            RST_STREAM => reset = Some(Stream(frame.code(4))),
            HEADERS => drop(answered.insert(frame.stream)),
            _ => {}
        }
        let is_over = match expected {
            Well => answered.contains(&1) || answered.contains(&3) || reset.is_some(),
            Stream(_) => reset.is_some(),
            Connection(_) => true,
        };
        if is_over && answered.contains(&1001) {
            break;
        }
    }
    reset.unwrap_or(Well)
}

/// What does not begin as HTTP/2 does is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_begins_with_settings() {
    let gate = TestGate::start(OPEN).await;
    for first in [frame(PING, 0, 0, &[0; 8]), get(1, "/"), frame(SETTINGS, ACK, 0, &[])] {
        let mut stream = tokio::net::TcpStream::connect(gate.address()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut connection = Http2::over(stream);
        connection.send(first).await;
        assert_eq!(connection.answer(1).await, Answer::GoAway(PROTOCOL_ERROR));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_goodbye_gets_its_answers() {
    let gate = TestGate::start(OPEN).await;
    let mut connection = Http2::connect(gate.address()).await;
    connection.send([get(1, "/"), frame(GOAWAY, 0, 0, &[0; 8])].concat()).await;
    assert_eq!(connection.answer(1).await, Answer::Response(200, b"ok".to_vec()));
    // It is told up to where it was served.
    let mut goodbye = None;
    while let Some(frame) = connection.next().await {
        goodbye = goodbye.or((frame.kind == GOAWAY).then(|| (frame.code(4), frame.code(8))));
    }
    assert_eq!(goodbye, Some((1, 0)));
}

/// Whoever was answered need not send the rest (RFC 9113 §8.1).
#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_request_that_was_answered_is_not_needed() {
    let gate = TestGate::start(OPEN).await;
    let mut connection = Http2::connect(gate.address()).await;
    connection.send(frame(HEADERS, END_HEADERS, 1, &request("POST", "/.portcullis/nothing"))).await;
    let Answer::Response(status, _) = connection.answer(1).await else { panic!("no answer") };
    assert_eq!(status, 404);
    let rest = connection.next().await.unwrap();
    assert_eq!((rest.kind, rest.stream, rest.code(4)), (RST_STREAM, 1, NO_ERROR));
    // What is on its way harms nobody.
    connection.send([frame(DATA, END_STREAM, 1, b"rest"), get(3, "/")].concat()).await;
    assert_eq!(connection.answer(3).await, Answer::Response(200, b"ok".to_vec()));
}

/// What a client sends before it can know that the gate leaves is served, and what it sends after that is not (RFC 9113 §6.8).
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_leaves_serves_what_came_before_its_client_knew() {
    let mut gate = TestGate::start(OPEN).await;
    let go = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&go);
    gate.upstream.handle(move |_| {
        let waits = Arc::clone(&waits);
        async move {
            waits.acquire().await.unwrap().forget();
            text("done")
        }
    });
    let upstream = Arc::clone(&gate.upstream);
    let mut connection = Http2::connect(gate.address()).await;
    connection.send(get(1, "/")).await;
    eventually("the request is under way", async || upstream.hits() == 1).await;
    let stopping = tokio::spawn(async move { gate.stop().await });
    let mut goodbyes = Vec::new();
    let ping = loop {
        let frame = connection.next().await.expect("a question");
        match frame.kind {
            GOAWAY => goodbyes.push((frame.code(4), frame.code(8))),
            PING => break frame.payload,
            _ => {}
        }
    };
    assert_eq!(goodbyes, [(u32::MAX >> 1, 0)]);
    connection.send(get(3, "/")).await;
    eventually("it is under way as well", async || upstream.hits() == 2).await;
    // The answer to another question says nothing of this one.
    connection.send(frame(PING, ACK, 0, b"whatever")).await;
    connection.send(get(5, "/")).await;
    eventually("and so is this one", async || upstream.hits() == 3).await;
    connection.send([frame(PING, ACK, 0, &ping), get(7, "/"), frame(PING, 0, 0, b"and then")].concat()).await;
    // The answer to the last question comes when all before it has been looked at.
    loop {
        let frame = connection.next().await.expect("an answer");
        match frame.kind {
            GOAWAY => goodbyes.push((frame.code(4), frame.code(8))),
            PING if frame.flags == ACK && frame.payload == b"and then" => break,
            _ => {}
        }
    }
    assert_eq!(goodbyes[1..], [(5, 0)]);
    go.add_permits(10);
    let mut ended = Vec::new();
    while let Some(frame) = connection.next().await {
        assert!(!matches!(frame.kind, GOAWAY | RST_STREAM), "{frame:?}");
        if frame.kind == DATA && frame.flags & END_STREAM != 0 {
            ended.push(frame.stream);
        }
    }
    ended.sort_unstable();
    assert_eq!((ended, upstream.hits()), (vec![1, 3, 5], 3));
    assert!(stopping.await.unwrap(), "nothing had to be cut off");
}

/// As many streams, errors, and frames that say nothing, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_ends_the_connection() {
    let gate = TestGate::start(OPEN).await;
    gate.upstream.handle(async |_| std::future::pending().await);
    let number = |stream: usize| 2 * u32::try_from(stream).unwrap() + 1;
    let times = |count: usize, next: &dyn Fn(usize) -> Vec<u8>| (0..count).flat_map(next).collect::<Vec<u8>>();
    let fields = request("GET", "/");
    let large = block([(&b"x"[..], &[b'x'; 16_000][..])]);
    let empty = |count| [begun(1), times(count, &|_| frame(DATA, 0, 1, b""))].concat();
    let pieces = |count, piece: &[u8]| {
        let (first, last) = (frame(HEADERS, END_STREAM, 1, &fields), frame(CONTINUATION, END_HEADERS, 1, b""));
        [first, times(count, &|_| frame(CONTINUATION, 0, 1, piece)), last].concat()
    };
    let wrong = |count| times(count, &|stream| get(number(stream), ""));
    let early = |count| {
        let taken_back = |stream| [get(number(stream), "/"), frame(RST_STREAM, 0, number(stream), &[0, 0, 0, 8])];
        times(count, &|stream| taken_back(stream).concat())
    };
    for (what, bytes, is_too_much) in [
        ("a hundred empty frames", empty(100), false),
        ("one more", empty(101), true),
        ("a hundred pieces", pieces(98, b""), false),
        ("one more", pieces(99, b""), true),
        ("a block of four headers", pieces(8, &large), false),
        ("a larger one", pieces(9, &large), true),
        ("as many requests that are none as may be", wrong(256), false),
        ("one more", wrong(257), true),
        ("as many requests taken back at once as may be", early(20), false),
        ("one more", early(21), true),
    ] {
        let mut connection = Http2::connect(gate.address()).await;
        connection.send([bytes, frame(PING, 0, 0, b"is there")].concat()).await;
        let found = loop {
            let frame = connection.next().await.expect("a goodbye");
            match frame.kind {
                GOAWAY => break Some(frame.code(8)),
                PING if frame.flags == ACK => break None,
                _ => {}
            }
        };
        assert_eq!(found, is_too_much.then_some(ENHANCE_YOUR_CALM), "{what}");
    }
    // Of streams there is room for two hundred.
    let mut connection = Http2::connect(gate.address()).await;
    connection.send(times(201, &|stream| get(number(stream), "/"))).await;
    assert_eq!(connection.answer(number(200)).await, Answer::Reset(REFUSED_STREAM));
}

/// A request that is taken back before anybody has seen it goes nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_taken_back_at_once_goes_nowhere() {
    let gate = TestGate::start(OPEN).await;
    let mut connection = Http2::connect(gate.address()).await;
    connection.send([get(1, "/"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), get(3, "/")].concat()).await;
    assert_eq!(connection.answer(3).await, Answer::Response(200, b"ok".to_vec()));
    assert_eq!(gate.upstream.hits(), 1);
}

/// What was on its way when a client reset a stream is passed over (RFC 9113 §5.1).
#[tokio::test(flavor = "multi_thread")]
async fn content_of_a_stream_that_was_taken_back_harms_nobody() {
    let gate = TestGate::start(OPEN).await;
    let mut connection = Http2::connect(gate.address()).await;
    connection.send([begun(1), frame(RST_STREAM, 0, 1, &number(CANCEL)), get(3, "/")].concat()).await;
    assert_eq!(connection.answer(3).await, Answer::Response(200, b"ok".to_vec()));
    // By now nobody serves the first one.
    connection.send([frame(DATA, END_STREAM, 1, b"x"), get(5, "/")].concat()).await;
    loop {
        let received = connection.next().await.expect("the connection goes on");
        assert_ne!(received.kind, RST_STREAM, "stream {} is reset", received.stream);
        if received.stream == 5 && received.flags & END_STREAM != 0 {
            break;
        }
    }
}

/// What a client takes of each stream counts for those that are there, too (RFC 9113 §6.9.2).
#[tokio::test(flavor = "multi_thread")]
async fn windows_change_for_streams_that_are_there() {
    let gate = TestGate::start(OPEN).await;
    let mut connection = Http2::with_settings(gate.address(), &setting(4, 0)).await;
    connection.send(get(1, "/")).await;
    while connection.next().await.expect("a header").kind != HEADERS {}
    connection.send(frame(SETTINGS, 0, 0, &setting(4, 1))).await;
    let mut content = Vec::new();
    while content.is_empty() {
        let frame = connection.next().await.expect("a part of the content");
        if frame.kind == DATA {
            content = frame.payload;
        }
    }
    assert_eq!(content, b"o");
    // Less than nothing: what it took counts.
    connection.send([frame(SETTINGS, 0, 0, &setting(4, 0)), frame(WINDOW_UPDATE, 0, 1, &number(1))].concat()).await;
    connection.send(frame(PING, 0, 0, b"is there")).await;
    loop {
        let frame = connection.next().await.expect("an answer");
        assert_ne!(frame.kind, DATA);
        if frame.kind == PING && frame.flags == ACK {
            break;
        }
    }
    connection.send(frame(WINDOW_UPDATE, 0, 1, &number(1))).await;
    loop {
        let frame = connection.next().await.expect("the rest");
        if frame.kind == DATA {
            break assert_eq!((&*frame.payload, frame.flags & END_STREAM), (&b"k"[..], END_STREAM));
        }
    }
}
