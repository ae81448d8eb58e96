//! An upstream that reads strictly, and keeps what it read byte by byte.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use super::strict::{Read, serve};
use crate::support::upstream::RawUpstream;

/// What came, over all connections.
#[derive(Default)]
struct Kept {
    requests: Vec<(Read, Vec<u8>)>,
    faults: Vec<String>,
}

/// Answers every request `200`, with `ok` as body.
pub(super) struct Recorder {
    upstream: RawUpstream,
    kept: Arc<Mutex<Kept>>,
}

impl Recorder {
    pub(super) async fn start() -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let sink = Arc::clone(&kept);
        let upstream = RawUpstream::start(move |mut stream, _| {
            let sink = Arc::clone(&sink);
            async move {
                serve(&mut stream, |came| {
                    let mut kept = sink.lock().unwrap();
                    match came {
                        Ok(request) => kept.requests.push(request),
                        Err(fault) => kept.faults.push(fault),
                    }
                })
                .await;
            }
        })
        .await;
        Self { upstream, kept }
    }

    /// A route to it, with further settings.
    pub(super) fn route(&self, settings: &str) -> String {
        self.upstream.route(settings)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// What came since this was last asked: as it reads, and byte by byte. What came malformed is an error.
    #[track_caller]
    pub(super) fn take(&self) -> Vec<(Read, Vec<u8>)> {
        let mut kept = self.kept.lock().unwrap();
        assert!(kept.faults.is_empty(), "the upstream got {:?}", kept.faults);
        std::mem::take(&mut kept.requests)
    }
}
