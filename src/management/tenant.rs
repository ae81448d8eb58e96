//! The Management API of a tenant.
//!
//! 1. A token is had by client credentials, once for all callers, and kept until shortly before its end; when the tenant refuses
//!    it before, it is fetched anew once.
//! 2. Nothing is asked faster than the tenant allows: see [`pace`]. Whoever calls waits, for a minute at most;
//!    whoever would wait longer is told so at once.
//! 3. Nothing is asked of anybody but the tenant: no redirect is followed, and of links only those that stay there.
//! 4. A call is one attempt. Trying again is the caller's, and [`TenantError::is_final`] says whether it can help; the pauses
//!    between attempts are kept here.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};

use super::{
    observer::{Observer, Unobserved},
    pace::{self, Pace, RateShare},
};
use crate::{
    clock::{Clock, Timestamp},
    http_client::{HttpClient, HttpError},
};

/// How long an answer may take, and its body, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest answer: 100 log records, or as many sessions, have room in it.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The longest answer that is no success, or holds a token.
const MAX_SMALL_ANSWER: usize = 64 * 1024;

/// How many requests are under way at once: what is left of the limit is known before many more are sent.
const AT_ONCE: usize = 2;

/// How long a caller waits for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(70);

/// How long nothing is asked after the tenant has refused the credentials: they do not become right by being repeated.
const REFUSED: Duration = Duration::from_secs(60);

/// How long before its end a token is not used any more; of a token that lives shorter, a tenth of its life.
const MARGIN: Duration = Duration::from_secs(60);

/// A tenant, and who the gate is there.
#[derive(Clone, Debug)]
pub struct TenantSettings {
    /// `https://<domain>`, where `<domain>` is the tenant's own, not a custom one; checked by `http_client::secure`.
    pub base: Uri,
    /// The machine-to-machine application.
    pub client_id: Box<str>,
    /// Its secret.
    pub client_secret: SecretString,
    /// The identifier of the Management API, `https://<domain>/api/v2/`.
    pub audience: Box<str>,
    /// How much of the tenant's limits the gate may use.
    pub rate_share: RateShare,
}

/// Of settings: no comparison with what somebody sent.
impl PartialEq for TenantSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { base, client_id, client_secret, audience, rate_share } = self;
        (base, client_id, audience, rate_share) == (&other.base, &other.client_id, &other.audience, &other.rate_share)
            && client_secret.expose_secret() == other.client_secret.expose_secret()
    }
}

/// Why the tenant did not do what it was asked for. What it says about users is left out.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// No token, or one that is refused.
    #[error(
        "the tenant refuses the client ({code}): client_id and client_secret must be those of a machine-to-machine \
         application that is authorized for the Management API of this domain"
    )]
    Unauthorized {
        /// What the tenant calls it.
        code: Box<str>,
    },
    /// A scope is missing.
    #[error("the application may not do this: in the tenant, grant it {needed} on the Management API")]
    Forbidden {
        /// The scopes, any of which would do, if the tenant names them.
        needed: Box<str>,
    },
    /// Asked too often, by whomever.
    #[error("the tenant's rate limit is used up until {until}; others may use the same limit")]
    RateLimited {
        /// Nothing is asked before.
        until: Timestamp,
    },
    /// What was asked for is no longer there.
    #[error("what was asked for is no longer kept by the tenant")]
    Gone,
    /// Another answer than a success.
    #[error("the tenant answered with status {status} ({code})")]
    Status {
        /// The status.
        status: StatusCode,
        /// What the tenant calls it.
        code: Box<str>,
    },
    /// No answer in time.
    #[error("the tenant did not answer in time")]
    TimedOut,
    /// No connection, or one that broke.
    #[error("the tenant is unreachable")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// An answer that is not read any further.
    #[error("the tenant's answer is longer than {limit} bytes")]
    TooLarge {
        /// The most that is read.
        limit: usize,
    },
    /// An answer in another form than it should have.
    #[error("the tenant's answer is malformed or broke off")]
    Malformed,
    /// Nothing of that name.
    #[error("the tenant has no {what} that is called `{name}`")]
    Unknown {
        /// A role, a connection.
        what: &'static str,
        /// What it is called.
        name: Box<str>,
    },
    /// More than can be listed.
    #[error("{what}")]
    TooMany {
        /// Of what, and what to do.
        what: Box<str>,
    },
    /// An export of users came to nothing.
    #[error("the export of users (job {job}) {fault}; begin another, or find the users by searching")]
    Export {
        /// The job of the tenant.
        job: Box<str>,
        /// What became of it.
        fault: ExportFault,
    },
}

