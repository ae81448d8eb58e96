//! What clients connect to.

mod drain;
mod hand_over;
mod many;
mod reload;
mod tls;
mod unix;

use std::{collections::HashMap, io, net::SocketAddr, process::Command, sync::Arc, time::Duration};

use rustls::{ClientConfig, HandshakeKind, pki_types::CertificateDer};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{client::get, gate::TestGate};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One route, open to all.
const OPEN: &str = "[[routes]]\nauth = \"none\"\nupstream = \"{upstream}\"\n";

/// Connects with TLS to this host at the gate.
async fn connect(address: SocketAddr, host: &str, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::clone(config));
    let name = host.to_owned().try_into().unwrap();
    timeout(PATIENCE, connector.connect(name, stream)).await.expect("a handshake in time")
}

/// The certificate that the gate has shown.
fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn resumed(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// `GET /` over HTTP/1.1, and everything that comes until the gate closes.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n").await?;
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer in time")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The same over a connection that goes on.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&bytes).contains("\r\n\r\nok") {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "{}", String::from_utf8_lossy(&bytes));
        }
    };
    timeout(PATIENCE, read).await.expect("an answer in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Samples that are whole numbers, by name and labels.
async fn metrics(gate: &TestGate) -> HashMap<String, i64> {
    let text = get(gate.admin(), "/metrics", "").await;
    let sample = |line: &str| Some((line.rsplit_once(' ')?.0.to_owned(), line.rsplit_once(' ')?.1.parse().ok()?));
    text.text().lines().filter_map(sample).collect()
}

/// How many handshakes ended so.
async fn handshakes(gate: &TestGate, outcome: &str) -> i64 {
    let name = format!("portcullis_tls_handshakes_total{{outcome=\"{outcome}\"}}");
    metrics(gate).await.get(&name).copied().unwrap_or_default()
}

/// What `/readyz` warns of.
async fn warnings(gate: &TestGate) -> Vec<String> {
    let body: Value = serde_json::from_slice(&get(gate.admin(), "/readyz", "").await.body).unwrap();
    body["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

/// What curl writes, and says; `None`: it is not there.
pub(crate) async fn curl(arguments: &[&str]) -> Option<(String, String)> {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let run = move || {
        let limit = PATIENCE.as_secs().to_string();
        Command::new("curl").args(["--silent", "--show-error", "--max-time", &limit]).args(arguments).output()
    };
    match tokio::task::spawn_blocking(run).await.unwrap() {
        Ok(output) => {
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            Some((text(output.stdout), text(output.stderr)))
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "curl: {error}");
            println!("SKIPPED: curl is not run: {error}");
            None
        }
    }
}
