//! The proxies under load: their configuration, their processes, and what they use.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use crate::{
    client::Manner,
    gate::{self, ask},
    peers,
    ports::free_address,
    process,
};

/// The core that proxies get when they get one of their own.
const PROXY_CORE: &str = "0";

/// How long a proxy may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
    Envoy,
    /// One that passes bytes on, and looks at none: what a process in between costs.
    Relay,
    /// None: straight to the upstream.
    Direct,
    /// Which of the builds that are measured.
    Gate(usize),
}

/// What proxies are made from.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// Holds `jwks.json`, `key.pem`, the certificate and all that proxies write.
    pub(crate) directory: PathBuf,
    pub(crate) upstream: SocketAddr,
    pub(crate) gates: &'a [PathBuf],
    pub(crate) pinned: bool,
    pub(crate) workers: usize,
    /// For how long the last of the gates waits awake.
    pub(crate) busy_poll: Option<&'a str>,
    /// What tokens are signed with.
    pub(crate) algorithm: &'static str,
    /// How connections are used.
    pub(crate) manner: Manner,
}

/// A running proxy. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// The gate's admin listener; where the others speak TLS or HTTP/2.
    admin: SocketAddr,
    child: Option<Child>,
    log: PathBuf,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Relay => "relay",
            Self::Direct => "direct",
            Self::Gate(0) => "portcullis",
            Self::Gate(1) => "portcullis-2",
            Self::Gate(_) => "portcullis-3",
        }
    }

    /// Name and version, if it is installed.
    pub(crate) fn version(self) -> Option<String> {
        let (program, flag) = match self {
            Self::Nginx => ("nginx", "-v"),
            Self::Haproxy | Self::Relay => ("haproxy", "-v"),
            // `envoy  version: COMMIT/VERSION/…`
            Self::Envoy => ("envoy", "--version"),
            Self::Direct => return Some("none, direct".to_owned()),
            Self::Gate(_) => return Some(format!("portcullis {}", env!("CARGO_PKG_VERSION"))),
        };
        let output = Command::new(program).arg(flag).output().ok()?;
        let text = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout });
        let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
        let version = text.split([' ', '/', '\n']).find(is_version);
        Some(format!("{program} {}", version.unwrap_or("of unknown version")))
    }
}

impl Proxy {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(kind: Kind, setup: &Setup<'_>) -> anyhow::Result<Self> {
        let (address, admin) = (free_address(), free_address());
        if kind == Kind::Direct {
            let address = setup.upstream;
            return Ok(Self { kind, address, admin: address, child: None, log: PathBuf::new() });
        }
        let directory = setup.directory.join(kind.name());
        fs::create_dir(&directory)?;
        // Envoy goes by the suffix.
        let configuration = directory.join(if kind == Kind::Envoy { "configuration.json" } else { "configuration" });
        let text = match kind {
            Kind::Nginx => peers::nginx(&directory, [address, admin], setup),
            Kind::Haproxy => peers::haproxy([address, admin], setup),
            Kind::Envoy => peers::envoy([address, admin], setup),
            Kind::Relay => peers::relay(address, setup.upstream),
            Kind::Direct => String::new(),
            Kind::Gate(number) => gate::configuration(&gate::Settings {
                address,
                admin,
                listener: &setup
                    .busy_poll
                    .filter(|_| number + 1 == setup.gates.len())
                    .map_or_else(String::new, |awake| format!("busy_poll = {}", toml::Value::from(awake))),
                store: &format!("embedded:{}", directory.join("store").display()),
                jwks: &setup.directory.join("jwks.json"),
                upstream: setup.upstream,
                more: &if setup.manner == Manner::Tls { tls(setup) } else { String::new() },
            }),
        };
        fs::write(&configuration, text)?;
        let log = directory.join("log");
        let mut command = command(kind, setup, &directory, &configuration)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = command.spawn().with_context(|| format!("{} does not start", kind.name()))?;
        let mut proxy = Self { kind, address, admin, child: Some(child), log };
        proxy.wait_until_ready().await?;
        Ok(proxy)
    }

    /// Logs a user out at the gate.
    pub(crate) async fn log_out(&self, subject: &str) -> anyhow::Result<()> {
        let path = format!("/v1/subjects/bench/{}/logout", subject.replace('|', "%7C"));
        let status = ask(self.admin, Method::POST, &path).await?;
        ensure!(status == StatusCode::OK, "logging a user out was answered {status}");
        Ok(())
    }

    /// Where it takes requests that come in this manner.
    pub(crate) fn address(&self, manner: Manner) -> SocketAddr {
        match (manner, self.kind) {
            (Manner::Http2 | Manner::Tls, Kind::Nginx | Kind::Haproxy | Kind::Envoy) => self.admin,
            _ => self.address,
        }
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.child.as_ref().map_or(Ok(Duration::ZERO), |child| process::cpu_time(child.id()))
    }

    /// Resident memory, in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let Some(child) = &self.child else { return Ok(0) };
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answered = match self.kind {
                Kind::Gate(_) => {
                    ask(self.admin, Method::GET, "/readyz").await.is_ok_and(|status| status == StatusCode::OK)
                }
                _ => ask(self.address, Method::GET, "/open/ready").await.is_ok(),
            };
            if answered {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("{} ended with {status}: {}", self.kind.name(), fs::read_to_string(&self.log)?);
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after 10 s: {}", self.kind.name(), fs::read_to_string(&self.log)?);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It is our own child: it is there until it has been waited for.
        if let Some(child) = &mut self.child {
            // In order: what was built to tell what it did does so at its end.
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            let deadline = Instant::now() + PATIENCE;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command(kind: Kind, setup: &Setup<'_>, directory: &Path, configuration: &Path) -> anyhow::Result<Command> {
    let program = match kind {
        Kind::Nginx => Path::new("nginx"),
        Kind::Haproxy | Kind::Relay => Path::new("haproxy"),
        Kind::Envoy => Path::new("envoy"),
        Kind::Direct => bail!("nothing stands in between"),
        Kind::Gate(number) => setup.gates.get(number).context("there is no such gate")?,
    };
    // `taskset` becomes the program: the process stays the same.
    let mut command = if setup.pinned {
        let mut command = Command::new("taskset");
        command.args(["-c", PROXY_CORE]).arg(program);
        command
    } else {
        Command::new(program)
    };
    match kind {
        Kind::Nginx => command.arg("-p").arg(directory).arg("-e").arg("stderr").arg("-c").arg(configuration),
        Kind::Haproxy | Kind::Relay => command.arg("-db").arg("-f").arg(configuration),
        Kind::Envoy => command
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--config-path"])
            .arg(configuration),
        Kind::Direct | Kind::Gate(_) => command
            .arg("serve")
            .arg("--config")
            .arg(configuration)
            .env("TOKIO_WORKER_THREADS", setup.workers.to_string()),
    };
    Ok(command)
}

/// The gate's certificate.
fn tls(setup: &Setup<'_>) -> String {
    let path = |name| toml::Value::from(setup.directory.join(name).display().to_string()).to_string();
    let (certificate, key) = (path("certificate.pem"), path("certificate.key"));
    format!("\n[listener.tls]\ncertificate_file = {certificate}\nkey_file = {key}\n")
}
