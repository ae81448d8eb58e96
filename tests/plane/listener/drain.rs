//! The end of the program.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::{OPEN, metrics};
use crate::support::{client::Raw, eventually, gate::TestGate, program::Gate, upstream::TestUpstream};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_just_taken_is_served_its_first_request() {
    let mut gate = TestGate::start(OPEN).await;
    let address = gate.address();
    let mut fresh = [Raw::connect(address).await, Raw::connect(address).await];
    eventually("they are taken", async || metrics(&gate).await["portcullis_connections"] == 2).await;
    let stopping = tokio::spawn(async move { gate.stop().await });
    eventually("the gate does not listen any more", async || TcpStream::connect(address).await.is_err()).await;
    fresh[0].write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = fresh[0].read_to_end().await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("connection: close"), "{reply}");
    assert_eq!(fresh[1].read_to_end().await, "", "who says nothing is let go");
    assert!(stopping.await.unwrap());
}

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
