//! WebSockets with a real client and a real server, over HTTP/1.1 and over HTTP/2 on either side, with TLS and without.

use std::sync::atomic::{AtomicUsize, Ordering};

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
use crate::{
    secure::{Secure, Wire},
    support::{client::Raw, full::MARGIN, upstream::RawUpstream},
};

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
            let Ok(socket) = accept_hdr_async(stream, take).await else { return };
            converse(socket, &seen).await;
        }
    })
    .await;
    (upstream, seen)
}

/// Sends everything back.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>, seen: &Seen) {
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

/// The same over HTTP/2, by extended `CONNECT`, if it `connects`: with this status.
async fn echo_http2(connects: bool, status: u16) -> (RawUpstream, Seen) {
    let seen = Seen::default();
    let kept = seen.clone();
    let upstream = RawUpstream::start(move |stream, _| {
        let seen = kept.clone();
        let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
            let seen = seen.clone();
            async move {
                let asked = request.extensions().get::<hyper::ext::Protocol>().map(|asked| asked.as_str().to_owned());
                assert_eq!((request.method(), asked.as_deref()), (&Method::CONNECT, Some("websocket")));
                assert_eq!((request.uri().path(), request.uri().query()), ("/ws/room", Some("of=mine")));
                seen.fields.lock().unwrap().push(request.headers().clone());
                let mut response = Response::new(StreamBody::from(""));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                if request.headers().contains_key("sec-websocket-protocol") {
                    response.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
                }
                if status == 200 {
                    tokio::spawn(async move {
                        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
                        let wire = TokioIo::new(upgraded);
                        converse(WebSocketStream::from_raw_socket(wire, Role::Server, None).await, &seen).await;
                    });
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        async move {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            if connects {
                builder.enable_connect_protocol();
            }
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    (upstream, seen)
}

/// What a client connects to, and how: with TLS or without, by this version, in front of an upstream of that.
struct Way {
    secure: Option<Secure>,
    version: Version,
    upstream: RawUpstream,
    upstream_version: Version,
    seen: Seen,
}

impl Way {
    /// All there are.
    async fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for secure in [false, true] {
            for version in [HTTP1, HTTP2] {
                for upstream_version in [HTTP1, HTTP2] {
                    let (upstream, seen) =
                        if upstream_version == HTTP1 { echo().await } else { echo_http2(true, 200).await };
                    let secure = secure.then(Secure::new);
                    all.push(Self { secure, version, upstream, upstream_version, seen });
                }
            }
        }
        all
    }

    fn route(&self, settings: &str) -> String {
        let protocol = if self.upstream_version == HTTP1 { "http1" } else { "http2" };
        println!("{:?} in front of {protocol}, with TLS: {}", self.version, self.secure.is_some());
        route(&self.upstream, &format!("protocol = \"{protocol}\"\n{settings}"))
    }

    async fn gate(&self, world: &World, settings: &str) -> Gate {
        let mut setup = world.gate().route(&self.route(settings));
        for (name, value) in self.secure.iter().flat_map(Secure::variables) {
            setup = setup.with(name, value);
        }
        setup.start().await
    }

    async fn connect(&self, gate: &Gate, token: &str, fields: &[(&str, &str)]) -> Result<Socket, Refused> {
        connect_by(self.secure.as_ref(), self.version, gate, token, fields).await
    }
}

fn route(upstream: &RawUpstream, settings: &str) -> String {
    format!("\n{}name = \"ws\"\npath = \"/ws\"\n{settings}", upstream.route(""))
}

/// The handshake's answer when it is no.
type Refused = (u16, String);

/// Opens a WebSocket over HTTP/1.1 or HTTP/2 in the clear, with further fields.
async fn connect(version: Version, gate: &Gate, token: &str, fields: &[(&str, &str)]) -> Result<Socket, Refused> {
    connect_by(None, version, gate, token, fields).await
}

/// The same, with TLS or without.
async fn connect_by(
    secure: Option<&Secure>,
    version: Version,
    gate: &Gate,
    token: &str,
    fields: &[(&str, &str)],
) -> Result<Socket, Refused> {
    let protocol = if version == HTTP1 { "http/1.1" } else { "h2" };
    let stream = crate::secure::connect(secure, gate.address, protocol).await;
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
        return match client_async(request, stream).await {
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

/// A client that has gone with its connection leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_http2_ends_with_its_connection() {
    let (upstream, seen) = echo().await;
    let world = World::embedded().await;
    let gate = world.gate().route(&route(&upstream, "")).start().await;
    let stream = TcpStream::connect(gate.address).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    eventually("its settings are known", async || requests.is_extended_connect_protocol_enabled()).await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://api.example/ws/room")
        .header("authorization", format!("Bearer {}", world.token(ALICE, json!({}))))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (response, _to_gate) = requests.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    until(&gate, 1.0).await;
    connection.abort();
    until(&gate, 0.0).await;
    eventually("the upstream is let go", async || seen.ends().len() == 1).await;
}

/// Over HTTP/2 each WebSocket has a window of its own: what a client makes no room for stays with the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http2_that_does_not_read_holds_up_the_upstream() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let upstream = RawUpstream::start(move |stream, _| {
        let count = Arc::clone(&count);
        async move {
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while socket.send(Message::binary(vec![0; 64 * 1024])).await.is_ok() {
                count.fetch_add(64 * 1024, Ordering::SeqCst);
            }
        }
    })
    .await;
    let world = World::embedded().await;
    let gate = world.gate().route(&route(&upstream, "auth = \"none\"")).start().await;
    let stream = crate::secure::connect(None, gate.address, "h2").await;
    let (requests, connection) =
        h2::client::Builder::new().initial_window_size(1000).handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let mut requests = requests.ready().await.unwrap();
    eventually("extended CONNECT is offered", async || requests.is_extended_connect_protocol_enabled()).await;
    let mut request = Request::builder().method(Method::CONNECT).uri("http://api.example/ws/room");
    request = request.header("sec-websocket-version", "13").extension(h2::ext::Protocol::from_static("websocket"));
    let (response, _to_gate) = requests.send_request(request.body(()).unwrap(), false).unwrap();
    let mut response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut taken = timeout(PATIENCE, response.body_mut().data()).await.unwrap().unwrap().unwrap();
    // What fits into sockets, and a little more.
    let (mut last, mut since) = (0, Instant::now());
    eventually("the upstream is held up", async || {
        let now = sent.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(1)
    })
    .await;
    assert!(last < 16 << 20, "{last} bytes");
    // Once there is room, it goes on.
    while sent.load(Ordering::SeqCst) == last {
        response.body_mut().flow_control().release_capacity(taken.len()).unwrap();
        taken = timeout(PATIENCE, response.body_mut().data()).await.expect("more in time").unwrap().unwrap();
    }
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
    for way in Way::all().await {
        let (world, version, seen) = (World::embedded().await, way.version, &way.seen);
        let gate = way.gate(&world, "").await;
        let token = world.token(ALICE, json!({}));
        let fields = [("sec-websocket-protocol", "chat, other"), ("x-custom", "1")];
        // The library checks what it did not ask for.
        let fields = if version == HTTP1 { &fields[1..] } else { &fields[..] };
        let mut socket = way.connect(&gate, &token, fields).await.unwrap();
        let got = seen.fields.lock().unwrap().last().unwrap().clone();
        assert_eq!((&got["x-forwarded-user"], &got["x-custom"]), (&ALICE.parse().unwrap(), &"1".parse().unwrap()));
        if way.upstream_version == HTTP1 {
            assert_eq!(got["connection"].to_str().unwrap().to_ascii_lowercase(), "upgrade");
        } else {
            assert!(!got.contains_key("sec-websocket-key"), "{got:?}");
        }
        assert_eq!(got["x-forwarded-proto"], if way.secure.is_some() { "https" } else { "http" });
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
        let mut socket = way.connect(&gate, &token, &[]).await.unwrap();
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
    for way in Way::all().await {
        let (world, seen) = (World::embedded().await, &way.seen);
        let gate = way.gate(&world, "").await;
        let mut alices = way.connect(&gate, &world.token(ALICE, json!({})), &[]).await.unwrap();
        let mut bobs = way.connect(&gate, &world.token(BOB, json!({})), &[]).await.unwrap();
        goes_on(&mut alices, "one").await;
        block(&gate, ALICE).await;
        let begun = Instant::now();
        assert_eq!(closed(&mut alices).await, (1008, "user_blocked".to_owned()));
        assert!(begun.elapsed() < Duration::from_secs(2) + MARGIN, "{:?}", begun.elapsed());
        eventually("the upstream is told", async || seen.ends().iter().any(|end| end.contains("user_blocked"))).await;
        seen.ends.lock().unwrap().clear();
        goes_on(&mut bobs, "two").await;
        assert_eq!(
            way.connect(&gate, &world.token(ALICE, json!({})), &[]).await.err(),
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

/// Where the gate itself does TLS, it knows by which scheme its own pages come; a proxy that is trusted says so.
#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_of_an_origin_counts_where_it_is_known() {
    let (secure, (upstream, _)) = (Secure::new(), echo().await);
    let settings = route(&upstream, "cookie = \"session\"");
    let world = World::embedded().await;
    let cookie = format!("session={}", world.token(ALICE, json!({})));
    let setup = world.gate().route(&settings);
    let setup = secure.variables().into_iter().fold(setup, |setup, (name, value)| setup.with(name, value));
    let gate = setup.start().await;
    for version in [HTTP1, HTTP2] {
        for (origin, expected) in [("https://api.example", 0), ("http://api.example", 403)] {
            let fields = [("cookie", cookie.as_str()), ("origin", origin)];
            let refused = connect_by(Some(&secure), version, &gate, "", &fields).await.err();
            assert_eq!(refused.map_or(0, |(status, _)| status), expected, "{version:?} {origin}");
        }
    }
    let world = World::embedded().await;
    let cookie = format!("session={}", world.token(ALICE, json!({})));
    let gate = world.gate().route(&settings).with("LISTENER_TRUSTED_PROXIES", "127.0.0.1").start().await;
    for (proto, origin, expected) in [
        ("https", "https://api.example", 0),
        ("https", "http://api.example", 403),
        ("http", "http://api.example", 0),
        ("http", "https://api.example", 403),
    ] {
        let fields = [("cookie", cookie.as_str()), ("origin", origin), ("x-forwarded-proto", proto)];
        let refused = connect(HTTP1, &gate, "", &fields).await.err();
        assert_eq!(refused.map_or(0, |(status, _)| status), expected, "{proto} {origin}");
    }
}

/// An upstream of HTTP/2 has to announce that it takes them (RFC 8441 §3).
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_websockets_over_http2_is_a_bad_gateway() {
    let (world, (upstream, seen)) = (World::embedded().await, echo_http2(false, 200).await);
    let settings = "protocol = \"http2\"\nejection.failures = 1";
    let gate = world.gate().route(&route(&upstream, settings)).start().await;
    for round in 0..2 {
        for version in [HTTP1, HTTP2] {
            let refused = connect(version, &gate, &world.token(ALICE, json!({})), &[]).await.err();
            assert_eq!(refused, Some((502, "upstream_websocket".to_owned())), "{round} {version:?}");
        }
    }
    assert!(seen.fields.lock().unwrap().is_empty());
    let metrics = gate.admin(Method::GET, "/metrics", Value::Null).await;
    let ejected =
        |line: &str| line.starts_with("portcullis_upstream_ejections_total{route=\"ws\"") && !line.ends_with(" 0");
    assert!(!metrics.text().lines().any(ejected), "it is well otherwise");
}

/// What it answers but 200.
#[tokio::test(flavor = "multi_thread")]
async fn what_upstreams_of_http2_answer_otherwise() {
    for (status, expected) in [(403, 403), (404, 404), (503, 503), (201, 502), (204, 502)] {
        let (world, (upstream, _)) = (World::embedded().await, echo_http2(true, status).await);
        let gate = world.gate().route(&route(&upstream, "protocol = \"http2\"")).start().await;
        for version in [HTTP1, HTTP2] {
            let refused = connect(version, &gate, &world.token(ALICE, json!({})), &[]).await.err();
            assert_eq!(refused.map(|(status, _)| status), Some(expected), "{version:?} {status}");
        }
        until(&gate, 0.0).await;
    }
}

/// The gate's own endpoints are none, and any success would be taken for a yes.
#[tokio::test(flavor = "multi_thread")]
async fn the_gates_own_endpoints_are_no_websockets() {
    let (world, (upstream, _)) = (World::embedded().await, echo().await);
    let gate = world.gate().route(&route(&upstream, "")).start().await;
    let stream = tokio::net::TcpStream::connect(gate.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let token = world.token(ALICE, json!({}));
    for path in ["session", "session.js", "session.json", "logout", "nothing"] {
        let uri = format!("http://api.example/.portcullis/{path}");
        let plain = Request::get(&uri).header("authorization", format!("Bearer {token}"));
        sender.send_request(plain.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let request = Request::builder().method(Method::CONNECT).uri(&uri).header("sec-websocket-version", "13");
        let request = request
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .header("authorization", format!("Bearer {token}"));
        let response = timeout(PATIENCE, sender.send_request(request.body(Empty::new()).unwrap())).await.unwrap();
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_IMPLEMENTED, "{path}");
        assert_eq!(code(&response.into_body().collect().await.unwrap().to_bytes()), "method", "{path}");
    }
}

/// Reads what comes of a connection; 0: its end.
async fn some(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> usize {
    timeout(PATIENCE, stream.read(buffer)).await.expect("something in time").unwrap_or(0)
}

/// A handshake as a client of HTTP/1.1 writes it.
fn handshake(token: &str) -> String {
    format!(
        "GET /ws/room HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Whoever sends frames before the answer breaks the protocol (RFC 6455 §4.1): none of that is read as anything.
#[tokio::test(flavor = "multi_thread")]
async fn frames_before_the_answer_are_refused() {
    // A frame of text, one with a line break in it, and what would be a request.
    let frames: [&[u8]; 3] =
        [b"\x81\x85\0\0\0\0hello", b"\x81\x83\0\0\0\0a\nb", b"GET /ws/x HTTP/1.1\r\nHost: a\r\n\r\n"];
    for frame in frames {
        for at_once in [true, false] {
            let world = World::embedded().await;
            let (asked, go) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
            let got = Arc::new(Mutex::new(None));
            let (said, wait, kept) = (Arc::clone(&asked), Arc::clone(&go), Arc::clone(&got));
            let upstream = RawUpstream::start(move |mut stream, _| {
                let (said, wait, kept) = (Arc::clone(&said), Arc::clone(&wait), Arc::clone(&kept));
                async move {
                    let mut buffer = vec![0; 4096];
                    let _ = stream.read(&mut buffer).await;
                    said.notify_one();
                    wait.notified().await;
                    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                    *kept.lock().unwrap() = Some(rest);
                }
            })
            .await;
            println!("{:?} at once: {at_once}", String::from_utf8_lossy(frame));
            let gate = world.gate().route(&route(&upstream, "")).start().await;
            let mut raw = Raw::connect(gate.address).await;
            let mut bytes = handshake(&world.token(ALICE, json!({}))).into_bytes();
            if at_once {
                bytes.extend(frame);
            }
            raw.write(bytes).await;
            timeout(PATIENCE, asked.notified()).await.unwrap();
            if !at_once {
                raw.write(frame).await;
                // Until the gate has it: the system does not say.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            go.notify_one();
            let reply = raw.read_to_end().await;
            assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("malformed_request"), "{at_once}: {reply}");
            assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{reply}");
            eventually("the upstream is let go", async || got.lock().unwrap().is_some()).await;
            assert_eq!(got.lock().unwrap().take(), Some(Vec::new()), "nothing is passed on");
        }
    }
}

/// After a close frame nothing more may be sent (RFC 6455 §5.5.1), by the gate neither.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_goodbye_after_a_goodbye() {
    for said_by_upstream in [true, false] {
        let world = World::embedded().await;
        let got = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&got);
        let upstream = RawUpstream::start(move |mut stream, _| {
            let kept = Arc::clone(&kept);
            async move {
                let mut buffer = vec![0; 4096];
                let _ = stream.read(&mut buffer).await;
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                let mut answer = answer.as_bytes().to_vec();
                answer.extend(if said_by_upstream { &b"\x88\x02\x03\xe8"[..] } else { b"\x81\x02hi" });
                let _ = stream.write_all(&answer).await;
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                *kept.lock().unwrap() = Some(rest);
            }
        })
        .await;
        let gate = world.gate().route(&route(&upstream, "")).start().await;
        let mut raw = Raw::connect(gate.address).await;
        raw.write(handshake(&world.token(ALICE, json!({})))).await;
        let mut came = Vec::new();
        let expected: &[u8] = if said_by_upstream { b"\r\n\r\n\x88\x02\x03\xe8" } else { b"\r\n\r\n\x81\x02hi" };
        while !came.ends_with(expected) {
            assert!(timeout(PATIENCE, raw.0.read_buf(&mut came)).await.unwrap().unwrap() > 0, "{came:?}");
        }
        let goodbye = b"\x88\x82\0\0\0\0\x03\xe8";
        if !said_by_upstream {
            raw.write(goodbye).await;
            // It has been passed on when it has been counted, which nobody can see; so it is given time.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        block(&gate, ALICE).await;
        let mut rest = Vec::new();
        let mut buffer = [0; 256];
        loop {
            match some(&mut raw.0, &mut buffer).await {
                0 => break,
                read => rest.extend_from_slice(&buffer[..read]),
            }
        }
        eventually("the upstream is let go", async || got.lock().unwrap().is_some()).await;
        let up = got.lock().unwrap().take().unwrap();
        if said_by_upstream {
            assert_eq!(rest, b"", "the client was told already");
            assert!(up.starts_with(&[0x88]), "the upstream was not: {up:?}");
        } else {
            assert!(rest.starts_with(&[0x88]) && rest.ends_with(b"user_blocked"), "{rest:?}");
            assert_eq!(up, goodbye, "the upstream was told already");
        }
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
        eventually("it is to end", async || ended_on(&gate, "ws", "user_blocked", true).await > 0.5).await;
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
