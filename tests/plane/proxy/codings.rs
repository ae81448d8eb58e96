//! Content codings, ranges and conditions are between the client and the upstream.

use http::{Method, Response, StatusCode};

use super::{client, each_pair, route};
use crate::support::{client::request, gate::TestGate, upstream::StreamBody};

/// Not what it is said to be, which nobody but the two ends could tell.
const CODED: &[u8] = b"\x1f\x8b\x08\x00 whatever \xff\x00\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn coded_bodies_pass_byte_by_byte() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        gate.upstream.answer(|request| {
            let coding = request.values("accept-encoding").concat();
            let builder =
                Response::builder().header("content-encoding", coding).header("vary", "Accept-Encoding, X-Other");
            builder.header("etag", "W/\"1\"").body(StreamBody::from(CODED)).unwrap()
        });
        let mut client = client(downstream, &gate).await;
        for coding in ["gzip", "br", "zstd"] {
            for method in [Method::GET, Method::HEAD] {
                let sent = request(downstream, method.clone(), "/", &gate.good_token())
                    .header("accept-encoding", coding)
                    .body(StreamBody::from(""));
                let reply = client.fetch(sent.unwrap()).await;
                assert_eq!(reply.headers["content-encoding"], coding);
                assert_eq!(reply.headers["vary"], "Accept-Encoding, X-Other");
                assert_eq!(reply.headers["content-length"], *CODED.len().to_string(), "{method}");
                assert_eq!(reply.body, if method == Method::HEAD { &[] } else { CODED }, "{coding} {method}");
                assert_eq!(gate.upstream.last().values("accept-encoding"), [coding]);
            }
        }
        // None is asked for where the client did not.
        let sent = request(downstream, Method::POST, "/", &gate.good_token()).header("content-encoding", "gzip");
        client.fetch(sent.body(StreamBody::from(CODED)).unwrap()).await;
        let got = gate.upstream.last();
        assert!(got.values("accept-encoding").is_empty());
        assert_eq!((got.values("content-encoding"), &got.body[..]), (vec!["gzip"], CODED));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_conditions_pass() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        gate.upstream.answer(|request| {
            let builder = Response::builder().header("etag", "\"1\"").header("accept-ranges", "bytes");
            if request.headers.contains_key("if-none-match") {
                return builder.status(StatusCode::NOT_MODIFIED).body(StreamBody::from("")).unwrap();
            }
            let builder = builder.status(StatusCode::PARTIAL_CONTENT).header("content-range", "bytes 2-4/10");
            builder.body(StreamBody::from("cde")).unwrap()
        });
        let mut client = client(downstream, &gate).await;
        let get = || request(downstream, Method::GET, "/", &gate.good_token());
        let sent = get().header("range", "bytes=2-4").header("if-range", "\"1\"").body(StreamBody::from(""));
        let reply = client.fetch(sent.unwrap()).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (206, "cde"));
        assert_eq!(
            (&reply.headers["content-range"], &reply.headers["accept-ranges"]),
            (&"bytes 2-4/10".parse().unwrap(), &"bytes".parse().unwrap())
        );
        let got = gate.upstream.last();
        assert_eq!((got.values("range"), got.values("if-range")), (vec!["bytes=2-4"], vec!["\"1\""]));
        let reply = client.fetch(get().header("if-none-match", "\"1\"").body(StreamBody::from("")).unwrap()).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (304, 0));
        assert_eq!(reply.headers["etag"], "\"1\"");
        // The connection is still in step.
        let sent = get().header("range", "bytes=2-4").body(StreamBody::from("")).unwrap();
        assert_eq!(client.fetch(sent).await.text(), "cde");
    })
    .await;
}
