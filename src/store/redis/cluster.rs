//! A Redis Cluster: every primary is followed, each by a link of its own, for each pushes only what it stores itself.
//!
//! # What makes the store heard
//!
//! All primaries, and each of them only while its view of the Cluster is still the one that the map was made of:
//!
//! - another can take a primary's place only by the votes of most primaries, each of which has a later epoch from then on;
//! - a slot can come to a node that nobody follows only after whoever gives it away has been told of that node, or by votes.
//!
//! So whoever has heard them all, unchanged, since some moment, follows everyone who took a write before it. (Not so with `CLUSTER
//! FAILOVER TAKEOVER`, which goes without votes: others learn of it as gossip travels.)

mod slot;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ::redis::{
    Cmd, ErrorKind, PushInfo, RedisError, RedisResult, ServerErrorKind, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};
use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    slot::slot,
    view::{Layout, View},
};
use super::{
    fault::{classify, outage},
    hearing::Hearing,
    lane::Purpose,
    link::Tracking,
    node::{Failure, Node, NodeSettings, Reply, Use, send},
    settings::Address,
};
use crate::store::StoreError;

/// How many times a command is sent after it was told to go elsewhere.
const REDIRECTS: u32 = 6;

/// How long a command waits for a map that knows where it was sent.
const MAP_WAIT: Duration = Duration::from_millis(250);

/// How often nodes may be asked for their view, and how often they are without any reason.
const PAUSE: Duration = Duration::from_millis(20);
const SLOWEST: Duration = Duration::from_secs(5);

/// A Cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    shared: Arc<Shared>,
    mapping: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    map: watch::Sender<Arc<Map>>,
    wanted: Arc<Notify>,
    /// Why there is no map, if there is none.
    failure: Mutex<Option<StoreError>>,
}

/// Which node has which slot.
#[derive(Debug, Default)]
struct Map {
    members: Vec<Member>,
    owners: Vec<Option<u16>>,
    names: BTreeMap<Address, Address>,
}

/// A primary that is followed.
#[derive(Clone, Debug)]
struct Member {
    address: Address,
    node: Arc<Node>,
    outlook: Arc<Mutex<Option<Outlook>>>,
}

/// How a node sees the Cluster, in short.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Outlook {
    serves: bool,
    epoch: u64,
    nodes: u64,
    size: u64,
}

/// What is needed to follow a Cluster.
pub(super) struct ClusterSettings {
    pub(super) name: Arc<str>,
    pub(super) seeds: Vec<Address>,
    pub(super) node: NodeSettings,
    pub(super) tracking: Tracking,
    pub(super) hearing: Arc<Hearing>,
}

impl Cluster {
    pub(super) fn follow(settings: ClusterSettings) -> Self {
        let shared = Arc::new(Shared {
            name: Arc::clone(&settings.name),
            map: watch::Sender::new(Arc::default()),
            wanted: Arc::default(),
            failure: Mutex::default(),
        });
        let everyone = settings.seeds.iter().cloned().collect();
        let mapper = Mapper { everyone, settings, shared: Arc::clone(&shared) };
        Self { shared, mapping: AbortOnDropHandle::new(tokio::spawn(mapper.run())) }
    }

