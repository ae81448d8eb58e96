//! Whether a client is still there: it is asked when nothing was heard of it for long (RFC 9113 §6.7).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::{seldom::Seldom, server::patience::Progress};

/// Asks, and waits for an answer.
#[derive(Debug)]
pub(super) struct Liveness {
    progress: Arc<Progress>,
    /// After how much silence it is asked.
    interval: Duration,
    /// How long it may take to answer.
    patience: Duration,
    timer: Seldom<Pin<Box<Sleep>>>,
    /// How often something had come when the timer was set.
    heard: u64,
    is_asked: bool,
}

impl Liveness {
    pub(super) fn new(progress: Arc<Progress>, interval: Duration, patience: Duration) -> Self {
        let timer = Seldom::new(Box::pin(sleep(interval)));
        Self { progress, interval, patience, timer, heard: 0, is_asked: false }
    }

    /// Whether nothing came of it, not even an answer. `ask` sends a `PING`.
    pub(super) fn poll_gone(&mut self, context: &mut Context<'_>, ask: impl Fn()) -> Poll<()> {
        while Pin::new(&mut self.timer).poll(context).is_ready() {
            let heard = self.progress.heard();
            let is_silent = heard == self.heard;
            self.heard = heard;
            if is_silent && self.is_asked {
                return Poll::Ready(());
            }
            self.is_asked = is_silent;
            if is_silent {
                ask();
            }
            let wait = if is_silent { self.patience } else { self.interval };
            self.timer.inner_mut().as_mut().reset(Instant::now() + wait);
        }
        Poll::Pending
    }
}
