//! How many instructions a request takes, counted by callgrind: a figure that does not depend on what else a machine does.
//!
//! A gate runs under valgrind twice for each kind of request, with many requests and with few; the difference is what they take,
//! without starting and stopping. It fails when that is more than the figure below and a margin, and says so when it is much less.
//!
//! `docs/performance.md` says what to do then.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report on standard output, progress beside it")]

#[path = "../common/client.rs"]
#[allow(dead_code, reason = "shared with other benches")]
mod client;
#[path = "../common/gate.rs"]
mod gate;
#[path = "../../tests/support/ports.rs"]
mod ports;
#[path = "../common/single_thread.rs"]
mod single_thread;
#[path = "../common/tokens.rs"]
#[allow(dead_code, reason = "shared with other benches")]
mod tokens;
#[path = "../common/upstream.rs"]
mod upstream;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use http::{HeaderValue, Method, StatusCode};
use tokio::time::{Instant, sleep};

use self::{
    client::{Client, Manner, Requests},
    gate::ask,
    ports::free_address,
    tokens::Issuer,
};

/// One kind of request, and what it may take.
struct Case {
    name: &'static str,
    path: &'static str,
    tokens: Tokens,
    expected: StatusCode,
    manner: Manner,
    /// Instructions of a request, as last measured.
    instructions: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tokens {
    None,
    /// A hundred in turn, all seen before.
    Known,
    /// Each once.
    New,
    /// Each with a wrong signature.
    Bad,
}

/// By how much a request may exceed its figure: compilers and system libraries differ a little, regressions by more.
const MARGIN: f64 = 1.10;

const CASES: [Case; 7] = [
    Case {
        name: "pass",
        path: "/open/v1/orders/4711",
        tokens: Tokens::None,
        expected: StatusCode::OK,
        manner: Manner::Kept,
        instructions: 29_800,
    },
    Case {
        name: "known_token",
        path: "/api/v1/orders/4711",
        tokens: Tokens::Known,
        expected: StatusCode::OK,
        manner: Manner::Kept,
        instructions: 38_100,
    },
    Case {
        name: "new_token",
        path: "/api/v1/orders/4711",
        tokens: Tokens::New,
        expected: StatusCode::OK,
        manner: Manner::Kept,
        instructions: 394_300,
    },
    Case {
        name: "bad_signature",
        path: "/api/v1/orders/4711",
        tokens: Tokens::Bad,
        expected: StatusCode::UNAUTHORIZED,
        manner: Manner::Kept,
        instructions: 341_700,
    },
    Case {
        name: "no_token",
        path: "/api/v1/orders/4711",
        tokens: Tokens::None,
        expected: StatusCode::UNAUTHORIZED,
        manner: Manner::Kept,
        instructions: 20_000,
    },
    Case {
        name: "new_connection",
        path: "/api/v1/orders/4711",
        tokens: Tokens::Known,
        expected: StatusCode::OK,
        manner: Manner::New,
        instructions: 55_300,
    },
    Case {
        name: "http2",
        path: "/api/v1/orders/4711",
        tokens: Tokens::Known,
        expected: StatusCode::OK,
        manner: Manner::Http2,
        instructions: 61_200,
    },
];

/// Requests of the short run, in which caches fill, and how many more the long one has.
const FEW: usize = 300;
const MORE: usize = 1500;

/// How many tokens are known.
const KNOWN: usize = 100;

/// Under valgrind everything takes fifty times as long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Counts the instructions of a request.
#[derive(Parser, Debug)]
#[command(name = "instructions")]
struct Arguments {
    /// The kinds of requests; all of them unless given
    #[arg(value_name = "KIND")]
    cases: Vec<String>,
    /// Count those of this gate, such as a release build, while this here is built as it may be
    #[arg(long, value_name = "FILE", default_value = gate::PROGRAM)]
    program: PathBuf,
    /// Keep what callgrind wrote about both runs in this directory, for `callgrind_annotate`
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if std::env::args().len() == 1 {
        println!("nothing to do: name a kind of request, or `--bench` for all of them");
        return ExitCode::SUCCESS;
    }
    match single_thread::run(run(&Arguments::parse())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether no kind of request takes more than it may.
async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let wanted = |case: &&Case| arguments.cases.is_empty() || arguments.cases.iter().any(|name| name == case.name);
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "there is no such kind of request");
    let program = fs::canonicalize(&arguments.program).context("there is no gate to count")?;
    let issuer = Arc::new(Issuer::new()?);
    let tokens = issuer.sign(FEW + MORE).await?;
    let upstream = upstream::start().await?;
    let mut holds = true;
    println!("{:<14} {:>12} {:>12} {:>7}", "request", "instructions", "figure", "ratio");
    for case in cases {
        let tokens: Arc<[HeaderValue]> = match case.tokens {
            Tokens::None => [].into(),
            Tokens::Known => tokens[..KNOWN].into(),
            Tokens::New => tokens[..].into(),
            Tokens::Bad => tokens[..].iter().map(tokens::with_bad_signature).collect::<anyhow::Result<_>>()?,
        };
        let bench = Bench { program: &program, case, issuer: &issuer, upstream, tokens };
        let keep = |run| arguments.keep.as_deref().map(|directory| directory.join(format!("{}.{run}", case.name)));
        let few = bench.count(FEW, keep("few")).await?;
        let many = bench.count(FEW + MORE, keep("many")).await?;
        let measured = many.saturating_sub(few) / MORE as u64;
        let ratio = measured as f64 / case.instructions as f64;
        println!("{:<14} {measured:>12} {:>12} {ratio:>7.2}", case.name, case.instructions);
        if ratio > MARGIN {
            holds = false;
            eprintln!("{}: more than the figure and its margin of {:.0} %", case.name, (MARGIN - 1.0) * 100.0);
        } else if ratio < 2.0 - MARGIN {
            eprintln!("{}: so much less than the figure that it should be lowered", case.name);
        }
    }
    Ok(holds)
}

struct Bench<'a> {
    program: &'a Path,
    case: &'a Case,
    issuer: &'a Issuer,
    upstream: SocketAddr,
    tokens: Arc<[HeaderValue]>,
}

