//! A primary, two replicas, and three sentinels that watch over them.

use std::{
    collections::HashMap,
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    redis::{RedisServer, ask, free_port},
    wait_until,
};

/// What the sentinels call the primary.
pub(crate) const SERVICE: &str = "gate";

/// After this much silence, in ms, a sentinel holds a server for down.
const DOWN_AFTER: u32 = 600;

/// How long, in ms, sentinels wait before they try a failover again.
const FAILOVER_TIMEOUT: u32 = 3000;

/// Servers and sentinels that end with this value.
pub(crate) struct Sentinels {
    servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Sentinels {
    /// A primary, number 0, with two replicas, and three sentinels that agree by two. `None`: to be skipped.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same; all servers with further options.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        let durable = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let options = [&durable[..], options].concat();
        let primary = RedisServer::start_with(&options)?;
        let port = primary.port().to_string();
        let replica = [&options[..], &["--replicaof", "127.0.0.1", &port]].concat();
        let servers = vec![primary, RedisServer::start_with(&replica)?, RedisServer::start_with(&replica)?];
        let sentinels = (0..3).map(|_| Sentinel::start(servers[0].port())).collect();
        let this = Self { servers, sentinels };
        wait_until("everybody knows everybody", || this.is_complete());
        Some(this)
    }

    /// Where a gateway finds it.
    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/{SERVICE}", hosts.join(","))
    }

    pub(crate) fn server(&self, number: usize) -> &RedisServer {
        &self.servers[number]
    }

    pub(crate) fn server_mut(&mut self, number: usize) -> &mut RedisServer {
        &mut self.servers[number]
    }

    /// The ports of the sentinels.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(|sentinel| sentinel.port).collect()
    }

    /// The number of the primary, as the sentinels agree on; `None`: they do not.
    pub(crate) fn primary(&self) -> Option<usize> {
        let port = primary_port(&self.ports())?;
        self.servers.iter().position(|server| server.port() == port)
    }

    /// Waits until another server is the primary, and takes writes.
    pub(crate) async fn fails_over(&self, from: usize) -> usize {
        super::eventually("another server is the primary", async || {
            let primary = self.primary().filter(|primary| *primary != from);
            primary.is_some_and(|primary| self.is_primary(primary))
        })
        .await;
        self.primary().expect("the sentinels agree")
    }

    /// Waits until the sentinels agree that the server is no longer the primary, and not a moment longer.
    pub(crate) async fn is_replaced(&self, number: usize) {
        super::eventually("the sentinels choose another", async || {
            self.primary().is_some_and(|primary| primary != number)
        })
        .await;
    }

    /// Waits until the server follows another.
    pub(crate) async fn is_demoted(&self, number: usize) {
        super::eventually("the ex-primary follows another", async || {
            let info = info(self.servers[number].port());
            info.get("role").is_some_and(|role| role == "slave")
                && info.get("master_link_status").is_some_and(|status| status == "up")
        })
        .await;
    }

    /// `SENTINEL FAILOVER`: nobody is down.
    pub(crate) fn fail_over(&self) {
        wait_until("a failover can begin", || {
            ask::<String>(self.sentinels[0].port, &["SENTINEL", "FAILOVER", SERVICE]).is_ok()
        });
    }

    /// SIGSTOP to all sentinels.
    pub(crate) fn stop_sentinels(&self) {
        self.signal_sentinels("-STOP");
    }

    /// SIGCONT to all sentinels.
    pub(crate) fn cont_sentinels(&self) {
        self.signal_sentinels("-CONT");
    }

    /// Whether the server holds this key.
    pub(crate) fn holds(&self, number: usize, key: &str) -> bool {
        ask(self.servers[number].port(), &["EXISTS", key]).unwrap_or(false)
    }

    fn signal_sentinels(&self, signal: &str) {
        for sentinel in &self.sentinels {
            let status = Command::new("kill").arg(signal).arg(sentinel.child.id().to_string()).status().unwrap();
            assert!(status.success(), "kill {signal} failed");
        }
    }

    fn is_primary(&self, number: usize) -> bool {
        info(self.servers[number].port()).get("role").is_some_and(|role| role == "master")
    }

    fn is_complete(&self) -> bool {
        let replicas = info(self.servers[0].port());
        let synced = replicas.values().filter(|value| value.contains("state=online")).count();
        synced == 2
            && self.sentinels.iter().all(|sentinel| {
                let known: HashMap<String, String> =
                    ask(sentinel.port, &["SENTINEL", "MASTER", SERVICE]).unwrap_or_default();
                let is = |field: &str, value: &str| known.get(field).is_some_and(|found| found == value);
                is("num-slaves", "2") && is("num-other-sentinels", "2") && is("flags", "master")
            })
    }
}

/// The primary's port, as at least two of these sentinels say.
pub(crate) fn primary_port(sentinels: &[u16]) -> Option<u16> {
    let mut votes: HashMap<u16, usize> = HashMap::new();
    for sentinel in sentinels {
        let address = ask::<(String, u16)>(*sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
        if let Ok((_, port)) = address {
            *votes.entry(port).or_default() += 1;
        }
    }
    votes.into_iter().find(|(_, votes)| *votes >= 2).map(|(port, _)| port)
}

fn info(port: u16) -> HashMap<String, String> {
    let text: String = ask(port, &["INFO", "replication"]).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()
}

impl Sentinel {
    fn start(primary: u16) -> Self {
        // Another process may take the port between its choice and its use.
        for _ in 0..5 {
            let mut sentinel = Self::launch(primary);
            if sentinel.is_up() {
                return sentinel;
            }
        }
        panic!("a sentinel does not come up");
    }

    fn launch(primary: u16) -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}\nsentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT}\n\
             sentinel parallel-syncs {SERVICE} 2\n",
            directory.path().display()
        );
        fs::write(&file, text).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port, _directory: directory }
    }

    /// `false`: it ended by itself.
    fn is_up(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if ask::<HashMap<String, String>>(self.port, &["SENTINEL", "MASTER", SERVICE]).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("a sentinel does not answer");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
