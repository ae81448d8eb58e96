//! Users who have been inactive for too long: a tenant with Auth0's rules, a gate, and a run from the report to its undoing.

#[path = "../../../tests/support/auth0.rs"]
#[allow(
    unreachable_pub,
    clippy::pedantic,
    clippy::disallowed_methods,
    reason = "made for tests, which look at all of it"
)]
mod auth0;

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;

use self::auth0::{Auth0, CLIENT_ID, CLIENT_SECRET, Limit, Population};
use crate::{
    cli::{Cli, Command, Outcome, admin::Gate, print},
    config::Config,
    instance::Instance,
};

/// How many users the tenant has.
const USERS: u64 = 20_000;

/// How long its export takes.
const EXPORT: Duration = Duration::from_secs(3);

/// A tenant with users.
pub(super) struct Tenant(Auth0);

impl Tenant {
    /// With the limits of an Enterprise tenant, or `fast`.
    pub(super) async fn start(fast: bool) -> anyhow::Result<Self> {
        let tenant = Auth0::start().await.context("the tenant cannot be started")?;
        tenant.populate(Population::of(USERS));
        if fast {
            tenant.set_export_time(Duration::from_millis(200));
        } else {
            tenant.set_export_time(EXPORT);
            tenant.limit(Limit::ENTERPRISE);
        }
        Ok(Self(tenant))
    }

    /// What the configuration says of it; its secret goes into `data`.
    pub(super) fn configuration(&self, data: &Path) -> anyhow::Result<String> {
        std::fs::create_dir_all(data).context("the demo's directory cannot be made")?;
        let secret = data.join("client-secret");
        std::fs::write(&secret, CLIENT_SECRET).context("the demo's secret cannot be written")?;
        restrict(&secret)?;
        let secret = toml::Value::from(secret.display().to_string());
        Ok(format!(
            "management = {{ domain = \"{}\", client_id = \"{CLIENT_ID}\", client_secret_file = {secret} }}\n\
             [inactive]\nfor = \"90d\"\nexclude = [\"*|test-*\"]\n\
             [[routes]]\nupstream = \"http://127.0.0.1:9\"\n",
            self.0.base()
        ))
    }
}

#[cfg(unix)]
fn restrict(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).context("the demo's secret cannot be kept")
}

#[cfg(not(unix))]
fn restrict(_: &Path) -> anyhow::Result<()> {
    Ok(())
}

/// What a newcomer would type, one after the other.
pub(super) async fn walk(config: &Config, instance: &Instance, data: &Path) -> anyhow::Result<Outcome> {
    let report = data.join("run.ndjson").display().to_string();
    let steps: [(&str, &[&str]); 4] = [
        (
            "Who has been inactive for 90 days? The gate has only begun to record, so it does not pretend to know:",
            &["--for", "90d", "--block"],
        ),
        (
            "Logins here last 30 days at most, so `last_login` proves it too. Still nothing is changed:",
            &["--for", "90d", "--login-lifetime", "30d", "--max-share", "50%", "--limit", "150", "--block"],
        ),
        (
            "Now it is done, for the 150 who have been inactive for longest, as fast as the tenant's rate limit allows, half of it left to others:",
            &[
                "--for",
                "90d",
                "--login-lifetime",
                "30d",
                "--max-share",
                "50%",
                "--limit",
                "150",
                "--block",
                "--apply",
                "--yes",
                "--report",
                &report,
            ],
        ),
        ("And taken back, by its report:", &["undo", &report, "--apply"]),
    ];
    for (words, arguments) in steps {
        print::text(&format!("{words}\n\n  portcullis inactive {}\n", arguments.join(" ")))?;
        let line = ["portcullis", "inactive"].iter().chain(arguments);
        let Cli { command: Command::Inactive(inactive), output, .. } = Cli::try_parse_from(line)? else {
            unreachable!("it is this command")
        };
        let gate = Gate::new(format!("http://{}", instance.admin_address()).parse()?, None);
        if Box::pin(inactive.play(config, gate, output)).await? != Outcome::Done {
            return Ok(Outcome::No);
        }
        print::text("")?;
    }
    Ok(Outcome::Done)
}

/// What to type to go on.
pub(super) fn invitation(instance: &Instance, config: &Path) -> anyhow::Result<String> {
    let binary = std::env::current_exe().context("own path is unknown")?;
    let command = format!(
        "PORTCULLIS_ADMIN_URL=http://{} {} --config {}",
        instance.admin_address(),
        binary.display(),
        config.display()
    );
    Ok(format!(
        "The tenant and the gate stay up. From another terminal:\n\n  \
         {command} inactive --for 90d --login-lifetime 30d --limit 20\n  \
         {command} inactive --for 1y --login-lifetime 30d --block\n\n\
         Ctrl-C ends it. docs/inactive-users.md tells how to begin with a real tenant."
    ))
}
