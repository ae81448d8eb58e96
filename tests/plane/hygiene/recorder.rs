//! An upstream that reads strictly, and keeps what it read byte by byte.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::strict::{Read, Step, read};
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
                let mut bytes = Vec::new();
                loop {
                    match read(&bytes) {
                        Step::Request(request, length) => {
                            let raw: Vec<u8> = bytes.drain(..length).collect();
                            let body = if request.method == "HEAD" { "" } else { "ok" };
                            sink.lock().unwrap().requests.push((*request, raw));
                            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
                            if stream.write_all(answer.as_bytes()).await.is_err() {
                                return;
                            }
                            continue;
                        }
                        Step::Incomplete => {}
                        Step::Malformed(why) => {
                            let fault = format!("{why}: {}", bytes.escape_ascii());
                            sink.lock().unwrap().faults.push(fault);
                            return;
                        }
                    }
                    if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                        return;
                    }
                }
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
