//! Simulated gateways: connections that hear of changes and do nothing about them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    sync::{Barrier, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval_at},
};

use crate::{
    frame::Frame,
    mechanism::{HEARTBEAT, Mechanism, Position, number},
};

/// Readers in a thread of their own.
pub(crate) struct Readers {
    stop: watch::Sender<bool>,
    told: Arc<AtomicUsize>,
    thread: JoinHandle<anyhow::Result<Vec<Arrivals>>>,
}

/// When a reader was told of each change; only some of them note it.
pub(crate) type Arrivals = Vec<Option<Instant>>;

struct Reader {
    mechanism: Mechanism,
    stream: TcpStream,
    buffer: Vec<u8>,
    position: Position,
    told: Arc<AtomicUsize>,
    arrivals: Arrivals,
}

impl Readers {
    /// Connects `count` readers. They note when they hear of the first `noted` changes.
    pub(crate) fn start(mechanism: Mechanism, server: SocketAddr, count: usize, noted: usize) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let told = Arc::new(AtomicUsize::new(0));
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let counter = Arc::clone(&told);
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut readers = JoinSet::new();
                // Gateways beat each at its own time.
                let barrier = Arc::new(Barrier::new(count + 1));
                for n in 0..count {
                    let reader = Reader::connect(mechanism, server, Arc::clone(&counter), noted).await?;
                    let first_beat = HEARTBEAT.mul_f64((n + 1) as f64 / count as f64);
                    let (stopped, barrier) = (stopped.clone(), Arc::clone(&barrier));
                    readers.spawn(async move {
                        barrier.wait().await;
                        reader.run(stopped, Instant::now() + first_beat).await
                    });
                }
                barrier.wait().await;
                let _ = ready.send(());
                let mut arrivals = Vec::with_capacity(count);
                while let Some(ended) = readers.join_next().await {
                    arrivals.push(ended??);
                }
                Ok(arrivals)
            })
        });
        if is_ready.recv().is_err() {
            thread.join().ok().context("readers panicked")??;
            bail!("readers ended before they were told to");
        }
        Ok(Self { stop, told, thread })
    }

    /// How many changes they were told of, all taken together.
    pub(crate) fn told(&self) -> usize {
        self.told.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(self) -> anyhow::Result<Vec<Arrivals>> {
        let _ = self.stop.send(true);
        self.thread.join().ok().context("readers panicked")?
    }
}

impl Reader {
    async fn connect(
        mechanism: Mechanism,
        server: SocketAddr,
        told: Arc<AtomicUsize>,
        noted: usize,
    ) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let position = Position("0".to_owned());
        stream.write_all(&mechanism.begin(&position)).await?;
        let mut reader =
            Self { mechanism, stream, buffer: Vec::with_capacity(4096), position, told, arrivals: vec![None; noted] };
        if mechanism == Mechanism::Tracking {
            // The greeting and an OK.
            while reader.take_frames()? < 2 {
                reader.read().await?;
            }
        }
        Ok(reader)
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>, first_beat: Instant) -> anyhow::Result<Arrivals> {
        let mut beats = interval_at(first_beat.into(), HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let beats_by_itself = self.mechanism == Mechanism::Tracking;
            tokio::select! {
                read = self.stream.read_buf(&mut self.buffer) => {
                    ensure!(read? > 0, "the server closed a reader's connection");
                    let answered = self.take_frames()? > 0;
                    if answered && !beats_by_itself {
                        self.beat().await?;
                    }
                }
                _ = beats.tick(), if beats_by_itself => self.beat().await?,
                _ = stopped.changed() => return Ok(self.arrivals),
            }
        }
    }

    async fn beat(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.write_all(&self.mechanism.heartbeat(&self.position)).await?)
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed a reader's connection");
        Ok(())
    }

    /// Takes in the frames that are complete. How many there were.
    fn take_frames(&mut self) -> anyhow::Result<usize> {
        let now = Instant::now();
        let (mut frames, mut at) = (0, 0);
        while at < self.buffer.len()
            && let Some((frame, length)) = Frame::read(&self.buffer[at..])?
        {
            let keys = self.mechanism.keys(&frame, &mut self.position)?;
            for key in &keys {
                if let Some(arrival) = self.arrivals.get_mut(number(key)?) {
                    arrival.get_or_insert(now);
                }
            }
            self.told.fetch_add(keys.len(), Ordering::Relaxed);
            (frames, at) = (frames + 1, at + length);
        }
        self.buffer.drain(..at);
        Ok(frames)
    }
}
