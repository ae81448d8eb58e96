//! The real program as a process of its own, whose memory can be watched; and somebody whom it must go on serving.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

use crate::support::{
    eventually,
    gate::new_issuer,
    program::{Running, program},
};

pub(super) const MIB: usize = 1024 * 1024;

/// A gate. Dropped, it is killed.
pub(super) struct Process {
    running: Running,
    _directory: TempDir,
}

impl Process {
    /// Starts it with these settings of the listener and these routes.
    pub(super) async fn start(listener: &str, routes: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let issuer = new_issuer();
        fs::write(directory.path().join("jwks.json"), issuer.jwks().to_string()).unwrap();
        let text = format!(
            "[listener]\naddress = \"127.0.0.1:0\"\n{listener}\n[admin]\naddress = \"127.0.0.1:0\"\n[store]\nurl = \"embedded:data\"\n\
             [log]\nformat = \"json\"\n[issuers.main]\nissuer = \"{}\"\naudiences = [\"https://api.example\"]\nalgorithms = [\"ES256\"]\n\
             jwks_file = \"jwks.json\"\n{routes}",
            issuer.identifier,
        );
        let file = directory.path().join("gate.toml");
        fs::write(&file, text).unwrap();
        let running = Running::start_as(program(), &file, &[]);
        let process = Self { running, _directory: directory };
        eventually("the gate answers", async || ask(process.address()).await.is_some()).await;
        process
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// The memory that it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.status("VmRSS:")
    }

    /// The most memory that it held since this was last forgotten.
    pub(super) fn peak(&self) -> usize {
        self.status("VmHWM:")
    }

    /// What it held before no longer counts.
    pub(super) fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.running.id()), "5").unwrap();
    }

    fn status(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// The sockets and files that it has open.
    pub(super) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.running.id())).unwrap().count()
    }

    /// The time that it ran, in user space and kernel.
    pub(super) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.running.id())).unwrap();
        // The name, in parentheses, may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // `USER_HZ` is 100 on every Linux.
        Duration::from_millis(10 * ticks)
    }
}

/// Asks for `/`, over a connection of its own, and how long the answer took.
async fn ask(address: SocketAddr) -> Option<Duration> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /witness HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut reply = String::new();
    timeout(Duration::from_secs(20), stream.read_to_string(&mut reply)).await.ok()?.ok()?;
    reply.starts_with("HTTP/1.1 200 ").then(|| begun.elapsed())
}

/// Somebody who asks again and again while others do their worst.
pub(super) struct Witness {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    asking: JoinHandle<Duration>,
}

impl Witness {
    pub(super) fn of(address: SocketAddr) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&served));
        let asking = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::SeqCst) {
                longest = longest.max(ask(address).await.expect("an answer in time"));
                count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            longest
        });
        Self { stop, served, asking }
    }

    /// Waits until it was served so many times more.
    pub(super) async fn is_served(&self, times: usize) {
        let before = self.served.load(Ordering::SeqCst);
        eventually("others are served", async || {
            self.asking.is_finished() || self.served.load(Ordering::SeqCst) >= before + times
        })
        .await;
    }

    /// How often it was served, and how long it waited at most.
    pub(super) async fn end(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        let longest = self.asking.await.expect("others are served");
        (self.served.load(Ordering::SeqCst), longest)
    }
}
