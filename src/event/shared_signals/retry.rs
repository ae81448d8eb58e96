//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Waits that double, each of them a random part shorter, so that many who failed together do not come back together.
#[derive(Debug)]
pub(super) struct Retry(Duration);

impl Default for Retry {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Retry {
    /// The wait after another failure; not less than the other side asks for.
    pub(super) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST);
        jittered(wait).max(asked.unwrap_or_default())
    }
}

/// Up to half shorter.
pub(super) fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, which is no reason to stop.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    wait.saturating_sub((wait / 2).mul_f64(f64::from(byte[0]) / 256.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit() {
        let mut retry = Retry::default();
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            let (wait, longest) = (retry.wait(None), Duration::from_secs(expected));
            assert!(wait <= longest && wait >= longest / 2, "{wait:?} is not about {longest:?}");
        }
        assert_eq!(Retry::default().wait(Some(Duration::from_secs(90))), Duration::from_secs(90));
    }
}