/// What became of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExportFault {
    /// The tenant says so.
    #[error("failed at the tenant")]
    Failed,
    /// A day has passed, or there never was such a job.
    #[error("is not known to the tenant, which keeps an export for a day")]
    Gone,
    /// It does not come to an end.
    #[error("did not come to an end within a day")]
    Endless,
    /// The job is for something else.
    #[error("is no export of the users that are to be listed")]
    Foreign,
    /// Who gives it out cannot be trusted.
    #[error("is to be downloaded from a place that is neither https nor loopback")]
    Insecure,
    /// What was taken of it already is not its beginning.
    #[error("was not the same when it was downloaded again")]
    Changed,
}

impl TenantError {
    /// Whether the same call would come to the same again, as long as nobody changes anything at the tenant. A missing scope or
    /// wrong credentials are not final: somebody will mend them.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Gone | Self::Unknown { .. } | Self::TooMany { .. } | Self::Export { .. } => true,
            Self::Status { status, .. } => status.is_client_error() && *status != StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::RateLimited { .. }
            | Self::TimedOut
            | Self::Unreachable(_)
            | Self::TooLarge { .. }
            | Self::Malformed => false,
        }
    }

    /// Whether somebody has to mend something first.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::Forbidden { .. })
    }
}

impl From<HttpError> for TenantError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::TimedOut { .. } => Self::TimedOut,
            // Without the URL: there are user ids in some.
            HttpError::Unreachable { source, .. } => Self::Unreachable(source),
            HttpError::TooLarge { limit, .. } => Self::TooLarge { limit },
            HttpError::Insecure { .. } => Self::Unreachable(error.into()),
        }
    }
}

/// A success.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 2xx.
    pub status: StatusCode,
    /// What was asked for.
    pub body: Bytes,
    /// When it was given, by the tenant's clock.
    pub at: Timestamp,
    /// Path and query of the next page, if the answer links to one at the tenant (RFC 8288).
    pub next: Option<PathAndQuery>,
}

impl Answer {
    /// The body, which is JSON.
    ///
    /// # Errors
    /// [`TenantError::Malformed`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, TenantError> {
        serde_json::from_slice(&self.body).map_err(|_| TenantError::Malformed)
    }
}

/// The Management API of a tenant. Clones share token and pace.
///
/// Whoever must not wait for others has one of its own.
#[derive(Clone, Debug)]
pub struct Tenant {
    inner: Arc<Inner>,
    observer: Arc<dyn Observer>,
    patience: Duration,
}

#[derive(Debug)]
struct Inner {
    settings: TenantSettings,
    http: HttpClient,
    clock: Clock,
    state: Mutex<State>,
    /// Whoever has its one permit fetches the token.
    fetching: Semaphore,
    places: Semaphore,
}

#[derive(Debug)]
struct State {
    token: Option<Token>,
    /// The scopes of the token that was fetched last, if the tenant told.
    granted: Option<BTreeSet<Box<str>>>,
    pace: Pace,
    /// Nothing is asked before.
    open_at: Option<(Instant, Timestamp)>,
}

#[derive(Clone)]
struct Token {
    authorization: HeaderValue,
    until: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("until", &self.until).finish_non_exhaustive()
    }
}

/// What is asked for.
struct Ask<'a> {
    method: Method,
    uri: Uri,
    fields: &'a [(HeaderName, HeaderValue)],
    body: Option<Bytes>,
}

impl Tenant {
    /// A tenant that has not been asked for anything yet.
    #[must_use]
    pub fn new(settings: TenantSettings, http: HttpClient, clock: Clock) -> Self {
        let state = State { token: None, granted: None, pace: Pace::new(settings.rate_share), open_at: None };
        let inner = Arc::new(Inner {
            settings,
            http,
            clock,
            state: Mutex::new(state),
            fetching: Semaphore::new(1),
            places: Semaphore::new(AT_ONCE),
        });
        Self { inner, observer: Arc::new(Unobserved), patience: PATIENCE }
    }

    /// The same tenant; whoever waits for it through this clone has the observer told of it.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }

    /// The same tenant; answers to this clone, and then their bodies, may take so long. By default 20 seconds.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The scopes that the application has, as of the last token. `None`: none was fetched yet, see [`log_in`](Self::log_in), or
    /// the tenant did not tell.
    #[must_use]
    pub fn granted(&self) -> Option<BTreeSet<Box<str>>> {
        self.state().granted.clone()
    }

    /// Which of these scopes the application does not have; none of them where the tenant did not tell.
    #[must_use]
    pub fn lacks<'s>(&self, needed: &[&'s str]) -> Vec<&'s str> {
        let granted = self.granted();
        let is_lacking = |scope: &&str| granted.as_ref().is_some_and(|granted| !granted.contains(*scope));
        needed.iter().copied().filter(is_lacking).collect()
    }

    /// Has a token fetched, where none is kept: whether the credentials are good.
    ///
    /// # Errors
    /// [`TenantError`].
    pub async fn log_in(&self) -> Result<(), TenantError> {
        match timeout(self.patience, self.token()).await {
            Ok(token) => token.map(drop),
            Err(_) => Err(self.failed(TenantError::TimedOut)),
        }
    }

    /// Asks for something, and reads the whole answer. `path`, with its query, is percent-encoded, such as
    /// `/api/v2/users/auth0%7C123/sessions`.
    ///
    /// # Errors
    /// [`TenantError`]; any status but 2xx is one.
    ///
    /// # Cancel safety
    /// It may have been done or not.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, TenantError> {
        let ask = self.ask(method, path, &[], body)?;
        let (head, body) = self.open_with(&ask).await?.into_parts();
        let body = match timeout(self.patience, collect(body, MAX_ANSWER)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Err(self.failed(error)),
            Err(_) => return Err(self.failed(TenantError::TimedOut)),
        };
        Ok(Answer { status: head.status, body, at: self.time_of(&head.headers), next: self.next(&head.headers) })
    }

    /// Asks for something that comes bit by bit, and resolves with the head of a 2xx; the body is the caller's to read and to
    /// bound.
    ///
    /// # Errors
    /// [`TenantError`].
    ///
    /// # Cancel safety
    /// The connection is closed.
    pub async fn open(
        &self,
        path: &str,
        fields: &[(HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>, TenantError> {
        self.open_with(&self.ask(Method::GET, path, fields, None)?).await
    }

    fn ask<'a>(
        &self,
        method: Method,
        path: &str,
        fields: &'a [(HeaderName, HeaderValue)],
        body: Option<&Value>,
    ) -> Result<Ask<'a>, TenantError> {
        Ok(Ask { method, uri: self.uri(path)?, fields, body: body.map(|body| body.to_string().into()) })
    }

    fn uri(&self, path: &str) -> Result<Uri, TenantError> {
        let mut parts = self.inner.settings.base.clone().into_parts();
        parts.path_and_query = Some(path.parse().map_err(|_| TenantError::Malformed)?);
        Uri::from_parts(parts).map_err(|_| TenantError::Malformed)
    }

    async fn open_with(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, TenantError> {
        // Closed never, so that an error here does not happen.
        let _place = self.inner.places.acquire().await.map_err(|_| TenantError::TimedOut)?;
        self.turn().await?;
        match timeout(self.patience, self.attempt(ask)).await {
            Ok(result) => result,
            Err(_) => Err(self.failed(TenantError::TimedOut)),
        }
    }

    /// Waits until something may be asked.
    async fn turn(&self) -> Result<(), TenantError> {
        self.wait(LONGEST_WAIT).await
    }

    /// Waits until something may be asked, however long that is; an hour at most for each answer that names it.
    ///
    /// # Cancel safety
    /// Nothing was asked.
    pub(super) async fn opened(&self) {
        // However long, so that it comes to an end in no other way.
        let _ = self.wait(Duration::MAX).await;
    }

    /// What came was a success, and cannot be used: the next attempt waits as after a failure.
    pub(super) fn failed_to_make_sense(&self) {
        let _ = self.failed(TenantError::Malformed);
    }

    async fn wait(&self, longest: Duration) -> Result<(), TenantError> {
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let Some((open_at, until)) = self.state().open_at else { return Ok(()) };
            let now = Instant::now();
            if now >= open_at {
                return Ok(());
            }
            if open_at - now > longest {
                return Err(TenantError::RateLimited { until });
            }
            if waiting.as_ref().is_none_or(|waiting| waiting.until < open_at) {
                // It ends before another begins.
                drop(waiting.take());
                self.observer.waiting(self.inner.clock.now().plus(open_at - now));
                waiting = Some(Waiting { until: open_at, observer: &*self.observer });
            }
            sleep_until(open_at).await;
        }
    }

    async fn attempt(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, TenantError> {
        let token = self.token().await?;
        let mut response = self.send(ask, &token).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // Revoked, or its key was: another is good if the credentials are.
            self.forget(&token);
            let token = self.token().await?;
            response = self.send(ask, &token).await?;
        }
        let pause = self.answered(response.status(), response.headers());
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        // What it says is of help, but no more than that.
        let refusal = collect(body, MAX_SMALL_ANSWER).await.map(|body| Refusal::read(&body)).unwrap_or_default();
        Err(match head.status {
            StatusCode::UNAUTHORIZED => self.refused(refusal.code()),
            StatusCode::FORBIDDEN => TenantError::Forbidden { needed: refusal.needed() },
            StatusCode::GONE => TenantError::Gone,
            StatusCode::TOO_MANY_REQUESTS => TenantError::RateLimited { until: pause },
            status => TenantError::Status { status, code: refusal.code() },
        })
    }

    async fn send(&self, ask: &Ask<'_>, token: &Token) -> Result<Response<Incoming>, TenantError> {
        let mut request = Request::new(Full::new(ask.body.clone().unwrap_or_default()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = ask.uri.clone();
        let fields = request.headers_mut();
        fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        fields.insert(header::AUTHORIZATION, token.authorization.clone());
        if ask.body.is_some() {
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in ask.fields {
            fields.insert(name, value.clone());
        }
        self.inner.http.open(request).await.map_err(|error| self.failed(error.into()))
    }

    /// The token: the one that is kept, or a new one that all who wait for it share.
    async fn token(&self) -> Result<Token, TenantError> {
        if let Some(token) = self.kept() {
            return Ok(token);
        }
        let _turn = self.inner.fetching.acquire().await.map_err(|_| TenantError::TimedOut)?;
        if let Some(token) = self.kept() {
            return Ok(token);
        }
        // Whoever had the turn before may have failed.
        self.turn().await?;
        let token = self.fetch_token().await?;
        self.state().token = Some(token.clone());
        Ok(token)
    }

    fn kept(&self) -> Option<Token> {
        self.state().token.clone().filter(|token| Instant::now() < token.until)
    }

    fn forget(&self, token: &Token) {
        self.state().token.take_if(|kept| kept.authorization == token.authorization);
    }

    async fn fetch_token(&self) -> Result<Token, TenantError> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: SecretString,
            #[serde(default)]
            expires_in: Option<u64>,
            #[serde(default)]
            scope: Option<String>,
        }

        let TenantSettings { client_id, client_secret, audience, .. } = &self.inner.settings;
        let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let form = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}&audience={}",
            encoded(client_id),
            encoded(client_secret.expose_secret()),
            encoded(audience),
        );
        let mut request = Request::new(Full::new(form.into()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri("/oauth/token")?;
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(header::CONTENT_TYPE, form);
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let asked = Instant::now();
        let response = self.inner.http.send(request, MAX_SMALL_ANSWER, self.patience).await;
        let response = response.map_err(|error| self.failed(error.into()))?;
        let until = self.answered(response.status(), response.headers());
        let refusal = || Refusal::read(response.body());
        match response.status() {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => return Err(TenantError::RateLimited { until }),
            status if status.is_server_error() => {
                return Err(TenantError::Status { status, code: refusal().code() });
            }
            _ => return Err(self.refused(refusal().code())),
        }
        let malformed = || self.failed(TenantError::Malformed);
        let Ok(granted) = serde_json::from_slice::<Granted>(response.body()) else { return Err(malformed()) };
        let authorization = format!("Bearer {}", granted.access_token.expose_secret());
        let Ok(mut authorization) = HeaderValue::from_str(&authorization) else { return Err(malformed()) };
        authorization.set_sensitive(true);
        let scopes = granted.scope.map(|scope| scope.split_whitespace().map(Into::into).collect());
        self.state().granted = scopes;
        let life = Duration::from_secs(granted.expires_in.unwrap_or_default().min(30 * 86_400));
        Ok(Token { authorization, until: asked + life.saturating_sub(MARGIN.min(life / 10)) })
    }

    /// Takes note of an answer; until when nothing is asked, for a message.
    fn answered(&self, status: StatusCode, fields: &HeaderMap) -> Timestamp {
        let now = self.time_of(fields);
        let mut state = self.state();
        let pause = state.pace.answered(status, fields, now);
        state.pause(pause, now);
        now.plus(pause)
    }

    /// Takes note of an attempt that came to nothing.
    fn failed(&self, error: TenantError) -> TenantError {
        let mut state = self.state();
        let pause = state.pace.failed();
        state.pause(pause, self.inner.clock.now());
        error
    }

    fn refused(&self, code: Box<str>) -> TenantError {
        self.state().pause(REFUSED, self.inner.clock.now());
        TenantError::Unauthorized { code }
    }

    fn time_of(&self, fields: &HeaderMap) -> Timestamp {
        fields.get(header::DATE).and_then(pace::date).unwrap_or_else(|| self.inner.clock.now())
    }

    fn next(&self, fields: &HeaderMap) -> Option<PathAndQuery> {
        let base = &self.inner.settings.base;
        let target = fields.get_all(header::LINK).iter().find_map(|value| next_link(value.to_str().ok()?))?;
        let target: Uri = target.parse().ok()?;
        let is_there = target.scheme() == base.scheme() && target.authority() == base.authority();
        let is_relative = target.scheme().is_none() && target.authority().is_none() && !target.path().starts_with("//");
        (is_there || is_relative).then(|| target.path_and_query().cloned())?
    }

    /// For what is to be had elsewhere, without a token.
    pub(super) fn http(&self) -> &HttpClient {
        &self.inner.http
    }

    pub(super) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait, until it is over or given up.
struct Waiting<'o> {
    until: Instant,
    observer: &'o dyn Observer,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.observer.resumed();
    }
}

