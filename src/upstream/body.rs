//! Bodies, streamed both ways with backpressure: a frame is read only when the other side asks for it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    endpoint::InFlight,
    fields,
    http1::{ResponseBody, body::hint},
    http2,
    transport::Stream,
};
use crate::{
    gate::identity::ReservedNames,
    incoming::Incoming,
    limit::intake::Intake,
    stream::{Boundaries, Kind, Leash, Tether},
    verdict::Reason,
};

/// What went wrong with a body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Fails a body that stands still. The timer exists only for bodies that had to wait at all.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    /// When it must have ended, however it gets on.
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the wait that is under way has been too long.
    until: Option<Instant>,
}

impl Patience {
    const fn new(limit: Duration) -> Self {
        Self { limit, deadline: None, sleep: None, until: None }
    }

    const fn within(limits: Limits) -> Self {
        Self { limit: limits.idle, deadline: limits.deadline, sleep: None, until: None }
    }

    /// What was waited for has come.
    const fn progress(&mut self) {
        self.until = None;
    }

    /// Passes progress on, and turns too long a wait into an error.
    fn watch<T>(&mut self, context: &mut Context<'_>, progress: Poll<T>) -> Poll<io::Result<T>> {
        if let Poll::Ready(value) = progress {
            self.progress();
            return Poll::Ready(Ok(value));
        }
        self.poll_until(context, None).map(Err)
    }

    /// Waits until it is too long, or until `earlier`.
    fn poll_until(&mut self, context: &mut Context<'_>, earlier: Option<Instant>) -> Poll<io::Error> {
        let limit = self.limit;
        let is_new = self.until.is_none();
        let until = *self.until.get_or_insert_with(|| {
            let until = Instant::now() + limit;
            self.deadline.map_or(until, |deadline| deadline.min(until))
        });
        let wake = earlier.map_or(until, |earlier| earlier.min(until));
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if is_new || sleep.deadline() != wake {
                    sleep.as_mut().reset(wake);
                }
                sleep
            }
            None => self.sleep.insert(Box::pin(sleep_until(wake))),
        };
        ready!(sleep.as_mut().poll(context));
        let stalled = || io::Error::new(io::ErrorKind::TimedOut, "body stood still for too long");
        Poll::Ready(self.overtime().unwrap_or_else(stalled))
    }

    /// Whether it took too long in all, however it got on.
    fn overtime(&self) -> Option<io::Error> {
        let is_over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        is_over.then(|| io::Error::new(io::ErrorKind::TimedOut, "the request took too long in all"))
    }
}

/// How long a response's body may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Standing still.
    pub(super) idle: Duration,
    /// In all.
    pub(super) deadline: Option<Instant>,
}

/// How a request's body gets on, for those who wait for the response.
#[derive(Debug)]
pub(super) struct Upload {
    begun: std::time::Instant,
    /// When a part of it was last passed on, in milliseconds from `begun`, or one of the constants below.
    state: AtomicU64,
}

/// The client is waited for.
const WAITS: u64 = u64::MAX;
/// The client took too long.
const STALLED: u64 = u64::MAX - 1;
/// The client broke off, or broke HTTP.
const BROKEN: u64 = u64::MAX - 2;

/// What became of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The client took too long.
    Stalled,
    /// The client broke off, or broke HTTP.
    Broken,
}

impl Upload {
    fn new() -> Arc<Self> {
        Arc::new(Self { begun: std::time::Instant::now(), state: AtomicU64::new(0) })
    }

    /// How long the upstream has been at it alone: no time at all while the client is waited for.
    pub(super) fn upstream_since(&self) -> Duration {
        match self.state.load(Ordering::Relaxed) {
            WAITS | STALLED | BROKEN => Duration::ZERO,
            since => self.begun.elapsed().saturating_sub(Duration::from_millis(since)),
        }
    }

    /// What the client did wrong.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self.state.load(Ordering::Relaxed) {
            STALLED => Some(Fault::Stalled),
            BROKEN => Some(Fault::Broken),
            _ => None,
        }
    }

    /// It is not asked for yet, and its time has not begun.
    pub(super) fn hold(&self) {
        self.set(WAITS);
    }

    /// The upstream is waited for from now on.
    pub(super) fn progress(&self) {
        self.set(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or_default());
    }

    fn set(&self, state: u64) {
        self.state.store(state, Ordering::Relaxed);
    }
}

/// The body of a request on its way to the upstream. By default there is none, as most requests have none.
#[derive(Default, Debug)]
pub struct RequestBody(Option<Box<Left>>);

/// What is left of a body.
#[derive(Default, Debug)]
struct Left {
    /// What was taken off it, and put back.
    first: Option<Bytes>,
    streamed: Option<Streamed>,
}

#[derive(Debug)]
struct Streamed {
    incoming: Incoming,
    reserved: ReservedNames,
    patience: Patience,
    upload: Arc<Upload>,
    intake: Option<Arc<Intake>>,
    leash: Option<Leash>,
}

