//! One primary, and the connections to it.

use std::{fmt, sync::Arc, time::Duration};

use ::redis::{
    Cmd, ErrorKind, RedisResult, ServerErrorKind, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};
use tokio::sync::watch;

use super::{
    connect::Connector,
    fault::{classify, is_wrong_type},
    lane::{Commands, Endpoint, Lane, Live, Purpose},
    replicas::Replicas,
    settings::Address,
};
use crate::store::StoreError;

pub(super) use super::replicas::Demand;

/// Which of its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// Reads of markers, beside the pushes.
    Read,
    /// Writes of markers: they may have to wait for replicas.
    Write,
    /// Activity and questions: large, and nobody waits for them.
    Rest,
}

/// How the connections to primaries are made.
#[derive(Clone)]
pub(super) struct NodeSettings {
    pub(super) connector: Connector,
    pub(super) heartbeat: Duration,
    pub(super) demand: Demand,
}

/// A primary.
pub(super) struct Node {
    name: Arc<str>,
    link: Lane,
    writes: Lane,
    rest: Lane,
    replicas: Option<Replicas>,
    /// Where it is, if it stays there.
    _fixed: Option<watch::Sender<Option<Address>>>,
}

/// Sends one command; an error that the server answers is an error.
pub(super) async fn send(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
    connection.req_packed_command(command).await?.extract_error()
}

impl Node {
    /// Connects to `address`.
    pub(super) fn at(name: Arc<str>, address: &Address, settings: &NodeSettings, link: Arc<dyn Purpose>) -> Self {
        let (sender, receiver) = watch::channel(Some(address.clone()));
        let node = Self::follow(name, settings, &receiver, link);
        Self { _fixed: Some(sender), ..node }
    }

    /// Connects to wherever `address` says.
    pub(super) fn follow(
        name: Arc<str>,
        settings: &NodeSettings,
        address: &watch::Receiver<Option<Address>>,
        link: Arc<dyn Purpose>,
    ) -> Self {
        let NodeSettings { connector, heartbeat, demand } = settings;
        let lane = |connector: Connector, purpose| {
            Lane::keep(
                Endpoint { name: Arc::clone(&name), connector, address: address.clone(), heartbeat: *heartbeat },
                purpose,
            )
        };
        // Commands wait behind those that wait for replicas.
        let patience = if demand.replicas > 0 { demand.timeout } else { Duration::ZERO };
        Self {
            link: lane(connector.clone(), link),
            writes: lane(connector.patient(patience), Arc::new(Commands)),
            rest: lane(connector.clone(), Arc::new(Commands)),
            replicas: (demand.replicas > 0).then(|| Replicas::new(Arc::clone(&name), *demand)),
            name,
            _fixed: None,
        }
    }

    /// Without credentials.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// One of its connections, if it is up.
    pub(super) fn connection(&self, usage: Use) -> Result<Live, StoreError> {
        let lane = match usage {
            Use::Read => &self.link,
            Use::Write => &self.writes,
            Use::Rest => &self.rest,
        };
        lane.connection()
    }

    /// Resolves when as many replicas as are demanded have what was written on this connection.
    pub(super) async fn replicated(&self, connection: Live) -> Result<(), StoreError> {
        match &self.replicas {
            Some(replicas) => replicas.reach(connection).await,
            None => Ok(()),
        }
    }

    pub(super) fn close(&self) {
        [&self.link, &self.writes, &self.rest].into_iter().for_each(Lane::close);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, link, writes, rest, .. } = self;
        f.debug_struct("Node").field("name", name).field("lanes", &[link, writes, rest]).finish_non_exhaustive()
    }
}

/// An answer, and where it came from.
pub(super) struct Reply {
    pub(super) value: Value,
    pub(super) node: Arc<Node>,
    pub(super) live: Live,
}

/// A command that was not done.
pub(super) enum Failure {
    /// The key holds another type.
    WrongType(StoreError),
    /// The server does not know a script.
    NoScript(StoreError),
    Other(StoreError),
}

impl Failure {
    pub(super) fn of(node: &Node, error: &::redis::RedisError) -> Self {
        let classified = classify(node.name(), error);
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::NoScript(classified),
            _ if is_wrong_type(error) => Self::WrongType(classified),
            _ => Self::Other(classified),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::WrongType(error) | Failure::NoScript(error) | Failure::Other(error) => error,
        }
    }
}
