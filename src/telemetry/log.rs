//! Log lines: text for people, JSON for machines, on standard error.
//!
//! The audit trail is written whatever the level, unless the filter names its target. Nobody waits for a line to be written: while
//! whoever reads them stands still, lines are kept up to a bound, and then dropped and counted, the audit trail's last. So are lines whose
//! write fails.

mod queue;

use std::{
    io::{self, IsTerminal},
    sync::{LazyLock, OnceLock},
};

use prometheus_client::registry::Registry;
use tracing::Metadata;
use tracing_subscriber::{
    EnvFilter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use self::queue::{LineWriter, Losses, Queue};
use super::audit;

/// The target of the access log's lines.
pub const ACCESS_TARGET: &str = "portcullis::access";

/// Lines that this process lost.
static LOSSES: LazyLock<Losses> = LazyLock::new(Losses::default);

/// What is logged.
#[derive(Clone, PartialEq, Debug)]
pub struct LogSettings {
    /// A level, or directives as `tracing-subscriber` reads them.
    pub level: String,
    /// The form of each line.
    pub format: LogFormat,
    /// What the access log holds; `None`: there is none.
    pub access: Option<AccessSettings>,
}

/// What the access log holds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AccessSettings {
    /// The share of requests that is logged, from 0 to 1. Refusals, errors, and what broke off are logged always.
    pub sample: f64,
    /// Whether the subject is told, as issuer and digest.
    pub subject: bool,
    /// Whether `User-Agent` is told.
    pub user_agent: bool,
    /// Where it is written to.
    pub output: LogOutput,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self { sample: 1.0, subject: false, user_agent: false, output: LogOutput::Stderr }
    }
}

/// Where lines are written to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LogOutput {
    /// Standard error.
    #[default]
    Stderr,
    /// Standard output.
    Stdout,
}

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging does not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("log filter cannot be read")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// There is no thread that writes.
    #[error("log cannot be written")]
    Thread(#[from] io::Error),
    /// The access log would have to go elsewhere than since the start.
    #[error("needs a restart: where the access log is written to is settled when the gate starts")]
    Output,
}

/// How what is logged can be changed, once logging has begun.
static CONTROL: OnceLock<Control> = OnceLock::new();

#[derive(Debug)]
struct Control {
    filter: reload::Handle<EnvFilter, tracing_subscriber::Registry>,
    /// Whether the access log goes to standard output.
    stdout: bool,
}

/// Logging, as long as somebody holds it. Dropped, it waits until what was logged is written, or for two seconds.
#[must_use = "dropped, it ends logging"]
#[derive(Debug)]
pub struct Logging(Outputs);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.stderr.close();
        if let Some(access) = &self.0.access {
            access.close();
        }
    }
}

/// Where lines go by their target.
#[derive(Clone, Debug)]
struct Outputs {
    stderr: Queue,
    /// Of the access log, if it is another.
    access: Option<Queue>,
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        self.stderr.writer(false)
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> LineWriter<'a> {
        match (&self.access, line.target()) {
            (Some(access), ACCESS_TARGET) => access.writer(false),
            (_, target) => self.stderr.writer(target == audit::TARGET),
        }
    }
}

/// Starts logging. A second call changes nothing.
///
/// # Errors
/// [`LogError`].
pub fn start(settings: &LogSettings) -> Result<Logging, LogError> {
    let stdout = goes_to_stdout(settings);
    let outputs = Outputs {
        stderr: Queue::start(io::stderr(), LOSSES.clone())?,
        access: stdout.then(|| Queue::start(io::stdout(), LOSSES.clone())).transpose()?,
    };
    let (filter, handle) = reload::Layer::new(filter(settings)?);
    let registry = tracing_subscriber::registry().with(filter);
    // Colours are for whoever looks at standard error.
    let lines = fmt::layer().with_writer(outputs.clone()).with_ansi(io::stderr().is_terminal() && !stdout);
    // A second subscriber is refused, which leaves the first.
    let begun = match settings.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if begun.is_ok() {
        let _ = CONTROL.set(Control { filter: handle, stdout });
    }
    Ok(Logging(outputs))
}

/// Prepares to log what these settings say, in the form of the start; calling what is returned does it. Changes nothing where somebody
/// else logs.
///
/// # Errors
/// [`LogError`]
pub fn prepare(settings: &LogSettings) -> Result<impl FnOnce() + use<>, LogError> {
    let filter = filter(settings)?;
    let control = CONTROL.get();
    if settings.access.is_some() && control.is_some_and(|control| control.stdout != goes_to_stdout(settings)) {
        return Err(LogError::Output);
    }
    Ok(move || {
        if let Some(control) = control {
            // It fails only when the subscriber is gone.
            let _ = control.filter.reload(filter);
        }
    })
}

fn goes_to_stdout(settings: &LogSettings) -> bool {
    settings.access.is_some_and(|access| access.output == LogOutput::Stdout)
}

fn filter(settings: &LogSettings) -> Result<EnvFilter, LogError> {
    let mut filter = EnvFilter::builder().parse(&settings.level)?;
    // Audit and, where it is wanted, access log do not hang on the level of the rest.
    let wanted = [Some(audit::TARGET), settings.access.map(|_| ACCESS_TARGET)];
    for target in wanted.into_iter().flatten().filter(|target| !settings.level.contains(target)) {
        filter = filter.add_directive(format!("{target}=info").parse()?);
    }
    Ok(filter)
}

/// Registers the metrics of logging.
pub fn register(registry: &mut Registry) {
    let Losses { lines, that_matter, failures } = &*LOSSES;
    registry.register(
        "log_lines_dropped",
        "Log lines that were dropped because nobody read them, or because they could not be written",
        lines.clone(),
    );
    registry.register("audit_lines_dropped", "Those of them that were of the audit trail", that_matter.clone());
    registry.register("log_write_failures", "Writes of the log that failed", failures.clone());
}