    /// Sends a command to whoever has `key`. With the answer comes the connection that gave it.
    pub(super) async fn execute(&self, usage: Use, key: &str, command: &Cmd) -> Result<Reply, Failure> {
        let slot = slot(key);
        let mut elsewhere = None;
        let mut last = None;
        for attempt in 1..=REDIRECTS {
            let map = self.map();
            let member = elsewhere.take().map_or_else(|| map.owner(slot), |address| map.member(&address));
            let Some(node) = member.map(|member| Arc::clone(&member.node)) else {
                self.changed(&map).await;
                continue;
            };
            let mut live = node.connection(usage).inspect_err(|_| self.shared.wanted.notify_one())?;
            let error = match send(&mut live.handle, command).await {
                Ok(value) => return Ok(Reply { value, node, live }),
                Err(error) => error,
            };
            let ErrorKind::Server(kind) = error.kind() else { return Err(Failure::of(&node, &error)) };
            match kind {
                ServerErrorKind::Moved => {
                    self.shared.wanted.notify_one();
                    elsewhere = place(&error);
                }
                ServerErrorKind::Ask => {
                    let importing = place(&error).and_then(|address| map.member(&address).cloned());
                    let Some(Member { node, .. }) = importing else {
                        self.changed(&map).await;
                        continue;
                    };
                    let mut live = node.connection(usage)?;
                    match send_asking(&mut live.handle, command).await {
                        Ok(value) => return Ok(Reply { value, node, live }),
                        // Some of it is on its way.
                        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::TryAgain) => {
                            sleep(PAUSE * attempt).await;
                        }
                        Err(error) => return Err(Failure::of(&node, &error)),
                    }
                }
                ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown => {
                    self.shared.wanted.notify_one();
                    sleep(PAUSE * attempt).await;
                }
                _ => return Err(Failure::of(&node, &error)),
            }
            last = Some(error);
        }
        let failure = || self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let error = last.map(|error| outage(&self.shared.name, error.to_string())).or_else(failure);
        Err(error.unwrap_or_else(|| outage(&self.shared.name, "no node is known to have a key's slot")).into())
    }

    /// Everyone who is followed.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.map().members.iter().map(|member| Arc::clone(&member.node)).collect()
    }

    /// What it is.
    ///
    /// # Errors
    /// Why no node is known.
    pub(super) fn describe(&self) -> Result<(String, Vec<String>), StoreError> {
        if self.map().members.is_empty() {
            let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return Err(failure.unwrap_or_else(|| outage(&self.shared.name, "not connected yet")));
        }
        Ok((", one cluster".to_owned(), Vec::new()))
    }

    pub(super) fn close(&self) {
        self.mapping.abort();
        self.nodes().iter().for_each(|node| node.close());
    }

    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.shared.map.borrow())
    }

    /// Resolves when there is another map, or after a while.
    async fn changed(&self, map: &Arc<Map>) {
        self.shared.wanted.notify_one();
        let mut maps = self.shared.map.subscribe();
        let _ = timeout(MAP_WAIT, maps.wait_for(|now| !Arc::ptr_eq(now, map))).await;
    }
}

impl Map {
    fn owner(&self, slot: usize) -> Option<&Member> {
        self.members.get(usize::from((*self.owners.get(slot)?)?))
    }

    fn member(&self, address: &Address) -> Option<&Member> {
        let address = self.names.get(address).unwrap_or(address);
        self.members.iter().find(|member| member.address == *address)
    }
}

/// Where a command was told to go.
fn place(error: &RedisError) -> Option<Address> {
    error.redirect_node()?.0.parse().ok()
}

/// Both in one write: `ASKING` holds for the next command of the connection only.
async fn send_asking(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
    let mut pipeline = ::redis::pipe();
    pipeline.cmd("ASKING").add_command(command.clone());
    let mut answers = connection.req_packed_commands(&pipeline, 0, 2).await?;
    answers.pop().unwrap_or(Value::Nil).extract_error()
}

/// Keeps the map true.
struct Mapper {
    settings: ClusterSettings,
    /// All nodes that were ever named together.
    everyone: BTreeSet<Address>,
    shared: Arc<Shared>,
}

