//! Unix sockets, and several addresses at once.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use portcullis::{config::Config, instance::Instance};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixStream},
    sync::oneshot,
    time::timeout,
};

use super::{OPEN, PATIENCE, curl, exchange};
use crate::support::{client::get, eventually, gate::TestGate, keys::TestIssuer};

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

/// A gate that listens at a Unix socket once it has the keys of its issuer, and what to send them by.
async fn deferred(directory: &Path) -> (Instance, PathBuf, oneshot::Sender<()>) {
    let path = directory.join("run/gate.sock");
    fs::create_dir(directory.join("run")).unwrap();
    let issuer = TestIssuer::new("https://issuer.example/");
    let keys = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        "[listener]\naddress = \"unix:{}\"\nreuse_port = true\n\
         [issuers.main]\nissuer = \"https://issuer.example/\"\naudiences = [\"api\"]\nalgorithms = [\"ES256\"]\njwks_url = \"http://{}/keys\"\n\
         [[routes]]\nupstream = \"http://127.0.0.1:1\"\n",
        path.display(),
        keys.local_addr().unwrap()
    );
    let store = format!("embedded:{}", directory.join("data").display());
    let variables = [("PORTCULLIS_STORE_URL", &*store), ("PORTCULLIS_ADMIN_ADDRESS", "127.0.0.1:0")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (send, told) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _ = told.await;
        let body = issuer.jwks().to_string();
        while let Ok((mut stream, _)) = keys.accept().await {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut head = [0; 4096];
            if matches!(stream.read(&mut head).await, Ok(1..)) {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    let instance = Instance::start(Config::parse(&text, "gate.toml", variables).unwrap()).await.unwrap();
    (instance, path, send)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listened_on_is_tried_until_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let (mut gate, path, keys) = deferred(directory.path()).await;
    let run = path.parent().unwrap();
    fs::remove_dir_all(run).unwrap();
    keys.send(()).unwrap();
    gate.listening().await;
    assert!(!gate.listens() && !gate.is_ready());
    let readiness = get(gate.admin_address(), "/readyz", "").await;
    assert_eq!(readiness.status.as_u16(), 503);
    assert!(readiness.text().contains("cannot be listened on"), "{}", readiness.text());
    fs::create_dir(run).unwrap();
    eventually("the gate is ready", async || gate.is_ready()).await;
    let reply = exchange(UnixStream::connect(&path).await.unwrap()).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 401"), "{reply}");
    assert!(gate.stop().await);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_cannot_listen_can_be_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let (mut gate, path, keys) = deferred(directory.path()).await;
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    keys.send(()).unwrap();
    gate.listening().await;
    assert!(!gate.listens());
    assert!(timeout(PATIENCE, gate.stop()).await.expect("it stops"));
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
