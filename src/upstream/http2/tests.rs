use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, ext::Protocol, server};
use http::{Method, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::{Answer, Connection, Duplex, Failure, Unanswered, exchange};
use crate::upstream::{body::RequestBody, waiting::Waiting};

/// A connection, and the server at its other end, which takes extended `CONNECT`.
async fn connected() -> (Connection, server::Connection<DuplexStream, Bytes>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let mut builder = server::Builder::new();
    builder.enable_connect_protocol();
    let (connection, server) = tokio::join!(Connection::new(near, Duration::from_secs(60)), builder.handshake(far));
    (connection.unwrap(), server.unwrap())
}

/// Asks for a tunnel; the server answers with these fields, and does the rest.
async fn tunnel<F: Future<Output = ()> + Send + 'static>(
    fields: &[(&'static str, &'static str)],
    rest: impl FnOnce(h2::SendStream<Bytes>, h2::RecvStream) -> F + Send + 'static,
) -> Result<Duplex, Unanswered> {
    let (connection, mut server) = connected().await;
    let fields = fields.to_vec();
    tokio::spawn(async move {
        let (request, mut answer) = server.accept().await.unwrap().unwrap();
        let response =
            fields.iter().fold(Response::builder(), |response, (name, value)| response.header(*name, *value));
        let to_client = answer.send_response(response.body(()).unwrap(), false).unwrap();
        tokio::spawn(rest(to_client, request.into_body()));
        while server.accept().await.is_some() {}
    });
    assert!(connection.connects().await);
    let mut request = Request::builder().method(Method::CONNECT).uri("http://a/").body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    match exchange(connection, &request, RequestBody::default(), &Waiting::default()).await? {
        Answer::Connected(_, duplex) => Ok(duplex),
        Answer::Response(response) => panic!("{response:?}"),
    }
}

#[tokio::test]
async fn what_is_written_arrives_though_the_tunnel_is_shut_twice() {
    let (told, tell) = tokio::sync::oneshot::channel();
    let mut duplex = tunnel(&[], |mut to_client, mut from_client| async move {
        let mut received = Vec::new();
        while let Some(data) = from_client.data().await {
            let data = data.unwrap();
            from_client.flow_control().release_capacity(data.len()).unwrap();
            received.extend_from_slice(&data);
        }
        to_client.send_data("and back".into(), true).unwrap();
        told.send(received).unwrap();
    })
    .await
    .unwrap();
    // More than the server takes at once.
    let much = vec![b'x'; 200_000];
    duplex.write_all(&much).await.unwrap();
    duplex.shutdown().await.unwrap();
    duplex.shutdown().await.unwrap();
    assert_eq!(tell.await.unwrap(), much);
    let mut back = String::new();
    duplex.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "and back");
}

#[tokio::test]
async fn a_tunnel_that_the_upstream_gives_up_ends_behind_what_it_said() {
    let (heard, told) = tokio::sync::oneshot::channel();
    let mut duplex = tunnel(&[], |mut to_client, from_client| async move {
        to_client.send_data("bye".into(), false).unwrap();
        told.await.unwrap();
        to_client.send_reset(Reason::CANCEL);
        drop(from_client);
    })
    .await
    .unwrap();
    duplex.read_exact(&mut [0; 3]).await.unwrap();
    heard.send(()).unwrap();
    assert_eq!(duplex.read(&mut [0; 3]).await.unwrap(), 0);
    duplex.shutdown().await.unwrap();
    assert!(duplex.write_all(b"anybody?").await.is_err());
}

#[tokio::test]
async fn a_tunnel_has_no_length() {
    let refused = tunnel(&[("content-length", "5")], |_, _| async {}).await;
    assert!(matches!(refused, Err(Unanswered { failure: Failure::Length, .. })), "{refused:?}");
}

/// Whoever waits for a stream and gives up leaves nothing behind.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_before_its_turn_is_never_sent() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(1);
    let (connection, server) =
        tokio::join!(Connection::new(near, Duration::from_secs(60)), builder.handshake::<_, Bytes>(far));
    let (connection, mut server) = (connection.unwrap(), server.unwrap());
    let (noted, mut asked) = tokio::sync::mpsc::channel(100);
    let (go, word) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut word = Some(word);
        while let Some(Ok((request, mut answer))) = server.accept().await {
            noted.send(request.uri().path().to_owned()).await.unwrap();
            let word = word.take();
            tokio::spawn(async move {
                if let Some(word) = word {
                    word.await.unwrap();
                }
                let _ = answer.send_response(Response::new(()), true);
            });
        }
    });
    connection.connects().await;
    let waiting = Waiting::default();
    let ask = |path: &str| {
        let (connection, waiting) = (connection.clone(), waiting.clone());
        let request = Request::get(format!("http://a{path}")).body(()).unwrap();
        async move { exchange(connection, &request, RequestBody::default(), &waiting).await.map(drop) }
    };
    let first = tokio::spawn(ask("/first"));
    assert_eq!(asked.recv().await.unwrap(), "/first");
    let asking = (0..20).map(|_| tokio::time::timeout(Duration::from_secs(1), ask("/given-up")));
    assert!(futures_util::future::join_all(asking).await.iter().all(Result::is_err));
    go.send(()).unwrap();
    first.await.unwrap().unwrap();
    ask("/last").await.unwrap();
    let mut seen = Vec::new();
    while let Ok(path) = asked.try_recv() {
        seen.push(path);
    }
    assert_eq!(seen, ["/last"]);
    assert!(connection.is_unused());
}
