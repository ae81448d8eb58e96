//! Whatever comes over a connection, the gate goes on serving others.

use std::time::Duration;

use proptest::{prelude::*, test_runner::TestRunner};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{HTTP1, HTTP2, route};
use crate::support::{client::Raw, eventually, gate::TestGate};

/// Pieces of requests, in any order.
fn http1() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(
            &[
                "GET / HTTP/1.1\r\n",
                "POST /x HTTP/1.1\r\n",
                "HEAD / HTTP/1.0\r\n",
                "Host: a\r\n",
                "Host: b\r\n",
                "\r\n",
                "\r",
                "\n",
                " ",
                "Content-Length: 5\r\n",
                "Content-Length: 0\r\n",
                "Transfer-Encoding: chunked\r\n",
                "5\r\nhello\r\n",
                "0\r\n\r\n",
                "hello",
                "Connection: close\r\n",
                "Connection: upgrade, x\r\n",
                "Upgrade: h2c\r\n",
                "Expect: 100-continue\r\n",
                "Trailer: x\r\n",
                "TE: trailers\r\n",
                "X: \u{e9}\r\n",
                "Cookie: a=b\r\n",
                "Authorization: Bearer x\r\n",
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ][..]
        )
        .prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Frames after a preface, more or less well formed.
fn http2() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        // :method GET, :scheme http, :path /, :authority a
        Just(vec![0x82, 0x86, 0x84, 0x41, 0x01, b'a']),
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(any::<u8>(), 4..=4),
        prop::collection::vec(any::<u8>(), 8..=8),
        Just(Vec::new()),
    ];
    let frame = (0..12_u8, any::<u8>(), prop_oneof![0..8_u32, any::<u32>()], payload).prop_map(
        |(kind, flags, stream, payload)| {
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            [&length[1..], &[kind, flags], &stream.to_be_bytes(), &payload].concat()
        },
    );
    prop::collection::vec(frame, 0..12).prop_map(|frames| {
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &frames.concat()].concat()
    })
}

#[test]
fn nonsense_harms_nobody_else() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for upstream in [HTTP1, HTTP2] {
            let limits = "[listener]\nheader_timeout = \"200ms\"\nidle_timeout = \"300ms\"\n";
            let gate =
                TestGate::start(&[limits, &route(upstream, "auth = \"none\"\nbody_idle_timeout = \"200ms\"")].concat())
                    .await;
            let address = gate.address();
            let mut runner =
                TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) });
            let strategy = prop_oneof![http1(), http2(), prop::collection::vec(any::<u8>(), 0..2000)];
            let result = tokio::task::block_in_place(|| {
                runner.run(&strategy, |bytes| {
                    tokio::runtime::Handle::current().block_on(async {
                        let mut raw = Raw::connect(address).await;
                        let _ = raw.0.write_all(&bytes).await;
                        let _ = raw.0.shutdown().await;
                        let ends = timeout(Duration::from_secs(5), raw.read_to_end()).await;
                        prop_assert!(ends.is_ok(), "still open");
                        Ok(())
                    })
                })
            });
            result.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(gate.get("/", "").await.text(), "ok");
            // Nothing is left behind.
            eventually("all connections are closed", async || {
                let metrics = crate::support::client::get(gate.admin(), "/metrics", "").await;
                metrics.text().contains("portcullis_connections 0\n")
                    && metrics.text().contains("portcullis_requests_in_flight 0\n")
            })
            .await;
        }
    });
}
