use std::convert::Infallible;

use h2::{RecvStream, SendStream, client::SendRequest};
use http_body_util::{BodyExt as _, Full};
use prometheus_client::metrics::gauge::Gauge;
use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;
use crate::http1::outgoing::Out;

const LONG: Duration = Duration::from_secs(60);

/// A client of a connection whose requests this serves. What they are to be ended by is never.
async fn client<F>(service: impl Fn(Box<Request<Incoming>>) -> F + Send + Sync + 'static) -> SendRequest<Bytes>
where
    F: Future<Output = &'static str> + Send + 'static,
{
    let serve = move |request| {
        let content = service(request);
        async { Full::from(content.await).map_err(|never: Infallible| match never {}) }
    };
    connect(serve, &h2::client::Builder::new()).await
}

/// A client like this of a connection whose requests are answered by what this gives.
async fn connect<F, B>(
    service: impl Fn(Box<Request<Incoming>>) -> F + Send + Sync + 'static,
    client: &h2::client::Builder,
) -> SendRequest<Bytes>
where
    F: Future<Output = B> + Send + 'static,
    B: Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static,
{
    let (near, far) = tokio::io::duplex(64 * 1024);
    let progress = Progress::new(Gauge::default());
    let requests = Arc::clone(&progress);
    let service = move |request, _| {
        let (serving, over) = requests.serve_stream();
        let content = service(request);
        let answer = || async move {
            let content = content.await;
            drop(serving);
            Response::new(content)
        };
        (answer, over)
    };
    let settings = Settings { max_header_size: 16 * 1024, idle_timeout: LONG, ping_timeout: LONG };
    tokio::spawn(serve(Box::new(far), Bytes::new(), settings, progress, service, Box::pin(std::future::pending())));
    let (requests, connection) = client.handshake(near).await.unwrap();
    tokio::spawn(connection);
    requests.ready().await.unwrap()
}

async fn get(client: &mut SendRequest<Bytes>, path: &str) -> Result<Bytes, h2::Error> {
    let request = Request::get(format!("http://a{path}")).body(()).unwrap();
    let mut content = client.send_request(request, true)?.0.await?.into_body();
    let data = content.data().await.transpose()?.unwrap_or_default();
    Ok(data)
}

#[tokio::test]
async fn a_panic_ends_the_request_it_was_about_and_no_other() {
    let (go, waits) = tokio::sync::watch::channel(false);
    let mut client = client(move |request| {
        let mut waits = waits.clone();
        async move {
            assert_ne!(request.uri().path(), "/panic", "as it is meant to");
            waits.wait_for(|go| *go).await.unwrap();
            "served"
        }
    })
    .await;
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { get(&mut other, "/").await });
    let error = get(&mut client, "/panic").await.unwrap_err();
    assert!(error.is_reset(), "{error}");
    go.send(true).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), "served");
    assert_eq!(get(&mut client, "/").await.unwrap(), "served");
}

/// One stream has all the connection's attention for a while, and the others theirs.
#[tokio::test]
async fn many_requests_are_served_beside_each_other() {
    let client = client(async |request: Box<Request<Incoming>>| {
        for _ in 0..request.uri().path().len() {
            tokio::task::yield_now().await;
        }
        "served"
    })
    .await;
    let mut all = JoinSet::new();
    for number in 0..150 {
        let mut client = client.clone();
        all.spawn(async move { get(&mut client, &format!("/{}", "x".repeat(number))).await });
    }
    while let Some(served) = all.join_next().await {
        assert_eq!(served.unwrap().unwrap(), "served");
    }
}

/// Content of which nobody knows beforehand that there is no more.
struct Endless(Incoming);

impl Body for Endless {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }
}

/// Content, sent in pieces of this size.
async fn send(stream: &mut SendStream<Bytes>, content: Bytes, piece: usize, trailer: Option<&str>) {
    let mut rest = content;
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len().min(piece));
        let room = poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
        let part = rest.split_to(room.min(rest.len()));
        stream.send_data(part, rest.is_empty() && trailer.is_none()).unwrap();
    }
    if let Some(trailer) = trailer {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-trailer", trailer.parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    }
}

