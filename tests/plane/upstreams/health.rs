//! Active health checks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use http::{Response, StatusCode, Version};

use super::{Api, ask, gate, metric};
use crate::support::{
    eventually, log,
    upstream::{StreamBody, text},
};

struct Checked {
    api: Api,
    is_well: Arc<AtomicBool>,
    checks: Arc<AtomicUsize>,
}

/// Answers requests in any case, and `/health` as it is told.
fn checked(name: &'static str) -> Checked {
    let (api, is_well, checks) = (Api::start(name), Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (told, count) = (Arc::clone(&is_well), Arc::clone(&checks));
    api.handle(move |request| {
        let is_check = request.uri().path() == "/health";
        let status = if told.load(Ordering::SeqCst) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
        if is_check {
            assert!(request.headers()["user-agent"].to_str().unwrap().starts_with("portcullis-health/"));
            count.fetch_add(1, Ordering::SeqCst);
        }
        async move {
            if !is_check {
                return text(name);
            }
            let mut response = Response::new(StreamBody::from(""));
            *response.status_mut() = status;
            response
        }
    });
    Checked { api, is_well, checks }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_well_is_not_asked() {
    log::capture();
    for protocol in ["http1", "http2"] {
        let (a, b) = (checked("a"), checked("b"));
        let settings = format!(
            "protocol = \"{protocol}\"\nbalance = \"round_robin\"\n\
             health = {{ path = \"/health\", interval = \"100ms\", timeout = \"10s\", statuses = [204] }}"
        );
        let gate = gate(&[&a.api, &b.api], &settings).await;
        let url = format!("http://{}", b.api.address());
        let available = format!("portcullis_upstream_endpoints_available{{route=\"several\",endpoint=\"{url}\"}}");
        eventually("both are checked", async || {
            a.checks.load(Ordering::SeqCst) > 1 && b.checks.load(Ordering::SeqCst) > 1
        })
        .await;
        let answers = ask(&gate, 10).await;
        assert_eq!((answers["a"], answers["b"]), (5, 5));
        let version = if protocol == "http2" { Version::HTTP_2 } else { Version::HTTP_11 };
        assert_eq!(b.api.last().version, version);

        b.is_well.store(false, Ordering::SeqCst);
        eventually("it is found out", async || metric(&gate, &available).await == 0).await;
        assert_eq!(ask(&gate, 10).await["a"], 10);

        b.is_well.store(true, Ordering::SeqCst);
        eventually("it is well again", async || metric(&gate, &available).await == 1).await;
        let answers = ask(&gate, 10).await;
        assert_eq!((answers["a"], answers["b"]), (5, 5));

        let lines = log::lines(&url);
        let said = |message: &str| lines.iter().filter(|line| line["message"] == message).count();
        assert_eq!(said("endpoint is not well, its health checks say"), 1, "{lines:?}");
        assert_eq!(said("endpoint is well again, its health checks say"), 1, "{lines:?}");
        assert!(lines.iter().any(|line| line["error"] == "answered 404 Not Found"), "{lines:?}");
    }
}

/// Nobody is asked for nothing, and one that does not answer is not well.
#[tokio::test(flavor = "multi_thread")]
async fn silence_is_not_well() {
    let (a, b) = (Api::start("a"), Api::start("b"));
    b.handle(|request| async move {
        if request.uri().path() == "/health" {
            std::future::pending::<()>().await;
        }
        text("b")
    });
    let settings = "health = { path = \"/health\", interval = \"100ms\", timeout = \"50ms\" }";
    let gate = gate(&[&a, &b], settings).await;
    let available = |api: &Api| {
        format!("portcullis_upstream_endpoints_available{{route=\"several\",endpoint=\"http://{}\"}}", api.address())
    };
    eventually("it is found out", async || metric(&gate, &available(&b)).await == 0).await;
    assert_eq!(ask(&gate, 10).await.get("b"), None);
    let (a, b) = (Api::start("a"), Api::start("b"));
    let gate = super::gate(&[&a, &b], "").await;
    ask(&gate, 2).await;
    assert_eq!(a.hits() + b.hits(), 2, "requests, and no checks");
}
