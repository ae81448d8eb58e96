//! The two ways by which gateways could hear of changes, on the wire.

use std::time::Duration;

use crate::frame::{Frame, command};

/// What the names of all markers begin with.
pub(crate) const PREFIX: &str = "portcullis:m:";

/// The stream of changes.
pub(crate) const STREAM: &str = "portcullis:changes";

/// About how many entries it keeps.
pub(crate) const KEPT: &str = "10000";

/// How often a gateway wants to hear something, if only that the server is there.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mechanism {
    /// `CLIENT TRACKING ON BCAST PREFIX`: the server tells of every key that changes.
    Tracking,
    /// Writers add the names of keys to a stream, which gateways follow with `XREAD BLOCK`.
    Stream,
}

/// How far a reader of the stream has come.
#[derive(Clone, Debug)]
pub(crate) struct Position(pub(crate) String);

impl Mechanism {
    pub(crate) const ALL: [Self; 2] = [Self::Tracking, Self::Stream];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tracking => "tracking",
            Self::Stream => "stream",
        }
    }

    /// What a reader sends first.
    pub(crate) fn begin(self, position: &Position) -> Vec<u8> {
        match self {
            Self::Tracking => {
                [command(&["HELLO", "3"]), command(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", PREFIX])].concat()
            }
            Self::Stream => self.heartbeat(position),
        }
    }

    /// What a reader sends every [`HEARTBEAT`] (tracking), or whenever it was answered (stream).
    pub(crate) fn heartbeat(self, position: &Position) -> Vec<u8> {
        match self {
            Self::Tracking => command(&["PING"]),
            Self::Stream => {
                let patience = HEARTBEAT.as_millis().to_string();
                command(&["XREAD", "BLOCK", &patience, "STREAMS", STREAM, &position.0])
            }
        }
    }

    /// How a marker is written so that readers hear of it.
    pub(crate) fn write(self, key: &str, value: &str) -> Vec<u8> {
        let set = command(&["SET", key, value, "EX", "90000"]);
        match self {
            Self::Tracking => set,
            Self::Stream => {
                let add = command(&["XADD", STREAM, "MAXLEN", "~", KEPT, "*", "k", key]);
                [command(&["MULTI"]), set, add, command(&["EXEC"])].concat()
            }
        }
    }

    /// How many frames [`write`](Self::write) is answered with, the last of which is the acknowledgement.
    pub(crate) const fn answers(self) -> usize {
        match self {
            Self::Tracking => 1,
            Self::Stream => 4,
        }
    }

    /// The keys that a reader is told of by a frame.
    pub(crate) fn keys<'a>(self, frame: &Frame<'a>, position: &mut Position) -> anyhow::Result<Vec<&'a str>> {
        match (self, frame) {
            (Self::Tracking, Frame::Push(_)) => frame.at(&[1])?.items().iter().map(Frame::text).collect(),
            (Self::Stream, Frame::List(_)) => {
                let entries = frame.at(&[0, 1])?.items();
                if let Some(last) = entries.last() {
                    last.at(&[0])?.text()?.clone_into(&mut position.0);
                }
                entries.iter().map(|entry| entry.at(&[1, 1])?.text()).collect()
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// The name of the `n`th marker of a bench.
pub(crate) fn key(n: usize) -> String {
    format!("{PREFIX}logout:bench:auth0|6553da60a54a{n:012}")
}

/// Which marker a key is the name of.
pub(crate) fn number(key: &str) -> anyhow::Result<usize> {
    let digits = key.len().saturating_sub(12);
    Ok(key.get(digits..).unwrap_or_default().parse()?)
}
