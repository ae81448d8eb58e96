//! `/.portcullis/logout`: a person logs out, here and at the issuer.
//!
//! 1. The caller's own token says whose session ends: that one, or with `everywhere` all of its subject. Without a session id in the
//!    token there is only everywhere. `POST` answers 204 when it is durable.
//! 2. With `post_logout_redirect_uri`, or `returnTo`, the answer leads on to the issuer's logout: 303, or for who accepts
//!    `application/json` 200 with the URL, since scripts cannot follow there. Where no session is left to end it does so too, so that
//!    the person is logged out there. A URL that is not allowed is refused before anything ends.
//! 3. A browser sends a cookie whoever asks it to. A `POST` with one must come from the site itself. A `GET` acts at once only if the
//!    browser says that the person, or a trusted page, opened it as a page of its own; otherwise a page asks first.
//! 4. The cookie that the token came in is removed.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::{
    cross_origin::TrustedOrigins,
    is_forged, json, log_out_at, method_not_allowed, no_content, page,
    parameters::{Parameters, Unreadable},
    store_failed,
};
use crate::{
    clock::Clock,
    gate::{Decision, Judge, Judgement, Policy, problem, refusal::Refusals, tokens::KnownToken},
    incoming::Incoming,
    logout::{IssuerLogout, IssuerLogouts, MAX_STATE, Parting, return_url},
    marker::{Marker, MarkerKey, MarkerRecord, Reading, Source},
    revocation::Revocations,
    store::StoreError,
    telemetry::audit::{self, Actor},
    token::claims::{Claims, ClientId, SessionId},
    upstream::{Body, fields::Downstream},
    verdict::Reason,
};

/// What names the URL to come back to: OpenID Connect's way, and Auth0's.
const RETURN_URL: [&str; 2] = ["post_logout_redirect_uri", "returnTo"];

/// The endpoint.
#[derive(Debug)]
pub struct LogoutEndpoint {
    judge: Judge,
    policy: Arc<Policy>,
    refusals: Refusals,
    logouts: Arc<IssuerLogouts>,
    revocations: Revocations,
    /// Pages elsewhere whose scripts may log people out.
    origins: TrustedOrigins,
    clock: Clock,
}

/// What a request asks for.
struct Wish {
    everywhere: bool,
    onward: Option<Onward>,
}

/// Where to go from here.
struct Onward {
    return_url: Option<String>,
    state: Option<String>,
    issuer: Option<String>,
}

impl LogoutEndpoint {
    /// An endpoint that takes tokens by `policy`, leads on to these issuers, and has sessions revoked there; for pages of its own site and
    /// these origins.
    #[must_use]
    pub fn new(
        judge: Judge,
        policy: Policy,
        logouts: Arc<IssuerLogouts>,
        revocations: Revocations,
        origins: TrustedOrigins,
        clock: Clock,
    ) -> Self {
        let refusals = Refusals::new(&policy);
        Self { judge, refusals, policy: Arc::new(policy), logouts, revocations, origins, clock }
    }

    pub(super) async fn serve(&self, request: Request<Incoming>, downstream: &Downstream) -> Response<Body> {
        let (head, body) = request.into_parts();
        let fields = &head.headers;
        let parameters = Parameters::of_query(head.uri.query());
        match head.method {
            Method::POST if self.origins.of(fields).is_none() && is_forged(&self.policy.sources, fields) => {
                let detail = "A logout with a cookie must come from the site itself.";
                problem::response(StatusCode::FORBIDDEN, "cross_site", detail)
            }
            Method::POST => match parameters.and_form(fields, body).await.and_then(|all| Wish::read(&all, false)) {
                Ok(wish) => self.log_out(fields, &wish, downstream).await,
                Err(Unreadable) => invalid_parameters(),
            },
            Method::GET if !self.logouts.is_empty() => match Wish::read(&parameters, true) {
                Ok(wish) if self.is_deliberate(fields) => self.log_out(fields, &wish, downstream).await,
                Ok(wish) => wish.ask(),
                Err(Unreadable) => invalid_parameters(),
            },
            _ if self.logouts.is_empty() => method_not_allowed("POST"),
            _ => method_not_allowed("GET, POST"),
        }
    }

