//! `portcullis serve`

use std::{io, path::Path};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::{Outcome, load, runtime};
use crate::{
    busy_poll,
    config::environment,
    instance::Instance,
    reload::{Reloads, Trigger, file::ConfigFile},
    server::socket::ListenAddress,
    telemetry::log,
};

pub(super) fn run(path: &Path) -> anyhow::Result<Outcome> {
    let config = load(path)?;
    let _logging = log::start(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    runtime()?.block_on(async {
        let mut ends = EndSignals::new()?;
        let awake = config.listener.busy_poll;
        let _awake = (!awake.is_zero()).then(|| AbortOnDropHandle::new(tokio::spawn(busy_poll::stay_awake(awake))));
        // From now on: a gate that is told to reload before it is up must not die of it.
        let hangups = signal(SignalKind::hangup())?;
        let mut instance = Instance::start_from(ConfigFile::new(path, environment()), config).await?;
        let _hangups = AbortOnDropHandle::new(tokio::spawn(reload_on(hangups, instance.reloads().clone())));
        let early = tokio::select! {
            () = instance.listening() => None,
            signal = ends.next() => Some(signal),
        };
        let signal = if let Some(signal) = early {
            signal
        } else {
            anyhow::ensure!(instance.listens(), "an address cannot be listened on: the log says which and why");
            tracing::info!(
                version = env!("CARGO_PKG_VERSION"),
                listener = %shown(instance.addresses()),
                admin = %instance.admin_address(),
                "portcullis is up"
            );
            tell_systemd(&[NotifyState::Ready]);
            ends.next().await
        };
        tracing::info!(signal, "draining");
        tell_systemd(&[NotifyState::Stopping]);
        tokio::select! {
            ended = instance.stop() => if ended {
                tracing::info!("stopped");
            } else {
                tracing::warn!("stopped; some requests had to be cut off");
            },
            signal = ends.next() => tracing::warn!(signal, "stopped at once; what was under way was cut off"),
        }
        Ok(Outcome::Done)
    })
}

/// Reloads the configuration whenever the signal comes. What came of it is in the log.
async fn reload_on(mut signals: Signal, reloads: Reloads) {
    while signals.recv().await.is_some() {
        if let Err(no) = reloads.reload(Trigger::Signal).await {
            tracing::warn!("configuration not reloaded: {no}");
        }
    }
}

fn shown(addresses: &[ListenAddress]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Tells the service manager how things are (sd_notify(3)), if there is one.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = &error as &dyn std::error::Error, "systemd could not be told");
    }
}

/// The signals that ask for an end.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The name of the first signal that asks for an end.
pub(super) async fn wait_for_signal() -> io::Result<&'static str> {
    Ok(EndSignals::new()?.next().await)
}
