//! Other people's requests, meanwhile.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context;
use http::HeaderValue;
use tokio::{
    runtime,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    client::{Client, Requests},
    gateway::Gateway,
};

/// Kept-alive connections to each gateway.
const CONNECTIONS: usize = 8;

/// Requests to all gateways at some rate, from a thread of their own.
pub(crate) struct Background {
    stop: watch::Sender<bool>,
    counts: Arc<Counts>,
    thread: JoinHandle<anyhow::Result<()>>,
}

#[derive(Default)]
struct Counts {
    admitted: AtomicU64,
    other: AtomicU64,
}

impl Background {
    /// `rate`: requests a second, in all; more than can be served: as many as can.
    pub(crate) fn start(gateways: &[Gateway], tokens: &Arc<[HeaderValue]>, rate: u32) -> Self {
        let (stop, stopped) = watch::channel(false);
        let counts = Arc::new(Counts::default());
        let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
        let (tokens, counter) = (Arc::clone(tokens), Arc::clone(&counts));
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut tasks = JoinSet::new();
                let connections = addresses.len() * CONNECTIONS;
                let pause = Duration::from_secs(1).mul_f64(connections as f64 / f64::from(rate.max(1)));
                for n in 0..if rate == 0 { 0 } else { connections } {
                    let requests = requests(addresses[n % addresses.len()], &tokens);
                    tasks.spawn(send(Client::new(requests), n, pause, Arc::clone(&counter), stopped.clone()));
                }
                while tasks.join_next().await.is_some() {}
                Ok(())
            })
        });
        Self { stop, counts, thread }
    }

    /// How many requests were admitted so far, and how many were not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.counts.admitted.load(Ordering::Relaxed), self.counts.other.load(Ordering::Relaxed))
    }

    pub(crate) fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(true);
        self.thread.join().ok().context("the background panicked")?
    }
}

/// Requests with these tokens in turn, that are to be admitted.
pub(crate) fn requests(address: SocketAddr, tokens: &Arc<[HeaderValue]>) -> Arc<Requests> {
    Arc::new(Requests {
        address,
        path: "/api/v1/orders/4711",
        tokens: Arc::clone(tokens),
        first: 0,
        expected: http::StatusCode::OK,
        manner: crate::client::Manner::Kept,
    })
}

async fn send(mut client: Client, first: usize, pause: Duration, counts: Arc<Counts>, stopped: watch::Receiver<bool>) {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = first;
    while !*stopped.borrow() {
        ticks.tick().await;
        let count = match client.exchange(number).await {
            Ok(()) => &counts.admitted,
            Err(_) => &counts.other,
        };
        count.fetch_add(1, Ordering::Relaxed);
        // A step that visits all tokens, whatever their number.
        number = number.wrapping_add(7919);
    }
}