/// What comes, taken in pieces of this size at least. All clients together must not wait for more than the window of all.
async fn receive(mut stream: RecvStream, piece: usize) -> (Vec<u8>, Option<HeaderMap>) {
    let (mut content, mut untaken) = (Vec::new(), 0);
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        content.extend_from_slice(&data);
        untaken += data.len();
        if untaken >= piece {
            stream.flow_control().release_capacity(untaken).unwrap();
            untaken = 0;
        }
    }
    (content, stream.trailers().await.unwrap())
}

/// A frame of content: padded, unless that is `None`.
fn data(stream: u32, length: usize, padding: Option<u8>, flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let all = length + padding.map_or(0, |padding| 1 + usize::from(padding));
    frame::put_head(&mut bytes, all, frame::DATA, flags | if padding.is_some() { frame::PADDED } else { 0 }, stream);
    bytes.extend(padding);
    bytes.resize(bytes.len() + length + padding.map_or(0, usize::from), b'x');
    bytes
}

/// What nobody reads is given back to whoever sent it.
#[test]
fn padding_takes_no_window() {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame::put_settings(&mut bytes, &[]);
    frame::put_block(&mut bytes, 1, 0, |block| block.extend(b"\x83\x86\x84\x41\x01a"));
    for _ in 0..3000 {
        bytes.extend(data(1, 1, Some(255), 0));
    }
    bytes.extend(data(1, 0, Some(255), frame::END_STREAM));
    let trial = read_in_pieces(bytes.chunks(10_000), 1000);
    assert_eq!(trial.end, None);
    assert_eq!(trial.requests, [("http://a/".to_owned(), vec![b'x'; 3000], 0)]);
}

/// What becomes of a stream.
#[derive(Clone, Copy, Debug)]
enum Step {
    Comes(usize),
    Ends,
    IsRead,
    IsReadInPart(usize),
    IsReset,
    IsTakenBack,
    IsNotReadAnyMore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_usize..40_000).prop_map(Step::Comes),
        1 => Just(Step::Ends),
        3 => Just(Step::IsRead),
        3 => (1_usize..20_000).prop_map(Step::IsReadInPart),
        1 => Just(Step::IsReset),
        1 => Just(Step::IsTakenBack),
        1 => Just(Step::IsNotReadAnyMore),
    ]
}