impl State {
    /// Nothing is asked for as long; a longer pause stays.
    fn pause(&mut self, pause: Duration, now: Timestamp) {
        let open_at = Instant::now() + pause;
        if self.open_at.is_none_or(|(before, _)| before < open_at) {
            self.open_at = Some((open_at, now.plus(pause)));
        }
    }
}

async fn collect(body: Incoming, limit: usize) -> Result<Bytes, TenantError> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(TenantError::TooLarge { limit }),
        Err(error) => Err(TenantError::Unreachable(error)),
    }
}

/// What a tenant says when it does not do what it was asked for. Free text of it may tell of users, so only codes are taken.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
    error: Option<String>,
    message: Option<String>,
}

/// What a tenant calls it that calls it nothing.
const NO_CODE: &str = "no code";

impl Refusal {
    fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    fn code(&self) -> Box<str> {
        let is_code = |text: &&String| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b' ' | b'.');
            !text.is_empty() && text.len() <= 60 && text.bytes().all(allowed)
        };
        let code = [&self.error_code, &self.error].into_iter().flatten().find(is_code);
        code.map_or(NO_CODE, String::as_str).into()
    }

    /// The scopes that "Insufficient scope, expected any of: read:logs" names.
    fn needed(&self) -> Box<str> {
        let is_scope = |word: &&str| {
            let allowed = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'_' | b':');
            word.len() <= 60
                && word.bytes().all(allowed)
                && word.split_once(':').is_some_and(|(verb, _)| !verb.is_empty())
        };
        let message = self.message.as_deref().and_then(|message| message.split_once("any of:"));
        let words = message.map_or("", |(_, words)| words).split([' ', ',']).filter(|word| !word.is_empty());
        let scopes: Vec<&str> = words.take_while(is_scope).take(8).collect();
        match &*self.code() {
            _ if !scopes.is_empty() => scopes.join(" or ").into(),
            NO_CODE | "insufficient_scope" => "the scope that it needs".into(),
            // It may be the plan that does not have it.
            code => format!("what it needs ({code})").into(),
        }
    }
}