impl RequestBody {
    /// Passes `incoming` on, without trailers that only the gate may set.
    #[must_use]
    pub fn new(incoming: Incoming, reserved: &ReservedNames, idle_timeout: Duration) -> Self {
        let left = (!incoming.is_end_stream()).then(|| {
            let streamed = Streamed {
                incoming,
                reserved: reserved.clone(),
                patience: Patience::new(idle_timeout),
                upload: Upload::new(),
                intake: None,
                leash: None,
            };
            Box::new(Left { first: None, streamed: Some(streamed) })
        });
        Self(left)
    }

    fn streamed(&self) -> Option<&Streamed> {
        self.0.as_ref()?.streamed.as_ref()
    }

    fn streamed_mut(&mut self) -> Option<&mut Streamed> {
        self.0.as_mut()?.streamed.as_mut()
    }

    /// Puts back what was taken off it.
    pub(super) fn put_back(&mut self, first: Option<Bytes>) {
        if first.is_some() {
            self.0.get_or_insert_default().first = first;
        }
    }

    /// Counted by `intake`, and broken off when it says that there is too much.
    #[must_use]
    pub(super) fn counted(mut self, intake: Option<Arc<Intake>>) -> Self {
        if let Some(streamed) = self.streamed_mut() {
            streamed.intake = intake;
        }
        self
    }

    /// Broken off when the session of its request ends.
    #[must_use]
    pub(super) fn leashed(mut self, leash: Option<Leash>) -> Self {
        if let Some(streamed) = self.streamed_mut() {
            streamed.leash = leash;
        }
        self
    }

    /// Whether what was taken off it may still go out.
    ///
    /// # Errors
    /// The session of its request has ended.
    pub(super) fn check(&self) -> Result<(), BodyError> {
        self.streamed().map_or(Ok(()), Streamed::check)
    }

    /// How it gets on; `None`: it is empty.
    pub(super) fn upload(&self) -> Option<Arc<Upload>> {
        self.streamed().map(|streamed| Arc::clone(&streamed.upload))
    }
}

impl Streamed {
    fn check(&self) -> Result<(), BodyError> {
        if self.leash.as_ref().is_some_and(Leash::has_ended) {
            self.upload.set(BROKEN);
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "session has ended").into());
        }
        Ok(())
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(ended) = self.check() {
            return Poll::Ready(Some(Err(ended)));
        }
        let progress = Pin::new(&mut self.incoming).poll_frame(context);
        let watched = self.patience.watch(context, progress);
        let Poll::Ready(watched) = watched else {
            self.upload.set(WAITS);
            return Poll::Pending;
        };
        let frame = match watched {
            Err(stalled) => {
                self.upload.set(STALLED);
                return Poll::Ready(Some(Err(stalled.into())));
            }
            Ok(Some(Err(error))) => {
                self.upload.set(BROKEN);
                return Poll::Ready(Some(Err(error)));
            }
            Ok(frame) => frame,
        };
        if let (Some(intake), Some(Ok(frame))) = (&self.intake, &frame)
            && !intake.take(frame.data_ref().map_or(0, Bytes::len))
        {
            self.upload.set(BROKEN);
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::FileTooLarge, "body is too long").into())));
        }
        self.upload.progress();
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame?;
            if let Some(trailers) = frame.trailers_mut() {
                fields::strip_trailers(trailers, &self.reserved);
            }
            Ok(frame)
        }))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(Left { first, streamed }) = self.0.as_deref_mut() else { return Poll::Ready(None) };
        if let Some(first) = first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        streamed.as_mut().map_or(Poll::Ready(None), |streamed| streamed.poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        let has_ended = |streamed: &Streamed| streamed.incoming.is_end_stream();
        self.0.as_ref().is_none_or(|left| left.first.is_none() && left.streamed.as_ref().is_none_or(has_ended))
    }

    fn size_hint(&self) -> SizeHint {
        let Some(Left { first, streamed }) = self.0.as_deref() else { return SizeHint::with_exact(0) };
        let first = first.as_ref().map_or(0, |first| first.len() as u64);
        let rest = streamed.as_ref().map_or_else(|| SizeHint::with_exact(0), |streamed| streamed.incoming.size_hint());
        match rest.exact() {
            Some(rest) => SizeHint::with_exact(first + rest),
            None => SizeHint::default(),
        }
    }
}

/// The body of a response on its way to the client.
#[derive(Debug)]
pub enum Body {
    /// One of the gate's own.
    Own(Option<Bytes>),
    /// One from an upstream. Most are there with their header, and become one of the others: those that are not have a box.
    Upstream(Box<UpstreamBody>),
}

/// The body of an upstream's response. Its connection goes back to the pool when the body has ended, and not before.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Inbound,
    patience: Patience,
    tether: Tether,
    /// Whether a frame has been passed on: bodies that have only one are not looked at.
    begun: bool,
    ending: Ending,
    messages: Boundaries,
}

/// How far the body of a response is from its end, when its session is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// It is not.
    No,
    /// The message that is under way is passed on, until this moment at most.
    Message(Reason, Instant),
    /// Nothing more comes.
    Over,
}