    async fn log_out(&self, fields: &HeaderMap, wish: &Wish, downstream: &Downstream) -> Response<Body> {
        let decision = match self.judge.judge(&self.policy, fields) {
            Judgement::Decided(decision) => decision,
            Judgement::Pending(decision) => decision.await,
        };
        let claims = decision.token.as_ref().map(|known| &known.claims);
        let Some(onward) = &wish.onward else {
            let mut response = match self.end(&decision, wish.everywhere, downstream).await {
                Ok(()) => no_content(),
                Err(Unended::Refused(reason)) => return self.refusals.answer(reason, fields),
                Err(Unended::NotStored(error)) => return store_failed(&error),
            };
            self.remove_cookies(fields, claims, &mut response);
            return response;
        };
        let logout = match claims {
            Some(claims) => self.logouts.of(&claims.subject.issuer),
            None => self.logouts.named(onward.issuer.as_deref()),
        };
        if let Some(url) = &onward.return_url
            && !logout.is_some_and(|logout| logout.allows(url))
        {
            let detail = "The URL to return to is not one of those that are allowed. Nothing has ended.";
            return problem::response(StatusCode::BAD_REQUEST, "return_url", detail);
        }
        match self.end(&decision, wish.everywhere, downstream).await {
            Ok(()) => {}
            // Nothing is left to end here, which does not say that nothing is left at the issuer.
            Err(Unended::Refused(reason)) if is_over(reason) && !wish.everywhere => {}
            Err(Unended::Refused(reason)) => return self.refusals.answer(reason, fields),
            Err(Unended::NotStored(error)) => return store_failed(&error),
        }
        let mut response = lead_on(logout, claims, onward, fields);
        self.remove_cookies(fields, claims, &mut response);
        response
    }

    /// Ends what the token is good for. Resolves when it is durable.
    async fn end(&self, decision: &Decision, everywhere: bool, downstream: &Downstream) -> Result<(), Unended> {
        match (decision.reason(), &decision.token) {
            (None, Some(known)) => self.write(known, everywhere, downstream).await,
            // What is over already is over; but the end of one session is not the end of all.
            (Some(Reason::LoggedOut), Some(known)) => {
                let key = MarkerKey::logout(&known.claims.subject);
                self.confirm(&key, known, everywhere, downstream).await
            }
            (Some(Reason::SessionEnded), Some(known)) if !everywhere => {
                let claims = &known.claims;
                let session = |session| MarkerKey::session(&claims.subject.issuer, session);
                let key = claims.session.as_ref().map_or_else(|| MarkerKey::logout(&claims.subject), session);
                self.confirm(&key, known, everywhere, downstream).await
            }
            // Its time is up, which the issuer need not know; and who was idle for too long on one route may be told otherwise by another.
            (Some(Reason::IdleTimeout | Reason::ReauthenticationRequired { .. }), Some(known)) => {
                self.write(known, everywhere, downstream).await
            }
            // Whether it still is, nobody knows while the store is silent; writing it again does no harm.
            (Some(Reason::SessionEnded), Some(known)) if decision.stale => {
                self.write(known, everywhere, downstream).await
            }
            (reason, _) => Err(Unended::Refused(reason.unwrap_or(Reason::MissingToken))),
        }
    }

    /// Resolves once the marker that ended it is durable: whoever wrote it may not have been told that it is.
    async fn confirm(
        &self,
        key: &MarkerKey,
        known: &KnownToken,
        everywhere: bool,
        downstream: &Downstream,
    ) -> Result<(), Unended> {
        let ledger = &self.judge.parts().ledger;
        match ledger.look_up(key).await? {
            // Merged into itself it stays as it is, and is waited for.
            Reading::Present(record) => Ok(ledger.write(key, &record).await.map(drop)?),
            Reading::Unreadable => Ok(()),
            Reading::Absent => self.write(known, everywhere, downstream).await,
        }
    }

