//! `portcullis demo`: an issuer, an API and the gate in one process, and the story they tell.

mod api;
mod browser;
mod inactive;
mod issuer;
mod story;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use tokio::{net::TcpListener, time::Instant};

use self::{browser::Site, issuer::DemoIssuer, story::Story};
use super::{Outcome, print, runtime, serve::wait_for_signal};
use crate::{
    config::Config,
    instance::Instance,
    telemetry::{
        audit,
        log::{self, LogFormat, LogSettings},
    },
};

/// `portcullis demo`
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  portcullis demo             starts, prints a token and commands to paste, and stays up\n  portcullis demo --browser   serves a page that shows a session ending, and stays up\n  portcullis demo --inactive  blocks inactive users of a made-up tenant, and takes it back\n  portcullis demo --once      walks the story by itself and exits; not 0 if anything differs"
)]
pub(super) struct Demo {
    /// Walk the story once over real sockets, say what happened at each step, and exit
    #[arg(long)]
    once: bool,
    /// Serve a page to look at in a browser: a session with short limits, and a warning before it ends
    #[arg(long, conflicts_with = "once")]
    browser: bool,
    /// Find inactive users of a made-up tenant, block some of them, and take it back; with --once, exit then
    #[arg(long, conflicts_with = "browser")]
    inactive: bool,
    /// The port of the gate; a free one if it is taken
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Where to keep markers and activity; a temporary directory unless given
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
}

/// Removes a temporary directory at the end.
struct DataDirectory {
    path: PathBuf,
    temporary: bool,
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        if self.temporary {
            // It holds nothing that anyone wants; what cannot be removed stays in the temporary directory.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<Outcome> {
        let _logging = log::start(&LogSettings {
            level: format!("warn,{}=off", audit::TARGET),
            format: LogFormat::Text,
            access: None,
        })?;
        runtime()?.block_on(self.play())
    }

    async fn play(self) -> anyhow::Result<Outcome> {
        let data = self.data.clone().map_or_else(
            || DataDirectory {
                path: std::env::temp_dir().join(format!("portcullis-demo-{}", std::process::id())),
                temporary: true,
            },
            |path| DataDirectory { path, temporary: false },
        );
        if self.inactive {
            return self.play_inactive(&data.path).await;
        }
        let issuer_listener = listen().await?;
        let api_listener = listen().await?;
        let issuer = Arc::new(DemoIssuer::new(issuer_listener.local_addr()?)?);
        let api = api_listener.local_addr()?;
        tokio::spawn(api::serve(api_listener));
        tokio::spawn(Arc::clone(&issuer).serve(issuer_listener));

        let port = if self.once { 0 } else { self.free_port().await };
        let mut text = configuration(&issuer.url(), port, &data.path);
        if self.browser {
            let listener = listen().await?;
            text.push_str(&routes_of_the_page(api, listener.local_addr()?));
            tokio::spawn(Arc::new(Site::new(Arc::clone(&issuer))).serve(listener));
        } else {
            text.push_str(&route_of_the_story(api));
        }
        let config = Config::parse(&text, "demo.toml", [])?;
        let instance = Instance::start(config).await?;
        issuer.ask_about_logouts(instance.admin_address());
        wait_until_ready(&instance).await?;
        let story = Story { issuer, gate: instance.address(), admin: instance.admin_address() };
        let outcome = if self.once {
            story.walk().await
        } else if self.browser {
            print::text(&story.invitation_to_the_page())?;
            wait_for_signal().await?;
            Ok(Outcome::Done)
        } else {
            print::text(&story.invitation(&data.path)?)?;
            wait_for_signal().await?;
            Ok(Outcome::Done)
        };
        instance.stop().await;
        outcome
    }

    async fn play_inactive(&self, data: &std::path::Path) -> anyhow::Result<Outcome> {
        let listener = listen().await?;
        let issuer = Arc::new(DemoIssuer::new(listener.local_addr()?)?);
        tokio::spawn(Arc::clone(&issuer).serve(listener));
        let tenant = inactive::Tenant::start(self.once).await?;
        let port = if self.once { 0 } else { self.free_port().await };
        let text = configuration(&issuer.url(), port, data) + &tenant.configuration(data)?;
        let file = data.join("demo.toml");
        std::fs::write(&file, &text).context("the demo's configuration cannot be written")?;
        let config = Config::parse(&text, "demo.toml", [])?;
        let instance = Instance::start(config.clone()).await?;
        wait_until_ready(&instance).await?;
        let outcome = inactive::walk(&config, &instance, data).await;
        if !self.once && outcome.is_ok() {
            print::text(&inactive::invitation(&instance, &file)?)?;
            wait_for_signal().await?;
        }
        instance.stop().await;
        outcome
    }

    async fn free_port(&self) -> u16 {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await {
            Ok(_) => self.port,
            Err(_) => 0,
        }
    }
}

async fn listen() -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port on the loopback address")
}

fn configuration(issuer: &str, port: u16, data: &std::path::Path) -> String {
    let store = toml::Value::from(format!("embedded:{}", data.display()));
    format!(
        r#"
[listener]
address = "127.0.0.1:{port}"
drain_timeout = "1s"

[admin]
address = "127.0.0.1:0"

[store]
url = {store}

[activity]
resolution = "1s"
flush_interval = "100ms"

[issuers.demo]
issuer = "{issuer}"
audiences = ["https://api.demo.example"]
"#
    )
}

fn route_of_the_story(api: SocketAddr) -> String {
    format!(
        r#"
[[routes]]
name = "echo"
upstream = "http://{api}"
identity = {{ "X-Forwarded-User" = "sub" }}
"#
    )
}

/// Limits that end a session while one looks on.
fn routes_of_the_page(api: SocketAddr, site: SocketAddr) -> String {
    format!(
        r#"
[session]
idle_limit = "90s"
absolute_limit = "15m"

[[routes]]
name = "api"
path = "/api"
upstream = "http://{api}"
identity = {{ "X-Forwarded-User" = "sub" }}

[[routes]]
name = "page"
upstream = "http://{site}"
auth = "none"
"#
    )
}

async fn wait_until_ready(instance: &Instance) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !instance.is_ready() {
        if Instant::now() > deadline {
            bail!("the gate did not become ready within 10 s");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
