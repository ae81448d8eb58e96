//! A transmitter of shared signals that holds its receiver to the rules: discovery, streams, status and verification of the Shared
//! Signals Framework 1.0, push as in RFC 8935, poll as in RFC 8936. What a receiver does wrong is answered as it should be, and told
//! by [`Transmitter::violations`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

use super::{
    full::now,
    http::{Answer, send},
    keys::SigningKey,
};

/// The audience that its streams have.
pub(crate) const AUDIENCE: &str = "https://gate.example/ssf";

/// Where receivers say that they are pushed to. It leads to the gate that [`Transmitter::lead_to`] names.
pub(crate) const ENDPOINT: &str = "https://gate.example/.portcullis/events/partner";

/// The bearer token of its management API.
pub(crate) const TOKEN: &str = "management-token";

/// How long a question waits.
const LONG_POLL: Duration = Duration::from_millis(1500);

/// When what was not acknowledged is sent again.
const REDELIVERY: Duration = Duration::from_millis(300);

/// How soon what was delivered is to be acknowledged.
const IN_TIME: Duration = Duration::from_secs(5);

pub(crate) const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
pub(crate) const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";
pub(crate) const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type/";

/// A transmitter. Dropped, it closes its port.
pub(crate) struct Transmitter {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    address: SocketAddr,
    key: SigningKey,
    state: Mutex<Inner>,
    changed: Notify,
    polling: AtomicUsize,
    most_polling: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    queue: BTreeMap<String, Queued>,
    acknowledged: BTreeSet<String>,
    refused: BTreeMap<String, String>,
    streams: Vec<Value>,
    requests: Vec<String>,
    violations: Vec<String>,
    gate: Option<SocketAddr>,
    pushed: Vec<u16>,
    tokens: usize,
    knobs: Knobs,
    verified_at: Option<Instant>,
}

/// How it is set.
#[derive(Clone)]
pub(crate) struct Knobs {
    pub(crate) audience: &'static str,
    pub(crate) status: &'static str,
    pub(crate) min_verification_interval: Option<u64>,
    pub(crate) inactivity_timeout: Option<u64>,
    /// Whether verification events hold the state that was asked for.
    pub(crate) echoes: bool,
    /// Whether it is there at all.
    pub(crate) down: bool,
    pub(crate) critical: Vec<&'static str>,
    pub(crate) jwks: Option<Value>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            audience: AUDIENCE,
            status: "enabled",
            min_verification_interval: None,
            inactivity_timeout: None,
            echoes: true,
            down: false,
            critical: Vec::new(),
            jwks: None,
        }
    }
}

struct Queued {
    token: String,
    delivered: Option<Instant>,
    first: Option<Instant>,
}

impl Transmitter {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            address: listener.local_addr().unwrap(),
            key: SigningKey::generate("set-key", Algorithm::RS256),
            state: Mutex::default(),
            changed: Notify::new(),
            polling: AtomicUsize::new(0),
            most_polling: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/.well-known/ssf-configuration/tenant", get(configuration))
            .route("/jwks.json", get(jwks))
            .route("/ssf/stream", get(read_streams).post(make_stream).patch(change_stream))
            .route("/ssf/status", get(status))
            .route("/ssf/verification", post(verification))
            .route("/ssf/poll", post(poll))
            .route("/oauth/token", post(token))
            .with_state(Arc::clone(&shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, _tasks: tasks }
    }

    /// Its `iss`.
    pub(crate) fn issuer(&self) -> String {
        self.shared.url("/tenant")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        self.shared.url(path)
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.shared.key
    }