proptest! {
    /// Whatever becomes of streams and of those who read them: once they are gone, all of the connection's window is there again.
    #[test]
    fn nothing_of_a_window_is_lost(streams in prop::collection::vec(prop::collection::vec(step(), 0..12), 1..6)) {
        let shared = streams::Shared::new();
        let context = &mut Context::from_waker(std::task::Waker::noop());
        for (number, steps) in streams.into_iter().enumerate() {
            let id = 2 * u32::try_from(number).unwrap() + 1;
            let (responder, receiver) = shared.lock().open(&shared, id, false, None);
            let mut duplex = Some(Duplex::new(receiver.unwrap(), responder));
            for step in steps {
                match step {
                    Step::Comes(length) => {
                        let mut streams = shared.lock();
                        match streams.begin_data(id, length) {
                            Ok(true) => streams.data(id, Bytes::from(vec![b'x'; length])).unwrap(),
                            Ok(false) => streams.use_up(length),
                            Err(error::Fault::Stream(id, reason)) => {
                                streams.use_up(length);
                                streams.reset(id, reason);
                            }
                            Err(fault) => panic!("{fault:?}"),
                        }
                    }
                    Step::Ends => drop(shared.lock().end_data(id, None)),
                    Step::IsRead | Step::IsReadInPart(_) => {
                        let most = if let Step::IsReadInPart(most) = step { most } else { 1 << 20 };
                        let mut room = vec![0; most];
                        if let Some(duplex) = &mut duplex {
                            let _ = Pin::new(duplex).poll_read(context, &mut tokio::io::ReadBuf::new(&mut room));
                        }
                    }
                    Step::IsReset => shared.lock().reset(id, h2::Reason::CANCEL),
                    Step::IsTakenBack => shared.lock().reset_by_client(id, h2::Reason::CANCEL),
                    Step::IsNotReadAnyMore => duplex = None,
                }
            }
        }
        let streams = shared.lock();
        prop_assert!(streams.is_empty());
        prop_assert_eq!(streams.balance(), CONNECTION_WINDOW);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 8, ..ProptestConfig::default() })]

    /// Content of any length passes in both directions and in its order, whatever the windows are and whoever else has some.
    #[test]
    fn content_passes_whatever_the_windows_are(
        window in prop_oneof![1_u32..50, 50_u32..200_000],
        of_all in 65_535_u32..200_000,
        knows_end: bool,
        requests in prop::collection::vec((0_usize..150_000, 1_usize..40_000, any::<bool>()), 1..8),
    ) {
        let total: usize = requests.iter().map(|(length, ..)| length).sum();
        // A byte at a time it would take long.
        let window = if total < 20_000 { window } else { window.max(500) };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(of_all);
            let client = if knows_end {
                connect(async |request: Box<Request<Incoming>>| request.into_body(), &builder).await
            } else {
                connect(async |request: Box<Request<Incoming>>| Endless(request.into_body()), &builder).await
            };
            let mut all = JoinSet::new();
            for (number, (length, piece, has_trailers)) in requests.into_iter().enumerate() {
                let mut client = client.clone();
                all.spawn(async move {
                    let content: Vec<u8> = (0..length).map(|at| u8::try_from((at * 7 + number) % 251).unwrap()).collect();
                    let request = Request::post("http://a/").body(()).unwrap();
                    let ends = content.is_empty() && !has_trailers;
                    let (response, mut stream) = client.send_request(request, ends).unwrap();
                    let trailer = has_trailers.then_some("x");
                    let sent = async {
                        if !ends {
                            send(&mut stream, content.clone().into(), piece, trailer).await;
                        }
                    };
                    let received = async { receive(response.await.unwrap().into_body(), piece.min(window as usize).min(4096)).await };
                    let (received, ()) = tokio::join!(received, sent);
                    assert!(received.0 == content, "{} of {length} bytes", received.0.len());
                    // Of a field that is not told of nothing goes on.
                    assert_eq!(received.1.is_some_and(|trailers| trailers.contains_key("x-trailer")), has_trailers);
                });
            }
            let all = async { while let Some(served) = all.join_next().await { served.unwrap() } };
            tokio::time::timeout(LONG / 2, all).await.expect("all of it in time");
        });
    }
}

/// The size of what serves a request that is answered by this.
pub(in crate::server) fn of_stream<C, A, F, B>(_: impl Fn(C) -> A) -> usize
where
    A: FnOnce() -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    fn of<C, S>(_: impl Fn(C) -> S) -> usize {
        size_of::<Stream<S>>()
    }
    of(|(exchange, answer): (Exchange, A)| exchange.serve(answer))
}

/// The frames that go out: kinds, flags and payloads.
fn sent(shared: &streams::Shared) -> Vec<(u8, u8, Vec<u8>)> {
    let mut out = Out::default();
    shared.lock().put_into(&mut out);
    let mut rest = &std::mem::take(out.head())[..];
    let mut frames = Vec::new();
    while let Some(head) = frame::Head::of(rest) {
        let (payload, more) = rest[frame::HEAD..].split_at(head.length);
        frames.push((head.kind, head.flags, payload.to_vec()));
        rest = more;
    }
    frames
}

/// A stream whose header went out.
fn answered(shared: &streams::Shared) -> Responder {
    let (responder, _) = shared.lock().open(shared, 1, true, None);
    responder.respond(StatusCode::OK, &HeaderMap::new(), false).unwrap();
    assert_eq!(sent(shared), [(frame::HEADERS, frame::END_HEADERS, vec![0x20, 0x88])]);
    responder
}

#[test]
fn what_was_said_last_goes_out_before_a_stream_breaks_off() {
    let shared = streams::Shared::new();
    let responder = answered(&shared);
    assert!(responder.send("goodbye".into(), false).unwrap());
    drop(responder);
    let reset = (frame::RST_STREAM, 0, vec![0, 0, 0, 8]);
    assert_eq!(sent(&shared), [(frame::DATA, 0, b"goodbye".to_vec()), reset.clone()]);
    assert!(shared.lock().is_empty());

    // What its client does not take does not hold it up, the end included.
    for is_last in [false, true] {
        let shared = streams::Shared::new();
        let responder = answered(&shared);
        assert!(!responder.send(vec![b'x'; 70_000].into(), is_last).unwrap());
        drop(responder);
        assert_eq!(sent(&shared), std::slice::from_ref(&reset));
        assert!(shared.lock().is_empty());
    }
}

