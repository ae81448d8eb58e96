//! TLS handshakes that never finish: they end with the time for a header, and others are served meanwhile.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{authority::Authority, support::gate::TestGate};

/// How many of each kind.
const MANY: usize = 60;

/// The beginning of a record that says it is a `ClientHello` of 512 bytes (RFC 8446 §5.1).
const HELLO: [u8; 9] = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc];

/// Begins a handshake, goes on with a byte now and then, and says when the gate had enough.
async fn stall(address: SocketAddr, begins: &[u8], goes_on: bool) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(begins).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let trickle = async {
        while goes_on && write.write_all(&[0]).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    let end = async {
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(20), read.read_to_end(&mut rest)).await.expect("it is cut off");
    };
    tokio::select! {
        () = trickle => {}
        () = end => {}
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_finish() {
    let authority = Authority::new("test");
    let [certificate, key] = authority.write("api", &authority.certify(&["api.example"]));
    let gate = TestGate::start(&format!(
        "[listener]\nheader_timeout = \"2s\"\n[listener.tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n\
         [[routes]]\nauth = \"none\"\nupstream = \"{{upstream}}\"\n"
    ))
    .await;
    let address = gate.address();
    let mut stalled = JoinSet::new();
    for _ in 0..MANY {
        for (begins, goes_on) in [(&[][..], false), (&HELLO[..3], false), (&HELLO, false), (&HELLO, true)] {
            stalled.spawn(stall(address, begins, goes_on));
        }
    }
    // Others come through, as often as they like.
    let connector = TlsConnector::from(Arc::new(authority.client(&["http/1.1"], None)));
    for _ in 0..10 {
        let exchange = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = connector.connect("api.example".try_into().unwrap(), stream).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).await.unwrap();
            String::from_utf8(reply).unwrap()
        };
        let reply = timeout(Duration::from_secs(10), exchange).await.expect("others are served");
        assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("ok"), "{reply}");
    }
    while let Some(lasted) = stalled.join_next().await {
        let lasted = lasted.unwrap();
        assert!(lasted > Duration::from_millis(1900), "{lasted:?}");
    }
}