    async fn write(&self, known: &KnownToken, everywhere: bool, downstream: &Downstream) -> Result<(), Unended> {
        let claims = &known.claims;
        self.revocations.put(claims, everywhere).await?;
        let now = self.clock.now();
        let (what, key, marker) = match &claims.session {
            Some(session) if !everywhere => {
                ("session_end", MarkerKey::session(&claims.subject.issuer, session), Marker::SessionEnd(now))
            }
            _ => ("logout", MarkerKey::logout(&claims.subject), log_out_at(now)),
        };
        let by = claims.client.as_ref().map_or("self", |client| client.as_str());
        let record = MarkerRecord {
            by: Some(by.to_owned()),
            reason: Some("logout".to_owned()),
            ..MarkerRecord::new(marker).written_by(Source::Logout)
        };
        let result = self.judge.parts().ledger.write(&key, &record).await;
        let from = downstream.peer.to_str().ok().and_then(|peer| peer.parse().ok());
        audit::record(&Actor { who: "self".to_owned(), from, event: None }, what, &key, &marker, &result);
        Ok(result.map(drop)?)
    }

    /// Whether a `GET` is a page that the person opened, or that the site itself or a trusted page led to. Browsers that do not
    /// tell (Fetch Metadata) are not believed, nor are those that only look ahead.
    fn is_deliberate(&self, fields: &HeaderMap) -> bool {
        let is =
            |name: &str, expected: &[&[u8]]| fields.get(name).is_some_and(|value| expected.contains(&value.as_bytes()));
        let looks_ahead = fields.contains_key("sec-purpose") || fields.contains_key("purpose");
        let opened = is("sec-fetch-mode", &[b"navigate"]) && is("sec-fetch-dest", &[b"document"]);
        let own = is("sec-fetch-site", &[b"same-origin", b"none"]);
        opened && !looks_ahead && (own || referring_origin(fields).is_some_and(|origin| self.logouts.trusts(&origin)))
    }

    fn remove_cookies(&self, fields: &HeaderMap, claims: Option<&Claims>, response: &mut Response<Body>) {
        let logout = claims.and_then(|claims| self.logouts.of(&claims.subject.issuer)).or(self.logouts.named(None));
        let domain = logout.and_then(|logout| logout.settings().cookie_domain.as_deref());
        for name in self.policy.sources.cookies_in(fields) {
            // It came with a request for this path, so its own can hardly be another than `/`.
            let secure = if name.starts_with("__") { "; Secure" } else { "" };
            let removal = format!("{name}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax{secure}");
            let with_domain = domain.map(|domain| format!("{removal}; Domain={domain}"));
            for removal in with_domain.into_iter().chain([removal]) {
                // The name is that of a cookie, and the domain one of letters, so it is a field value.
                if let Ok(removal) = HeaderValue::try_from(removal) {
                    response.headers_mut().append(header::SET_COOKIE, removal);
                }
            }
        }
    }
}

/// Why nothing ended.
enum Unended {
    Refused(Reason),
    NotStored(StoreError),
}

impl From<StoreError> for Unended {
    fn from(error: StoreError) -> Self {
        Self::NotStored(error)
    }
}

impl Wish {
    /// `onward`: to lead on even when nobody says where to.
    fn read(parameters: &Parameters, onward: bool) -> Result<Self, Unreadable> {
        let return_url = parameters.one(&RETURN_URL)?;
        let state = parameters.one(&["state"])?.filter(|state| !state.is_empty());
        let issuer = parameters.one(&["issuer"])?;
        let too_long = |text: &Option<String>, most| text.as_ref().is_some_and(|text| text.len() > most);
        if too_long(&return_url, return_url::MAX_LENGTH) || too_long(&state, MAX_STATE) || too_long(&issuer, 32) {
            return Err(Unreadable);
        }
        let onward = (onward || return_url.is_some()).then_some(Onward {
            return_url: return_url.filter(|url| !url.is_empty()),
            state,
            issuer,
        });
        Ok(Self { everywhere: parameters.pairs().any(is_everywhere), onward })
    }

