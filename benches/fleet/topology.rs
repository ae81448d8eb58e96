//! The stores of a fleet.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{ports::free_address, process, redis_server::RedisServer};

/// The name that sentinels know the primary by.
pub(crate) const SERVICE: &str = "portcullis";

const SLOTS: usize = 16_384;
const PRIMARIES: usize = 3;

/// Servers that are up and know of each other.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) url: String,
    /// Those that hold markers, a primary first.
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) sentinels: Vec<RedisServer>,
}

impl Store {
    /// CPU time of all servers so far.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.servers.iter().map(|server| process::cpu_time(server.pid())).sum()
    }
}

/// One server.
pub(crate) fn standalone() -> anyhow::Result<Store> {
    let server = RedisServer::start("")?;
    Ok(Store { url: format!("redis://{}", server.address()), servers: vec![server], sentinels: Vec::new() })
}

/// A Cluster of three primaries.
pub(crate) fn cluster() -> anyhow::Result<Store> {
    let (mut servers, mut buses) = (Vec::new(), Vec::new());
    for _ in 0..PRIMARIES {
        let bus = free_address().port();
        servers.push(RedisServer::start(&format!("cluster-enabled yes\ncluster-port {bus}\n"))?);
        buses.push(bus.to_string());
    }
    for (n, server) in servers.iter().enumerate() {
        let (first, end) = (SLOTS * n / PRIMARIES, SLOTS * (n + 1) / PRIMARIES);
        ask(server.address(), &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()])?;
        let (host, port) = host_and_port(&servers[0]);
        ask(server.address(), &["CLUSTER", "MEET", &host, &port, &buses[0]])?;
    }
    for server in &servers {
        wait_until("the cluster does not form", || {
            let info = ask(server.address(), &["CLUSTER", "INFO"])?;
            Ok(info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{PRIMARIES}")))
        })?;
    }
    let url = format!("redis+cluster://{}", addresses(&servers));
    Ok(Store { url, servers, sentinels: Vec::new() })
}

/// A primary with two replicas and three sentinels.
pub(crate) fn sentinel() -> anyhow::Result<Store> {
    let primary = RedisServer::start("")?;
    let (host, port) = host_and_port(&primary);
    let mut servers = vec![primary];
    for _ in 0..2 {
        let replica = RedisServer::start(&format!("replicaof {host} {port}\nrepl-diskless-sync-delay 0\n"))?;
        wait_until("a replica does not find its primary", || {
            Ok(ask(replica.address(), &["INFO", "replication"])?.contains("master_link_status:up"))
        })?;
        servers.push(replica);
    }
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        let watch = format!(
            "sentinel monitor {SERVICE} {host} {port} 2\n\
             sentinel down-after-milliseconds {SERVICE} 1000\n\
             sentinel failover-timeout {SERVICE} 10000\n"
        );
        sentinels.push(RedisServer::launch(&watch, &["--sentinel"])?);
    }
    for sentinel in &sentinels {
        wait_until("the sentinels do not find each other and the replicas", || {
            let master = ask(sentinel.address(), &["INFO", "sentinel"])?;
            Ok(master.contains("slaves=2,sentinels=3"))
        })?;
    }
    let url = format!("redis+sentinel://{}/{SERVICE}", addresses(&sentinels));
    Ok(Store { url, servers, sentinels })
}

fn host_and_port(server: &RedisServer) -> (String, String) {
    (server.address().ip().to_string(), server.address().port().to_string())
}

fn addresses(servers: &[RedisServer]) -> String {
    servers.iter().map(|server| server.address().to_string()).collect::<Vec<_>>().join(",")
}

fn ask(server: SocketAddr, words: &[&str]) -> anyhow::Result<String> {
    let mut command = redis::Cmd::new();
    command.arg(words);
    Ok(command.query(&mut redis::Client::open(format!("redis://{server}"))?.get_connection()?)?)
}

fn wait_until(otherwise: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so()? {
        ensure!(Instant::now() < deadline, "{otherwise}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
