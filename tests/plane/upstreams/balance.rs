//! Who gets how much.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};

use super::{Api, ask, gate, metric};
use crate::support::{client, eventually, gate::TestGate, upstream::text};

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_shares_by_weight() {
    let (a, b) = (Api::start("a"), Api::start("b"));
    for protocol in ["http1", "http2"] {
        let gate = TestGate::start(&format!(
            "[[routes]]\nauth = \"none\"\nbalance = \"round_robin\"\nprotocol = \"{protocol}\"\n\
             upstreams = [\"http://{}\", {{ url = \"http://{}\", weight = 3 }}]\n",
            a.address(),
            b.address()
        ))
        .await;
        let answers = ask(&gate, 40).await;
        assert_eq!((answers["a"], answers["b"]), (10, 30), "{protocol}");
    }
}

/// Each endpoint has connections of its own, which are kept.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_to_each() {
    let (a, b) = (Api::start("a"), Api::start("b"));
    let gate = gate(&[&a, &b], "balance = \"round_robin\"").await;
    ask(&gate, 20).await;
    assert_eq!((a.hits(), b.hits(), a.connections(), b.connections()), (10, 10, 1, 1));
}

/// `Host` is that of whoever is asked, where it is not the client's.
#[tokio::test(flavor = "multi_thread")]
async fn each_is_called_by_its_own_name() {
    let (a, b) = (Api::start("a"), Api::start("b"));
    for protocol in ["http1", "http2"] {
        let settings = format!("balance = \"round_robin\"\npreserve_host = false\nprotocol = \"{protocol}\"");
        let gate = gate(&[&a, &b], &settings).await;
        ask(&gate, 2).await;
        for api in [&a, &b] {
            let seen = api.last();
            let host = seen
                .headers
                .get("host")
                .map_or(seen.uri.authority().map_or("", |host| host.as_str()), |host| host.to_str().unwrap());
            assert_eq!(host, api.address().to_string());
        }
    }
}

/// One holds its requests, the others answer at once: it keeps what it has and gets little more.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_gets_less() {
    let apis = [Api::start("a"), Api::start("b"), Api::start("c")];
    let hold = Arc::new(Semaphore::new(0));
    let holds = Arc::clone(&hold);
    apis[0].handle(move |_| {
        let hold = Arc::clone(&holds);
        async move {
            let _ = hold.acquire().await;
            text("a")
        }
    });
    let gate = Arc::new(gate(&[&apis[0], &apis[1], &apis[2]], "").await);
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let address = gate.address();
        clients.spawn(async move {
            for _ in 0..40 {
                assert_eq!(client::get(address, "/", "").await.status, 200);
            }
        });
    }
    // Five at most are held: then the others cannot have as many under way between them.
    eventually("the rest go on", async || apis[1].hits() + apis[2].hits() >= 100).await;
    assert!(apis[0].hits() <= 5, "{} are held", apis[0].hits());
    let endpoint = format!("endpoint=\"http://{}\"", apis[0].address());
    let count = metric(&gate, &format!("portcullis_upstream_in_flight{{route=\"several\",{endpoint}}}")).await;
    assert!((1..=5).contains(&count), "{count}");
    hold.close();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    eventually("none is under way", async || {
        metric(&gate, &format!("portcullis_upstream_in_flight{{route=\"several\",{endpoint}}}")).await == 0
    })
    .await;
}

/// A request counts until its body has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_under_way_to_its_end() {
    use http::Response;

    use crate::support::upstream::StreamBody;

    for protocol in ["http1", "http2"] {
        let api = Api::start("a");
        let (sender, body) = StreamBody::channel();
        let body = std::sync::Mutex::new(Some(body));
        api.handle(move |_| {
            let body = body.lock().unwrap().take().expect("one request");
            async { Response::new(body) }
        });
        let gate = gate(&[&api], &format!("protocol = \"{protocol}\"")).await;
        let sample =
            format!("portcullis_upstream_in_flight{{route=\"several\",endpoint=\"http://{}\"}}", api.address());
        let address = gate.address();
        let client = tokio::spawn(async move { client::get(address, "/", "").await });
        eventually("it is under way", async || metric(&gate, &sample).await == 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(metric(&gate, &sample).await, 1, "{protocol}");
        drop(sender);
        client.await.unwrap();
        eventually("it has ended", async || metric(&gate, &sample).await == 0).await;
    }
}
