//! WebSockets with a real client and a real server, over HTTP/1.1 and over HTTP/2.

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async, client_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        handshake::server::{Request as Handshake, Response as Accepted},
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use super::*;
use crate::support::{full::MARGIN, upstream::RawUpstream};

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

type Socket = WebSocketStream<Box<dyn Wire>>;

/// What the servers of a test saw of handshakes and of ends.
#[derive(Clone, Default)]
struct Seen {
    fields: Arc<Mutex<Vec<HeaderMap>>>,
    ends: Arc<Mutex<Vec<String>>>,
}

impl Seen {
    fn ends(&self) -> Vec<String> {
        self.ends.lock().unwrap().clone()
    }
}

/// A server that sends everything back, and takes the subprotocol `chat`. `/bye` says goodbye by itself.
async fn echo() -> (RawUpstream, Seen) {
    let seen = Seen::default();
    let kept = seen.clone();
    let upstream = RawUpstream::start(move |stream, _| {
        let seen = kept.clone();
        async move {
            let noted = seen.clone();
            #[expect(clippy::result_large_err, reason = "the library's")]
            let take = |handshake: &Handshake, mut response: Accepted| {
                noted.fields.lock().unwrap().push(handshake.headers().clone());
                if handshake.headers().contains_key("sec-websocket-protocol") {
                    response.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
                }
                Ok(response)
            };
            let Ok(mut socket) = accept_hdr_async(stream, take).await else { return };
            let end = loop {
                match socket.next().await {
                    Some(Ok(Message::Close(frame))) => break format!("{:?}", frame.map(|frame| frame.reason)),
                    Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                        if message == Message::text("bye") {
                            let frame = CloseFrame { code: CloseCode::Library(4000), reason: "done".into() };
                            socket.close(Some(frame)).await.unwrap();
                        } else if socket.send(message).await.is_err() {
                            break "unsent".to_owned();
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error.to_string(),
                    None => break "end".to_owned(),
                }
            };
            seen.ends.lock().unwrap().push(end);
            // The library answers a close frame when it is asked for more.
            while socket.next().await.is_some_and(|next| next.is_ok()) {}
        }
    })
    .await;
    (upstream, seen)
}

fn route(upstream: &RawUpstream, settings: &str) -> String {
    format!("\n{}name = \"ws\"\npath = \"/ws\"\n{settings}", upstream.route(""))
}

/// The handshake's answer when it is no.
type Refused = (u16, String);

/// Opens a WebSocket over HTTP/1.1 or HTTP/2, with further fields.
async fn connect(version: Version, gate: &Gate, token: &str, fields: &[(&str, &str)]) -> Result<Socket, Refused> {
    let stream = TcpStream::connect(gate.address).await.unwrap();
    let all = |mut builder: http::request::Builder| {
        if !token.is_empty() {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value))
    };
    if version == HTTP1 {
        let mut request = "ws://api.example/ws/room?of=mine".into_client_request().unwrap();
        let added = all(Request::builder()).body(()).unwrap();
        request.headers_mut().extend(added.headers().clone());
        return match client_async(request, Box::new(stream) as Box<dyn Wire>).await {
            Ok((socket, response)) => {
                assert!(!response.headers().contains_key("portcullis-session-idle"));
                Ok(socket)
            }
            Err(tungstenite::Error::Http(response)) => {
                Err((response.status().as_u16(), code(response.body().as_deref().unwrap_or_default())))
            }
            Err(error) => panic!("{error}"),
        };
    }
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // Its settings have to arrive before what they allow is asked for.
    let first = Request::get("http://api.example/.portcullis/session").body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(first).await.unwrap();
    let request = all(Request::builder().method(Method::CONNECT).uri("http://api.example/ws/room?of=mine"))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(Empty::new())
        .unwrap();
    let response = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    if response.status() != StatusCode::OK {
        let status = response.status().as_u16();
        return Err((status, code(&response.into_body().collect().await.unwrap().to_bytes())));
    }
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    let wire: Box<dyn Wire> = Box::new(Kept { wire: TokioIo::new(upgraded), _sender: sender });
    Ok(WebSocketStream::from_raw_socket(wire, Role::Client, None).await)
}