impl Bench<'_> {
    /// The instructions of a gate that serves so many requests.
    async fn count(&self, requests: usize, keep: Option<PathBuf>) -> anyhow::Result<u64> {
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name);
        fs::write(path("jwks.json"), self.issuer.jwks().to_string())?;
        let (address, admin) = (free_address(), free_address());
        let settings = gate::Settings {
            address,
            admin,
            store: &format!("embedded:{}", path("store").display()),
            jwks: &path("jwks.json"),
            upstream: self.upstream,
            listener: "",
            more: "",
        };
        fs::write(path("configuration"), gate::configuration(&settings))?;
        let mut gate = Gate::start(self.program, directory.path(), &path("configuration"))?;
        gate.wait_until_ready(admin).await?;
        let mut client = Client::new(Arc::new(Requests {
            address,
            path: self.case.path,
            tokens: Arc::clone(&self.tokens),
            first: 0,
            expected: self.case.expected,
            manner: self.case.manner,
        }));
        for number in 0..requests {
            client.exchange(number).await.with_context(|| format!("request {number}"))?;
        }
        drop(client);
        gate.stop().await?;
        let written = fs::read_to_string(path("callgrind"))?;
        if let Some(keep) = keep {
            keep.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(keep, &written)?;
        }
        let total = written.lines().rev().find_map(|line| line.strip_prefix("totals: "));
        Ok(total.context("callgrind wrote no total")?.trim().parse()?)
    }
}

/// A gate under callgrind. Dropping it kills it.
struct Gate(Child);

impl Gate {
    fn start(program: &Path, directory: &Path, configuration: &Path) -> anyhow::Result<Self> {
        let child = Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind", "--callgrind-out-file=callgrind"])
            .arg(program)
            .args(["serve", "--config"])
            .arg(configuration)
            .env("TOKIO_WORKER_THREADS", "1")
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("log"))?)
            .spawn()
            .context("valgrind does not start")?;
        Ok(Self(child))
    }

    async fn wait_until_ready(&mut self, admin: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !ask(admin, Method::GET, "/readyz").await.is_ok_and(|status| status == StatusCode::OK) {
            if let Some(status) = self.0.try_wait()? {
                bail!("the gate ended with {status}");
            }
            ensure!(Instant::now() < deadline, "the gate is not ready");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let status = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status()?;
        ensure!(status.success(), "the gate cannot be stopped");
        let deadline = Instant::now() + PATIENCE;
        while self.0.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the gate does not stop");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It is our own child: it is there until it has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
