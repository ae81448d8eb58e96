//! An Auth0 tenant on a loopback port: the parts of it that the gate asks, with their rules.
//!
//! What Auth0 documents is enforced: credentials and scopes, the rate limit and its fields, checkpoint and search mode of the log,
//! offsets and connections of the Events API, percent-encoded user ids. On demand it fails.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::percent_decode_str;
use portcullis::clock::{Clock, Timestamp};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

/// The machine-to-machine application of the tenant.
pub(crate) const CLIENT_ID: &str = "gate-m2m";
/// Its secret.
pub(crate) const CLIENT_SECRET: &str = "s3cr3t+of/the=gate";

type Body = BoxBody<Bytes, io::Error>;

/// A tenant. Dropped, it closes its port and all connections.
pub(crate) struct Auth0 {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    this: Weak<Self>,
    base: String,
    state: Mutex<State>,
}

/// A request, as the tenant got it.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "not everybody looks at everything")]
pub(crate) struct Call {
    pub(crate) at: Instant,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Value,
    pub(crate) status: StatusCode,
}

/// How a request fails.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// With this status, and the error body that goes with it.
    Status(u16),
    /// It is answered as it should be, but so much later.
    Delay(Duration),
    /// It is never answered.
    #[allow(dead_code, reason = "for those who have little patience")]
    Hang,
    /// The connection ends in the middle of the body.
    CutBody,
    /// The body ends in the middle, as if it were whole.
    Truncate,
    /// The body is something else.
    Garbage(&'static str),
}

/// The rate limit of the Management API: a token bucket.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) burst: u32,
    pub(crate) per_second: f64,
    /// Whether a 429 says `Retry-After`; it always says `x-ratelimit-reset`.
    pub(crate) retry_after: bool,
}

/// What goes through an open event stream.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Bytes(Bytes),
    /// After a pause.
    Pause(Duration),
    /// The stream ends in order.
    End,
    /// The connection breaks.
    Cut,
}

impl Piece {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Bytes(text.into().into())
    }
}

