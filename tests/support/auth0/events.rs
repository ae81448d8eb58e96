//! The Events API: offsets, connections, and what goes through them.

use std::{collections::VecDeque, io, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    Auth0, Shared,
    answer::{Body, error, invalid_query, query, value},
    moment::{iso, now, parse},
};

/// What goes through an open event stream.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Bytes(Bytes),
    /// After a pause.
    Pause(Duration),
    /// The stream ends in order.
    End,
    /// The connection breaks.
    Cut,
}

impl Piece {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Bytes(text.into().into())
    }
}

pub(crate) struct Events {
    published: Vec<(u64, i64, Value)>,
    next: u64,
    /// Offsets below are expired.
    kept_from: u64,
    heartbeat: Duration,
    lifetime: Duration,
    max_streams: usize,
    streams: Vec<mpsc::Sender<Piece>>,
    scripts: VecDeque<Vec<Piece>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            published: Vec::new(),
            next: 1,
            kept_from: 0,
            heartbeat: Duration::from_millis(200),
            lifetime: Duration::from_secs(300),
            max_streams: 1,
            streams: Vec::new(),
            scripts: VecDeque::new(),
        }
    }
}

impl Events {
    /// Publishes an event with this `data`; its offset.
    pub(crate) fn publish(&mut self, kind: &str, data: Value) -> String {
        let event = json!({
            "specversion": "1.0",
            "type": kind,
            "source": "urn:auth0:acme.eu.auth0.com",
            "id": format!("evt_{:022}", self.next),
            "time": iso(now()),
            "data": data,
            "a0tenant": "acme",
            "a0stream": "est_0000000000000000000001",
        });
        self.push(event)
    }

    fn push(&mut self, event: Value) -> String {
        let number = self.next;
        self.next += 1;
        let time = event["time"].as_str().and_then(parse).unwrap_or_else(now);
        self.published.push((number, time, event));
        offset(number)
    }
}

impl Auth0 {
    /// Publishes an event to the streams; `id` and `time` are filled in. Its offset.
    pub(crate) fn publish(&self, kind: &str, object: Value) -> String {
        self.state().events.publish(kind, json!({ "object": object }))
    }

    /// Publishes this event as it is.
    pub(crate) fn publish_event(&self, event: Value) -> String {
        self.state().events.push(event)
    }

    /// Offsets before the next event are expired, and the events are gone.
    pub(crate) fn expire_offsets(&self) {
        let mut state = self.state();
        state.events.kept_from = state.events.next;
    }

    /// Connections that are made from now on are closed after so long.
    pub(crate) fn set_stream_lifetime(&self, lifetime: Duration) {
        self.state().events.lifetime = lifetime;
    }

    /// How many event streams are open.
    pub(crate) fn open_streams(&self) -> usize {
        let mut state = self.state();
        state.events.streams.retain(|stream| !stream.is_closed());
        state.events.streams.len()
    }

    /// Sends this through the streams that are open, as far as they have room.
    pub(crate) fn send(&self, piece: &Piece) {
        for stream in &self.state().events.streams {
            let _ = stream.try_send(piece.clone());
        }
    }

    /// The next connection gets exactly this, and nothing else.
    pub(crate) fn script(&self, pieces: Vec<Piece>) {
        self.state().events.scripts.push_back(pieces);
    }
}

/// How an event stream spells this event.
pub(crate) fn frame(offset: &str, event: &Value) -> String {
    let kind = event["type"].as_str().unwrap_or_default();
    format!("event: {kind}\nid: {offset}\ndata: {}\n\n", json!({ "offset": offset, "event": event }))
}

fn offset(number: u64) -> String {
    format!("offset{number:08}==")
}

fn number(offset: &str) -> Option<u64> {
    offset.strip_prefix("offset")?.strip_suffix("==")?.parse().ok()
}