fn code(body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    problem["code"].as_str().unwrap_or_default().to_owned()
}

/// A stream of a connection that ends with its sender.
struct Kept<T> {
    wire: T,
    _sender: hyper::client::conn::http2::SendRequest<Empty<Bytes>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Kept<T> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.wire).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Kept<T> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

async fn next(socket: &mut Socket) -> Message {
    timeout(PATIENCE, socket.next()).await.expect("a message in time").expect("a message").unwrap()
}

async fn goes_on(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    assert_eq!(next(socket).await, Message::text(text));
}

/// The code and the reason of the close frame that comes next, and then the end.
async fn closed(socket: &mut Socket) -> (u16, String) {
    let Message::Close(Some(frame)) = next(socket).await else { panic!("a close frame") };
    while let Some(Ok(_)) = timeout(PATIENCE, socket.next()).await.expect("the end in time") {}
    (frame.code.into(), frame.reason.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_pass_both_ways_unchanged() {
    let (world, (upstream, seen)) = (World::embedded().await, echo().await);
    let gate = world.gate().route(&route(&upstream, "")).start().await;
    for version in [HTTP1, HTTP2] {
        println!("{version:?}");
        let token = world.token(ALICE, json!({}));
        let fields = [("sec-websocket-protocol", "chat, other"), ("x-custom", "1")];
        // The library checks what it did not ask for.
        let fields = if version == HTTP1 { &fields[1..] } else { &fields[..] };
        let mut socket = connect(version, &gate, &token, fields).await.unwrap();
        let got = seen.fields.lock().unwrap().last().unwrap().clone();
        assert_eq!((&got["x-forwarded-user"], &got["x-custom"]), (&ALICE.parse().unwrap(), &"1".parse().unwrap()));
        assert_eq!(got["connection"].to_str().unwrap().to_ascii_lowercase(), "upgrade");
        goes_on(&mut socket, "hello").await;
        for size in [0, 125, 126, 65_535, 65_536, 3 << 20] {
            let message = Message::binary((0..=250).cycle().take(size).collect::<Vec<u8>>());
            socket.send(message.clone()).await.unwrap();
            assert!(next(&mut socket).await == message, "{size} bytes");
        }
        socket.send(Message::Ping("are you there?".into())).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::Pong("are you there?".into()));
        until(&gate, 1.0).await;
        socket.send(Message::text("bye")).await.unwrap();
        assert_eq!(closed(&mut socket).await, (4000, "done".to_owned()), "the upstream's goodbye");
        until(&gate, 0.0).await;
        // And the client's.
        let mut socket = connect(version, &gate, &token, &[]).await.unwrap();
        socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "mine".into() })).await.unwrap();
        eventually("it arrives", async || seen.ends().last().is_some_and(|end| end.contains("mine"))).await;
        until(&gate, 0.0).await;
    }
}

