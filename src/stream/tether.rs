//! A request that is under way, and becomes a stream when it lasts.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::OnceLock,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::time::{Instant, timeout_at};

use super::{Kind, Leash, OpenStream};
use crate::{gate::Admission, verdict::Reason};

/// What ties a request to the session that it was admitted for.
#[derive(Debug)]
pub struct Tether {
    /// `None`: to none, since nobody asked for a token.
    admission: Option<Admission>,
    /// Not before it lasts.
    stream: OnceLock<OpenStream>,
    kind: Kind,
}

impl Tether {
    /// The tether of a request that was admitted so, if it was.
    #[must_use]
    pub const fn of(admission: Option<Admission>, kind: Kind) -> Self {
        Self { admission, stream: OnceLock::new(), kind }
    }

    /// The tether of something that has no session.
    #[must_use]
    pub const fn loose() -> Self {
        Self::of(None, Kind::Response)
    }

    /// When it becomes a stream, unless it is one or never will be.
    #[must_use]
    pub fn grows_up(&self) -> Option<Instant> {
        let young = self.admission.as_ref().filter(|_| self.stream.get().is_none());
        young.map(|admission| admission.since() + admission.streams().grace())
    }

    /// Becomes a stream if it is old enough.
    pub fn grow(&self) {
        if self.grows_up().is_some_and(|grows_up| grows_up <= Instant::now()) {
            self.open();
        }
    }

    /// Becomes a stream now.
    pub fn open(&self) {
        if let Some(admission) = &self.admission {
            self.stream.get_or_init(|| admission.streams().open(admission, self.kind, admission.since()));
        }
    }

    /// How long what is under way may go on once the session is over.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.admission.as_ref().map_or(Duration::from_secs(1), |admission| admission.streams().grace())
    }

    /// Whether there is a session that can end.
    #[must_use]
    pub const fn is_tied(&self) -> bool {
        self.admission.is_some()
    }

    /// Becomes a stream now, and what is left of its request ends with it.
    pub fn hold(&self, leash: &Leash) {
        self.open();
        if let Some(stream) = self.stream.get() {
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
        if let Some(stream) = self.stream.get_mut() {
            stream.set_kind(kind);
        }
    }

    /// Resolves when it has to end. Until it is a stream, nothing wakes the task.
    pub fn poll_ended(&self, context: &mut Context<'_>) -> Poll<Reason> {
        self.stream.get().map_or(Poll::Pending, |stream| stream.poll_ended(context))
    }

    /// Whether it has become a stream that was not judged yet: until it is, nothing is passed on. Whoever asked whether it
    /// [ended](Self::poll_ended) is woken.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.stream.get().is_some_and(OpenStream::is_in_doubt)
    }

    /// Waits for `work`, unless the session ends before. Whoever does the work wakes the task when the request [grows up](Self::grows_up).
    ///
    /// # Errors
    /// Why it ended.
    pub async fn watch<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Reason> {
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

    /// Waits for what has to be there before the request is sent, such as a place or a connection, unless the session ends before.
    /// Whoever has waited is judged again before anything goes on. What is there already costs nothing.
    ///
    /// # Errors
    /// Why it ended.
    ///
    /// # Cancel safety
    /// That of `work`.
    pub async fn wait<T>(&self, work: impl Future<Output = T> + Send) -> Result<T, Reason> {
        let mut work = pin!(work);
        let at_once = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        match (at_once, &self.admission) {
            (Poll::Ready(output), _) => Ok(output),
            (Poll::Pending, None) => Ok(work.await),
            (Poll::Pending, Some(admission)) => {
                let output = Box::pin(self.keep_waiting(work)).await?;
                Box::pin(admission.streams().confirm(admission)).await.map(|()| output)
            }
        }
    }

    async fn keep_waiting<T>(&self, mut work: Pin<&mut (impl Future<Output = T> + Send)>) -> Result<T, Reason> {
        if let Some(grows_up) = self.grows_up()
            && let Ok(output) = timeout_at(grows_up, work.as_mut()).await
        {
            return Ok(output);
        }
        self.open();
        self.watch(work).await
    }

    /// The response that refuses a request whose session ended before it was answered.
    #[must_use]
    pub fn refusal<B: From<Bytes>>(&self, reason: Reason) -> Response<B> {
        match &self.admission {
            Some(admission) => admission.refusal(reason, self.kind == Kind::Grpc),
            None => Response::new(Bytes::new().into()),
        }
    }

    /// The trailers that end a gRPC call whose session ended.
    #[must_use]
    pub fn trailers(&self, reason: Reason) -> HeaderMap {
        self.admission.as_ref().map(|admission| admission.trailers(reason)).unwrap_or_default()
    }

    /// Who was admitted; nothing is tied to the session any more.
    #[must_use]
    pub fn into_admission(self) -> Option<Admission> {
        self.admission
    }

    /// Who was admitted.
    #[must_use]
    pub const fn admission(&self) -> Option<&Admission> {
        self.admission.as_ref()
    }
}
