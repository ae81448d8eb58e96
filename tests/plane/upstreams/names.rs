//! Names, whose addresses come and go.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::{
    config::Config,
    drain::Drain,
    gate::identity::ReservedNames,
    upstream::{
        Upstream,
        fields::{Arrival, Downstream},
        metrics::UpstreamMetrics,
        resolve::Resolver,
    },
};
use tokio::{net::TcpListener, task::JoinSet, time::Instant};

use super::Api;
use crate::support::{
    client::{self, Client, Reply},
    eventually,
    gate::TestGate,
    ports::free_address,
    upstream::StreamBody,
};

/// Answers as it is told: `None` is a failure.
#[derive(Clone, Default, Debug)]
struct Told {
    answer: Arc<Mutex<Option<Vec<SocketAddr>>>>,
    asked: Arc<AtomicUsize>,
}

impl Told {
    fn to(addresses: &[SocketAddr]) -> Self {
        let told = Self::default();
        told.say(Some(addresses));
        told
    }

    fn say(&self, addresses: Option<&[SocketAddr]>) {
        *self.answer.lock().unwrap() = addresses.map(<[_]>::to_vec);
    }

    /// Waits until it was asked so many times more.
    async fn is_asked(&self, times: usize) {
        let before = self.asked.load(Ordering::SeqCst);
        eventually("the resolver is asked", async || self.asked.load(Ordering::SeqCst) >= before + times).await;
    }
}

#[async_trait]
impl Resolver for Told {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!((host, port), ("api.test", 7));
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.answer.lock().unwrap().clone().ok_or_else(|| io::Error::other("no such name"))
    }
}

