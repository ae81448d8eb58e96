//! What came in of a request's body.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the bytes of a body, and says when there are too many: an extension of requests whose bodies somebody counts.
#[derive(Debug)]
pub struct Intake {
    limit: u64,
    received: AtomicU64,
}

impl Intake {
    /// Nothing came in yet. `limit`: the most bytes.
    #[must_use]
    pub const fn new(limit: Option<u64>) -> Self {
        Self {
            limit: match limit {
                Some(limit) => limit,
                None => u64::MAX,
            },
            received: AtomicU64::new(0),
        }
    }

    /// Counts `bytes` more. Returns whether the body is still short enough.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let before = self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        before.saturating_add(bytes as u64) <= self.limit
    }

    /// Whether the body was too long.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.received() > self.limit
    }

    /// How many bytes came in.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
