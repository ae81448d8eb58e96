//! From the acknowledgement of a marker to the refusals.

use std::{sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use futures_util::future::try_join_all;
use http::{HeaderValue, StatusCode};
use tokio::time::{Instant, sleep};

use crate::{background::requests, client::Client, gateway::Gateway};

/// A gateway that admits for so long after a marker was acknowledged will go on for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// For so long probes follow upon each other, as it is a matter of milliseconds; then with pauses.
const HURRY: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(5);

/// A connection to each gateway.
pub(crate) struct Probes(Vec<Client>);

/// What became of a token after its marker had been acknowledged.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Fate {
    /// When the first refusal had arrived, after the acknowledgement.
    pub(crate) refused: Duration,
    /// When the last request that was admitted had been sent, after the acknowledgement. Zero: none was.
    pub(crate) admitted: Duration,
    /// How many requests were answered that the gateway is stale.
    pub(crate) stale: u32,
}

impl Probes {
    pub(crate) fn new(gateways: &[Gateway], tokens: &Arc<[HeaderValue]>) -> Self {
        Self(gateways.iter().map(|gateway| Client::new(requests(gateway.address, tokens))).collect())
    }

    /// Has a token admitted by every gateway: from here on each knows it, and knows of no marker.
    pub(crate) async fn warm_up(&mut self, token: usize) -> anyhow::Result<()> {
        try_join_all(self.0.iter_mut().map(|client| client.exchange(token))).await?;
        Ok(())
    }

    /// Asks every gateway until each has refused. The worst of them.
    pub(crate) async fn follow(&mut self, token: usize, acknowledged: Instant) -> anyhow::Result<Fate> {
        let fates = try_join_all(self.0.iter_mut().map(|client| follow(client, token, acknowledged))).await?;
        Ok(fates.into_iter().fold(Fate::default(), Fate::worse))
    }
}

impl Fate {
    pub(crate) fn worse(self, other: Self) -> Self {
        Self {
            refused: self.refused.max(other.refused),
            admitted: self.admitted.max(other.admitted),
            stale: self.stale + other.stale,
        }
    }
}

async fn follow(client: &mut Client, token: usize, acknowledged: Instant) -> anyhow::Result<Fate> {
    let mut fate = Fate::default();
    while acknowledged.elapsed() < PATIENCE {
        let sent = acknowledged.elapsed();
        let (status, body) = client.ask(token).await?;
        fate.refused = acknowledged.elapsed();
        match status {
            StatusCode::UNAUTHORIZED => {
                let body = String::from_utf8_lossy(&body);
                ensure!(body.contains("logged_out"), "a token was refused for another reason: {body}");
                return Ok(fate);
            }
            StatusCode::OK => fate.admitted = sent,
            StatusCode::SERVICE_UNAVAILABLE => fate.stale += 1,
            other => bail!("a probe was answered {other}"),
        }
        if acknowledged.elapsed() > HURRY {
            sleep(PAUSE).await;
        }
    }
    bail!("a gateway goes on to admit {} s after the marker was acknowledged", PATIENCE.as_secs())
}
