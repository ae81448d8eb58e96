//! Users who have been inactive for too long: the real command against a real gate, its store, and a tenant with Auth0's rules.

mod command;
mod deployed;
mod interrupted;
mod many;
mod schedule;
mod traffic;
mod undo;

use std::{
    fs,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use portcullis::{clock::Timestamp, inactive::report::Line, token::claims::Subject};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{
    auth0::{Auth0, CLIENT_ID, CLIENT_SECRET, User},
    full::{Gate, Setup, World, now},
    program::program,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A gate, a tenant, and the configuration of both for the command line.
struct Site {
    tenant: Auth0,
    gate: Gate,
    directory: TempDir,
    _world: World,
}

/// What a command printed, and how it ended.
struct Ran {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "out: {}\nerr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    fn says(self, words: &str) -> Self {
        assert!(self.out.contains(words), "`{words}` is not in out: {}\nerr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    fn complains(self, words: &str) -> Self {
        assert!(self.err.contains(words), "`{words}` is not in err: {}\nout: {}", self.err, self.out);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.out))
    }

    /// `user outcome` of each user.
    #[track_caller]
    fn users(&self) -> Vec<String> {
        let users = self.json()["users"].as_array().unwrap().clone();
        let text = |user: &Value, name: &str| user[name].as_str().unwrap_or("-").to_owned();
        users.iter().map(|user| format!("{} {}", text(user, "user"), text(user, "outcome"))).collect()
    }
}

/// What gates and commands need to know of the tenant.
fn managed(tenant: &Auth0) -> Vec<(String, String)> {
    let settings =
        [("DOMAIN", tenant.base()), ("CLIENT_ID", CLIENT_ID), ("CLIENT_SECRET", CLIENT_SECRET), ("RATE_SHARE", "100")];
    settings.map(|(name, value)| (format!("ISSUERS_ACME_MANAGEMENT_{name}"), value.to_owned())).into()
}

fn with_tenant<'w>(setup: Setup<'w>, tenant: &Auth0) -> Setup<'w> {
    managed(tenant).iter().fold(setup, |setup, (name, value)| setup.with(name, value))
}

/// So many days ago, to the millisecond.
fn days_ago(days: u32) -> Timestamp {
    now().minus(DAY * days)
}

/// A user who last logged in so many days ago.
fn logged_in(id: &str, days: u32) -> User {
    let at = days_ago(days).as_millis();
    User::new(id).created_at(at - 86_400_000).last_login(at).logins_count(3)
}

impl Site {
    async fn new(world: World) -> Self {
        let tenant = Auth0::start().await;
        tenant.set_export_time(Duration::from_millis(50));
        let gate = with_tenant(world.gate(), &tenant).start().await;
        Self::of(world, tenant, gate)
    }

    fn of(world: World, tenant: Auth0, gate: Gate) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("portcullis.toml"), world.configuration("").0).unwrap();
        Self { tenant, gate, directory, _world: world }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `portcullis …`
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::from(program());
        command.current_dir(self.directory.path()).env("USER", "ops");
        command.env("PORTCULLIS_ADMIN_URL", format!("http://{}", self.gate.admin));
        for (name, value) in managed(&self.tenant) {
            command.env(format!("PORTCULLIS_{name}"), value);
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// `portcullis inactive …`
    fn begin(&self, arguments: &[&str]) -> Child {
        self.program(&[&["inactive"], arguments].concat()).spawn().unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        Self::ran(self.begin(arguments)).await
    }

    async fn ran(child: Child) -> Ran {
        let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { status: output.status, out: text(output.stdout), err: text(output.stderr) }
    }

    /// What the gate recorded.
    async fn recorded(&self, user: &str, at: Timestamp) {
        let subject = Subject { issuer: "acme".try_into().unwrap(), id: user.try_into().unwrap() };
        let judge = self.gate.instance.judge();
        let store = judge.parts().ledger.store();
        store.record_activity(&[(subject, at)]).await.unwrap();
    }

    /// What the gate knows of a user.
    async fn known(&self, user: &str) -> Value {
        self.gate.look_up(user).await
    }

    /// Whether a user is blocked: at the tenant, and here.
    async fn blocked(&self, user: &str) -> (bool, bool) {
        (self.tenant.is_blocked(user), self.known(user).await["block"]["blocked"] == true)
    }

    /// The lines of a report.
    fn report(&self, name: &str) -> Vec<Line> {
        let lines = portcullis::inactive::report::Lines::open(&self.path(name)).unwrap();
        lines.map(Result::unwrap).collect()
    }

    /// `user outcome` of each user in a report, sorted.
    fn reported(&self, name: &str) -> Vec<String> {
        let lines = self.report(name).into_iter().filter_map(|line| match line {
            Line::User(line) => Some(format!("{} {}", line.user, line.outcome)),
            _ => None,
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort_unstable();
        lines
    }
}