struct State {
    scopes: BTreeSet<&'static str>,
    tokens: BTreeSet<String>,
    token_lifetime: Duration,
    issued: usize,
    limit: Limit,
    bucket: f64,
    filled_at: Instant,
    /// The time that the last 429 named.
    closed_until: Option<SystemTime>,
    violations: usize,
    faults: VecDeque<(&'static str, Fault)>,
    calls: Vec<Call>,
    logs: BTreeMap<String, Value>,
    next_log: u64,
    events: Vec<(u64, Timestamp, Value)>,
    next_event: u64,
    /// Offsets below are expired.
    kept_from: u64,
    heartbeat: Duration,
    stream_lifetime: Duration,
    max_streams: usize,
    streams: Vec<mpsc::Sender<Piece>>,
    scripts: VecDeque<Vec<Piece>>,
}

impl Auth0 {
    /// A tenant with an empty log, and one application that may do everything that has been thought of here.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            scopes: [
                "read:logs",
                "read:logs_users",
                "read:events",
                "read:users",
                "update:users",
                "read:sessions",
                "delete:sessions",
                "delete:refresh_tokens",
            ]
            .into(),
            tokens: BTreeSet::new(),
            token_lifetime: Duration::from_secs(86_400),
            issued: 0,
            limit: Limit { burst: 1000, per_second: 1000.0, retry_after: false },
            bucket: 1000.0,
            filled_at: Instant::now(),
            closed_until: None,
            violations: 0,
            faults: VecDeque::new(),
            calls: Vec::new(),
            logs: BTreeMap::new(),
            next_log: 1,
            events: Vec::new(),
            next_event: 1,
            kept_from: 0,
            heartbeat: Duration::from_millis(200),
            stream_lifetime: Duration::from_secs(300),
            max_streams: 1,
            streams: Vec::new(),
            scripts: VecDeque::new(),
        };
        let base = format!("http://{address}");
        let shared = Arc::new_cyclic(|this| Shared { this: this.clone(), base, state: Mutex::new(state) });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self { shared, _tasks: tasks }
    }

    /// `http://<address>`
    pub(crate) fn base(&self) -> &str {
        &self.shared.base
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// The application has these scopes and no others from now on.
    pub(crate) fn grant(&self, scopes: &[&'static str]) {
        self.state().scopes = scopes.iter().copied().collect();
    }

    /// Tokens from now on live so long.
    pub(crate) fn set_token_lifetime(&self, lifetime: Duration) {
        self.state().token_lifetime = lifetime;
    }

    /// No token that was issued is good any more.
    pub(crate) fn revoke_tokens(&self) {
        self.state().tokens.clear();
    }

    /// How many tokens were issued.
    pub(crate) fn tokens_issued(&self) -> usize {
        self.state().issued
    }

    /// The limit from now on; the bucket is full.
    pub(crate) fn limit(&self, limit: Limit) {
        let mut state = self.state();
        state.bucket = f64::from(limit.burst);
        state.filled_at = Instant::now();
        state.limit = limit;
    }

    /// Somebody else takes so much of the limit.
    pub(crate) fn take_from_limit(&self, tokens: u32) {
        self.state().refill(Instant::now());
        self.state().bucket -= f64::from(tokens);
    }

    /// Requests that came before the time that a 429 had named.
    pub(crate) fn violations(&self) -> usize {
        self.state().violations
    }

    /// The next request whose path begins so fails like this. Faults are used up in their order.
    pub(crate) fn fail(&self, path: &'static str, fault: Fault) {
        self.state().faults.push_back((path, fault));
    }

    /// How many faults are not used up yet.
    pub(crate) fn faults_left(&self) -> usize {
        self.state().faults.len()
    }

    /// All requests so far whose path begins so.
    pub(crate) fn calls(&self, path: &str) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.target.starts_with(path)).cloned().collect()
    }

    /// The id of a log record that is written later than those after it.
    pub(crate) fn next_log_id(&self) -> String {
        let mut state = self.state();
        state.next_log += 1;
        format!("90020261126{:045}", state.next_log)
    }

    /// Writes a record to the log; what is not given of `type`, `date` and `log_id` is filled in. Its id.
    pub(crate) fn log(&self, record: Value) -> String {
        let id = self.next_log_id();
        self.log_as(&id, record);
        id
    }

    /// The same with an id that was given out before.
    pub(crate) fn log_as(&self, id: &str, mut record: Value) {
        for (name, value) in
            [("date", json!(Clock::System.now().to_string())), ("log_id", json!(id)), ("_id", json!(id))]
        {
            record.as_object_mut().unwrap().entry(name).or_insert(value);
        }
        self.state().logs.insert(id.to_owned(), record);
    }

    /// A user logged out.
    pub(crate) fn log_out(&self, sub: &str, session: &str) -> String {
        self.log(logout(sub, session))
    }

    /// The log no longer has what is older than this record.
    pub(crate) fn forget_logs_before(&self, id: &str) {
        let mut state = self.state();
        state.logs = state.logs.split_off(id);
    }

    /// Publishes an event to the streams; `id` and `time` are filled in. Its offset.
    pub(crate) fn publish(&self, kind: &str, object: Value) -> String {
        let number = self.state().next_event;
        let event = json!({
            "specversion": "1.0",
            "type": kind,
            "source": "urn:auth0:acme.eu.auth0.com",
            "id": format!("evt_{number:022}"),
            "time": Clock::System.now().to_string(),
            "data": { "object": object },
            "a0tenant": "acme",
            "a0stream": "est_0000000000000000000001",
        });
        self.publish_event(event)
    }

    /// Publishes this event as it is.
    pub(crate) fn publish_event(&self, event: Value) -> String {
        let mut state = self.state();
        let number = state.next_event;
        state.next_event += 1;
        let time = event["time"].as_str().and_then(|time| time.parse().ok()).unwrap_or_else(|| Clock::System.now());
        state.events.push((number, time, event));
        offset(number)
    }

    /// Offsets before the next event are expired, and the events are gone.
    pub(crate) fn expire_offsets(&self) {
        let mut state = self.state();
        state.kept_from = state.next_event;
    }

    /// Connections that are made from now on are closed after so long.
    pub(crate) fn set_stream_lifetime(&self, lifetime: Duration) {
        self.state().stream_lifetime = lifetime;
    }

    /// How many event streams are open.
    pub(crate) fn open_streams(&self) -> usize {
        let mut state = self.state();
        state.streams.retain(|stream| !stream.is_closed());
        state.streams.len()
    }

    /// Sends this through the streams that are open.
    pub(crate) fn send(&self, piece: &Piece) {
        for stream in &self.state().streams {
            stream.try_send(piece.clone()).unwrap();
        }
    }

    /// The next connection gets exactly this, and nothing else.
    pub(crate) fn script(&self, pieces: Vec<Piece>) {
        self.state().scripts.push_back(pieces);
    }
}

