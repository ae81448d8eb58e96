//! Whoever waits for a response, by whatever version of HTTP it comes.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    task::{JoinError, JoinHandle},
    time::Instant,
};

use super::interim::Interim;

/// How many interim responses may come before the final one.
pub(super) const MAX_INTERIM: usize = 64;

/// How long a body waits for `100 Continue`: some upstreams do not know of it (RFC 9110 §10.1.1).
pub(super) const CONTINUE: Duration = Duration::from_secs(1);

/// Whoever waits for a response.
#[derive(Clone, Default, Debug)]
pub struct Waiting {
    /// When they want to be woken once, whether anything came or not.
    pub look: Option<Instant>,
    /// Where interim responses go that are theirs (RFC 9110 §15.2): all but `100`, which they get from whoever takes their body, and
    /// `101`.
    pub interim: Option<Interim>,
}

/// The task that sends the rest of a request whose response has begun. Dropped, it sends no more.
#[derive(Debug)]
pub(super) struct Sending<F>(Option<JoinHandle<Result<(), F>>>);

impl<F: Send + 'static> Sending<F> {
    /// Has it sent by a task of its own: both sides may go on for as long as they like, and neither may hold up the other.
    pub(super) fn spawn(rest: impl Future<Output = Result<(), F>> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(rest)))
    }

    /// Fails when the rest of the request could not be sent, through no fault of the upstream's.
    pub(super) fn check(&mut self, context: &mut Context<'_>, panicked: impl FnOnce(JoinError) -> F) -> Result<(), F> {
        let Some(task) = &mut self.0 else { return Ok(()) };
        let Poll::Ready(result) = Pin::new(task).poll(context) else { return Ok(()) };
        self.0 = None;
        result.unwrap_or_else(|error| Err(panicked(error)))
    }
}

impl<F> Drop for Sending<F> {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