async fn until(gate: &Gate, count: f64) {
    eventually("so many are open", async || (open_on(gate, "ws").await - count).abs() < 0.5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_says_goodbye_to_both_sides_and_to_nobody_else() {
    let (world, (upstream, seen)) = (World::embedded().await, echo().await);
    let gate = world.gate().route(&route(&upstream, "")).start().await;
    for version in [HTTP1, HTTP2] {
        println!("{version:?}");
        let mut alices = connect(version, &gate, &world.token(ALICE, json!({})), &[]).await.unwrap();
        let mut bobs = connect(version, &gate, &world.token(BOB, json!({})), &[]).await.unwrap();
        goes_on(&mut alices, "one").await;
        block(&gate, ALICE).await;
        let begun = Instant::now();
        assert_eq!(closed(&mut alices).await, (1008, "user_blocked".to_owned()));
        assert!(begun.elapsed() < Duration::from_secs(2) + MARGIN, "{:?}", begun.elapsed());
        eventually("the upstream is told", async || seen.ends().iter().any(|end| end.contains("user_blocked"))).await;
        seen.ends.lock().unwrap().clear();
        goes_on(&mut bobs, "two").await;
        assert_eq!(
            connect(version, &gate, &world.token(ALICE, json!({})), &[]).await.err(),
            Some((401, "user_blocked".to_owned()))
        );
        drop(bobs);
        until(&gate, 0.0).await;
        gate.change(Method::DELETE, &subject_path(ALICE, "/block"), Value::Null).await;
    }
}

/// A marker that comes with the handshake finds it, at whatever moment: it is entered before the upstream is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_during_the_handshake_is_not_missed() {
    let (world, (upstream, _)) = (World::embedded().await, echo().await);
    let gate = world.gate().route(&route(&upstream, "")).start().await;
    for number in 0..20 {
        let subject = format!("user {number}");
        let token = world.token(&subject, json!({}));
        let (opened, ()) = tokio::join!(connect(HTTP1, &gate, &token, &[]), block(&gate, &subject));
        match opened {
            Ok(mut socket) => assert_eq!(closed(&mut socket).await, (1008, "user_blocked".to_owned())),
            Err(refused) => assert_eq!(refused, (401, "user_blocked".to_owned())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_is_refused_as_any_request() {
    let (world, (upstream, seen)) = (World::embedded().await, echo().await);
    let gate = world.gate().route(&route(&upstream, "cookie = \"session\"")).start().await;
    for version in [HTTP1, HTTP2] {
        println!("{version:?}");
        let refused = async |token: &str, fields: &[(&str, &str)]| connect(version, &gate, token, fields).await.err();
        assert_eq!(refused("", &[]).await, Some((401, "missing_token".to_owned())));
        let expired = world.token(ALICE, json!({ "exp": 1 }));
        assert_eq!(refused(&expired, &[]).await, Some((401, "token_expired".to_owned())));
        // A page of another site has no use for the cookie of its visitor.
        let cookie = format!("session={}", world.token(ALICE, json!({})));
        for origin in ["https://evil.example", "null", "http://api.example.evil.example"] {
            let fields = [("cookie", cookie.as_str()), ("origin", origin)];
            assert_eq!(refused("", &fields).await, Some((403, "origin".to_owned())), "{origin}");
        }
        assert!(seen.fields.lock().unwrap().is_empty());
        for fields in [&[("cookie", cookie.as_str()), ("origin", "https://api.example")][..], &[("cookie", &cookie)]] {
            goes_on(&mut connect(version, &gate, "", fields).await.unwrap(), "mine").await;
        }
        // With a token of its own, a page of any site may ask.
        let token = world.token(ALICE, json!({}));
        goes_on(&mut connect(version, &gate, &token, &[("origin", "https://evil.example")]).await.unwrap(), "x").await;
        seen.fields.lock().unwrap().clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_route_does_not_switch_to_stays_http() {
    let world = World::embedded().await;
    let gate = world.gate().route("path = \"/ws\"\nupgrades = []").start().await;
    let token = world.token(ALICE, json!({}));
    // The upstream gets a request without the wish, and answers it as any.
    assert_eq!(connect(HTTP1, &gate, &token, &[]).await.err(), Some((200, String::new())));
    assert!(!world.upstream.last().headers.contains_key("upgrade"));
    assert_eq!(connect(HTTP2, &gate, &token, &[]).await.err(), Some((501, "method".to_owned())));
}

/// Upstreams that do not switch, or not as they should.
#[tokio::test(flavor = "multi_thread")]
async fn what_upstreams_answer_otherwise() {
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ";
    for (answer, over_http1, over_http2) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), 404, 404),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(), 200, 502),
        (format!("{switched}h2c\r\n\r\n"), 502, 502),
        (format!("{switched}websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"), 0, 502),
        ("garbage\r\n\r\n".to_owned(), 502, 502),
    ] {
        let (world, sent) = (World::embedded().await, answer.clone());
        let upstream = RawUpstream::start(move |mut stream, _| {
            let answer = sent.clone();
            async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.read(&mut buffer).await;
            }
        })
        .await;
        let gate = world.gate().route(&route(&upstream, "")).start().await;
        let token = world.token(ALICE, json!({}));
        for (version, expected) in [(HTTP1, over_http1), (HTTP2, over_http2)] {
            if expected > 0 {
                let refused = connect(version, &gate, &token, &[]).await.err().map(|(status, _)| status);
                assert_eq!(refused, Some(expected), "{version:?} {answer}");
            }
        }
    }
}

/// The frame that is under way is let through if its rest comes, and then the close frame; else the connection is cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_comes_between_two_frames() {
    for has_rest in [true, false] {
        let world = World::embedded().await;
        let (go, gone) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (wait, ended) = (Arc::clone(&go), Arc::clone(&gone));
        let upstream = RawUpstream::start(move |mut stream, _| {
            let (wait, ended) = (Arc::clone(&wait), Arc::clone(&ended));
            async move {
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                let key = text.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap().to_owned();
                let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
                // The first frame comes with the answer, and the second begins with it.
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n\x01\x02hi\x01\x7e"
                );
                let mut answer = answer.into_bytes();
                let begin = answer.len() - 4;
                answer[begin - 2] = 0x81;
                answer.truncate(begin + 2);
                answer.extend([0x81, 126, 0, 200, b'a']);
                stream.write_all(&answer).await.unwrap();
                wait.notified().await;
                if has_rest {
                    let mut rest = vec![b'a'; 199];
                    rest.extend([0x81, 3, b'n', b'o', b't']);
                    let _ = stream.write_all(&rest).await;
                }
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                ended.notify_one();
            }
        })
        .await;
        let gate = world.gate().route(&route(&upstream, "")).start().await;
        let subject = format!("user {has_rest}");
        let mut socket = connect(HTTP1, &gate, &world.token(&subject, json!({})), &[]).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::text("hi"));
        block(&gate, &subject).await;
        let labels = "route=\"ws\",reason=\"user_blocked\",enforced=\"true\"";
        let ended = format!("portcullis_streams_ended_total{{{labels}}}");
        eventually("it is to end", async || gate.metric(&ended).await > 0.5).await;
        let begun = Instant::now();
        go.notify_one();
        if has_rest {
            assert_eq!(next(&mut socket).await, Message::text("a".repeat(200)));
            assert_eq!(closed(&mut socket).await, (1008, "user_blocked".to_owned()));
        } else {
            let end = timeout(PATIENCE, socket.next()).await.unwrap();
            assert!(end.as_ref().is_none_or(Result::is_err), "{end:?}");
            assert!(begun.elapsed() < Duration::from_secs(2) + MARGIN);
        }
        timeout(PATIENCE, gone.notified()).await.expect("the upstream is let go");
        until(&gate, 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_is_silent_for_too_long_is_closed() {
    let (world, (upstream, _)) = (World::embedded().await, echo().await);
    let gate = world.gate().route(&route(&upstream, "tunnel_idle_timeout = \"1500ms\"")).start().await;
    let mut socket = connect(HTTP1, &gate, &world.token(ALICE, json!({})), &[]).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        goes_on(&mut socket, "still here").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(closed(&mut socket).await, (1001, "idle".to_owned()));
}

/// Idle limits of connections are about HTTP; a WebSocket is none any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_outlives_the_limits_of_http() {
    let (world, (upstream, _)) = (World::embedded().await, echo().await);
    let gate = world
        .gate()
        .with("LISTENER_IDLE_TIMEOUT", "500ms")
        .with("LISTENER_HEADER_TIMEOUT", "500ms")
        .route(&route(&upstream, "body_idle_timeout = \"500ms\"\nresponse_timeout = \"500ms\""))
        .start()
        .await;
    for version in [HTTP1, HTTP2] {
        let mut socket = connect(version, &gate, &world.token(ALICE, json!({})), &[]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        goes_on(&mut socket, "still here").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_stops_says_goodbye_after_its_grace() {
    let (world, (upstream, _)) = (World::embedded().await, echo().await);
    let gate = world.gate().with("LISTENER_DRAIN_TIMEOUT", "1s").route(&route(&upstream, "")).start().await;
    let mut sockets = Vec::new();
    for version in [HTTP1, HTTP2] {
        sockets.push(connect(version, &gate, &world.token(ALICE, json!({})), &[]).await.unwrap());
    }
    let begun = Instant::now();
    let stopping = tokio::spawn(gate.instance.stop());
    for socket in &mut sockets {
        goes_on(socket, "a last word").await;
    }
    for socket in &mut sockets {
        assert_eq!(closed(socket).await, (1012, "restart".to_owned()));
    }
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
}
