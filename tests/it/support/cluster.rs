//! A Redis Cluster: three primaries, three replicas, and room for more.

use std::{cell::Cell, collections::HashSet};

use redis::{ErrorKind, FromRedisValue, RedisResult};

use super::{
    redis::{RedisServer, ask, free_port},
    wait_until,
};

/// How long, in ms, a node may be silent before the others hold it for down.
const NODE_TIMEOUT: &str = "1000";

const SLOTS: u16 = 16384;

/// Nodes that end with this value: 0 to 2 begin as primaries, 3 to 5 as their replicas.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    options: Vec<String>,
}

struct Node {
    server: RedisServer,
    bus: u16,
    id: String,
}

/// What one node says of another.
#[derive(Clone, Debug)]
struct Seen {
    id: String,
    port: u16,
    primary: bool,
    failing: bool,
    of: String,
    slots: Vec<(u16, u16)>,
}

impl Cluster {
    /// `None`: to be skipped.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same; all nodes with further options.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let nodes = (0..6).map(|_| Node::start(&options)).collect::<Option<Vec<_>>>()?;
        let cluster = Self { nodes, options };
        for (number, node) in cluster.nodes[..3].iter().enumerate() {
            let number = u16::try_from(number).unwrap();
            let (first, last) =
                (number * (SLOTS / 3), if number == 2 { SLOTS } else { (number + 1) * (SLOTS / 3) } - 1);
            node.order(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            node.order(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
        }
        for node in &cluster.nodes[1..] {
            cluster.meet(node);
        }
        wait_until("everybody knows everybody", || cluster.all_see(|seen| seen.len() == 6));
        for (replica, primary) in [(3, 0), (4, 1), (5, 2)] {
            cluster.nodes[replica].order(&["CLUSTER", "REPLICATE", &cluster.nodes[primary].id]);
        }
        wait_until("everything is replicated", || cluster.is_whole());
        Some(cluster)
    }

    /// Where a gateway finds it.
    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes[..3].iter().map(|node| format!("127.0.0.1:{}", node.server.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    pub(crate) fn server(&self, number: usize) -> &RedisServer {
        &self.nodes[number].server
    }

    pub(crate) fn server_mut(&mut self, number: usize) -> &mut RedisServer {
        &mut self.nodes[number].server
    }

    /// The ports of all nodes.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.server.port()).collect()
    }

    /// The slot of a key.
    pub(crate) fn slot(&self, key: &str) -> u16 {
        self.anybody(&["CLUSTER", "KEYSLOT", key])
    }

    /// The number of the primary that serves a slot.
    pub(crate) fn primary_of(&self, slot: u16) -> usize {
        let view = self.view().expect("somebody answers");
        let serves = |seen: &&Seen| {
            seen.primary && !seen.failing && seen.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
        };
        let seen = view.iter().find(serves).expect("the slot is served");
        self.nodes.iter().position(|node| node.id == seen.id).expect("it is one of ours")
    }

    /// Moves a slot with all its keys to another primary, as `redis-cli --cluster reshard` does.
    pub(crate) fn move_slot(&self, slot: u16, to: usize) {
        let from = self.primary_of(slot);
        if from == to {
            return;
        }
        let (source, target, number) = (&self.nodes[from], &self.nodes[to], slot.to_string());
        target.order(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &source.id]);
        source.order(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &target.id]);
        let port = target.server.port().to_string();
        loop {
            let keys: Vec<String> = ask(source.server.port(), &["CLUSTER", "GETKEYSINSLOT", &number, "100"]).unwrap();
            if keys.is_empty() {
                break;
            }
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "2000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            ask::<String>(source.server.port(), &migrate).unwrap();
        }
        for node in [target, source] {
            node.order(&["CLUSTER", "SETSLOT", &number, "NODE", &target.id]);
        }
        // The others hear of it from each other; telling the primaries makes it sooner.
        for seen in self.view().unwrap_or_default().iter().filter(|seen| seen.primary && !seen.failing) {
            let _ = ask::<String>(seen.port, &["CLUSTER", "SETSLOT", &number, "NODE", &target.id]);
        }
    }

    /// Adds a primary without slots or replicas; its number.
    pub(crate) fn add_primary(&mut self) -> usize {
        let node = Node::start(&self.options).expect("it was not skipped before");
        self.meet(&node);
        self.nodes.push(node);
        let count = self.nodes.len();
        wait_until("everybody knows the new node", || {
            self.all_see(|seen| seen.iter().filter(|seen| !seen.failing).count() == count)
                && self.nodes.iter().all(|node| state_of(node.server.port()) == "ok")
        });
        count - 1
    }

    /// Waits until somebody else serves what this node served, and the cluster is well.
    pub(crate) async fn fails_over(&self, number: usize) {
        let port = self.nodes[number].server.port();
        super::eventually("another node is the primary", async || {
            let others = self.nodes.iter().filter(|node| node.server.port() != port);
            let mut answers = others.map(|node| (view_of(node.server.port()), state_of(node.server.port())));
            answers.all(|(view, state)| {
                let view = view.unwrap_or_default();
                let serves = |seen: &Seen| seen.port == port && !seen.slots.is_empty();
                !view.is_empty() && state == "ok" && !view.iter().any(serves)
            })
        })
        .await;
    }

