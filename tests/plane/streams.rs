//! Open streams, and how they end with their session.

mod ends;
mod faults;
mod grpc;
mod many;
mod outage;
mod secure;
mod waiting;
mod websocket;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

use crate::support::{
    client::{Client, request},
    eventually,
    full::{Gate, World, subject_path},
    upstream::{StreamBody, text},
};

const HTTP1: Version = Version::HTTP_11;
const HTTP2: Version = Version::HTTP_2;

const ALICE: &str = "auth0|alice";
const BOB: &str = "auth0|bob";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where the upstream of a test sends what its responses consist of.
type Sender = mpsc::Sender<io::Result<Frame<Bytes>>>;

/// Responses that are under way, by the subject whose they are.
#[derive(Clone, Default)]
struct Feeds(Arc<Mutex<HashMap<String, Sender>>>);

impl Feeds {
    /// Has the upstream begin a response to each request, of the type that its path names, and go on when it is told. `/wait` is never
    /// answered, `/` at once.
    fn of(world: &World) -> Self {
        let feeds = Self::default();
        let kept = feeds.clone();
        world.upstream.handle(move |request| {
            let kept = kept.clone();
            async move {
                if request.uri().path() == "/" {
                    return text("ok");
                }
                let subject = request.headers()["x-forwarded-user"].to_str().unwrap().to_owned();
                let (sender, body) = StreamBody::channel();
                kept.0.lock().unwrap().insert(subject, sender);
                let mut response = Response::new(body);
                let media_type = match request.uri().path() {
                    "/wait" => std::future::pending().await,
                    "/events" => "text/event-stream; charset=utf-8",
                    "/grpc" => "application/grpc",
                    _ => "text/plain",
                };
                response.headers_mut().insert("content-type", media_type.parse().unwrap());
                response
            }
        });
        feeds
    }

    fn sender(&self, subject: &str) -> Sender {
        self.0.lock().unwrap()[subject].clone()
    }

    /// Sends this to a subject.
    async fn send(&self, subject: &str, data: impl Into<Bytes>) {
        self.sender(subject).send(Ok(Frame::data(data.into()))).await.unwrap();
    }

    /// Whether a subject's response was given up.
    fn is_closed(&self, subject: &str) -> bool {
        self.sender(subject).is_closed()
    }
}

/// A response that is read as it comes.
struct Flow {
    response: Response<Incoming>,
    _client: Client<StreamBody>,
}

/// How a response ended.
#[derive(Clone, PartialEq, Debug)]
enum End {
    /// In order, with these trailers' `grpc-status` and `grpc-message`.
    Whole(Option<(String, String)>),
    /// It broke off.
    Cut,
}

impl Flow {
    /// Begins a request, and waits for its response's header.
    async fn begin(version: Version, gate: &Gate, path: &str, token: &str) -> Self {
        let mut client = Client::connect(version, gate.address).await;
        let mut request = request(version, Method::GET, path, token);
        if path == "/grpc" {
            request = request.method(Method::POST).header("content-type", "application/grpc").header("te", "trailers");
        }
        let response = client.send(request.body(StreamBody::from("")).unwrap()).await.unwrap();
        Self { response, _client: client }
    }

    /// The next part.
    async fn next(&mut self) -> Result<Bytes, End> {
        match timeout(PATIENCE, self.response.body_mut().frame()).await.expect("something comes in time") {
            None => Err(End::Whole(None)),
            Some(Err(_)) => Err(End::Cut),
            Some(Ok(frame)) => frame.into_data().map_err(|frame| {
                let trailers = frame.into_trailers().unwrap();
                let value = |name: &str| trailers[name].to_str().unwrap().to_owned();
                End::Whole(Some((value("grpc-status"), value("grpc-message"))))
            }),
        }
    }

    /// How it ends; nothing comes before that.
    async fn end(mut self) -> End {
        loop {
            match self.next().await {
                // HTTP/2 may say so before it resets.
                Ok(nothing) if nothing.is_empty() => {}
                Ok(data) => panic!("no more than the end comes, not {data:?}"),
                Err(end) => return end,
            }
        }
    }
}

/// How many streams are open on the route `api`, of any kind.
async fn open(gate: &Gate) -> f64 {
    open_on(gate, "api").await
}

async fn open_on(gate: &Gate, route: &str) -> f64 {
    let mut open = 0.0;
    for kind in ["response", "event_stream", "grpc", "websocket", "service"] {
        open += gate.metric(&format!("portcullis_streams{{route=\"{route}\",kind=\"{kind}\"}}")).await;
    }
    open
}

/// Waits until this many requests have become streams.
async fn until_open(gate: &Gate, count: f64) {
    eventually("requests have become streams", async || (open(gate).await - count).abs() < 0.5).await;
}

/// How many streams were ended for this reason.
async fn ended(gate: &Gate, reason: &str, enforced: bool) -> f64 {
    ended_on(gate, "api", reason, enforced).await
}

async fn ended_on(gate: &Gate, route: &str, reason: &str, enforced: bool) -> f64 {
    let labels = format!("route=\"{route}\",reason=\"{reason}\",enforced=\"{enforced}\"");
    gate.metric(&format!("portcullis_streams_ended_total{{{labels}}}")).await
}

async fn block(gate: &Gate, subject: &str) {
    gate.change(Method::PUT, &subject_path(subject, "/block"), Value::Null).await;
}
