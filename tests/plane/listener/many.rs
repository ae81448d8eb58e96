//! Many handshakes at once: what each takes is bounded, and others are served meanwhile.

use std::{fs, sync::Arc, time::Duration};

use rustls::{ClientConfig, ClientConnection};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{ask, connect, exchange};
use crate::{
    authority::Authority,
    support::{
        client::get,
        eventually_within,
        program::{Running, program},
        upstream::TestUpstream,
    },
};

const MANY: usize = 300;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a connection may take in a build for tests; one for production takes half.
const LIMIT: usize = 128 * 1024;

struct Setting {
    running: Running,
    _directory: tempfile::TempDir,
    _upstream: TestUpstream,
    client: Arc<ClientConfig>,
}

impl Setting {
    async fn start(listener: &str) -> Self {
        let authority = Authority::new("test");
        let [certificate, key] = authority.write("api", &authority.certify(&["api.example"]));
        let upstream = TestUpstream::start().await;
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[listener]\naddress = \"127.0.0.1:0\"\n{listener}\ntls = {{ certificate_file = {certificate:?}, key_file = {key:?} }}\n\
             [admin]\naddress = \"127.0.0.1:0\"\n[store]\nurl = \"embedded:data\"\n[log]\nformat = \"json\"\n\
             [[routes]]\nauth = \"none\"\nupstream = \"{}\"\n",
            upstream.url()
        );
        let file = directory.path().join("gate.toml");
        fs::write(&file, text).unwrap();
        let running = tokio::task::spawn_blocking(move || Running::start_as(program(), &file, &[])).await.unwrap();
        let mut client = authority.client(&[], None);
        // Each is to do all of the work.
        client.resumption = rustls::client::Resumption::disabled();
        let setting = Self { running, _directory: directory, _upstream: upstream, client: Arc::new(client) };
        setting.is_served().await;
        setting
    }

    async fn is_served(&self) {
        let stream = connect(self.running.address, "api.example", &self.client).await.unwrap();
        assert!(exchange(stream).await.unwrap().ends_with("ok"));
    }

    async fn outcomes(&self, outcome: &str) -> usize {
        let text = get(self.running.admin, "/metrics", "").await;
        let name = format!("portcullis_tls_handshakes_total{{outcome=\"{outcome}\"}} ");
        text.text().lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or_default()
    }

    /// The memory that the gate holds, in bytes.
    fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    #[track_caller]
    fn took(&self, what: &str, before: usize) {
        let each = self.memory().saturating_sub(before) / MANY;
        println!("{what}: {} KiB each", each / 1024);
        assert!(each < LIMIT, "{what}: {each} bytes each");
    }
}

/// What a client begins with.
fn hello(client: &Arc<ClientConfig>) -> Vec<u8> {
    let mut session = ClientConnection::new(Arc::clone(client), "api.example".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_end() {
    let setting = Setting::start("header_timeout = \"5s\"").await;
    let before = setting.memory();
    let mut all = Vec::new();
    for number in 0..MANY {
        let mut stream = TcpStream::connect(setting.running.address).await.unwrap();
        let hello = hello(&setting.client);
        // Some stop in the middle of their first words, and some once the gate has answered, which is the dear part.
        let sent = if number % 2 == 0 { &hello[..] } else { &hello[..hello.len() / 2] };
        stream.write_all(sent).await.unwrap();
        all.push(stream);
    }
    setting.is_served().await;
    setting.took("a handshake under way", before);
    eventually_within(PATIENCE, "they are let go", async || setting.outcomes("timeout").await == MANY).await;
    setting.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_anything_to_do() {
    let setting = Setting::start("").await;
    let before = setting.memory();
    let mut all = Vec::new();
    for _ in 0..MANY {
        let mut stream = connect(setting.running.address, "api.example", &setting.client).await.unwrap();
        ask(&mut stream).await;
        all.push(stream);
    }
    setting.took("an idle connection", before);
    for stream in &mut all {
        ask(stream).await;
    }
    assert_eq!(setting.outcomes("full").await, MANY + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_one_after_another() {
    let setting = Setting::start("").await;
    let mut kept = connect(setting.running.address, "api.example", &setting.client).await.unwrap();
    let flood: Vec<_> = (0..8)
        .map(|_| {
            let (address, client) = (setting.running.address, Arc::clone(&setting.client));
            tokio::spawn(async move {
                for _ in 0..MANY / 8 {
                    // The client goes as soon as the gate has done its work.
                    drop(connect(address, "api.example", &client).await);
                }
            })
        })
        .collect();
    for _ in 0..20 {
        ask(&mut kept).await;
        setting.is_served().await;
    }
    for task in flood {
        task.await.unwrap();
    }
    setting.is_served().await;
}
