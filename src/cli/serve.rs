//! `portcullis serve`

use std::{io, path::Path};

use tokio::signal::unix::{SignalKind, signal};

use super::{Outcome, load, runtime};
use crate::{instance::Instance, telemetry::log};

pub(super) fn run(path: &Path) -> anyhow::Result<Outcome> {
    let config = load(path)?;
    let _logging = log::start(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    runtime()?.block_on(async {
        let instance = Instance::start(config).await?;
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

/// The name of the first signal that asks for an end.
pub(super) async fn wait_for_signal() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