/// The record of a logout.
pub(crate) fn logout(sub: &str, session: &str) -> Value {
    json!({
        "type": "slo",
        "description": "User successfully logged out",
        "tenant_name": "acme",
        "user_id": sub,
        "client_id": "web-app",
        "details": { "session_id": session, "return_to": "https://app.example" },
    })
}

/// How an event stream spells this event.
pub(crate) fn frame(offset: &str, event: &Value) -> String {
    let kind = event["type"].as_str().unwrap_or_default();
    format!("event: {kind}\nid: {offset}\ndata: {}\n\n", json!({ "offset": offset, "event": event }))
}

fn offset(number: u64) -> String {
    format!("offset{number:08}==")
}

fn number(offset: &str) -> Option<u64> {
    offset.strip_prefix("offset")?.strip_suffix("==")?.parse().ok()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let at = Instant::now();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let fault = {
        let mut state = shared.state.lock().unwrap();
        let hit = state.faults.iter().position(|(path, _)| target.starts_with(path));
        hit.and_then(|index| state.faults.remove(index)).map(|(_, fault)| fault)
    };
    match fault {
        Some(Fault::Delay(delay)) => sleep(delay).await,
        Some(Fault::Hang) => std::future::pending().await,
        _ => {}
    }
    let mut response = match &fault {
        Some(Fault::Status(status)) => error(*status, "made_to_fail", "An error on demand."),
        _ if head.uri.path() == "/oauth/token" => shared.grant_token(&head, &body),
        _ if head.uri.path() == "/oauth/revoke" => revoke_refresh_token(&body),
        _ => shared.manage(&head, &body),
    };
    shared.state.lock().unwrap().calls.push(Call {
        at,
        method: head.method,
        target,
        fields: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        status: response.status(),
    });
    match fault {
        Some(Fault::CutBody) => {
            let whole = response.into_body().collect().await?.to_bytes();
            let half = Frame::data(whole.slice(..whole.len() / 2));
            let broken = stream::iter([Ok(half), Err(io::Error::other("cut"))]);
            response = Response::new(StreamBody::new(broken).boxed());
        }
        Some(Fault::Truncate) => {
            let (head, body) = response.into_parts();
            let whole = body.collect().await?.to_bytes();
            response = Response::from_parts(head, full(whole.slice(..whole.len() / 2)));
        }
        Some(Fault::Garbage(text)) => *response.body_mut() = full(text),
        _ => {}
    }
    Ok(response)
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn json_answer(status: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(header::CONTENT_TYPE, "application/json; charset=utf-8".parse().unwrap());
    response
}

fn empty(status: u16) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn error(status: u16, code: &str, message: &str) -> Response<Body> {
    let error = StatusCode::from_u16(status).unwrap().canonical_reason().unwrap_or("Error");
    json_answer(status, &json!({ "statusCode": status, "error": error, "message": message, "errorCode": code }))
}

fn query(head: &Parts) -> Vec<(String, String)> {
    pairs(head.uri.query().unwrap_or_default())
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8().unwrap().into_owned();
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
}

/// The members of a form or of a JSON object, whichever the request says that it is.
fn members(head: &Parts, body: &Bytes) -> Option<Vec<(String, String)>> {
    let kind = head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    if kind.starts_with("application/json") {
        let object: BTreeMap<String, String> = serde_json::from_slice(body).ok()?;
        return Some(object.into_iter().collect());
    }
    kind.starts_with("application/x-www-form-urlencoded").then(|| pairs(str::from_utf8(body).unwrap_or_default()))
}

fn revoke_refresh_token(body: &Bytes) -> Response<Body> {
    let given: Value = serde_json::from_slice(body).unwrap_or_default();
    let oauth_error = |status, code: &str| json_answer(status, &json!({ "error": code, "error_description": "" }));
    if given["client_id"] != CLIENT_ID || given["client_secret"] != CLIENT_SECRET {
        return oauth_error(401, "invalid_client");
    }
    if given["token"].as_str().is_none_or(str::is_empty) { oauth_error(400, "invalid_request") } else { empty(200) }
}

impl State {
    fn refill(&mut self, now: Instant) {
        let gained = (now - self.filled_at).as_secs_f64() * self.limit.per_second;
        self.bucket = (self.bucket + gained).min(f64::from(self.limit.burst));
        self.filled_at = now;
    }

    /// When a token is next added, in seconds since 1970.
    fn reset(&self) -> u64 {
        let missing = (1.0 - self.bucket).max(0.0);
        let wait = Duration::from_secs_f64((missing / self.limit.per_second).max(0.001));
        (unix_now() + wait).as_millis().div_ceil(1000).try_into().unwrap()
    }

    /// Takes a token; the fields that tell of it, or the refusal.
    fn take_token(&mut self) -> Result<HeaderMap, Box<Response<Body>>> {
        self.refill(Instant::now());
        if self.closed_until.is_some_and(|until| SystemTime::UNIX_EPOCH + unix_now() < until) {
            self.violations += 1;
        }
        let is_left = self.bucket >= 1.0;
        if is_left {
            self.bucket -= 1.0;
            self.closed_until = None;
        }
        let reset = self.reset();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole tokens")]
        let remaining = self.bucket.max(0.0).floor() as u64;
        let mut fields = HeaderMap::new();
        for (name, number) in [("limit", u64::from(self.limit.burst)), ("remaining", remaining), ("reset", reset)] {
            let name: http::HeaderName = format!("x-ratelimit-{name}").parse().unwrap();
            fields.insert(name, number.into());
        }
        if is_left {
            return Ok(fields);
        }
        self.closed_until = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(reset));
        let mut refusal = error(429, "too_many_requests", "Global limit has been reached");
        if self.limit.retry_after {
            let seconds = reset.saturating_sub(unix_now().as_secs());
            fields.insert(header::RETRY_AFTER, seconds.into());
            self.closed_until = Some(SystemTime::UNIX_EPOCH + unix_now() + Duration::from_secs(seconds));
        }
        refusal.headers_mut().extend(fields);
        Err(Box::new(refusal))
    }
}

