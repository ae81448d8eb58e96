//! What is counted.

use super::{Api, ask, gate, metric};

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_timed_apart_and_each_is_counted() {
    let (a, b) = (Api::start("a"), Api::start("b"));
    let gate = gate(&[&a, &b], "balance = \"round_robin\"").await;
    ask(&gate, 10).await;
    assert_eq!(metric(&gate, "portcullis_upstream_duration_seconds_count{route=\"several\"}").await, 10);
    for api in [&a, &b] {
        let labels = format!("{{route=\"several\",endpoint=\"http://{}\"}}", api.address());
        for (name, value) in [
            ("endpoints", 1),
            ("endpoints_available", 1),
            ("in_flight", 0),
            ("ejections_total", 0),
            ("connect_failures_total", 0),
        ] {
            assert_eq!(metric(&gate, &format!("portcullis_upstream_{name}{labels}")).await, value, "{name}");
        }
    }
}
