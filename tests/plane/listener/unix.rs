//! Unix sockets, and several addresses at once.

use std::{fs, os::unix::fs::PermissionsExt as _};

use portcullis::{config::Config, instance::Instance};
use tokio::net::UnixStream;

use super::{OPEN, curl, exchange};
use crate::support::{client::get, gate::TestGate};

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_listens_at_a_unix_socket_and_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gate.sock");
    let listener =
        format!("[listener]\naddress = [\"unix:{}\", \"127.0.0.1:0\"]\nunix_mode = \"600\"\n", path.display());
    let mut gate = TestGate::start(&format!("{listener}{OPEN}")).await;
    assert_eq!(get(gate.address(), "/", "").await.text(), "ok");
    let reply = exchange(UnixStream::connect(&path).await.unwrap()).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("ok"), "{reply}");
    assert_eq!(gate.upstream.last().headers["x-forwarded-for"], "unknown");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let forged = "X-Forwarded-For: 192.0.2.7";
        let socket = path.to_str().unwrap();
        let Some((wrote, said)) = curl(&[flag, "--unix-socket", socket, "-H", forged, "http://api.example/"]).await
        else {
            break;
        };
        assert_eq!((&*wrote, &*said), ("ok", ""));
        assert_eq!(gate.upstream.last().headers["x-forwarded-for"], "unknown");
    }

    let second = format!("{listener}[[routes]]\nauth = \"none\"\nupstream = \"http://127.0.0.1:1\"\n");
    let store = format!("embedded:{}", directory.path().join("data").display());
    let variables = [("PORTCULLIS_STORE_URL", &*store), ("PORTCULLIS_ADMIN_ADDRESS", "127.0.0.1:0")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let error = Instance::start(Config::parse(&second, "gate.toml", variables).unwrap()).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on unix:"), "{error}");
    assert!(exchange(UnixStream::connect(&path).await.unwrap()).await.unwrap().ends_with("ok"), "the first goes on");

    assert!(gate.stop().await);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_at_a_unix_socket_can_be_trusted() {
    let directory = tempfile::tempdir().unwrap();
    for believes in [false, true] {
        is_trusted(&directory.path().join(format!("{believes}.sock")), believes).await;
    }
}

/// Whether it meets clients with certificates is another question.
async fn is_trusted(path: &std::path::Path, believes: bool) {
    let listener = format!(
        "[listener]\naddress = \"unix:{}\"\ntrusted_proxies = [\"unix\"]\ntrusted_client_cert = {believes}\n",
        path.display()
    );
    let gate = TestGate::start(&format!("{listener}{OPEN}")).await;
    let mut stream = UnixStream::connect(path).await.unwrap();
    let told = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nClient-Cert: :eA==:\r\n\
                Connection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, told.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let fields = gate.upstream.last().headers;
    assert_eq!(fields["x-forwarded-for"], "192.0.2.7, unknown");
    assert_eq!(fields["x-forwarded-proto"], "https");
    assert_eq!(fields.get("client-cert").map(http::HeaderValue::as_bytes), believes.then_some(&b":eA==:"[..]));
}