fn unix_now() -> Duration {
    Duration::from_millis(Clock::System.now().as_millis().try_into().unwrap())
}

impl Shared {
    fn grant_token(&self, head: &Parts, body: &Bytes) -> Response<Body> {
        let refuse = |status: u16, code: &str, why: &str| {
            json_answer(status, &json!({ "error": code, "error_description": why }))
        };
        if head.method != Method::POST {
            return error(404, "not_found", "Not Found");
        }
        let Some(given) = members(head, body) else { return refuse(400, "invalid_request", "Bad Request") };
        if value(&given, "grant_type") != Some("client_credentials") {
            return refuse(403, "unauthorized_client", "Grant type not allowed for the client.");
        }
        let credentials = (value(&given, "client_id"), value(&given, "client_secret"));
        if credentials != (Some(CLIENT_ID), Some(CLIENT_SECRET)) {
            return refuse(401, "access_denied", "Unauthorized");
        }
        if value(&given, "audience") != Some(&format!("{}/api/v2/", self.base)) {
            return refuse(403, "access_denied", "Service not found");
        }
        let mut state = self.state.lock().unwrap();
        state.issued += 1;
        let token = format!("management-token-{}", state.issued);
        state.tokens.insert(token.clone());
        let scopes: Vec<&str> = state.scopes.iter().copied().collect();
        let granted = json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": state.token_lifetime.as_secs(),
            "scope": scopes.join(" "),
        });
        json_answer(200, &granted)
    }

    /// The Management API: who asks, whether they may, how often, and only then what.
    fn manage(&self, head: &Parts, body: &Bytes) -> Response<Body> {
        let Some(path) = head.uri.path().strip_prefix("/api/v2/") else {
            return error(404, "not_found", "Not Found");
        };
        let limited = self.state.lock().unwrap().take_token();
        let fields = match limited {
            Ok(fields) => fields,
            Err(refusal) => return *refusal,
        };
        let mut response = self.decide(path, head, body);
        response.headers_mut().extend(fields);
        response
    }

    fn decide(&self, path: &str, head: &Parts, body: &Bytes) -> Response<Body> {
        let bearer =
            head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if !bearer.is_some_and(|token| self.state.lock().unwrap().tokens.contains(token)) {
            return error(401, "invalid_token", "Invalid token");
        }
        let segments: Vec<&str> = path.split('/').collect();
        let method = head.method.as_str();
        let needed: &[&'static str] = match (method, &segments[..]) {
            ("GET", ["logs"]) => &["read:logs"],
            ("GET", ["events"]) => &["read:events"],
            ("GET", ["users", _]) => &["read:users"],
            ("PATCH", ["users", _]) => &["update:users"],
            ("GET", ["users", _, "sessions"] | ["sessions", _]) => &["read:sessions"],
            ("DELETE", ["users", _, "sessions"] | ["sessions", _]) => &["delete:sessions"],
            ("POST", ["sessions", _, "revoke"] | ["users", _, "revoke-access"]) => {
                &["delete:sessions", "delete:refresh_tokens"]
            }
            ("DELETE", ["users", _, "refresh-tokens"]) | ("POST", ["refresh-tokens", "revoke"]) => {
                &["delete:refresh_tokens"]
            }
            _ => return error(404, "not_found", "Not Found"),
        };
        let missing = needed.iter().find(|scope| !self.state.lock().unwrap().scopes.contains(*scope));
        if let Some(scope) = missing {
            return error(403, "insufficient_scope", &format!("Insufficient scope, expected any of: {scope}"));
        }
        if let ["users", id, ..] = segments[..]
            && (id.contains('|') || !percent_decode_str(id).decode_utf8_lossy().contains('|'))
        {
            return error(400, "invalid_uri", "Object didn't pass validation for format user-id");
        }
        if !body.is_empty() {
            let kind =
                head.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes().starts_with(b"application/json"));
            if kind != Some(true) || serde_json::from_slice::<Value>(body).is_err() {
                return error(400, "invalid_body", "Payload validation error");
            }
        }
        match (method, &segments[..]) {
            ("GET", ["logs"]) => self.logs(head),
            ("GET", ["events"]) => self.events(head),
            ("GET", ["users", _, "sessions"]) => json_answer(200, &json!({ "sessions": [] })),
            ("GET" | "PATCH", ["users", id]) => {
                let mut user: Value = serde_json::from_slice(body).unwrap_or_else(|_| json!({}));
                user["user_id"] = json!(percent_decode_str(id).decode_utf8_lossy());
                json_answer(200, &user)
            }
            ("GET", _) => json_answer(200, &json!({ "id": segments[1] })),
            _ => empty(202),
        }
    }

    fn logs(&self, head: &Parts) -> Response<Body> {
        if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > 2000) {
            return error(414, "invalid_uri", "URI Too Long");
        }
        let query = query(head);
        match value(&query, "from") {
            Some(from) => self.logs_from(from, value(&query, "take")),
            None => self.search_logs(&query),
        }
    }

    /// Checkpoint mode: whatever else is asked for is ignored.
    fn logs_from(&self, from: &str, take: Option<&str>) -> Response<Body> {
        let invalid = |message: &str| error(400, "invalid_query_string", message);
        let Ok(take) = take.unwrap_or("50").parse::<usize>() else { return invalid("take is not a number") };
        if take == 0 || take > 100 {
            return invalid("take is not from 1 to 100");
        }
        let state = self.state.lock().unwrap();
        // What Auth0 does about a checkpoint that it does not know is not documented.
        if !state.logs.contains_key(from) {
            return invalid("from is not a log_id that is kept");
        }
        let after = (std::ops::Bound::Excluded(from.to_owned()), std::ops::Bound::Unbounded);
        let page: Vec<(&String, &Value)> = state.logs.range(after).take(take).collect();
        let next = page.last().map_or(from, |(id, _)| id.as_str());
        let link = format!("<{}/api/v2/logs?from={next}&take={take}>; rel=\"next\"", self.base);
        let records: Vec<&Value> = page.into_iter().map(|(_, record)| record).collect();
        let mut response = json_answer(200, &json!(records));
        response.headers_mut().insert(header::LINK, link.parse().unwrap());
        response
    }

    /// Search mode: only `date:[… TO *]` is understood here, by `date`.
    fn search_logs(&self, query: &[(String, String)]) -> Response<Body> {
        let invalid = |message: &str| error(400, "invalid_query_string", message);
        let number = |name, default| value(query, name).map_or(Some(default), |text| text.parse::<usize>().ok());
        let (Some(page), Some(per_page)) = (number("page", 0), number("per_page", 50)) else {
            return invalid("page and per_page are numbers");
        };
        if per_page > 100 || (page + 1) * per_page > 1000 {
            return invalid("more than 100 records, or more than the first 1000");
        }
        let since = value(query, "q").and_then(|q| q.strip_prefix("date:[")?.strip_suffix(" TO *]")?.parse().ok());
        let (Some(since), Some("date:1")) = (since, value(query, "sort")) else {
            return invalid("q or sort is not understood");
        };
        let since: Timestamp = since;
        let state = self.state.lock().unwrap();
        let date = |record: &Value| record["date"].as_str().and_then(|date| date.parse::<Timestamp>().ok());
        let mut found: Vec<&Value> =
            state.logs.values().filter(|record| date(record).is_some_and(|at| at >= since)).collect();
        found.sort_by_key(|record| date(record));
        json_answer(200, &json!(found.into_iter().skip(page * per_page).take(per_page).collect::<Vec<_>>()))
    }

    fn events(&self, head: &Parts) -> Response<Body> {
        let query = query(head);
        let last = head.headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let from = last.or_else(|| value(&query, "from"));
        let since = value(&query, "from_timestamp");
        if value(&query, "from").is_some() && since.is_some() {
            return error(400, "invalid_query_string", "from and from_timestamp are mutually exclusive");
        }
        let since: Option<Timestamp> = match since.map(str::parse) {
            Some(Err(_)) => return error(400, "invalid_query_string", "from_timestamp is no timestamp"),
            Some(Ok(since)) if from.is_none() => Some(since),
            _ => None,
        };
        let kinds: Vec<String> =
            query.iter().filter(|(name, _)| name == "event_type").map(|(_, kind)| kind.clone()).collect();
        let (sender, receiver) = mpsc::channel(64);
        let mut state = self.state.lock().unwrap();
        let after = match from.map(number) {
            Some(None) => return error(400, "invalid_query_string", "Invalid offset"),
            Some(Some(number)) if number + 1 < state.kept_from => {
                return error(410, "offset_expired", "Offset expired");
            }
            Some(Some(number)) => number,
            None if since.is_some() => state.kept_from.saturating_sub(1),
            None => state.next_event - 1,
        };
        state.streams.retain(|stream| !stream.is_closed());
        if state.streams.len() >= state.max_streams {
            return error(429, "too_many_connections", "Too many concurrent connections");
        }
        let source = match state.scripts.pop_front() {
            Some(script) => Source::Script(script.into()),
            None => Source::Live { after, since, kinds },
        };
        state.streams.push(sender);
        let stream = EventStream {
            source,
            commands: receiver,
            heartbeat: state.heartbeat,
            end: tokio::time::Instant::now() + state.stream_lifetime,
            said_hello: false,
        };
        let shared = self.this.upgrade().expect("the tenant serves");
        let frames = stream::unfold((stream, shared), |(mut stream, shared)| async move {
            let piece = stream.next(&shared).await?;
            Some((piece.map(Frame::data), (stream, shared)))
        });
        let mut response = Response::new(StreamBody::new(frames).boxed());
        response.headers_mut().insert(header::CONTENT_TYPE, "text/event-stream".parse().unwrap());
        response
    }
}