    /// Where pushes go.
    pub(crate) fn lead_to(&self, gate: SocketAddr) {
        self.state().gate = Some(gate);
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.state().knobs);
        self.shared.changed.notify_waiters();
    }

    /// Claims of a SET with one event that happened now.
    pub(crate) fn claims(&self, jti: &str, event: &str, subject: Value, payload: Value) -> Value {
        self.shared.claims(jti, event, subject, payload)
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.shared.sign(claims)
    }

    /// Has a SET ready for those who poll.
    pub(crate) fn enqueue(&self, claims: &Value) {
        let token = self.sign(claims);
        self.enqueue_as(claims["jti"].as_str().unwrap(), token);
    }

    /// The same, under this name and whatever it is.
    pub(crate) fn enqueue_as(&self, name: &str, token: String) {
        self.state().queue.insert(name.to_owned(), Queued { token, delivered: None, first: None });
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn is_acknowledged(&self, jti: &str) -> bool {
        self.state().acknowledged.contains(jti)
    }

    /// The error that a SET was refused with.
    pub(crate) fn refusal(&self, jti: &str) -> Option<String> {
        self.state().refused.get(jti).cloned()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    pub(crate) fn streams(&self) -> Vec<Value> {
        self.state().streams.clone()
    }

    pub(crate) fn add_stream(&self, stream: Value) {
        self.state().streams.push(stream);
    }

    /// How often this was asked for.
    pub(crate) fn requests(&self, what: &str) -> usize {
        self.state().requests.iter().filter(|request| *request == what).count()
    }

    /// The statuses that pushes were answered with.
    pub(crate) fn pushed(&self) -> Vec<u16> {
        self.state().pushed.clone()
    }

    /// How many access tokens were handed out.
    pub(crate) fn tokens(&self) -> usize {
        self.state().tokens
    }

    /// The most that polled at once.
    pub(crate) fn most_polling(&self) -> usize {
        self.shared.most_polling.load(Ordering::SeqCst)
    }

    #[track_caller]
    pub(crate) fn assert_no_violations(&self) {
        assert_eq!(self.state().violations, Vec::<String>::new());
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.shared.state.lock().unwrap()
    }
}

/// Pushes a SET as RFC 8935 §2.1 says.
pub(crate) async fn push(gate: SocketAddr, token: &str, fields: &[(&str, &str)]) -> Answer {
    let mut all = vec![("content-type", "application/secevent+jwt"), ("accept", "application/json")];
    all.extend(fields);
    send(gate, http::Method::POST, "/.portcullis/events/partner", &all, token.to_owned()).await
}

impl Shared {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn claims(&self, jti: &str, event: &str, subject: Value, payload: Value) -> Value {
        let at = now().as_secs();
        json!({
            "iss": self.url("/tenant"), "aud": AUDIENCE, "jti": jti, "iat": at, "txn": "8675309", "sub_id": subject,
            "events": { event: payload },
        })
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = self.key.header();
        header["typ"] = json!("secevent+jwt");
        self.key.compact(header.to_string(), claims.to_string())
    }

    fn violate(&self, what: impl Into<String>) {
        self.state.lock().unwrap().violations.push(what.into());
    }

    /// Notes a request, and says who may not make it.
    fn admit(&self, what: &str, headers: &HeaderMap) -> Result<(), Box<Response>> {
        let mut state = self.state.lock().unwrap();
        state.requests.push(what.to_owned());
        if state.knobs.down {
            return Err(Box::new(StatusCode::SERVICE_UNAVAILABLE.into_response()));
        }
        let granted = format!("Bearer granted-{}", state.tokens);
        let authorization = headers.get("authorization").and_then(|value| value.to_str().ok());
        let is_known = authorization == Some(&*format!("Bearer {TOKEN}")) || authorization == Some(&*granted);
        if is_known { Ok(()) } else { Err(Box::new(StatusCode::UNAUTHORIZED.into_response())) }
    }

    async fn deliver(self: Arc<Self>, claims: Value) {
        let token = self.sign(&claims);
        let stream = self.state.lock().unwrap().streams.first().cloned();
        let delivery = stream.map(|stream| stream["delivery"].clone()).unwrap_or_default();
        if delivery["method"] == "urn:ietf:rfc:8936" {
            let jti = claims["jti"].as_str().unwrap().to_owned();
            self.state.lock().unwrap().queue.insert(jti, Queued { token, delivered: None, first: None });
            self.changed.notify_waiters();
            return;
        }
        let authorization = delivery["authorization_header"].as_str().unwrap_or("none").to_owned();
        for _ in 0..100 {
            let Some(gate) = self.state.lock().unwrap().gate else {
                // Nobody is there yet.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let answer = push(gate, &token, &[("authorization", &authorization)]).await;
            let status = answer.status.as_u16();
            self.state.lock().unwrap().pushed.push(status);
            if status < 500 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

type Fleet = State<Arc<Shared>>;

fn json(status: StatusCode, body: &Value) -> Response {
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

async fn configuration(State(shared): Fleet) -> Response {
    let state = shared.state.lock().unwrap();
    if state.knobs.down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let document = json!({
        "spec_version": "1_0",
        "issuer": shared.url("/tenant"),
        "jwks_uri": shared.url("/jwks.json"),
        "delivery_methods_supported": ["urn:ietf:rfc:8935", "urn:ietf:rfc:8936"],
        "configuration_endpoint": shared.url("/ssf/stream"),
        "status_endpoint": shared.url("/ssf/status"),
        "verification_endpoint": shared.url("/ssf/verification"),
        "critical_subject_members": state.knobs.critical,
        "default_subjects": "ALL",
        "x_unknown": { "a": [1] },
    });
    json(StatusCode::OK, &document)
}

async fn jwks(State(shared): Fleet) -> Response {
    let state = shared.state.lock().unwrap();
    if state.knobs.down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let keys = state.knobs.jwks.clone().unwrap_or_else(|| json!({ "keys": [shared.key.jwk()] }));
    json(StatusCode::OK, &keys)
}

async fn token(State(shared): Fleet, headers: HeaderMap, body: String) -> Response {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    let client = format!("Basic {}", STANDARD.encode("gate%2D1:s%26cret"));
    let is_known = headers.get("authorization").is_some_and(|value| *value == client);
    if !is_known || body != "grant_type=client_credentials&scope=ssf%2Emanage" {
        shared.violate(format!("token request {body}"));
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut state = shared.state.lock().unwrap();
    state.tokens += 1;
    let body =
        json!({ "access_token": format!("granted-{}", state.tokens), "token_type": "Bearer", "expires_in": 3600 });
    json(StatusCode::OK, &body)
}

type Parameters = Query<BTreeMap<String, String>>;

async fn read_streams(State(shared): Fleet, Query(query): Parameters, headers: HeaderMap) -> Response {
    if let Err(answer) = shared.admit("GET stream", &headers) {
        return *answer;
    }
    let streams = shared.state.lock().unwrap().streams.clone();
    match query.get("stream_id") {
        None => json(StatusCode::OK, &json!(streams)),
        Some(id) => match streams.iter().find(|stream| stream["stream_id"] == **id) {
            Some(stream) => json(StatusCode::OK, stream),
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

/// One stream for each receiver, as many transmitters have it.
async fn make_stream(State(shared): Fleet, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(answer) = shared.admit("POST stream", &headers) {
        return *answer;
    }
    let Ok(asked) = serde_json::from_slice::<Value>(&body) else {
        shared.violate("a stream that is not JSON");
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut state = shared.state.lock().unwrap();
    if !state.streams.is_empty() {
        return StatusCode::CONFLICT.into_response();
    }
    let mut delivery = asked["delivery"].clone();
    match delivery["method"].as_str() {
        Some("urn:ietf:rfc:8935") if delivery["endpoint_url"].is_string() => {}
        Some("urn:ietf:rfc:8936") if delivery["endpoint_url"].is_null() => {
            delivery["endpoint_url"] = json!(shared.url("/ssf/poll"));
        }
        _ => {
            state.violations.push(format!("a stream with the delivery {delivery}"));
            return StatusCode::BAD_REQUEST.into_response();
        }
    }
    let knobs = state.knobs.clone();
    let mut stream = json!({
        "stream_id": "stream/1",
        "iss": shared.url("/tenant"),
        "aud": [knobs.audience, "https://other.example"],
        "delivery": delivery,
        "events_supported": asked["events_requested"],
        "events_requested": asked["events_requested"],
        "events_delivered": asked["events_requested"],
        "description": asked["description"],
    });
    if let Some(seconds) = knobs.min_verification_interval {
        stream["min_verification_interval"] = json!(seconds);
    }
    if let Some(seconds) = knobs.inactivity_timeout {
        stream["inactivity_timeout"] = json!(seconds);
    }
    state.streams.push(stream.clone());
    json(StatusCode::CREATED, &stream)
}

async fn change_stream(State(shared): Fleet, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(answer) = shared.admit("PATCH stream", &headers) {
        return *answer;
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut state = shared.state.lock().unwrap();
    let Some(stream) = state.streams.iter_mut().find(|stream| stream["stream_id"] == asked["stream_id"]) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    for (name, value) in asked.as_object().into_iter().flatten() {
        stream[name] = value.clone();
    }
    stream["events_delivered"] = stream["events_requested"].clone();
    json(StatusCode::OK, stream)
}

async fn status(State(shared): Fleet, Query(query): Parameters, headers: HeaderMap) -> Response {
    if let Err(answer) = shared.admit("GET status", &headers) {
        return *answer;
    }
    let state = shared.state.lock().unwrap();
    let id = query.get("stream_id").cloned().unwrap_or_default();
    if !state.streams.iter().any(|stream| stream["stream_id"] == id) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let mut body = json!({ "stream_id": id, "status": state.knobs.status });
    if state.knobs.status != "enabled" {
        body["reason"] = json!("SYSTEM_DOWN_FOR_MAINTENANCE");
    }
    json(StatusCode::OK, &body)
}

async fn verification(State(shared): Fleet, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(answer) = shared.admit("POST verification", &headers) {
        return *answer;
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let claims = {
        let mut state = shared.state.lock().unwrap();
        if !state.streams.iter().any(|stream| stream["stream_id"] == asked["stream_id"]) {
            return StatusCode::NOT_FOUND.into_response();
        }
        let least = Duration::from_secs(state.knobs.min_verification_interval.unwrap_or(0));
        if state.verified_at.is_some_and(|at| at.elapsed() < least) {
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response();
        }
        state.verified_at = Some(Instant::now());
        let payload = if state.knobs.echoes { json!({ "state": asked["state"] }) } else { json!({ "state": "mine" }) };
        let number = state.requests.len();
        let subject = json!({ "format": "opaque", "id": asked["stream_id"] });
        shared.claims(&format!("verification-{number}"), &format!("{SSF}verification"), subject, payload)
    };
    tokio::spawn(Arc::clone(&shared).deliver(claims));
    StatusCode::NO_CONTENT.into_response()
}

/// RFC 8936 §2.
async fn poll(State(shared): Fleet, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(answer) = shared.admit("POST poll", &headers) {
        return *answer;
    }
    let Ok(asked) = serde_json::from_slice::<Value>(&body) else {
        shared.violate("a poll that is not JSON");
        return StatusCode::BAD_REQUEST.into_response();
    };
    if headers.get("content-type").is_none_or(|value| value != "application/json") {
        shared.violate("a poll that does not say that it is JSON");
    }
    settle(&shared, &asked, &headers);
    let most = asked["maxEvents"].as_u64().map_or(usize::MAX, |most| usize::try_from(most).unwrap());
    let at_once = asked["returnImmediately"].as_bool().unwrap_or(false);
    if most == 0 && !at_once {
        shared.violate("an acknowledgement that waits");
    }
    if most == 0 {
        return json(StatusCode::OK, &json!({ "sets": {} }));
    }
    let polling = shared.polling.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most_polling.fetch_max(polling, Ordering::SeqCst);
    let _leave = Leave(Arc::clone(&shared));
    let until = Instant::now() + LONG_POLL;
    loop {
        let found = ready(&shared, most);
        let is_over = at_once || Instant::now() >= until;
        if is_over || found["sets"].as_object().is_some_and(|sets| !sets.is_empty()) {
            return json(StatusCode::OK, &found);
        }
        let _ = tokio::time::timeout(Duration::from_millis(50), shared.changed.notified()).await;
    }
}

struct Leave(Arc<Shared>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.polling.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes acknowledgements and errors.
fn settle(shared: &Shared, asked: &Value, headers: &HeaderMap) {
    let mut state = shared.state.lock().unwrap();
    let acknowledged: BTreeSet<String> =
        asked["ack"].as_array().into_iter().flatten().map(|jti| jti.as_str().unwrap().to_owned()).collect();
    let refused: BTreeMap<String, String> = asked["setErrs"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(jti, error)| {
            assert!(error["description"].is_string(), "{error}");
            (jti.clone(), error["err"].as_str().unwrap().to_owned())
        })
        .collect();
    if !refused.is_empty() && !headers.contains_key("content-language") {
        state.violations.push("errors in no language".to_owned());
    }
    for jti in &acknowledged {
        if refused.contains_key(jti) {
            state.violations.push(format!("{jti} is acknowledged and refused"));
        }
        match state.queue.remove(jti) {
            Some(queued) if queued.first.is_none() => {
                state.violations.push(format!("{jti} is acknowledged before it was delivered"));
            }
            Some(queued) if queued.delivered.is_some_and(|at| at.elapsed() > IN_TIME) => {
                state.violations.push(format!("{jti} is acknowledged late"));
            }
            Some(_) => {}
            None if state.acknowledged.contains(jti) => {}
            None => state.violations.push(format!("{jti} is acknowledged and was never sent")),
        }
    }
    for jti in refused.keys() {
        state.queue.remove(jti);
    }
    state.acknowledged.extend(acknowledged);
    state.refused.extend(refused);
}

fn ready(shared: &Shared, most: usize) -> Value {
    let mut state = shared.state.lock().unwrap();
    let now = Instant::now();
    let is_ready = |queued: &Queued| queued.delivered.is_none_or(|at| at.elapsed() >= REDELIVERY);
    let waiting = state.queue.values().filter(|queued| is_ready(queued)).count();
    let mut sets = serde_json::Map::new();
    for (jti, queued) in state.queue.iter_mut().filter(|(_, queued)| is_ready(queued)).take(most) {
        queued.delivered = Some(now);
        queued.first.get_or_insert(now);
        sets.insert(jti.clone(), json!(queued.token));
    }
    let mut found = json!({ "sets": sets });
    if waiting > most {
        found["moreAvailable"] = json!(true);
    }
    found
}
