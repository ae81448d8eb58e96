//! The command line.
//!
//! Data goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 the command line or the
//! configuration is wrong, 3 the answer is no (`check` found a problem, `reload` too, `explain` a refusal, `status` a gate that is not
//! ready, `sources` one that needs somebody to look at it, `inactive` a user with whom it failed).

mod admin;
mod check;
mod client;
mod demo;
mod inactive;
mod print;
mod progress;
mod reload;
mod replay;
mod serve;
mod sessions;
mod sources;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use tokio::runtime::{Builder, Runtime};

use self::{
    admin::{Explain, Remote, Target},
    demo::Demo,
    inactive::Inactive,
    replay::Replay,
    sessions::Sessions,
};
use crate::config::{Config, ConfigErrors, environment};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  the answer is no: `check` found a problem, `reload` too, `explain` a refusal, `status` a gate that is not
     ready, `sources` a source that somebody should look at, `inactive` a user with whom it failed";

/// A gate in front of APIs: a JWT is good until its session ends, not until it expires.
#[derive(Parser, Debug)]
#[command(name = "portcullis", version, about, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    /// The configuration file
    #[arg(
        long,
        short,
        global = true,
        env = "PORTCULLIS_CONFIG",
        default_value = "portcullis.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    /// The form of what is printed
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// The form of what is printed, as it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum)]
enum Format {
    /// For people; `table` is the same
    #[default]
    #[value(alias = "table")]
    Text,
    /// For programs
    Json,
    /// For spreadsheets; `inactive` only
    Csv,
}

/// The form of what is printed that every command has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Runs the gate
    #[command(
        after_help = "Examples:\n  portcullis serve --config gateway.toml\n  PORTCULLIS_LISTENER_ADDRESS=0.0.0.0:8080 portcullis serve\n\nSIGTERM and SIGINT drain: requests in flight end, what waits is written. SIGHUP reloads the configuration."
    )]
    Serve,
    /// Checks the configuration, reaches the issuers' keys, the store and the sources that are asked, and says what it found
    #[command(
        after_help = "Examples:\n  portcullis check --config gateway.toml\n  portcullis check --offline --output json"
    )]
    Check {
        /// Look at the configuration only
        #[arg(long)]
        offline: bool,
    },
    /// Has a running gate read its configuration again, and says what came of it
    #[command(after_help = "Examples:\n  portcullis reload --config gateway.toml\n  portcullis reload --output json")]
    Reload {
        #[command(flatten)]
        remote: Remote,
    },
    /// Shows it working: an issuer, an API and the gate in one process
    Demo(Demo),
    /// Logs a user out everywhere
    #[command(
        after_help = "Examples:\n  portcullis logout 'auth0|6553da60a54af58e29493993'\n  portcullis logout alice --issuer acme --reason 'lost laptop'"
    )]
    Logout {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        remote: Remote,
    },
    /// Blocks a user
    #[command(
        after_help = "Examples:\n  portcullis block 'auth0|6553da60a54af58e29493993' --reason fraud\n  portcullis block alice --until 2026-12-31T00:00:00Z"
    )]
    Block {
        #[command(flatten)]
        target: Target,
        /// When the block ends by itself (RFC 3339)
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Unblocks a user
    #[command(
        after_help = "Examples:\n  portcullis unblock 'auth0|6553da60a54af58e29493993'\n  portcullis unblock alice --issuer-too"
    )]
    Unblock {
        #[command(flatten)]
        target: Target,
        /// At the issuer too, through its Management API; the user then counts as active now
        #[arg(long)]
        issuer_too: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Shows the gate's health, or what is known of a user
    #[command(
        after_help = "Examples:\n  portcullis status\n  portcullis status 'auth0|6553da60a54af58e29493993' --output json"
    )]
    Status {
        /// The user: the `sub` claim
        #[arg(value_name = "USER")]
        user: Option<String>,
        /// The issuer's short name; needed when there are several
        #[arg(long, value_name = "NAME")]
        issuer: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Shows why a token would be admitted or refused, step by step
    #[command(after_help = "Examples:\n  portcullis explain \"$TOKEN\" --route api\n  pbpaste | portcullis explain -")]
    Explain(Explain),
    /// Lists a user's live sessions, or ends one
    Sessions(Sessions),
    /// Finds users who have been inactive for too long, and blocks them when told to
    Inactive(Box<Inactive>),
    /// Shows how the sources of events are
    #[command(after_help = "Examples:\n  portcullis sources\n  portcullis sources --output json")]
    Sources {
        #[command(flatten)]
        remote: Remote,
    },
    /// Takes exported records of a source again; first says what would come of it
    Replay(Replay),
    /// Prints a completion script for a shell
    #[command(after_help = "Example:\n  portcullis completions bash > /etc/bash_completion.d/portcullis")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done.
    Done,
    /// Done, and the answer is no.
    No,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::No => Self::from(3),
        }
    }
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever kept it from being done.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let Self { config, output: format, command } = self;
        let output = match format {
            Format::Csv if !matches!(command, Command::Inactive(_)) => {
                Self::command().error(ErrorKind::ArgumentConflict, "only `inactive` prints CSV").exit()
            }
            Format::Json => Output::Json,
            Format::Text | Format::Csv => Output::Text,
        };
        match command {
            Command::Serve => serve::run(&config),
            Command::Check { offline } => check::run(&config, offline, output),
            Command::Reload { remote } => reload::run(&config, &remote, output),
            Command::Demo(demo) => demo.run(),
            Command::Logout { target, remote } => admin::log_out(&config, &target, &remote, output),
            Command::Block { target, until, remote } => admin::block(&config, &target, until, &remote, output),
            Command::Unblock { target, issuer_too, remote } => {
                admin::unblock(&config, &target, issuer_too, &remote, output)
            }
            Command::Status { user, issuer, remote } => {
                admin::status(&config, user.as_deref(), issuer.as_deref(), &remote, output)
            }
            Command::Explain(explain) => explain.run(&config, output),
            Command::Sessions(sessions) => sessions.run(&config, output),
            Command::Inactive(inactive) => inactive.run(&config, format),
            Command::Sources { remote } => sources::run(&config, &remote, output),
            Command::Replay(replay) => replay.run(&config, output),
            Command::Completions { shell } => {
                // Not to standard output at once: it panics where a pipe is closed.
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "portcullis", &mut script);
                print::text(&String::from_utf8_lossy(&script))?;
                Ok(Outcome::Done)
            }
        }
    }
}

fn load(path: &std::path::Path) -> anyhow::Result<Config> {
    Ok(Config::load(path, environment())?)
}

/// With one core there is nobody to share work with, which is then not paid for.
fn runtime() -> io::Result<Runtime> {
    let mut builder = if workers() == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.enable_all().build()
}

/// How many threads serve requests: one for each core that the process may use, or as `TOKIO_WORKER_THREADS` says.
fn workers() -> usize {
    let told = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|told| told.parse().ok());
    told.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Prints an error with its causes, and says which code to exit with.
#[expect(clippy::print_stderr, reason = "this is where errors are printed")]
#[must_use]
pub fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(io) = error.downcast_ref::<io::Error>()
        && io.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        eprintln!("{errors}");
        return ExitCode::from(2);
    }
    eprint!("error: {error}");
    for cause in error.chain().skip(1) {
        eprint!(": {cause}");
    }
    eprintln!();
    ExitCode::FAILURE
}
