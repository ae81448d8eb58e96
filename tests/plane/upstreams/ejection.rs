//! Endpoints that fail are left alone, and come back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::{Response, StatusCode};

use super::{Api, ask, gate, metric, route};
use crate::support::{eventually, gate::TestGate, log, ports::free_address, upstream::StreamBody};

/// An API that answers with this status while it is told to.
fn failing(name: &'static str, status: StatusCode) -> (Api, Arc<AtomicBool>) {
    let (api, fails) = (Api::start(name), Arc::new(AtomicBool::new(true)));
    let told = Arc::clone(&fails);
    api.handle(move |_| {
        let status = if told.load(Ordering::SeqCst) { status } else { StatusCode::OK };
        async move {
            let mut response = Response::new(StreamBody::from(name));
            *response.status_mut() = status;
            response
        }
    });
    (api, fails)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_is_left_alone_and_comes_back_on_trial() {
    log::capture();
    let good = Api::start("good");
    let (bad, fails) = failing("bad", StatusCode::BAD_GATEWAY);
    let settings = "balance = \"round_robin\"\nejection = { failures = 3, time = \"100ms\", max_time = \"1s\" }";
    let gate = gate(&[&good, &bad], settings).await;
    let endpoint = format!("{{route=\"several\",endpoint=\"http://{}\"}}", bad.address());

    ask(&gate, 6).await;
    assert_eq!(bad.hits(), 3, "three failures in a row");
    assert_eq!(metric(&gate, &format!("portcullis_upstream_ejections_total{endpoint}")).await, 1);
    let url = format!("http://{}", bad.address());
    assert_eq!(
        log::lines(&url).iter().filter(|line| line["message"] == "endpoint fails, and is left alone").count(),
        1
    );

    // One try when its time is up, and it is left alone again, for longer.
    eventually("it is tried again", async || {
        ask(&gate, 4).await;
        bad.hits() > 3
    })
    .await;
    eventually("it is left alone again", async || {
        metric(&gate, &format!("portcullis_upstream_ejections_total{endpoint}")).await >= 2
    })
    .await;

    fails.store(false, Ordering::SeqCst);
    eventually("it is back", async || {
        ask(&gate, 8).await;
        log::lines(&url).iter().any(|line| line["message"] == "endpoint is back")
    })
    .await;
    let answers = ask(&gate, 20).await;
    assert_eq!((answers["good"], answers["bad"]), (10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_no_failures_eject_nobody() {
    for (status, settings) in [
        (StatusCode::INTERNAL_SERVER_ERROR, ""),
        (StatusCode::NOT_FOUND, ""),
        (StatusCode::BAD_GATEWAY, "failures = 0"),
    ] {
        let good = Api::start("good");
        let (bad, _) = failing("bad", status);
        let gate = gate(&[&good, &bad], &format!("balance = \"round_robin\"\nejection = {{ {settings} }}")).await;
        ask(&gate, 40).await;
        assert_eq!((good.hits(), bad.hits()), (20, 20), "{status}");
    }
}

/// When nobody is left, asking one that may be well by now is better than asking nobody.
#[tokio::test(flavor = "multi_thread")]
async fn while_all_are_left_alone_all_are_asked() {
    let (one, one_fails) = failing("one", StatusCode::SERVICE_UNAVAILABLE);
    let (other, other_fails) = failing("other", StatusCode::SERVICE_UNAVAILABLE);
    let settings = "balance = \"round_robin\"\nejection = { failures = 2, time = \"1h\", max_time = \"1h\" }";
    let gate = gate(&[&one, &other], settings).await;
    ask(&gate, 20).await;
    assert_eq!((one.hits(), other.hits()), (10, 10));
    one_fails.store(false, Ordering::SeqCst);
    other_fails.store(false, Ordering::SeqCst);
    let answers = ask(&gate, 10).await;
    assert_eq!((answers["one"], answers["other"]), (5, 5));
}

/// An endpoint where nobody listens costs no request, and soon no time.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_is_left_alone() {
    let api = Api::start("api");
    let gone = free_address();
    let settings = "balance = \"round_robin\"\nejection.time = \"1h\"\nejection.max_time = \"1h\"";
    let gate = TestGate::start(&route(&[api.address(), gone], settings)).await;
    assert_eq!(ask(&gate, 40).await["api"], 40);
    let endpoint = format!("{{route=\"several\",endpoint=\"http://{gone}\"}}");
    assert_eq!(metric(&gate, &format!("portcullis_upstream_connect_failures_total{endpoint}")).await, 5);
    assert_eq!(metric(&gate, &format!("portcullis_upstream_endpoints_available{endpoint}")).await, 0);
    assert_eq!(metric(&gate, &format!("portcullis_upstream_endpoints{endpoint}")).await, 1);
}