/// The target of the link whose `rel` is `next` (RFC 8288 §3).
fn next_link(value: &str) -> Option<&str> {
    let mut rest = value;
    loop {
        let (target, after) = rest.split_once('<')?.1.split_once('>')?;
        let end = after.find(",<").or_else(|| after.find(", <")).unwrap_or(after.len());
        let is_next = |parameter: &str| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                let mut relations = value.trim().trim_matches('"').split(' ');
                name.trim().eq_ignore_ascii_case("rel")
                    && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
            })
        };
        if after[..end].split([';', ',']).any(is_next) {
            return Some(target);
        }
        rest = &after[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        for (value, expected) in [
            ("<https://a.example/b?from=1&take=2>; rel=\"next\"", Some("https://a.example/b?from=1&take=2")),
            ("<x>; rel=next", Some("x")),
            ("<p>; rel=\"prev\", <n>; title=\"a\"; REL=\"last next\"", Some("n")),
            ("<p>;rel=\"prev\",<n>;rel=\"next\"", Some("n")),
            ("<p>; rel=\"prev\"", None),
            ("<p>; rel=\"nextish\"", None),
            ("<p", None),
            ("next", None),
            ("", None),
        ] {
            assert_eq!(next_link(value), expected, "{value}");
        }
    }

    #[test]
    fn links_that_lead_elsewhere_are_not_followed() {
        let settings = TenantSettings {
            base: Uri::from_static("https://acme.eu.auth0.com"),
            client_id: "client".into(),
            client_secret: "s3cr3t".into(),
            audience: "https://acme.eu.auth0.com/api/v2/".into(),
            rate_share: RateShare::default(),
        };
        let tenant = Tenant::new(settings, HttpClient::new().unwrap(), Clock::System);
        let next = |link: &str| {
            let fields = [(header::LINK, format!("<{link}>; rel=\"next\"").parse().unwrap())].into_iter().collect();
            tenant.next(&fields).map(|path| path.to_string())
        };
        let path = "/api/v2/logs?from=1&take=100";
        assert_eq!(next(&format!("https://acme.eu.auth0.com{path}")).as_deref(), Some(path));
        assert_eq!(next(path).as_deref(), Some(path));
        for elsewhere in [
            "https://evil.example/api/v2/logs",
            "http://acme.eu.auth0.com/api/v2/logs",
            "https://acme.eu.auth0.com:444/api/v2/logs",
            "https://user@acme.eu.auth0.com/api/v2/logs",
            "//evil.example/api/v2/logs",
            "javascript:alert(1)",
            "",
        ] {
            assert_eq!(next(elsewhere), None, "{elsewhere}");
        }
        assert!(!format!("{tenant:?}").contains("s3cr3t"));
    }

    #[test]
    fn refusals_tell_codes_and_scopes_and_nothing_else() {
        let read = |body: &str| Refusal::read(body.as_bytes());
        let forbidden = read(
            r#"{"statusCode":403,"error":"Forbidden","message":"Insufficient scope, expected any of: read:logs,read:logs_users","errorCode":"insufficient_scope"}"#,
        );
        assert_eq!(&*forbidden.needed(), "read:logs or read:logs_users");
        assert_eq!(&*forbidden.code(), "insufficient_scope");
        assert_eq!(&*read(r#"{"error":"access_denied","error_description":"Unauthorized"}"#).code(), "access_denied");
        let plan = read(r#"{"statusCode":403,"error":"Forbidden","message":"x","errorCode":"feature_not_enabled"}"#);
        assert_eq!(&*plan.needed(), "what it needs (feature_not_enabled)");
        let chatty = read(r#"{"message":"The user auth0|123 expected any of: ada@example.com","errorCode":"a@b\n"}"#);
        assert_eq!(&*chatty.needed(), "the scope that it needs");
        assert_eq!(&*chatty.code(), "no code");
        assert_eq!(&*read("<html>").code(), "no code");
    }

    #[test]
    fn only_what_repeating_cannot_mend_is_final() {
        let status = |status| TenantError::Status { status, code: "x".into() };
        for (error, is_final) in [
            (TenantError::Gone, true),
            (status(StatusCode::NOT_FOUND), true),
            (status(StatusCode::BAD_REQUEST), true),
            (status(StatusCode::REQUEST_TIMEOUT), false),
            (status(StatusCode::BAD_GATEWAY), false),
            (status(StatusCode::FOUND), false),
            (TenantError::TimedOut, false),
            (TenantError::Malformed, false),
            (TenantError::Forbidden { needed: "x".into() }, false),
        ] {
            assert_eq!(error.is_final(), is_final, "{error}");
        }
    }
}
