//! What each way tells of and what it does not, tried on a real server.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    ops::Range,
    time::Duration,
};

use anyhow::{bail, ensure};

use crate::{
    frame::Frame,
    measure::Control,
    mechanism::{Mechanism, Position, STREAM, key},
    redis_server::RedisServer,
};

/// A gateway that has heard nothing for so long has heard all there is.
const QUIET: Duration = Duration::from_millis(300);

/// How many markers are written while a gateway reads nothing: more than socket buffers hold.
const FLOOD: usize = 400_000;

/// What one way did in one situation.
type Observation = fn(Mechanism) -> anyhow::Result<String>;

const OBSERVATIONS: [(&str, Observation); 8] = [
    ("1,000 writes in one pipeline", pipeline),
    ("`SET`, `DEL`, `RENAME`, `EXPIRE` by another program, and a key that expires", other_programs),
    ("`FLUSHALL`", flush),
    ("10 writes while a gateway is not connected", reconnection),
    ("20 writes while it is not connected, 5 entries kept", trimmed),
    ("failover to a server whose clock is 1 s behind, then 10 writes", clock_behind),
    ("400,000 writes while a gateway reads nothing, as a server is by default", stalled),
    ("the same, `client-output-buffer-limit normal 1mb 0 0`", stalled_with_a_limit),
];

/// Prints a table.
pub(crate) fn observe() -> anyhow::Result<()> {
    println!("| what happens | tracking | stream |\n| --- | --- | --- |");
    for (what, observation) in OBSERVATIONS {
        println!("| {what} | {} | {} |", observation(Mechanism::Tracking)?, observation(Mechanism::Stream)?);
    }
    Ok(())
}

fn pipeline(mechanism: Mechanism) -> anyhow::Result<String> {
    let server = RedisServer::start("")?;
    let mut gateway = Gateway::connect(mechanism, server.address(), "0")?;
    write(mechanism, server.address(), 0..1000)?;
    let keys = gateway.hear()?;
    Ok(format!("told of {} in {} messages", keys.len(), gateway.messages))
}

fn other_programs(mechanism: Mechanism) -> anyhow::Result<String> {
    let server = RedisServer::start("")?;
    let mut control = Control::open(server.address())?;
    let mut gateway = Gateway::connect(mechanism, server.address(), "0")?;
    let (one, two) = (key(1), key(2));
    let mut told = Vec::new();
    for words in [
        vec!["SET", &one, "1"],
        vec!["RENAME", &one, &two],
        vec!["EXPIRE", &two, "60"],
        vec!["DEL", &two],
        vec!["SET", &one, "1", "PX", "1"],
    ] {
        () = control.ask(&words)?;
        // The last one is told of twice: when it is set, and when it has expired.
        told.push(gateway.hear()?.len());
    }
    Ok(format!("told of {told:?} keys"))
}

fn flush(mechanism: Mechanism) -> anyhow::Result<String> {
    let server = RedisServer::start("")?;
    let mut gateway = Gateway::connect(mechanism, server.address(), "0")?;
    () = Control::open(server.address())?.ask(&["FLUSHALL"])?;
    gateway.hear()?;
    Ok(if gateway.messages > 0 { "told".to_owned() } else { "not told".to_owned() })
}

fn reconnection(mechanism: Mechanism) -> anyhow::Result<String> {
    let server = RedisServer::start("")?;
    let mut gateway = Gateway::connect(mechanism, server.address(), "0")?;
    write(mechanism, server.address(), 0..1)?;
    ensure!(gateway.hear()?.len() == 1, "a gateway was not told of a write");
    let position = gateway.position.0.clone();
    drop(gateway);
    write(mechanism, server.address(), 1..11)?;
    let told = Gateway::connect(mechanism, server.address(), &position)?.hear()?.len();
    Ok(format!("told of {told}"))
}

fn trimmed(mechanism: Mechanism) -> anyhow::Result<String> {
    let server = RedisServer::start("")?;
    let mut gateway = Gateway::connect(mechanism, server.address(), "0")?;
    write(mechanism, server.address(), 0..1)?;
    gateway.hear()?;
    let position = gateway.position.0.clone();
    drop(gateway);
    write(mechanism, server.address(), 1..21)?;
    let _: u64 = Control::open(server.address())?.ask(&["XTRIM", STREAM, "MAXLEN", "5"])?;
    let told = Gateway::connect(mechanism, server.address(), &position)?.hear()?.len();
    Ok(format!("told of {told}, without an error"))
}

