//! Upstreams that go away under load, and come back.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use tokio::task::JoinSet;

use super::{Api, gate};
use crate::support::{client::Client, eventually_within, upstream::text};

/// How long load may take on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients that ask one request after another over connections of their own.
struct Load {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

impl Load {
    fn on(gate: SocketAddr) -> Self {
        let (stop, answered, failed) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let (stop, answered, failed) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&failed));
            clients.spawn(async move {
                let mut client = Client::http1(gate).await;
                while !stop.load(Ordering::SeqCst) {
                    let request = Request::get("/").header("host", "api.example").body(Empty::<Bytes>::new()).unwrap();
                    let reply = client.fetch(request).await;
                    let count = if reply.status == StatusCode::OK { &answered } else { &failed };
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { clients, stop, answered, failed }
    }

    /// Waits for this many answers more.
    async fn goes_on(&self, what: &str, more: usize) {
        let before = self.answered.load(Ordering::SeqCst);
        eventually_within(PATIENCE, what, async || self.answered.load(Ordering::SeqCst) >= before + more).await;
    }

    async fn stop(mut self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        (self.answered.load(Ordering::SeqCst), self.failed.load(Ordering::SeqCst))
    }
}

/// An API at this address whose answers are in one piece: what is killed in the middle of one is broken off, as it has to be.
fn brief(address: SocketAddr) -> Api {
    let api = Api::at(address, "comes and goes");
    api.handle(|_| async { text("") });
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn no_idempotent_request_fails_when_one_of_several_is_killed_and_comes_back() {
    for protocol in ["http1", "http2"] {
        let (stays, mut comes_and_goes) = (Api::start("stays"), Some(brief("127.0.0.1:0".parse().unwrap())));
        let address = comes_and_goes.as_ref().unwrap().address();
        let settings = format!("protocol = \"{protocol}\"\nejection = {{ time = \"100ms\", max_time = \"500ms\" }}");
        let gate = gate(&[&stays, comes_and_goes.as_ref().unwrap()], &settings).await;
        let load = Load::on(gate.address());
        for _ in 0..3 {
            load.goes_on("requests are answered", 200).await;
            drop(comes_and_goes.take());
            load.goes_on("they are while one is gone", 200).await;
            let back = brief(address);
            eventually_within(PATIENCE, "it gets requests again", async || back.hits() > 0).await;
            comes_and_goes = Some(back);
        }
        let (answered, failed) = load.stop().await;
        assert_eq!(failed, 0, "{protocol}: of {answered}");
    }
}

/// The only one there is: requests fail while it is away, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn one_alone_is_asked_as_soon_as_it_is_back() {
    let api = Api::start("alone");
    let address = api.address();
    let gate = gate(&[&api], "ejection = { time = \"1h\", max_time = \"1h\" }").await;
    assert_eq!(gate.get("/", "").await.status, 200);
    drop(api);
    for _ in 0..10 {
        let reply = gate.get("/", "").await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (502, "upstream_unavailable"));
    }
    let _api = Api::at(address, "alone");
    tokio::time::timeout(Duration::from_secs(15), async {
        assert_eq!(gate.get("/", "").await.text(), "alone");
    })
    .await
    .unwrap();
}