    /// Waits until every node that answers holds the cluster for well, this one among them.
    pub(crate) async fn is_back(&self, number: usize) {
        super::eventually("the node is back", async || {
            let id = &self.nodes[number].id;
            let sound = |seen: &Seen| seen.id == *id && !seen.failing;
            self.all_see(|seen| seen.iter().any(sound))
                && self.nodes.iter().all(|node| state_of(node.server.port()) == "ok")
        })
        .await;
    }

    /// `CLUSTER FAILOVER` at a replica of this primary: nobody is down. The number of the replica.
    pub(crate) fn fail_over(&self, primary: usize) -> usize {
        let replica = || {
            let id = &self.nodes[primary].id;
            let view = self.view()?;
            let replica = view.iter().find(|seen| seen.of == *id && !seen.failing)?;
            let number = self.nodes.iter().position(|node| node.id == replica.id)?;
            let text: String = ask(replica.port, &["INFO", "replication"]).ok()?;
            text.contains("master_link_status:up").then_some(number)
        };
        wait_until("it has a replica", || replica().is_some());
        let number = replica().expect("it has a replica");
        self.nodes[number].order(&["CLUSTER", "FAILOVER"]);
        number
    }

    /// Whether the cluster holds this key.
    pub(crate) fn holds(&self, key: &str) -> bool {
        ask_cluster(&self.ports(), &["EXISTS", key]).unwrap_or(false)
    }

    fn meet(&self, node: &Node) {
        let (port, bus) = (node.server.port().to_string(), node.bus.to_string());
        self.nodes[0].order(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    fn anybody<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut answers = self.nodes.iter().map(|node| ask(node.server.port(), command));
        answers.find_map(Result::ok).expect("somebody answers")
    }

    fn view(&self) -> Option<Vec<Seen>> {
        // Whoever was away may not know yet what happened meanwhile: the majority's view is the newest.
        let views: Vec<_> = self.nodes.iter().filter_map(|node| view_of(node.server.port())).collect();
        views.into_iter().max_by_key(|view| view.iter().filter(|seen| !seen.failing).count())
    }

    fn all_see(&self, condition: impl Fn(&[Seen]) -> bool) -> bool {
        self.nodes.iter().all(|node| view_of(node.server.port()).is_some_and(|view| condition(&view)))
    }

    fn is_whole(&self) -> bool {
        let replicated = |seen: &[Seen]| {
            let served: HashSet<_> = seen.iter().filter(|seen| !seen.primary).map(|seen| seen.of.as_str()).collect();
            served.len() == 3 && seen.iter().all(|seen| !seen.failing)
        };
        let synced = |node: &Node| {
            let text: String = ask(node.server.port(), &["INFO", "replication"]).unwrap_or_default();
            text.contains("master_link_status:up")
        };
        self.all_see(replicated)
            && self.nodes[3..6].iter().all(synced)
            && self.nodes.iter().all(|node| state_of(node.server.port()) == "ok")
    }
}

impl Node {
    fn start(options: &[String]) -> Option<Self> {
        let bus = Cell::new(0);
        let server = RedisServer::start_by(|| {
            bus.set(free_port());
            let bus_option = bus.get().to_string();
            let mut all = vec!["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port"];
            all.extend([&*bus_option, "--cluster-node-timeout", NODE_TIMEOUT, "--appendonly", "yes"]);
            all.extend(["--repl-diskless-sync-delay", "0", "--cluster-allow-replica-migration", "no"]);
            all.into_iter().map(str::to_owned).chain(options.iter().cloned()).collect()
        })?;
        let bus = bus.get();
        let id = server.ask(&["CLUSTER", "MYID"]).unwrap();
        Some(Self { server, bus, id })
    }

    #[track_caller]
    fn order(&self, command: &[&str]) {
        let answer: String = self.server.ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert_eq!(answer, "OK", "{command:?}");
    }
}

/// Asks whichever of these nodes is responsible.
pub(crate) fn ask_cluster<T: FromRedisValue>(ports: &[u16], command: &[&str]) -> RedisResult<T> {
    let mut last = Err((ErrorKind::Io, "nobody answers").into());
    for port in ports {
        last = ask(*port, command);
        let Err(error) = &last else { return last };
        if let (Some("MOVED"), Some(detail)) = (error.code(), error.detail()) {
            let port = detail.rsplit(':').next().and_then(|port| port.parse().ok());
            last = port.map_or(last, |port| ask(port, command));
            if last.is_ok() {
                return last;
            }
        }
    }
    last
}

fn state_of(port: u16) -> String {
    let text: String = ask(port, &["CLUSTER", "INFO"]).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("cluster_state:")).unwrap_or_default().trim().to_owned()
}

/// `CLUSTER NODES`
fn view_of(port: u16) -> Option<Vec<Seen>> {
    let text: String = ask(port, &["CLUSTER", "NODES"]).ok()?;
    text.lines().map(Seen::parse).collect()
}

impl Seen {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split(' ').collect();
        let (address, flags) = (fields.get(1)?, fields.get(2)?);
        let port = address.split('@').next()?.rsplit(':').next()?.parse().ok()?;
        let flags: Vec<_> = flags.split(',').collect();
        let slots = fields.get(8..).unwrap_or_default().iter().filter(|slots| !slots.starts_with('['));
        let range = |slots: &&str| {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        Some(Self {
            id: (*fields.first()?).to_owned(),
            port,
            primary: flags.contains(&"master"),
            failing: flags.iter().any(|flag| ["fail", "fail?", "noaddr", "handshake"].contains(flag)),
            of: (*fields.get(3)?).to_owned(),
            slots: slots.map(range).collect::<Option<_>>()?,
        })
    }
}
