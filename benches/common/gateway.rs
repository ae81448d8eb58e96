//! One gateway of the fleet: a process of its own.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use crate::{
    gate::{self, ask},
    ports::free_address,
};

/// A running gateway. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
}

impl Gateway {
    /// Starts it, with `more` than the usual configuration, and waits until it is ready.
    pub(crate) async fn start(
        directory: &Path,
        store: &str,
        upstream: SocketAddr,
        workers: usize,
        more: &str,
    ) -> anyhow::Result<Self> {
        let (address, admin) = (free_address(), free_address());
        let own = directory.join(address.port().to_string());
        fs::create_dir(&own)?;
        let (configuration, log) = (own.join("configuration"), own.join("log"));
        let jwks = directory.join("jwks.json");
        fs::write(
            &configuration,
            gate::configuration(&gate::Settings { address, admin, store, jwks: &jwks, upstream, listener: "", more }),
        )?;
        let child = Command::new(gate::PROGRAM)
            .args(["serve", "--config"])
            .arg(configuration)
            .env("TOKIO_WORKER_THREADS", workers.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("a gateway does not start")?;
        let mut gateway = Self { address, admin, child };
        gateway.wait_until_ready(&log).await?;
        Ok(gateway)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn wait_until_ready(&mut self, log: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !ask(self.admin, Method::GET, "/readyz").await.is_ok_and(|status| status == StatusCode::OK) {
            if let Some(status) = self.child.try_wait()? {
                bail!("a gateway ended with {status}: {}", fs::read_to_string(log)?);
            }
            if Instant::now() > deadline {
                bail!("a gateway is not ready after 20 s: {}", fs::read_to_string(log)?);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It is our own child: it is there until it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
