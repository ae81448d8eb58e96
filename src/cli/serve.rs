//! `portcullis serve`

use std::{io, path::Path};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::{Outcome, load, runtime};
use crate::{
    config::environment,
    instance::Instance,
    reload::{Reloads, Trigger, file::ConfigFile},
    telemetry::log,
};

pub(super) fn run(path: &Path) -> anyhow::Result<Outcome> {
    let config = load(path)?;
    log::start(&config.log).context("log filter cannot be read")?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    runtime()?.block_on(async {
        // From now on: a gate that is told to reload before it is up must not die of it.
        let hangups = signal(SignalKind::hangup())?;
        let instance = Instance::start_from(ConfigFile::new(path, environment()), config).await?;
        let _hangups = AbortOnDropHandle::new(tokio::spawn(reload_on(hangups, instance.reloads().clone())));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listener = %instance.address(),
            admin = %instance.admin_address(),
            "portcullis is up"
        );
        let signal = wait_for_signal().await?;
        tracing::info!(signal, "draining");
        if instance.stop().await {
            tracing::info!("stopped");
        } else {
            tracing::warn!("stopped; some requests had to be cut off");
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

/// The name of the first signal that asks for an end.
pub(super) async fn wait_for_signal() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
