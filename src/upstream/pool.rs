//! Connections to one upstream.
//!
//! HTTP/1.1: the connection used last is used next, so that as few as possible are kept. One that the upstream closed while
//! it was unused is never used; if it closes just as a request goes out, the request comes back unsent and takes another.
//! HTTP/2: one connection that all requests share, replaced when it closes.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::JoinHandle;

use super::{UpstreamSettings, body::RequestBody, socket::Socket, transport::ConnectError};

/// How many unused connections are looked at before a new one is made: the last few may still be finishing.
const LOOK_AT: usize = 4;

/// The largest response header, in bytes.
const MAX_RESPONSE_HEADER: u32 = 64 * 1024;

/// How much of one response may be on its way to the gate over HTTP/2, and of all: one whose client is slow to read it must not
/// hold up the others, so only the former is limited.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How much of one request is held for an upstream that is slow to read it over HTTP/2.
const SEND_BUFFER: usize = 64 * 1024;

/// HTTP/1.1 connections.
#[derive(Debug)]
pub struct Http1Pool {
    settings: UpstreamSettings,
    unused: Mutex<VecDeque<Unused>>,
}

#[derive(Debug)]
struct Unused {
    connection: Connection,
    since: Instant,
}

#[derive(Debug)]
struct Connection {
    sender: http1::SendRequest<RequestBody>,
    /// Ends with the connection.
    task: JoinHandle<()>,
}

/// A connection in use. Dropping it closes it; giving it back keeps it.
#[derive(Debug)]
pub struct Lease {
    connection: Connection,
    pool: Arc<Http1Pool>,
    /// Whether it served a request before.
    pub(super) reused: bool,
}

impl Http1Pool {
    /// No connections yet.
    #[must_use]
    pub const fn new(settings: UpstreamSettings) -> Self {
        Self { settings, unused: Mutex::new(VecDeque::new()) }
    }

    /// An unused connection, or a new one.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, ConnectError> {
        if let Some(connection) = self.take_unused() {
            return Ok(Lease { connection, pool: Arc::clone(self), reused: true });
        }
        self.connect().await
    }

    /// A new connection.
    pub(super) async fn connect(self: &Arc<Self>) -> Result<Lease, ConnectError> {
        let stream = self.settings.transport.connect(self.settings.connect_timeout).await?;
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_RESPONSE_HEADER as usize)
            .handshake(TokioIo::new(Socket::new(stream)))
            .await
            .map_err(|source| ConnectError::Handshake { upstream: self.settings.transport.to_string(), source })?;
        // It ends with its sender, which a lease or this pool owns.
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection to upstream ended");
            }
        });
        Ok(Lease { connection: Connection { sender, task }, pool: Arc::clone(self), reused: false })
    }

    /// Lets go of connections that were unused for too long.
    pub fn reap(&self) {
        let mut unused = self.unused();
        while unused.front().is_some_and(|oldest| self.is_too_old(oldest) || oldest.connection.sender.is_closed()) {
            unused.pop_front();
        }
    }

    fn take_unused(&self) -> Option<Connection> {
        let mut unused = self.unused();
        let mut looked_at = 0;
        let mut index = unused.len();
        while index > 0 && looked_at < LOOK_AT {
            index -= 1;
            looked_at += 1;
            let candidate = &unused[index];
            if candidate.connection.sender.is_closed() || self.is_too_old(candidate) {
                unused.remove(index);
            } else if candidate.connection.sender.is_ready() {
                return unused.remove(index).map(|found| found.connection);
            }
        }
        None
    }

    fn is_too_old(&self, unused: &Unused) -> bool {
        unused.since.elapsed() > self.settings.keep_alive
    }

    fn unused(&self) -> MutexGuard<'_, VecDeque<Unused>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came back instead of a response.
pub(super) type Unanswered = TrySendError<Request<RequestBody>>;

impl Lease {
    /// Sends a request: the header of the response, and the lease while its connection lasts.
    pub(super) async fn send(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Option<Self>), Unanswered> {
        let mut response = pin!(self.connection.sender.try_send_request(request));
        tokio::select! {
            biased;
            response = response.as_mut() => return response.map(|response| (response, Some(self))),
            _ = &mut self.connection.task => {}
        }
        // The connection ended. A request that it no longer took is given back when its sender goes.
        drop(self);
        response.await.map(|response| (response, None))
    }

    /// The connection may serve another request. It may yet be finishing this one.
    pub(super) fn give_back(self) {
        if self.connection.sender.is_closed() {
            return;
        }
        let mut unused = self.pool.unused();
        if unused.len() < self.pool.settings.max_idle {
            unused.push_back(Unused { connection: self.connection, since: Instant::now() });
        }
    }
}

/// The HTTP/2 connection.
#[derive(Debug)]
pub struct Http2Pool {
    settings: UpstreamSettings,
    shared: Mutex<Option<http2::SendRequest<RequestBody>>>,
}

impl Http2Pool {
    /// No connection yet.
    #[must_use]
    pub const fn new(settings: UpstreamSettings) -> Self {
        Self { settings, shared: Mutex::new(None) }
    }

    /// The connection that is there, if it is open.
    pub(super) fn shared_sender(&self) -> Option<http2::SendRequest<RequestBody>> {
        let mut shared = self.shared();
        if shared.as_ref().is_some_and(http2::SendRequest::is_closed) {
            *shared = None;
        }
        shared.clone()
    }

    /// Lets go of a connection that is closed. A request that was handed to it in its last moment comes back when no sender is left.
    pub fn reap(&self) {
        drop(self.shared_sender());
    }

    /// A new connection, which takes the place of the old one. Several may be made at once at first; the last one stays.
    pub(super) async fn connect(&self) -> Result<http2::SendRequest<RequestBody>, ConnectError> {
        let stream = self.settings.transport.connect(self.settings.connect_timeout).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.settings.keep_alive)
            .max_header_list_size(MAX_RESPONSE_HEADER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            // Clients that break off make the gate reset their streams, as many as they like.
            .max_local_error_reset_streams(None)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Handshake { upstream: self.settings.transport.to_string(), source })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection to upstream ended");
            }
        });
        *self.shared() = Some(sender.clone());
        Ok(sender)
    }

    fn shared(&self) -> MutexGuard<'_, Option<http2::SendRequest<RequestBody>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
