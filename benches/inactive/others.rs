//! How long others wait meanwhile: one who reads a marker, again and again, on a thread of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::task::{JoinHandle, spawn_blocking};

const PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Others {
    stop: Arc<AtomicBool>,
    reading: JoinHandle<anyhow::Result<Vec<Duration>>>,
}

impl Others {
    /// `read` waits for the answer.
    pub(crate) fn start(mut read: impl FnMut() -> anyhow::Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reading = spawn_blocking(move || {
            let mut waits = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                read()?;
                waits.push(begun.elapsed());
                thread::sleep(PAUSE);
            }
            Ok(waits)
        });
        Self { stop, reading }
    }

    /// How long they waited.
    pub(crate) async fn stop(self) -> anyhow::Result<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut waits = self.reading.await??;
        waits.sort_unstable();
        let at = |percent: usize| -> anyhow::Result<f64> {
            let wait = waits.get(waits.len().saturating_sub(1) * percent / 100).context("nobody read")?;
            Ok(wait.as_secs_f64() * 1e3)
        };
        Ok(format!("others' reads of a marker, ms: p50 {:.2}, p99 {:.2}, max {:.2}", at(50)?, at(99)?, at(100)?))
    }
}
