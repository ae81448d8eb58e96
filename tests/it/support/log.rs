//! What this process logs, as JSON.

use std::{
    io,
    sync::{Mutex, Once},
};

use serde_json::Value;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to keep what is logged: requests, what becomes of upstreams, and what is worse than `info`. Tests run side by side, so look for something unique.
pub(crate) fn capture() {
    static START: Once = Once::new();
    START.call_once(|| {
        let lines = fmt::layer().json().flatten_event(true).with_writer(|| Writer);
        let filter = EnvFilter::new("warn,portcullis::access=info,portcullis::upstream=info");
        tracing_subscriber::registry().with(filter).with(lines).init();
    });
}

/// The lines that contain `text`.
pub(crate) fn lines(text: &str) -> Vec<Value> {
    let logged = String::from_utf8(LINES.lock().unwrap().clone()).unwrap();
    logged.lines().filter(|line| line.contains(text)).map(|line| serde_json::from_str(line).unwrap()).collect()
}
