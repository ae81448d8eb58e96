//! The access log: one line per request, at a target of its own, written when the response has ended.
//!
//! Nothing in a line is a secret: no query, no token, of subjects a digest and only where it is asked for. What comes from a client is
//! written in visible ASCII, whatever it was.

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, Uri, Version, header};
use tokio::time::Instant;

use super::{
    random,
    trace_context::{self, TraceId},
};
use crate::{
    gate::Admission,
    limit::{Excess, intake::Intake},
    telemetry::log::{self, AccessSettings},
    upstream::{fields::Downstream, tunnel::Traffic},
    verdict::Reason,
};

/// The longest `User-Agent` that is written in full, in bytes.
const MAX_USER_AGENT: usize = 256;

/// A request that will be logged: when its response has ended, or its client has gone before that.
#[derive(Debug)]
pub(super) struct Entry {
    settings: AccessSettings,
    method: Method,
    uri: Uri,
    version: Version,
    downstream: Arc<Downstream>,
    client: Option<IpAddr>,
    request_id: Option<HeaderValue>,
    trace_id: Option<TraceId>,
    user_agent: Option<HeaderValue>,
    begun: Instant,
    notes: Arc<Notes>,
    answer: Option<Answer>,
    sent: u64,
    is_complete: bool,
    /// What passes after the response, where another protocol is spoken.
    traffic: Option<Arc<Traffic>>,
}

/// What is noted on the way of a request: an extension of it.
#[derive(Default, Debug)]
pub(super) struct Notes {
    /// How long the upstream took to its response's header, in microseconds and one more; zero: it was not asked, or has not answered.
    upstream: AtomicU64,
    admission: OnceLock<Admission>,
    intake: OnceLock<Arc<Intake>>,
}

#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    route: Option<Arc<str>>,
    /// Why the request was refused.
    reason: Option<Reason>,
    /// Which limit it was over.
    excess: Option<Excess>,
}

impl Notes {
    /// The request goes on to the upstream.
    pub(super) fn pass(&self, admission: Option<Admission>, intake: Option<Arc<Intake>>) {
        // A request goes on once.
        let _ = admission.map(|admission| self.admission.set(admission));
        let _ = intake.map(|intake| self.intake.set(intake));
    }

    /// The header of the upstream's response is there.
    pub(super) fn answered(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX - 1);
        self.upstream.store(micros.saturating_add(1), Ordering::Relaxed);
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody waits that long")]
    fn upstream_ms(&self) -> Option<f64> {
        self.upstream.load(Ordering::Relaxed).checked_sub(1).map(|micros| micros as f64 / 1000.0)
    }
}

impl Entry {
    pub(super) fn new<B>(
        settings: AccessSettings,
        request: &mut Request<B>,
        downstream: &Arc<Downstream>,
        client: Option<IpAddr>,
        request_id: Option<HeaderValue>,
        begun: Instant,
    ) -> Self {
        let notes = Arc::new(Notes::default());
        request.extensions_mut().insert(Arc::clone(&notes));
        let fields = request.headers();
        Self {
            settings,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            downstream: Arc::clone(downstream),
            client,
            request_id,
            trace_id: trace_context::trace_id(fields),
            user_agent: fields.get(header::USER_AGENT).filter(|_| settings.user_agent).cloned(),
            begun,
            notes,
            answer: None,
            sent: 0,
            is_complete: false,
            traffic: None,
        }
    }

    /// The response's header is there.
    pub(super) fn answered<B>(&mut self, response: &Response<B>, route: Option<Arc<str>>) {
        let reason = response.extensions().get::<Reason>().copied();
        let excess = response.extensions().get::<Excess>().copied();
        self.answer = Some(Answer { status: response.status().as_u16(), route, reason, excess });
    }

    /// The response may take long: what is kept of the request is kept by itself until then, and not with all that was read with it, which
    /// may be 64 KiB.
    pub(super) fn settle(&mut self) {
        let own = |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes()).ok();
        self.user_agent = self.user_agent.take().and_then(|agent| own(&agent));
        self.request_id = self.request_id.take().and_then(|id| own(&id));
        // It was parsed from this, so that it can be again.
        self.uri = Uri::try_from(self.uri.path()).unwrap_or_default();
    }

    /// So many bytes more of the response's body were sent.
    pub(super) const fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// What is spoken now is no HTTP: its bytes count, and its end is that of the response.
    pub(super) fn follow(&mut self, traffic: Arc<Traffic>) {
        self.traffic = Some(traffic);
    }

    /// The response's body has ended.
    pub(super) const fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Whether all of the response was sent. Nobody asks for the body of some.
    fn is_complete(&self) -> bool {
        if let Some(traffic) = &self.traffic {
            return traffic.has_ended();
        }
        let bodiless = |answer: &Answer| self.method == Method::HEAD || matches!(answer.status, 204 | 304);
        self.is_complete || self.answer.as_ref().is_some_and(bodiless)
    }

    fn is_written(&self) -> bool {
        let plain = |answer: &Answer| answer.reason.is_none() && answer.excess.is_none() && answer.status < 500;
        !(self.is_complete() && self.answer.as_ref().is_some_and(plain)) || random::is_among(self.settings.sample)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_written() {
            return;
        }
        let answer = self.answer.as_ref();
        let subject = || {
            let subject = &self.notes.admission.get()?.claims().subject;
            Some(format!("{}#{:08x}", subject.issuer, subject.id.fingerprint()))
        };
        let client = self.client.map(tracing::field::display);
        let (up, down) = self.traffic.as_ref().map_or((0, 0), |traffic| (traffic.up(), traffic.down()));
        let received = self.notes.intake.get().map_or(0, |intake| intake.received());
        tracing::info!(
            target: log::ACCESS_TARGET,
            {
                http.request.method = &*visible(self.method.as_str().as_bytes()),
                // The path as it was sent; a query may hold secrets.
                url.path = &*visible(self.uri.path().as_bytes()),
                http.response.status_code = answer.map(|answer| answer.status),
                route.name = answer.and_then(|answer| answer.route.as_deref()),
                verdict = answer.and_then(|answer| answer.reason).map(Reason::code),
                limit = answer.and_then(|answer| answer.excess).map(Excess::limit),
                took_ms = self.begun.elapsed().as_secs_f64() * 1000.0,
                upstream_ms = self.notes.upstream_ms(),
                http.request.body.size = received + up,
                http.response.body.size = self.sent + down,
                network.protocol.version = version(self.version),
                client.address = client,
                network.peer.address = self.downstream.peer.to_str().unwrap_or_default(),
                subject = subject_of(self.settings.subject, subject).as_deref(),
                request.id = self.request_id.as_ref().map(|id| visible(id.as_bytes())).as_deref(),
                trace.id = self.trace_id.map(tracing::field::display),
                user_agent.original = self.user_agent.as_ref().map(user_agent).as_deref(),
                broken_off = (!self.is_complete()).then_some(true),
            },
            "request"
        );
    }
}