    /// A page whose form asks for the same.
    fn ask(&self) -> Response<Body> {
        let onward = self.onward.as_ref();
        let mut fields = vec![(RETURN_URL[0], onward.and_then(|onward| onward.return_url.as_deref()).unwrap_or(""))];
        fields.extend(onward.and_then(|onward| onward.state.as_deref()).map(|state| ("state", state)));
        fields.extend(onward.and_then(|onward| onward.issuer.as_deref()).map(|issuer| ("issuer", issuer)));
        fields.extend(self.everywhere.then_some(("everywhere", "true")));
        page::confirmation(self.everywhere, &fields)
    }
}

fn is_everywhere(pair: &str) -> bool {
    matches!(pair, "everywhere" | "everywhere=" | "everywhere=true" | "everywhere=1")
}

/// Whether a refusal says that the token is of no use any more, and not that nobody knows.
const fn is_over(reason: Reason) -> bool {
    match reason {
        Reason::InvalidRequest | Reason::KeysUnavailable | Reason::Stale => false,
        Reason::MissingToken
        | Reason::InvalidToken
        | Reason::TokenExpired
        | Reason::TokenLifetime
        | Reason::Revoked
        | Reason::UserBlocked
        | Reason::LoggedOut
        | Reason::SessionEnded
        | Reason::ReauthenticationRequired { .. }
        | Reason::IdleTimeout
        | Reason::InsufficientScope => true,
    }
}

/// On to the issuer, or, where its logout is not known, a word that it is done here.
fn lead_on(
    logout: Option<&IssuerLogout>,
    claims: Option<&Claims>,
    onward: &Onward,
    fields: &HeaderMap,
) -> Response<Body> {
    let url = logout.and_then(|logout| {
        logout.url(&Parting {
            client: claims.and_then(|claims| claims.client.as_ref()).map(ClientId::as_str),
            session: claims.and_then(|claims| claims.session.as_ref()).map(SessionId::as_str),
            return_url: onward.return_url.as_deref(),
            state: onward.state.as_deref(),
        })
    });
    if accepts_json(fields) {
        return json(&serde_json::json!({ "logout_url": url }));
    }
    let Some(location) = url.and_then(|url| HeaderValue::try_from(url).ok()) else {
        return page::logged_out(logout.is_none());
    };
    let mut response = no_content();
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Whether the client says that it takes JSON (RFC 9110 §12.5.1). Those that take anything get a redirect.
fn accepts_json(fields: &HeaderMap) -> bool {
    let ranges = fields.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
        let is_refused = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.trim_matches(['0', '.']).is_empty());
        is_json && !parts.any(is_refused)
    })
}

fn invalid_parameters() -> Response<Body> {
    let detail = "A parameter is there twice, too long, or not readable.";
    problem::response(StatusCode::BAD_REQUEST, "invalid_parameters", detail)
}

/// The origin of the page that led here. Pages can keep it back, but not make it up.
fn referring_origin(fields: &HeaderMap) -> Option<String> {
    let referrer = fields.get(header::REFERER)?.to_str().ok()?;
    let (scheme, rest) = referrer.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(format!("{scheme}://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_for_those_who_name_it() {
        let cases = [
            ("application/json", true),
            ("text/html;q=0.5, Application/JSON;q=0.9", true),
            ("application/json;q=0", false),
            ("application/json; q=0.0", false),
            ("*/*", false),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false),
            ("application/jsonp", false),
        ];
        for (accept, expected) in cases {
            let fields = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(accepts_json(&fields), expected, "{accept}");
        }
        assert!(!accepts_json(&HeaderMap::new()));
    }

    #[test]
    fn an_origin_is_all_of_a_referrer_that_counts() {
        let cases = [
            ("https://app.example/a?b#c", Some("https://app.example")),
            ("https://app.example", Some("https://app.example")),
            ("https://app.example:8443/", Some("https://app.example:8443")),
            ("https://evil.example/https://app.example/", Some("https://evil.example")),
            ("https://app.example@evil.example/", Some("https://app.example@evil.example")),
            ("about:blank", None),
        ];
        for (referrer, expected) in cases {
            let fields = HeaderMap::from_iter([(header::REFERER, HeaderValue::from_static(referrer))]);
            assert_eq!(referring_origin(&fields).as_deref(), expected, "{referrer}");
        }
    }
}
