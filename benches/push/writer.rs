//! Writes markers on a schedule, and notes when each was acknowledged.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::{
    frame::Frame,
    mechanism::{Mechanism, key},
};

/// When a marker was sent, and when its write was acknowledged.
pub(crate) struct Written {
    pub(crate) sent: Instant,
    pub(crate) acknowledged: Instant,
}

/// Writes `count` markers, `rate` a second, whether or not earlier ones have been acknowledged.
pub(crate) fn write(mechanism: Mechanism, server: SocketAddr, count: usize, rate: u32) -> anyhow::Result<Vec<Written>> {
    let mut out = TcpStream::connect(server)?;
    out.set_nodelay(true)?;
    out.set_read_timeout(Some(Duration::from_secs(10)))?;
    let answers = out.try_clone()?;
    let listener = thread::spawn(move || read_acknowledgements(answers, mechanism, count));
    let begin = Instant::now();
    let mut sent = Vec::with_capacity(count);
    for n in 0..count {
        let due = begin + Duration::from_secs(1).mul_f64(n as f64 / f64::from(rate));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let bytes = mechanism.write(&key(n), "1763700000123");
        sent.push(Instant::now());
        out.write_all(&bytes)?;
    }
    let acknowledged = listener.join().ok().context("the listener for acknowledgements panicked")??;
    let pair = |(sent, acknowledged)| Written { sent, acknowledged };
    Ok(sent.into_iter().zip(acknowledged).map(pair).collect())
}

fn read_acknowledgements(mut stream: TcpStream, mechanism: Mechanism, count: usize) -> anyhow::Result<Vec<Instant>> {
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    let (mut frames, mut acknowledged) = (0, Vec::with_capacity(count));
    while acknowledged.len() < count {
        let length = stream.read(&mut chunk)?;
        ensure!(length > 0, "the server closed the writer's connection");
        let now = Instant::now();
        buffer.extend_from_slice(&chunk[..length]);
        let mut at = 0;
        while at < buffer.len()
            && let Some((frame, length)) = Frame::read(&buffer[at..])?
        {
            if buffer[at] == b'-' {
                bail!("a write was answered {:?}", frame.text()?);
            }
            at += length;
            frames += 1;
            if frames % mechanism.answers() == 0 {
                acknowledged.push(now);
            }
        }
        buffer.drain(..at);
    }
    Ok(acknowledged)
}
