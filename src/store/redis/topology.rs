//! Which servers there are, and which of them has a key.

use std::sync::Arc;

use ::redis::Cmd;

use super::{
    cluster::{Cluster, ClusterSettings},
    connect::Connector,
    hearing::Hearing,
    link::{PrimaryLink, Tracking},
    node::{Demand, Failure, Node, NodeSettings, Reply, Use, send},
    sentinel::Sentinels,
    settings::{InvalidRedisSettings, Location, RedisSettings},
};
use crate::store::StoreError;

/// One primary, or several that share the keys.
#[derive(Debug)]
pub(super) enum Topology {
    /// One, and those who say which, if it is not always the same.
    Primary(Arc<Node>, Option<Sentinels>),
    /// Many.
    Cluster(Cluster),
}

impl Topology {
    pub(super) fn follow(
        name: &Arc<str>,
        settings: &RedisSettings,
        tracking: Tracking,
    ) -> Result<Self, InvalidRedisSettings> {
        let RedisSettings { connect_timeout, response_timeout, heartbeat, .. } = *settings;
        let connector =
            |login, database| Connector::new(login, database, settings.tls.as_ref(), connect_timeout, response_timeout);
        let demand = Demand { replicas: settings.replicas, timeout: settings.replica_timeout };
        let node = NodeSettings { connector: connector(&settings.login, settings.database)?, heartbeat, demand };
        let hearing = Arc::new(Hearing::new(Arc::clone(&tracking.watcher)));
        Ok(match &settings.location {
            Location::Standalone(address) => {
                hearing.follow([address.clone()]);
                let link = PrimaryLink::new(tracking, hearing);
                Self::Primary(Arc::new(Node::at(Arc::clone(name), address, &node, Arc::new(link))), None)
            }
            Location::Sentinel { sentinels, service } => {
                let connector = connector(&settings.sentinel_login, 0)?;
                let sentinels = Sentinels::follow(sentinels, service, &connector, heartbeat, Arc::clone(&hearing));
                let link = PrimaryLink::new(tracking, hearing);
                let node = Node::follow(Arc::clone(name), &node, &sentinels.primary(), Arc::new(link));
                Self::Primary(Arc::new(node), Some(sentinels))
            }
            Location::Cluster(seeds) => Self::Cluster(Cluster::follow(ClusterSettings {
                name: Arc::clone(name),
                seeds: seeds.clone(),
                node,
                tracking,
                hearing,
            })),
        })
    }

    /// Sends a command to whoever has `key`. With the answer comes the connection that gave it.
    pub(super) async fn execute(&self, usage: Use, key: &str, command: &Cmd) -> Result<Reply, Failure> {
        match self {
            Self::Primary(node, _) => {
                let mut live = node.connection(usage)?;
                match send(&mut live.handle, command).await {
                    Ok(value) => Ok(Reply { value, node: Arc::clone(node), live }),
                    Err(error) => Err(Failure::of(node, &error)),
                }
            }
            Self::Cluster(cluster) => cluster.execute(usage, key, command).await,
        }
    }

    /// Everyone who has keys.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        match self {
            Self::Primary(node, _) => vec![Arc::clone(node)],
            Self::Cluster(cluster) => cluster.nodes(),
        }
    }

    /// What there is besides the nodes, and what of it should be mended.
    ///
    /// # Errors
    /// Why no node is known.
    pub(super) fn describe(&self) -> Result<(String, Vec<String>), StoreError> {
        match self {
            Self::Primary(_, None) => Ok(Default::default()),
            Self::Primary(_, Some(sentinels)) => sentinels.describe(),
            Self::Cluster(cluster) => cluster.describe(),
        }
    }

    pub(super) fn close(&self) {
        match self {
            Self::Primary(node, sentinels) => {
                node.close();
                sentinels.iter().for_each(Sentinels::close);
            }
            Self::Cluster(cluster) => cluster.close(),
        }
    }
}