/// What a connection of the Events API gets.
enum Source {
    Script(VecDeque<Piece>),
    Live {
        /// The number of the event that it has.
        after: u64,
        since: Option<Timestamp>,
        kinds: Vec<String>,
    },
}

struct EventStream {
    source: Source,
    commands: mpsc::Receiver<Piece>,
    heartbeat: Duration,
    end: tokio::time::Instant,
    said_hello: bool,
}

impl EventStream {
    /// What comes next; `None`: the stream ends in order.
    async fn next(&mut self, shared: &Shared) -> Option<Result<Bytes, io::Error>> {
        if !std::mem::replace(&mut self.said_hello, true) && matches!(self.source, Source::Live { .. }) {
            return Some(Ok(":connected\n\nretry: 2000\n\n".into()));
        }
        loop {
            let scripted = match &mut self.source {
                Source::Script(pieces) => Some(pieces.pop_front().unwrap_or(Piece::End)),
                Source::Live { .. } => None,
            };
            let piece = match scripted {
                Some(piece) => piece,
                None => self.live(shared).await,
            };
            match piece {
                Piece::Bytes(bytes) => return Some(Ok(bytes)),
                Piece::Pause(pause) => sleep(pause).await,
                Piece::End => return None,
                Piece::Cut => return Some(Err(io::Error::other("cut"))),
            }
        }
    }

