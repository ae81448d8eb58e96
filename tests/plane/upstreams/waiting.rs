//! Connections that have to be waited for: a session may end meanwhile.

use http::{Method, StatusCode, Version};
use serde_json::{Value, json};
use tokio::{io::copy_bidirectional, net::TcpStream, sync::watch};

use super::api::Api;
use crate::{
    authority::Authority,
    support::{
        client::{Client, Reply, request},
        eventually,
        full::{Gate, World, subject_path},
        upstream::{RawUpstream, StreamBody},
    },
};

fn ask(gate: &Gate, token: &str) -> tokio::task::JoinHandle<Reply> {
    let (address, token) = (gate.address, token.to_owned());
    tokio::spawn(async move {
        let mut client = Client::connect(Version::HTTP_11, address).await;
        client.fetch(request(Version::HTTP_11, Method::GET, "/slow", &token).body(StreamBody::from("")).unwrap()).await
    })
}

/// However short the wait was.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_over_a_connection_that_came_too_late_for_the_session() {
    let authority = Authority::new("test");
    for (protocol, alpn) in [("http1", "http/1.1"), ("http2", "h2")] {
        let api = Api::tls(authority.certify(&[]).server(&[alpn], None), "tls");
        let (open, target) = (watch::Sender::new(false), api.address());
        let (gates, accepted) = (open.clone(), watch::Sender::new(0));
        let counted = accepted.clone();
        // Nobody answers the handshake before it is let through.
        let way = RawUpstream::start(move |mut client, number| {
            counted.send_replace(number + 1);
            let mut opened = gates.subscribe();
            async move {
                let _ = opened.wait_for(|open| *open).await;
                let mut server = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        })
        .await;
        let world = World::embedded().await;
        let slow = format!(
            "[[routes]]\nname = \"slow\"\npath = \"/slow\"\nupstream = \"https://{}\"\nconnect_timeout = \"30s\"\n\
             protocol = \"{protocol}\"\ntls.ca_file = \"{}\"\n",
            way.address(),
            authority.file()
        );
        let gate = world.gate().route(&slow).start().await;
        let (alice, bob) = (world.token("auth0|alice", json!({})), world.token("auth0|bob", json!({})));
        let (waiting, welcome) = (ask(&gate, &alice), ask(&gate, &bob));
        // Over HTTP/2 one connection is made for both.
        let connections = if protocol == "http2" { 1 } else { 2 };
        eventually("both are being connected", async || *accepted.borrow() >= connections).await;
        let label = "portcullis_requests_in_flight";
        eventually("both are under way", async || gate.metric(label).await > 1.5).await;
        gate.change(Method::PUT, &subject_path("auth0|alice", "/block"), Value::Null).await;
        open.send_replace(true);
        let reply = waiting.await.unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (StatusCode::UNAUTHORIZED, "user_blocked"), "{protocol}");
        assert_eq!(welcome.await.unwrap().status, StatusCode::OK);
        assert_eq!(api.hits(), 1, "the upstream saw it");
    }
}