impl Mapper {
    async fn run(mut self) {
        loop {
            let asked = Instant::now();
            match self.look().await {
                Ok((layout, outlooks)) => {
                    self.take(layout);
                    self.agree(outlooks, asked);
                }
                Err(error) => {
                    tracing::debug!(%error, "the redis cluster cannot be looked at");
                    *self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            }
            sleep(PAUSE).await;
            let _ = timeout(SLOWEST, self.shared.wanted.notified()).await;
        }
    }

    /// Asks those who are followed, or if none of them answers, everyone who was ever named.
    async fn look(&self) -> Result<(Layout, BTreeMap<Address, Outlook>), StoreError> {
        let map = Arc::clone(&self.shared.map.borrow());
        let asked = map.members.iter().map(async |member| {
            // On the connection that carries the pushes: its answer proves, as a heartbeat's does, that they have come.
            let mut live = member.node.connection(Use::Read).ok()?;
            ask(&mut live.handle, &member.address).await.ok().map(|answer| (member.address.clone(), answer))
        });
        let answers: BTreeMap<_, _> = join_all(asked).await.into_iter().flatten().collect();
        if answers.is_empty() {
            return Ok((self.ask_around().await?, BTreeMap::new()));
        }
        // Who does not serve may be behind.
        let mut views: Vec<_> = answers.values().filter(|(outlook, _)| outlook.serves).map(|(_, view)| view).collect();
        if views.is_empty() {
            views = answers.values().map(|(_, view)| view).collect();
        }
        let layout = Layout::of(&views).ok_or_else(|| outage(&self.settings.name, "no primary is known"))?;
        Ok((layout, answers.into_iter().map(|(address, (outlook, _))| (address, outlook)).collect()))
    }

    /// What the first of those says who were ever named and answer.
    async fn ask_around(&self) -> Result<Layout, StoreError> {
        let mut failure = outage(&self.settings.name, "no node of the cluster answers");
        let seeds = self.settings.seeds.iter().filter(|seed| !self.everyone.contains(*seed));
        for address in self.everyone.iter().chain(seeds) {
            let asked = async {
                let mut connection = self.settings.node.connector.connect(address, |_| ()).await?;
                ask(&mut connection.handle, address).await
            };
            match asked.await {
                Ok((_, view)) => match Layout::of(&[&view]) {
                    Some(layout) => return Ok(layout),
                    None => failure = outage(&self.settings.name, format!("{address} knows no primary")),
                },
                Err(error) => failure = classify(&address.to_string().into(), &error),
            }
        }
        Err(failure)
    }

    /// Follows whoever is to be followed, and lets go of the others.
    fn take(&mut self, layout: Layout) {
        let old = Arc::clone(&self.shared.map.borrow());
        let follow = |address: &Address| old.member(address).cloned().unwrap_or_else(|| self.member(address));
        let members: Vec<_> = layout.primaries.iter().map(follow).collect();
        self.settings.hearing.follow(layout.primaries.iter().cloned());
        self.everyone = layout.names.values().cloned().collect();
        let map = Map { members, owners: layout.owners, names: layout.names };
        let owner = |map: &Map, slot| map.owner(slot).map(|member| member.address.clone());
        let moved = (0..slot::SLOTS).any(|slot| owner(&map, slot) != owner(&old, slot));
        self.shared.map.send_replace(Arc::new(map));
        *self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if moved {
            tracing::info!(store.name = %self.settings.name, nodes = ?layout.primaries, "slots of the redis cluster have moved");
            // A slot may have been given away without its keys.
            self.settings.tracking.watcher.reset();
        }
    }

    /// What these nodes saw when they were asked is what the map says. Slots that are on the move change their outlook all the time, so
    /// what they said counts at once.
    fn agree(&self, mut outlooks: BTreeMap<Address, Outlook>, asked: Instant) {
        for member in &self.shared.map.borrow().members {
            let outlook = outlooks.remove(&member.address);
            let told = outlook.is_some();
            *member.outlook.lock().unwrap_or_else(PoisonError::into_inner) = outlook;
            if told {
                self.settings.hearing.heard(&member.address, asked);
            }
        }
    }

    fn member(&self, address: &Address) -> Member {
        let outlook = Arc::<Mutex<Option<Outlook>>>::default();
        let link = MemberLink {
            tracking: self.settings.tracking.clone(),
            hearing: Arc::clone(&self.settings.hearing),
            outlook: Arc::clone(&outlook),
            wanted: Arc::clone(&self.shared.wanted),
        };
        let node = Node::at(address.to_string().into(), address, &self.settings.node, Arc::new(link));
        Member { address: address.clone(), node: Arc::new(node), outlook }
    }
}

/// How it sees the Cluster, in short and at length.
async fn ask(connection: &mut MultiplexedConnection, address: &Address) -> RedisResult<(Outlook, View)> {
    let mut pipeline = ::redis::pipe();
    // In this order: what changes in between is noticed by the next heartbeat.
    pipeline.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("NODES");
    let (info, nodes): (String, String) = pipeline.query_async(connection).await?;
    Ok((Outlook::read(&info), View::read(&nodes, address)))
}

impl Outlook {
    fn read(info: &str) -> Self {
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let number = |name| field(name).and_then(|value| value.parse().ok()).unwrap_or_default();
        Self {
            serves: field("cluster_state") == Some("ok"),
            epoch: number("cluster_current_epoch"),
            nodes: number("cluster_known_nodes"),
            size: number("cluster_size"),
        }
    }
}

/// The link to one primary of a Cluster.
struct MemberLink {
    tracking: Tracking,
    hearing: Arc<Hearing>,
    outlook: Arc<Mutex<Option<Outlook>>>,
    wanted: Arc<Notify>,
}

#[async_trait]
impl Purpose for MemberLink {
    async fn prepare(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.tracking.subscribe(connection).await
    }

    fn begin(&self, _: &Address, _: Instant) {
        self.tracking.reset();
        self.wanted.notify_one();
    }

    async fn beat(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let outlook = Outlook::read(&::redis::cmd("CLUSTER").arg("INFO").query_async::<String>(connection).await?);
        let agreed = self.outlook.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&outlook);
        if !agreed {
            self.wanted.notify_one();
        }
        Ok(agreed)
    }

    fn heard(&self, target: &Address, sent: Instant) {
        self.hearing.heard(target, sent);
    }

    fn pushed(&self, push: &PushInfo) {
        self.tracking.pushed(push);
    }
}
