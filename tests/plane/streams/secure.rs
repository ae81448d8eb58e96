//! Streams through TLS: events as they come, and their end with the session, to clients of both versions and to curl.

use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use super::*;
use crate::{listener::curl, secure::Secure};

/// A gate with TLS in front of feeds.
async fn gate(world: &World, secure: &Secure) -> Gate {
    let setup = secure.variables().into_iter();
    setup.fold(world.gate(), |setup, (name, value)| setup.with(name, value)).start().await
}

/// Begins a request through TLS, and waits for its response's header.
async fn begin(secure: &Secure, version: Version, gate: &Gate, path: &str, token: &str) -> Flow {
    let mut client = if version == HTTP1 {
        let stream = TokioIo::new(secure.connect(gate.address, "http/1.1").await);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Client::Http1(sender)
    } else {
        let stream = TokioIo::new(secure.connect(gate.address, "h2").await);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        Client::Http2(sender)
    };
    let request = request(version, Method::GET, path, token).body(StreamBody::from("")).unwrap();
    let response = client.send(request).await.unwrap();
    Flow { response, _client: client }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_through_tls_and_end_with_their_session() {
    let secure = Secure::new();
    for upstream in ["http1", "http2"] {
        for version in [HTTP1, HTTP2] {
            let world = World::embedded().await;
            let setup = world.gate().route(&format!("protocol = \"{upstream}\""));
            let setup = secure.variables().into_iter().fold(setup, |setup, (name, value)| setup.with(name, value));
            let gate = setup.start().await;
            for (path, expected) in [("/events", End::Whole(None)), ("/long", End::Cut)] {
                println!("{version:?} {path} in front of {upstream}");
                let feeds = Feeds::of(&world);
                let mut alices = begin(&secure, version, &gate, path, &world.token(ALICE, json!({}))).await;
                let mut bobs = begin(&secure, version, &gate, path, &world.token(BOB, json!({}))).await;
                // Each part before the next is sent.
                for part in ["data: one\n\n", "data: two\n\n"] {
                    for (subject, flow) in [(ALICE, &mut alices), (BOB, &mut bobs)] {
                        feeds.send(subject, part).await;
                        assert_eq!(flow.next().await.unwrap(), part);
                    }
                }
                until_open(&gate, 2.0).await;
                block(&gate, ALICE).await;
                assert_eq!(alices.end().await, expected);
                feeds.send(BOB, "data: on\n\n").await;
                assert_eq!(bobs.next().await.unwrap(), "data: on\n\n");
                drop(bobs);
                until_open(&gate, 0.0).await;
                gate.change(Method::DELETE, &subject_path(ALICE, "/block"), Value::Null).await;
            }
        }
    }
}

/// What curl makes of it: events that end are whole, anything else is an error.
#[tokio::test(flavor = "multi_thread")]
async fn curl_sees_streams_end() {
    let (world, secure) = (World::embedded().await, Secure::new());
    let gate = gate(&world, &secure).await;
    let port = gate.address.port();
    let (resolve, authority) = (format!("api.example:{port}:127.0.0.1"), secure.authority_file());
    let token = format!("authorization: Bearer {}", world.token(ALICE, json!({})));
    for version in ["--http2", "--http1.1"] {
        for (path, is_whole) in [("/events", true), ("/long", false)] {
            println!("{version} {path}");
            let feeds = Feeds::of(&world);
            let url = format!("https://api.example:{port}{path}");
            let arguments = [
                version,
                "--no-buffer",
                "--cacert",
                &authority,
                "--resolve",
                &resolve,
                "--header",
                &token,
                "--write-out",
                "%{http_version} %{http_code}",
                &url,
            ];
            let course = async {
                eventually("it has arrived", async || feeds.0.lock().unwrap().contains_key(ALICE)).await;
                feeds.send(ALICE, "data: one\n\n").await;
                until_open(&gate, 1.0).await;
                block(&gate, ALICE).await;
            };
            let ran = tokio::select! {
                // Where there is no curl, nothing arrives.
                None = async { curl(&["--version"]).await } => return,
                (ran, ()) = async { tokio::join!(curl(&arguments), course) } => ran,
            };
            let (wrote, said) = ran.unwrap();
            let number = if version == "--http2" { "2" } else { "1.1" };
            assert_eq!(wrote, format!("data: one\n\n{number} 200"), "{said}");
            assert_eq!(said.is_empty(), is_whole, "{said}");
            gate.change(Method::DELETE, &subject_path(ALICE, "/block"), Value::Null).await;
            until_open(&gate, 0.0).await;
        }
    }
}