impl Shared {
    pub(crate) fn events(&self, head: &Parts) -> Response<Body> {
        let query = query(head);
        let last = head.headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let from = last.or_else(|| value(&query, "from"));
        let since = value(&query, "from_timestamp");
        if value(&query, "from").is_some() && since.is_some() {
            return invalid_query("from and from_timestamp are mutually exclusive");
        }
        let since: Option<i64> = match since.map(parse) {
            Some(None) => return invalid_query("from_timestamp is no timestamp"),
            Some(since) if from.is_none() => since,
            _ => None,
        };
        let kinds: Vec<String> =
            query.iter().filter(|(name, _)| name == "event_type").map(|(_, kind)| kind.clone()).collect();
        let (sender, receiver) = mpsc::channel(64);
        let mut state = self.state();
        let events = &mut state.events;
        let after = match from.map(number) {
            Some(None) => return invalid_query("Invalid offset"),
            Some(Some(number)) if number + 1 < events.kept_from => {
                return error(410, "offset_expired", "Offset expired");
            }
            Some(Some(number)) => number,
            None if since.is_some() => events.kept_from.saturating_sub(1),
            None => events.next - 1,
        };
        events.streams.retain(|stream| !stream.is_closed());
        if events.streams.len() >= events.max_streams {
            return error(429, "too_many_connections", "Too many concurrent connections");
        }
        let Some(shared) = self.this.upgrade() else { return error(503, "unavailable", "Unavailable") };
        let source = match events.scripts.pop_front() {
            Some(script) => Source::Script(script.into()),
            None => Source::Live { after, since, kinds },
        };
        events.streams.push(sender);
        let stream = EventStream {
            source,
            commands: receiver,
            heartbeat: events.heartbeat,
            end: Instant::now() + events.lifetime,
            said_hello: false,
        };
        let frames = stream::unfold((stream, shared), |(mut stream, shared): (EventStream, Arc<Self>)| async move {
            let piece = stream.next(&shared).await?;
            Some((piece.map(Frame::data), (stream, shared)))
        });
        let mut response = Response::new(StreamBody::new(frames).boxed());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }
}

/// What a connection of the Events API gets.
enum Source {
    Script(VecDeque<Piece>),
    Live {
        /// The number of the event that it has.
        after: u64,
        since: Option<i64>,
        kinds: Vec<String>,
    },
}

struct EventStream {
    source: Source,
    commands: mpsc::Receiver<Piece>,
    heartbeat: Duration,
    end: Instant,
    said_hello: bool,
}

impl EventStream {
    /// What comes next; `None`: the stream ends in order.
    async fn next(&mut self, shared: &Shared) -> Option<Result<Bytes, io::Error>> {
        if !mem::replace(&mut self.said_hello, true) && matches!(self.source, Source::Live { .. }) {
            return Some(Ok(":connected\n\nretry: 2000\n\n".into()));
        }
        loop {
            let scripted = match &mut self.source {
                Source::Script(pieces) => Some(pieces.pop_front().unwrap_or(Piece::End)),
                Source::Live { .. } => None,
            };
            let piece = match scripted {
                Some(piece) => piece,
                None => self.live(shared).await,
            };
            match piece {
                Piece::Bytes(bytes) => return Some(Ok(bytes)),
                Piece::Pause(pause) => sleep(pause).await,
                Piece::End => return None,
                Piece::Cut => return Some(Err(io::Error::other("cut"))),
            }
        }
    }

    async fn live(&mut self, shared: &Shared) -> Piece {
        let Source::Live { after, since, kinds } = &mut self.source else { return Piece::End };
        let begun = Instant::now();
        loop {
            let now = Instant::now();
            if now >= self.end {
                return Piece::End;
            }
            {
                let state = shared.state();
                let is_wanted = |kind: &Value| kinds.is_empty() || kinds.iter().any(|wanted| kind == wanted);
                let mut next = state.events.published.iter().filter(|(number, ..)| *number > *after);
                let next =
                    next.find(|(_, at, event)| is_wanted(&event["type"]) && since.is_none_or(|since| *at >= since));
                if let Some((number, _, event)) = next {
                    let text = frame(&offset(*number), event);
                    *after = *number;
                    return Piece::text(text);
                }
                *after = state.events.next - 1;
            }
            if now - begun >= self.heartbeat {
                let offset = offset(*after);
                let progress = json!({ "offset": offset });
                return Piece::text(format!(": heartbeat\n\nevent: offset-only\nid: {offset}\ndata: {progress}\n\n"));
            }
            let nap = Duration::from_millis(5).min(self.heartbeat);
            match timeout(nap, self.commands.recv()).await {
                Ok(Some(piece)) => return piece,
                Ok(None) => return Piece::End,
                Err(_) => {}
            }
        }
    }
}