fn clock_behind(mechanism: Mechanism) -> anyhow::Result<String> {
    let (first, second) = (RedisServer::start("")?, RedisServer::start("")?);
    let mut control = Control::open(first.address())?;
    let (seconds, _): (u64, u64) = control.ask(&["TIME"])?;
    // What a server whose clock is ahead would have called an entry that did not reach the other one.
    let ahead = format!("{}-0", (seconds + 2) * 1000);
    let _: String = control.ask(&["XADD", STREAM, &ahead, "k", &key(0)])?;
    let mut gateway = Gateway::connect(mechanism, first.address(), "0")?;
    gateway.hear()?;
    let position = gateway.position.0.clone();
    let mut gateway = Gateway::connect(mechanism, second.address(), &position)?;
    write(mechanism, second.address(), 0..10)?;
    Ok(format!("told of {}", gateway.hear()?.len()))
}

fn stalled(mechanism: Mechanism) -> anyhow::Result<String> {
    stall(mechanism, &RedisServer::start("")?)
}

fn stalled_with_a_limit(mechanism: Mechanism) -> anyhow::Result<String> {
    stall(mechanism, &RedisServer::start("client-output-buffer-limit normal 1mb 0 0")?)
}

fn stall(mechanism: Mechanism, server: &RedisServer) -> anyhow::Result<String> {
    let gateway = Gateway::connect(mechanism, server.address(), "0")?;
    let mut control = Control::open(server.address())?;
    let own = gateway.wire.stream.local_addr()?.to_string();
    for begin in (0..FLOOD).step_by(1000) {
        write(mechanism, server.address(), begin..begin + 1000)?;
    }
    let clients = control.clients()?;
    let held = clients.iter().find(|client| client.get("addr") == Some(&own)).and_then(|client| client.get("omem"));
    Ok(match held {
        Some(bytes) => format!("the server holds {:.1} MB for it", bytes.parse::<f64>()? / 1e6),
        None => "the server closes its connection".to_owned(),
    })
}

/// Writes markers in one pipeline and waits until all are acknowledged.
fn write(mechanism: Mechanism, server: SocketAddr, keys: Range<usize>) -> anyhow::Result<()> {
    let mut wire = Wire::connect(server)?;
    let expected = keys.len() * mechanism.answers();
    let bytes: Vec<u8> = keys.flat_map(|n| mechanism.write(&key(n), "1763700000123")).collect();
    wire.stream.write_all(&bytes)?;
    let mut answered = 0;
    while answered < expected {
        ensure!(wire.read()?, "writes were not answered");
        answered += wire.take(|_| Ok(()))?;
    }
    Ok(())
}

/// A reader that says what it is told.
struct Gateway {
    mechanism: Mechanism,
    wire: Wire,
    position: Position,
    /// How many messages told it of changes.
    messages: usize,
}

impl Gateway {
    /// `position`: of the last entry of the stream that it has seen.
    fn connect(mechanism: Mechanism, server: SocketAddr, position: &str) -> anyhow::Result<Self> {
        let mut gateway =
            Self { mechanism, wire: Wire::connect(server)?, position: Position(position.to_owned()), messages: 0 };
        gateway.wire.stream.write_all(&mechanism.begin(&gateway.position))?;
        if mechanism == Mechanism::Tracking {
            // The greeting and an OK.
            let mut answered = 0;
            while answered < 2 {
                ensure!(gateway.wire.read()?, "tracking did not begin");
                answered += gateway.wire.take(|_| Ok(()))?;
            }
        }
        Ok(gateway)
    }

    /// The keys that it is told of until all is quiet.
    fn hear(&mut self) -> anyhow::Result<Vec<String>> {
        let mut told = Vec::new();
        while self.wire.read()? {
            let Self { mechanism, wire, position, messages } = self;
            let frames = wire.take(|frame| {
                *messages += usize::from(matches!(frame, Frame::Push(_) | Frame::List(_)));
                told.extend(mechanism.keys(frame, position)?.into_iter().map(str::to_owned));
                Ok(())
            })?;
            if frames > 0 && self.mechanism == Mechanism::Stream {
                self.wire.stream.write_all(&self.mechanism.heartbeat(&self.position))?;
            }
        }
        Ok(told)
    }
}

struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    fn connect(server: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(QUIET))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// `false`: nothing came for [`QUIET`].
    fn read(&mut self) -> anyhow::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Hands over the frames that are complete. How many there were.
    fn take(&mut self, mut of: impl FnMut(&Frame<'_>) -> anyhow::Result<()>) -> anyhow::Result<usize> {
        let (mut frames, mut at) = (0, 0);
        while at < self.buffer.len()
            && let Some((frame, length)) = Frame::read(&self.buffer[at..])?
        {
            of(&frame)?;
            (frames, at) = (frames + 1, at + length);
        }
        self.buffer.drain(..at);
        Ok(frames)
    }
}
