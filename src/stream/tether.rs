//! A request that is under way, and becomes a stream when it lasts.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Response};
use tokio::time::Instant;

use super::{Kind, Leash, OpenStream};
use crate::{gate::Admission, verdict::Reason};

/// What ties a request to the session that it was admitted for.
#[derive(Debug)]
pub struct Tether {
    state: State,
    kind: Kind,
}

#[derive(Debug)]
enum State {
    /// To none: nobody asked for a token.
    Loose,
    /// Too short yet to be looked at.
    Young {
        admission: Admission,
        grows_up: Instant,
    },
    Open(OpenStream),
}

impl Tether {
    /// The tether of a request that was just admitted: its [`Admission`] is taken out of its extensions.
    #[must_use]
    pub fn take(extensions: &mut Extensions, kind: Kind) -> Self {
        let state = extensions.remove::<Admission>().map_or(State::Loose, |admission| {
            let grows_up = Instant::now() + admission.streams().grace();
            State::Young { admission, grows_up }
        });
        Self { state, kind }
    }

    /// The tether of something that has no session.
    #[must_use]
    pub const fn loose() -> Self {
        Self { state: State::Loose, kind: Kind::Response }
    }

    /// When it becomes a stream, unless it is one or never will be.
    #[must_use]
    pub const fn grows_up(&self) -> Option<Instant> {
        match &self.state {
            State::Young { grows_up, .. } => Some(*grows_up),
            State::Loose | State::Open(_) => None,
        }
    }

    /// Becomes a stream if it is old enough.
    pub fn grow(&mut self) {
        if self.grows_up().is_some_and(|grows_up| grows_up <= Instant::now()) {
            self.open();
        }
    }

    /// Becomes a stream now.
    pub fn open(&mut self) {
        if let State::Young { admission, .. } = &self.state {
            self.state = State::Open(admission.streams().open(admission, self.kind));
        }
    }

    /// How long what is under way may go on once the session is over.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.admission().map_or(Duration::from_secs(1), |admission| admission.streams().grace())
    }

    /// Whether there is a session that can end.
    #[must_use]
    pub const fn is_tied(&self) -> bool {
        !matches!(self.state, State::Loose)
    }

    /// Becomes a stream now, and what is left of its request ends with it.
    pub fn hold(&mut self, leash: &Leash) {
        self.open();
        if let State::Open(stream) = &self.state {
            stream.hold(leash);
        }
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// It turns out to be of this kind.
    pub fn set_kind(&mut self, kind: Kind) {
        self.kind = kind;
        if let State::Open(stream) = &mut self.state {
            stream.set_kind(kind);
        }
    }

    /// Resolves when it has to end. Until it is a stream, nothing wakes the task.
    pub fn poll_ended(&self, context: &mut Context<'_>) -> Poll<Reason> {
        match &self.state {
            State::Open(stream) => stream.poll_ended(context),
            State::Loose | State::Young { .. } => Poll::Pending,
        }
    }

    /// Waits for `work`, unless the session ends before. Whoever does the work wakes the task when the request [grows up](Self::grows_up).
    ///
    /// # Errors
    /// Why it ended.
    pub async fn watch<T>(&mut self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Reason> {
        let mut has_waited = false;
        poll_fn(|context| {
            if let Poll::Ready(output) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            // Nearly every request waits once, and is too young then.
            if has_waited {
                self.grow();
            }
            has_waited = true;
            self.poll_ended(context).map(Err)
        })
        .await
    }

    /// The response that refuses a request whose session ended before it was answered.
    #[must_use]
    pub fn refusal<B: From<Bytes>>(&self, reason: Reason) -> Response<B> {
        match self.admission() {
            Some(admission) => admission.refusal(reason, self.kind == Kind::Grpc),
            None => Response::new(Bytes::new().into()),
        }
    }

    /// The trailers that end a gRPC call whose session ended.
    #[must_use]
    pub fn trailers(&self, reason: Reason) -> HeaderMap {
        self.admission().map(|admission| admission.trailers(reason)).unwrap_or_default()
    }

    fn admission(&self) -> Option<&Admission> {
        match &self.state {
            State::Loose => None,
            State::Young { admission, .. } => Some(admission),
            State::Open(stream) => Some(stream.admission()),
        }
    }
}
