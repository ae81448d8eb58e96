//! The end of the program.

use std::time::{Duration, Instant};

use crate::support::{client::Raw, eventually, program::Gate, upstream::TestUpstream};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let upstream = TestUpstream::start().await;
    upstream.delay(Duration::from_secs(600));
    let route = format!("[[routes]]\npath = \"/slow\"\nauth = \"none\"\nupstream = \"{}\"\n", upstream.url());
    let mut gate = Gate::setup().and(&route).start().await;
    let mut busy = Raw::connect(gate.address()).await;
    busy.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request is under way", async || upstream.hits() == 1).await;
    gate.terminate();
    eventually("the gate drains", async || gate.log().contains("draining")).await;
    eventually("it does not listen any more", async || !gate.listens().await).await;
    let since = Instant::now();
    gate.terminate();
    assert!(tokio::task::block_in_place(|| gate.wait_for_end()).success());
    assert!(since.elapsed() < Duration::from_secs(20), "drain_timeout is longer");
    assert!(gate.log().contains("stopped at once"), "{}", gate.log());
    assert_eq!(busy.read_to_end().await, "");
}