/// What was refused before it was a request. `code`: that of its problem.
pub(super) fn refused(peer: &HeaderValue, status: u16, code: &'static str) {
    tracing::info!(
        target: log::ACCESS_TARGET,
        {
            http.response.status_code = status,
            malformed = code,
            network.protocol.version = "1.1",
            network.peer.address = peer.to_str().unwrap_or_default(),
        },
        "request"
    );
}

/// A connection of HTTP/2 that the gate ended for what its client sent. `fault`: the name of the error.
pub(super) fn ended(peer: &HeaderValue, fault: &'static str) {
    tracing::info!(
        target: log::ACCESS_TARGET,
        {
            malformed = fault,
            network.protocol.version = "2",
            network.peer.address = peer.to_str().unwrap_or_default(),
        },
        "connection"
    );
}

fn subject_of(wanted: bool, subject: impl FnOnce() -> Option<String>) -> Option<String> {
    wanted.then(subject).flatten()
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn user_agent(value: &HeaderValue) -> Cow<'_, str> {
    let bytes = value.as_bytes();
    visible(&bytes[..bytes.len().min(MAX_USER_AGENT)])
}

/// The text in visible ASCII: whatever is none of it is escaped, so that nothing in a line looks like the end of it.
fn visible(text: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(text) {
        Ok(text) if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) => Cow::Borrowed(text),
        _ => Cow::Owned(text.escape_ascii().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;

    #[test]
    fn what_is_kept_for_long_keeps_nothing_else() {
        let read = bytes::Bytes::from([b"/a/b?c".to_vec(), vec![b'x'; 64 * 1024]].concat());
        let value = |range| HeaderValue::from_maybe_shared(read.slice(range)).unwrap();
        let mut request = Request::get(Uri::from_maybe_shared(read.slice(0..6)).unwrap()).body(()).unwrap();
        request.headers_mut().insert("user-agent", value(10..20));
        let settings = AccessSettings { user_agent: true, ..AccessSettings::default() };
        let downstream = Arc::new(Downstream::new(IpAddr::from([127, 0, 0, 1]), false, Drain::default()));
        let mut entry = Entry::new(settings, &mut request, &downstream, None, Some(value(30..40)), Instant::now());
        drop(request);
        assert!(!read.is_unique());
        entry.settle();
        assert!(read.is_unique());
        assert_eq!((entry.uri.path(), &*user_agent(entry.user_agent.as_ref().unwrap())), ("/a/b", "xxxxxxxxxx"));
    }

    #[test]
    fn whatever_a_client_sends_stays_within_its_line() {
        for (text, expected) in [
            (&b"/a%0a/b c~"[..], "/a%0a/b c~"),
            (b"a\r\nb", "a\\r\\nb"),
            (b"\x1b[31mred\x7f\0", "\\x1b[31mred\\x7f\\x00"),
            ("\u{85}\u{9b}\u{202e}é".as_bytes(), "\\xc2\\x85\\xc2\\x9b\\xe2\\x80\\xae\\xc3\\xa9"),
            (b"\xff\t", "\\xff\\t"),
        ] {
            assert_eq!(visible(text), expected);
        }
    }

    /// One request as the text log writes it.
    fn line(request: &mut Request<()>, id: &str) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let text = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(text, || {
            let settings = AccessSettings { user_agent: true, ..AccessSettings::default() };
            let downstream = Arc::new(Downstream::new(IpAddr::from([127, 0, 0, 1]), false, Drain::default()));
            let id = HeaderValue::try_from(id).ok();
            drop(Entry::new(settings, request, &downstream, None, id, Instant::now()));
        });
        let lines = lines.0.lock().unwrap();
        String::from_utf8(lines.clone()).unwrap()
    }

    #[test]
    fn a_request_is_one_line_of_text_whatever_it_says() {
        let agents = [&b"plain"[..], b"a\tb\x1b", b"\xc2\x9b\xe2\x80\xa8\xff", b"\" broken_off=true \""];
        for agent in agents {
            let Ok(agent) = HeaderValue::from_bytes(agent) else { continue };
            let mut request = Request::get("/a%0d%0aINFO/\u{85}\u{2028}").header("user-agent", agent).body(()).unwrap();
            let line = line(&mut request, "id");
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            let visible = |char: char| matches!(char, ' '..='~');
            assert!(line.trim_end_matches('\n').chars().all(visible), "{line:?}");
            assert_eq!(line.matches(" broken_off=true").count() - line.matches("\\\" broken_off=true").count(), 1);
        }
    }
}
