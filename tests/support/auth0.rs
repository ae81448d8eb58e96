//! An Auth0 tenant on a loopback port: the parts of it that the gate asks, with their rules.
//!
//! What Auth0 documents is enforced: credentials and scopes, the rate limits and their fields, checkpoint and search mode of the log,
//! offsets and connections of the Events API, percent-encoded user ids; of users: exports and their links, the search with its
//! grammar, its end at 1000 results and its delay, what may be updated, and what a refused login leaves behind. On demand it fails,
//! by name or by chance. What a client must not do at all is answered as the tenant would, and recorded: [`Auth0::violations`].
//!
//! Nothing here depends on the crate around it: tests, benches and the demo include it by path. It keeps no user in memory but those
//! that were added or changed.
#![allow(dead_code, reason = "not everybody who includes it needs all of it")]
#![allow(unused_imports, reason = "likewise of what it exports")]
#![allow(clippy::needless_pass_by_value, reason = "calls read better with `json!` in place")]

// A file that is included by path looks for its modules beside itself, so each says where it is.
#[path = "auth0/answer.rs"]
mod answer;
#[path = "auth0/directory.rs"]
mod directory;
#[path = "auth0/events.rs"]
mod events;
#[path = "auth0/exports.rs"]
mod exports;
#[path = "auth0/field.rs"]
mod field;
#[path = "auth0/limits.rs"]
mod limits;
#[path = "auth0/logs.rs"]
mod logs;
#[path = "auth0/management.rs"]
mod management;
#[path = "auth0/moment.rs"]
mod moment;
#[path = "auth0/population.rs"]
mod population;
#[path = "auth0/query.rs"]
mod query;
#[path = "auth0/record.rs"]
mod record;
#[path = "auth0/roles.rs"]
mod roles;
#[path = "auth0/search.rs"]
mod search;
#[path = "auth0/server.rs"]
mod server;
#[path = "auth0/token.rs"]
mod token;
#[path = "auth0/user.rs"]
mod user;
#[path = "auth0/users.rs"]
mod users;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{net::TcpListener, task::JoinSet};

pub(crate) use self::{
    events::{Piece, frame},
    limits::{Group, Limit},
    logs::logout,
    moment::{days_ago, iso, now},
    population::Population,
    record::{Call, Counts, Done},
    server::{Chaos, Fault},
    user::{CONNECTIONS, Connection, User},
    users::Attempt,
};

/// The machine-to-machine application of the tenant.
pub(crate) const CLIENT_ID: &str = "gate-m2m";
/// Its secret.
pub(crate) const CLIENT_SECRET: &str = "s3cr3t+of/the=gate";

/// A tenant. Dropped, it closes its ports and all connections.
pub(crate) struct Auth0 {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    this: Weak<Self>,
    base: String,
    /// Where exports are downloaded from: another origin.
    files: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tokens: token::Tokens,
    limits: limits::Limits,
    faults: VecDeque<(String, Fault)>,
    coincidences: Vec<server::Coincidence>,
    chaos: Option<server::Dice>,
    record: record::Record,
    logs: logs::Logs,
    events: events::Events,
    directory: directory::Directory,
    exports: exports::Exports,
    search: search::Search,
    roles: roles::Roles,
    /// Whether what happens to users is seen in the log and in events.
    echoes: bool,
}

impl Auth0 {
    /// A tenant with an empty log and without users, and one application that may do everything that has been thought of here.
    ///
    /// # Errors
    /// No port can be had.
    pub(crate) async fn start() -> io::Result<Self> {
        let (api, files) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let (base, at_files) = (format!("http://{}", api.local_addr()?), format!("http://{}", files.local_addr()?));
        let shared = Arc::new_cyclic(|this| Shared {
            this: this.clone(),
            base,
            files: at_files,
            state: Mutex::new(State::default()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(server::accept(api, Arc::clone(&shared), server::answer));
        tasks.spawn(server::accept(files, Arc::clone(&shared), exports::download));
        Ok(Self { shared, _tasks: tasks })
    }

    /// `http://<address>`
    pub(crate) fn base(&self) -> &str {
        &self.shared.base
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