/// An upstream that answers on a port of its own, without a gate before it.
struct Proxy {
    address: SocketAddr,
    upstream: Upstream,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(settings: &str, resolver: &Told) -> Self {
        let text = format!("[[routes]]\nauth = \"none\"\n{settings}\n");
        let config = Config::parse(&text, "gate.toml", []).unwrap_or_else(|errors| panic!("{errors}"));
        let settings = config.routes[0].upstream.clone();
        let metrics = UpstreamMetrics::default().route(&"names".into());
        let upstream = Upstream::with_resolver(settings, ReservedNames::new(&[]), metrics, Arc::new(resolver.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (serving, mut tasks) = (upstream.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let upstream = serving.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let downstream = Arc::new(Downstream::unix(Drain::default()));
                    let arrival = Arrival { at: Instant::now(), downstream, interim: None };
                    let request = request.map(|_| portcullis::incoming::Incoming::Empty);
                    let response = upstream.send(Box::new(request), None, &arrival);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                connections.spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, upstream, _tasks: tasks }
    }

    async fn get(&self) -> Reply {
        client::get(self.address, "/", "").await
    }

    /// The answers of so many requests.
    async fn answers(&self, times: usize) -> Vec<String> {
        let mut answers = Vec::new();
        for _ in 0..times {
            answers.push(self.get().await.text().to_owned());
        }
        answers.sort();
        answers
    }
}

const NAME: &str = "upstream = \"http://api.test:7\"\nbalance = \"round_robin\"\nresolve_interval = \"1s\"";

#[tokio::test(flavor = "multi_thread")]
async fn addresses_come_and_go() {
    let (a, b, c) = (Api::start("a"), Api::start("b"), Api::start("c"));
    let told = Told::to(&[a.address(), b.address()]);
    let proxy = Proxy::start(NAME, &told).await;
    assert_eq!(proxy.answers(4).await, ["a", "a", "b", "b"]);

    told.say(Some(&[b.address(), c.address()]));
    eventually("the new one is asked", async || proxy.answers(2).await.contains(&"c".to_owned())).await;
    assert_eq!(proxy.answers(4).await, ["b", "b", "c", "c"]);
    // What stayed has kept its connection.
    assert_eq!(b.connections(), 1);
}

/// A name has one weight, however many addresses it has.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_share_the_weight_of_their_name() {
    let (a, b, c) = (Api::start("a"), Api::start("b"), Api::start("c"));
    let told = Told::to(&[a.address(), b.address()]);
    let settings = format!(
        "upstreams = [\"http://api.test:7\", {{ url = \"http://{}\", weight = 2 }}]\nbalance = \"round_robin\"",
        c.address()
    );
    let proxy = Proxy::start(&settings, &told).await;
    told.is_asked(0).await;
    eventually("all are there", async || proxy.answers(6).await == ["a", "b", "c", "c", "c", "c"]).await;
}

/// Requests under way end where they are, and unused connections are let go of.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_go_drain() {
    for protocol in ["http1", "http2"] {
        let (a, b) = (Api::start("a"), Api::start("b"));
        let (sender, body) = StreamBody::channel();
        let body = Mutex::new(Some(body));
        a.handle(move |_| {
            let body = body.lock().unwrap().take().unwrap_or_else(|| StreamBody::from("a"));
            async { Response::new(body) }
        });
        let told = Told::to(&[a.address()]);
        let proxy = Proxy::start(&format!("{NAME}\nprotocol = \"{protocol}\""), &told).await;
        let request = client::request(http::Version::HTTP_11, http::Method::GET, "/", "");
        let mut client = Client::http1(proxy.address).await;
        let long = client.send(request.body(StreamBody::from("")).unwrap()).await.unwrap();
        assert_eq!(proxy.get().await.text(), "a");
        let open = || a.open();
        assert!(open() > 0);

        told.say(Some(&[b.address()]));
        eventually("the other is asked", async || proxy.get().await.text() == "b").await;
        eventually("only what is under way is left", async || open() == 1).await;
        sender.send(Ok(http_body::Frame::data("the end".into()))).await.unwrap();
        drop(sender);
        assert_eq!(Reply::read(long).await.unwrap().text(), "the end", "{protocol}");
        eventually("its connections are closed", async || open() == 0).await;
        drop(proxy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_fails_takes_nothing_away() {
    let api = Api::start("api");
    let told = Told::to(&[api.address()]);
    let proxy = Proxy::start(NAME, &told).await;
    assert_eq!(proxy.get().await.text(), "api");
    for nothing in [None, Some(&[][..])] {
        told.say(nothing);
        told.is_asked(2).await;
        assert_eq!(proxy.get().await.text(), "api");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_knows_is_asked_for_until_somebody_does() {
    let api = Api::start("api");
    let told = Told::default();
    let proxy = Proxy::start(&format!("{NAME}\nconnect_timeout = \"5s\""), &told).await;
    let reply = proxy.get().await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (502, "upstream_unavailable"));
    told.say(Some(&[api.address()]));
    eventually("it is known", async || proxy.get().await.status == 200).await;
}

/// Addresses changed, and the connection that fails is the first to know.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_connection_asks_again_at_once() {
    let api = Api::start("api");
    let told = Told::to(&[free_address()]);
    let settings = NAME.replace("\"1s\"", "\"1h\"");
    let proxy = Proxy::start(&settings, &told).await;
    assert_eq!(proxy.get().await.status, 502);
    told.say(Some(&[api.address()]));
    eventually("it is asked again", async || proxy.get().await.status == 200).await;
}

/// One address of a name does not answer: another is tried, and nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn another_address_is_tried() {
    let api = Api::start("api");
    let told = Told::to(&[free_address(), api.address()]);
    let proxy = Proxy::start(NAME, &told).await;
    assert_eq!(proxy.answers(10).await, ["api"; 10]);
    proxy.upstream.maintain();
    assert_eq!(proxy.answers(10).await, ["api"; 10]);
}

/// With the resolver of the system. `localhost` is ::1 too on most machines, and nobody listens there.
#[tokio::test(flavor = "multi_thread")]
async fn localhost_is_a_name() {
    let api = Api::start("api");
    let gate = TestGate::start(&format!(
        "[[routes]]\nauth = \"none\"\nupstream = \"http://localhost:{}\"\n",
        api.address().port()
    ))
    .await;
    for _ in 0..10 {
        assert_eq!(gate.get("/", "").await.text(), "api");
    }
}
