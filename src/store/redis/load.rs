//! Loads the names of all markers, at a pace that leaves the server to others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::redis::{RedisResult, aio::MultiplexedConnection};
use tokio::time::sleep;

use super::{
    fault,
    index::{Index, Unkept},
    keys::Keys,
    node::Use,
    topology::Topology,
};

/// How many keys the server looks at in one call: it serves nobody else meanwhile.
const COUNT: usize = 250;

/// How many times longer than a call took to wait before the next; more often where calls take longer than they could, because
/// others ask for much, all other gateways among them.
const REST: f64 = 9.0;
const MOST_REST: f64 = 10.0 * REST;

/// How many times more keys than can be names of markers there may be: a database that is shared with others is not searched.
const FOREIGN: usize = 4;

const RETRY: Duration = Duration::from_millis(200);

/// Loads `index` whenever it wants to be.
pub(super) async fn keep(topology: Arc<Topology>, index: Arc<Index>, keys: Keys) {
    if index.limit() == 0 {
        return;
    }
    loop {
        index.wanted().await;
        loop {
            let (round, since) = (index.begin(), Instant::now());
            match load(&topology, &index, &keys).await {
                Ok(true) if index.finish(round) => {
                    tracing::info!(names = index.len(), took = ?since.elapsed(), "names of markers loaded");
                    break;
                }
                // Something was missed, or somebody is not there yet.
                Ok(_) => sleep(RETRY).await,
                Err(why) => {
                    tracing::warn!("{why}");
                    index.give_up(why);
                    break;
                }
            }
        }
    }
}

/// Whether all nodes were there until the end.
async fn load(topology: &Topology, index: &Index, keys: &Keys) -> Result<bool, Unkept> {
    let nodes = topology.nodes();
    if nodes.is_empty() {
        return Ok(false);
    }
    for node in nodes {
        // On the very connection that carries the pushes: of the same server, and not of one that is no longer tracked.
        let Ok(mut live) = node.connection(Use::Read) else { return Ok(false) };
        match scan(&mut live.handle, index, keys).await {
            Ok(scanned) => scanned?,
            Err(error) if fault::is_denied(&error) => return Err(Unkept::Denied),
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

async fn scan(connection: &mut MultiplexedConnection, index: &Index, keys: &Keys) -> RedisResult<Result<(), Unkept>> {
    let (prefix, pattern) = (keys.markers(), keys.pattern());
    let mut cursor = b"0".to_vec();
    let (mut looked_at, mut quickest) = (0, Duration::MAX);
    loop {
        let since = Instant::now();
        let mut scan = ::redis::cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(COUNT);
        let (next, names): (Vec<u8>, Vec<Vec<u8>>) = scan.query_async(connection).await?;
        let took = since.elapsed();
        for name in names {
            if let Some(name) = str::from_utf8(&name).ok().and_then(|name| name.strip_prefix(&*prefix))
                && let Err(why) = index.found(name)
            {
                return Ok(Err(why));
            }
        }
        looked_at += COUNT;
        if next == b"0" {
            return Ok(Ok(()));
        }
        if looked_at > FOREIGN.saturating_mul(index.limit()) {
            return Ok(Err(Unkept::TooMany));
        }
        cursor = next;
        quickest = quickest.min(took);
        let slower = took.as_secs_f64() / quickest.as_secs_f64().max(f64::EPSILON);
        sleep(took.mul_f64((REST * slower).min(MOST_REST))).await;
    }
}