#[test]
fn behind_an_end_there_is_nothing() {
    for is_written in [true, false] {
        let shared = streams::Shared::new();
        let responder = answered(&shared);
        responder.send("all".into(), true).unwrap();
        let mut frames = if is_written { sent(&shared) } else { Vec::new() };
        assert_eq!(responder.send("more".into(), false), Err(Http2Error::Gone));
        assert_eq!(responder.send(Bytes::new(), true), Ok(true));
        drop(responder);
        frames.extend(sent(&shared));
        assert_eq!(frames, [(frame::DATA, frame::END_STREAM, b"all".to_vec())]);
        assert!(shared.lock().is_empty());
    }
}

/// Large contents take turns, a frame each.
#[test]
fn nobody_waits_for_all_of_anothers_content() {
    let shared = streams::Shared::new();
    let responders = [1, 3].map(|id| shared.lock().open(&shared, id, true, None).0);
    for responder in &responders {
        responder.send(vec![b'x'; 30_000].into(), true).unwrap();
    }
    let (mut order, mut out) = (Vec::new(), Out::default());
    for _ in 0..4 {
        shared.lock().put_into(&mut out);
        order.push(frame::Head::of(out.head()).unwrap().stream);
        out = Out::default();
    }
    assert_eq!(order, [1, 3, 1, 3]);
}

/// Windows are what the gate says, and no more (RFC 9113 §6.9.1).
#[test]
fn content_beyond_a_window_is_not_taken() {
    let shared = streams::Shared::new();
    let (full, reason) = (STREAM_WINDOW as usize, h2::Reason::FLOW_CONTROL_ERROR);
    let mut open = Vec::new();
    for id in (1..=31).step_by(2) {
        open.push(shared.lock().open(&shared, id, false, None));
        let mut streams = shared.lock();
        assert_eq!(streams.begin_data(id, full), Ok(true));
        streams.data(id, vec![b'x'; full].into()).unwrap();
    }
    open.push(shared.lock().open(&shared, 33, false, None));
    let mut streams = shared.lock();
    assert_eq!(streams.begin_data(33, 1), Err(error::Fault::Connection(reason)), "there is room for none");
    // All of what the first one had, and of that a byte too much.
    streams.use_up(CONNECTION_WINDOW as usize / 2);
    assert_eq!(streams.begin_data(1, 1), Err(error::Fault::Stream(1, reason)));
    assert_eq!(streams.begin_data(33, full), Ok(true));
}

/// A part of what was read keeps all of it: parts that wait for whoever asks for them are put together.
#[tokio::test]
async fn small_parts_that_wait_are_put_together() {
    const PARTS: usize = 400;
    let (go, waits) = tokio::sync::watch::channel(false);
    let (counted, mut counts) = tokio::sync::mpsc::channel(1);
    let mut client = client(move |request| {
        let (mut waits, counted) = (waits.clone(), counted.clone());
        async move {
            if request.uri().path() == "/now" {
                return "served";
            }
            waits.wait_for(|go| *go).await.unwrap();
            let (mut content, mut parts, mut length) = (request.into_body(), 0, 0);
            while let Some(frame) = content.frame().await {
                parts += 1;
                length += frame.unwrap().into_data().unwrap().len();
            }
            counted.send((parts, length)).await.unwrap();
            "served"
        }
    })
    .await;
    let request = Request::post("http://a/").body(()).unwrap();
    let (response, mut content) = client.send_request(request, false).unwrap();
    for _ in 0..PARTS {
        content.send_data(Bytes::from_static(&[b'x'; 100]), false).unwrap();
        tokio::task::yield_now().await;
    }
    content.send_data(Bytes::new(), true).unwrap();
    // Whatever was sent before a request that was answered has come.
    get(&mut client, "/now").await.unwrap();
    go.send(true).unwrap();
    let (parts, length) = counts.recv().await.unwrap();
    assert_eq!(length, PARTS * 100);
    assert!(parts < 10, "{parts}");
    response.await.unwrap();
}
