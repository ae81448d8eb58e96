//! Whoever writes markers: another program, or a gateway.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use http::{Method, StatusCode};
use redis::{AsyncConnectionConfig, IntoConnectionInfo, aio::MultiplexedConnection, io::tcp::TcpSettings};

use crate::gate::ask;

/// How often a program follows a redirection before it gives up.
const REDIRECTIONS: usize = 3;

/// By whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum By {
    /// Another program, that sends `SET` to Redis.
    Program,
    /// A gateway, that is asked by its admin API.
    Gateway,
}

pub(crate) enum Writer {
    Program(Program),
    Gateway(SocketAddr),
}

/// A program with connections to the servers that it was sent to.
pub(crate) struct Program {
    /// Where it goes first.
    server: SocketAddr,
    connections: HashMap<SocketAddr, MultiplexedConnection>,
}

impl Writer {
    /// Logs a user out. Returns when that has been acknowledged.
    pub(crate) async fn log_out(&mut self, subject: &str) -> anyhow::Result<()> {
        match self {
            Self::Program(program) => program.log_out(subject).await,
            Self::Gateway(admin) => {
                let path = format!("/v1/subjects/bench/{}/logout", subject.replace('|', "%7C"));
                let status = ask(*admin, Method::POST, &path).await?;
                ensure!(status == StatusCode::OK, "logging a user out was answered {status}");
                Ok(())
            }
        }
    }
}

impl Program {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self { server, connections: HashMap::new() }
    }

    pub(crate) async fn log_out(&mut self, subject: &str) -> anyhow::Result<()> {
        let set = logout(subject)?;
        let mut server = self.server;
        for _ in 0..REDIRECTIONS {
            let connection = self.connection(server).await?;
            match set.exec_async(connection).await {
                Ok(()) => return Ok(()),
                Err(error) => match error.redirect_node() {
                    Some((node, _)) => server = node.parse().context("a redirection to nowhere")?,
                    None => return Err(error.into()),
                },
            }
        }
        bail!("a write was redirected {REDIRECTIONS} times")
    }

    async fn connection(&mut self, server: SocketAddr) -> anyhow::Result<&mut MultiplexedConnection> {
        Ok(match self.connections.entry(server) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(connect(server).await?),
        })
    }
}

/// A connection to a server that may not be there for long.
pub(crate) async fn connect(server: SocketAddr) -> anyhow::Result<MultiplexedConnection> {
    let info = format!("redis://{server}").into_connection_info()?;
    let client = redis::Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))?;
    let patience = Some(Duration::from_secs(2));
    let config = AsyncConnectionConfig::new().set_connection_timeout(patience).set_response_timeout(patience);
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

/// Writes the marker of a logout that happens now.
#[expect(clippy::disallowed_methods, reason = "a writer of markers, nothing that judges")]
pub(crate) fn logout(subject: &str) -> anyhow::Result<redis::Cmd> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().to_string();
    let mut set = redis::cmd("SET");
    set.arg(format!("portcullis:m:logout:bench:{subject}")).arg(now).arg("EX").arg(90_000);
    Ok(set)
}
