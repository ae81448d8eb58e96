//! Sends requests over kept-alive connections, on a schedule or as fast as they are answered.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{sync::mpsc, task::JoinSet};

use crate::client::{Client, Requests};

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tally {
    /// From the moment a request should have left to the end of its answer, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Answers that were not what was expected, or did not come.
    pub(crate) errors: u64,
    /// What the first of them was.
    pub(crate) first_error: Option<String>,
    pub(crate) took: Duration,
}

/// One request that is due.
#[derive(Clone, Copy, Debug)]
struct Job {
    number: usize,
    due: Instant,
}

/// Open connections, warmed up.
pub(crate) struct Clients(Vec<Client>);

impl Clients {
    /// Opens connections and sends a request over each.
    pub(crate) async fn connect(count: usize, requests: &Arc<Requests>) -> anyhow::Result<Self> {
        let mut clients = Vec::with_capacity(count);
        for n in 0..count {
            let mut client = Client::new(Arc::clone(requests));
            client.exchange(n).await?;
            clients.push(client);
        }
        Ok(Self(clients))
    }

    /// Sends `count` requests as fast as they are answered.
    pub(crate) async fn hurry(self, requests: &Arc<Requests>, count: usize) -> anyhow::Result<Self> {
        let lanes = self.0.len();
        let mut tasks = JoinSet::new();
        for (lane, mut client) in self.0.into_iter().enumerate() {
            client.requests = Arc::clone(requests);
            tasks.spawn(async move {
                for number in (lane..count).step_by(lanes) {
                    client.exchange(number).await?;
                }
                anyhow::Ok(client)
            });
        }
        let mut clients = Vec::with_capacity(lanes);
        while let Some(client) = tasks.join_next().await {
            clients.push(client??);
        }
        Ok(Self(clients))
    }

    /// Sends `count` requests, `rate` a second. Each connection has a schedule of its own, as clients do; a request that
    /// has to wait for the one before it on its connection is late.
    pub(crate) async fn keep_pace(self, requests: &Arc<Requests>, count: usize, rate: u32) -> anyhow::Result<Tally> {
        let (mut senders, mut tasks) = (Vec::new(), JoinSet::new());
        let lanes = self.0.len();
        for mut client in self.0 {
            client.requests = Arc::clone(requests);
            let (sender, jobs) = mpsc::channel(count / lanes + 1);
            senders.push(sender);
            tasks.spawn(work(client, jobs));
        }
        let begin = Instant::now() + Duration::from_millis(10);
        // A thread of its own: timers of the runtime are good to a millisecond only.
        thread::spawn(move || dispatch(&senders, begin, count, rate));
        let mut tally = Tally::new()?;
        while let Some(part) = tasks.join_next().await {
            tally.add(part??)?;
        }
        tally.took = begin.elapsed();
        Ok(tally)
    }
}

/// Hands each request to its connection when it is due.
fn dispatch(senders: &[mpsc::Sender<Job>], begin: Instant, count: usize, rate: u32) {
    for number in 0..count {
        let due = begin + Duration::from_secs(1).mul_f64(number as f64 / f64::from(rate));
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        // There is room for all; who does not take them any more has given up.
        if senders[number % senders.len()].try_send(Job { number, due }).is_err() {
            return;
        }
    }
}

async fn work(mut client: Client, mut jobs: mpsc::Receiver<Job>) -> anyhow::Result<Tally> {
    let mut tally = Tally::new()?;
    while let Some(Job { number, due }) = jobs.recv().await {
        if let Err(error) = client.exchange(number).await {
            tally.errors += 1;
            tally.first_error.get_or_insert_with(|| format!("{error:#}"));
        }
        tally.latency.saturating_record(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(tally)
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1000, 60_000_000_000, 3)?;
        Ok(Self { latency, errors: 0, first_error: None, took: Duration::ZERO })
    }

    fn add(&mut self, part: Self) -> anyhow::Result<()> {
        self.latency.add(part.latency)?;
        self.errors += part.errors;
        if self.first_error.is_none() {
            self.first_error = part.first_error;
        }
        Ok(())
    }
}