    async fn live(&mut self, shared: &Shared) -> Piece {
        let Source::Live { after, since, kinds } = &mut self.source else { return Piece::End };
        let begun = tokio::time::Instant::now();
        loop {
            let now = tokio::time::Instant::now();
            if now >= self.end {
                return Piece::End;
            }
            {
                let state = shared.state.lock().unwrap();
                let is_wanted = |kind: &Value| kinds.is_empty() || kinds.iter().any(|wanted| kind == wanted);
                let mut next = state.events.iter().filter(|(number, ..)| *number > *after);
                let next =
                    next.find(|(_, at, event)| is_wanted(&event["type"]) && since.is_none_or(|since| *at >= since));
                if let Some((number, _, event)) = next {
                    let text = frame(&offset(*number), event);
                    *after = *number;
                    return Piece::text(text);
                }
                *after = state.next_event - 1;
            }
            if now - begun >= self.heartbeat {
                let offset = offset(*after);
                let progress = json!({ "offset": offset });
                return Piece::text(format!(": heartbeat\n\nevent: offset-only\nid: {offset}\ndata: {progress}\n\n"));
            }
            let nap = Duration::from_millis(5).min(self.heartbeat);
            match timeout(nap, self.commands.recv()).await {
                Ok(Some(piece)) => return piece,
                Ok(None) => return Piece::End,
                Err(_) => {}
            }
        }
    }
}