/// How long the rest of a message may take whose session is over.
const REST_OF_MESSAGE: Duration = Duration::from_millis(250);

/// The session ended for which the response was made.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the session ended: {}", .0.code())]
struct SessionOver(Reason);

#[derive(Debug)]
enum Inbound {
    Http1 { body: ResponseBody<Stream>, in_flight: InFlight },
    Http2 { body: http2::ResponseBody, _in_flight: InFlight },
}

impl Body {
    /// The body of a response over HTTP/1.1, whose header came `now`. Its connection is kept when it can serve another request.
    pub(super) fn http1(mut body: ResponseBody<Stream>, in_flight: InFlight, limits: Limits, now: Instant) -> Self {
        // Most bodies came with their header.
        if let Some(whole) = body.take_whole() {
            in_flight.endpoint().keep(body.take_connection(), now);
            return whole.into();
        }
        Self::Upstream(Box::new(UpstreamBody::new(Inbound::Http1 { body, in_flight }, limits)))
    }

    /// The body of a response over HTTP/2.
    pub(super) fn http2(body: http2::ResponseBody, in_flight: InFlight, limits: Limits) -> Self {
        Self::Upstream(Box::new(UpstreamBody::new(Inbound::Http2 { body, _in_flight: in_flight }, limits)))
    }

    /// When it must have ended, however its client gets on; `None`: it may take any time, or is there already.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Own(_) => None,
            Self::Upstream(body) => body.patience.deadline,
        }
    }

    /// It ends with the session of its request.
    pub(super) fn tie(&mut self, tether: Tether) {
        if let Self::Upstream(body) = self {
            body.tether = tether;
        }
    }
}

impl Inbound {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Http1 { body, in_flight } => {
                let frame = ready!(body.poll_frame(context));
                if body.is_end_stream() {
                    in_flight.endpoint().keep(body.take_connection(), Instant::now());
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Http2 { body, .. } => {
                let frame = ready!(body.poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1 { body, .. } => body.is_end_stream(),
            Self::Http2 { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1 { body, .. } => hint(body.size_hint()),
            Self::Http2 { body, .. } => body.size_hint(),
        }
    }
}

impl UpstreamBody {
    const fn new(incoming: Inbound, limits: Limits) -> Self {
        Self {
            incoming,
            patience: Patience::within(limits),
            tether: Tether::loose(),
            begun: false,
            ending: Ending::No,
            messages: Boundaries::new(),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ending == Ending::Over || self.incoming.is_end_stream()
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.begun {
            self.tether.grow();
        }
        loop {
            match self.ending {
                Ending::No => {
                    if let Poll::Ready(reason) = self.tether.poll_ended(context) {
                        let rest = REST_OF_MESSAGE.min(self.tether.grace());
                        self.ending = Ending::Message(reason, Instant::now() + rest);
                        continue;
                    }
                    if self.tether.is_in_doubt() {
                        return Poll::Pending;
                    }
                }
                Ending::Message(reason, until) => {
                    let is_whole = self.tether.kind() != Kind::Grpc || self.messages.is_between();
                    if is_whole || until <= Instant::now() {
                        return self.end(reason);
                    }
                }
                Ending::Over => return Poll::Ready(None),
            }
            if let Poll::Ready(frame) = self.incoming.poll_frame(context) {
                self.patience.progress();
                if let Some(overtime) = self.patience.overtime() {
                    return Poll::Ready(Some(Err(overtime.into())));
                }
                return Poll::Ready(frame.map(|frame| frame.map(|frame| self.passed_on(frame))));
            }
            let earlier = match self.ending {
                Ending::Message(_, until) => Some(until),
                _ => self.tether.grows_up(),
            };
            let stalled = ready!(self.patience.poll_until(context, earlier));
            if earlier.is_none_or(|earlier| earlier > Instant::now()) {
                return Poll::Ready(Some(Err(stalled.into())));
            }
            self.tether.grow();
        }
    }

    /// A frame that goes on to the client: all of it, unless the session is over and another message begins in it.
    fn passed_on(&mut self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        self.begun = true;
        if self.tether.kind() == Kind::Grpc
            && let Some(data) = frame.data_mut()
        {
            let whole = self.messages.follow(data);
            if let (Ending::Message(..), Some(whole)) = (self.ending, whole) {
                data.truncate(whole);
                self.messages = Boundaries::new();
            }
        }
        frame
    }

    /// Ends in the way that the protocol has for it. A response that is not complete must not look as if it were, but for one that never is.
    fn end(&mut self, reason: Reason) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.ending = Ending::Over;
        match self.tether.kind() {
            Kind::EventStream if self.incoming.size_hint().exact().is_none() => Poll::Ready(None),
            Kind::Grpc if self.messages.is_between() => {
                Poll::Ready(Some(Ok(Frame::trailers(self.tether.trailers(reason)))))
            }
            _ => Poll::Ready(Some(Err(SessionOver(reason).into()))),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Own((!bytes.is_empty()).then_some(bytes))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
