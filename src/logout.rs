//! Logging out at the issuer too, once a session has ended here: where the browser is sent, and where it may be sent back to.
//!
//! 1. Nothing is sent anywhere that the settings do not name: the issuer's logout, from the settings or from its discovery document,
//!    and from there one of the [allowed URLs](return_url), by the issuer's own rules of matching.
//! 2. Whether the issuer can be reached has no say in whether the session ends here.
//!
//! Auth0's `/v2/logout`, and any OpenID provider's `end_session_endpoint` (OpenID Connect RP-Initiated Logout 1.0 §2).

mod discovery;
pub mod return_url;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::return_url::{AllowedUrl, Matching};
use crate::{http_client::HttpClient, token::claims::IssuerName};

/// The longest `state` that is passed on, in bytes.
pub const MAX_STATE: usize = 512;

/// What a parameter may hold as it is (RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How people are logged out at an issuer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogoutSettings {
    /// The issuer.
    pub issuer: IssuerName,
    /// Its `iss`: where `/v2/logout` or the discovery document is.
    pub identifier: Box<str>,
    /// Which logout it has.
    pub kind: LogoutKind,
    /// Where it is, if not where `kind` says.
    pub endpoint: Option<Uri>,
    /// The `client_id` to send, if not that of the token.
    pub client_id: Option<Box<str>>,
    /// Where it may send people back to.
    pub return_urls: Box<[AllowedUrl]>,
    /// Where it sends people back to who did not say; one of those allowed.
    pub default_return_url: Option<Box<str>>,
    /// Pages that may log people out by a link, as origins (RFC 6454 §6.2): those of the applications.
    pub origins: Box<[Box<str>]>,
    /// Whether it logs out at the identity provider behind it too.
    pub federated: bool,
    /// The `Domain` of the cookie that tokens come in, if it has one.
    pub cookie_domain: Option<Box<str>>,
    /// How often the discovery document is fetched.
    pub refresh_interval: Duration,
    /// How long one fetch may take.
    pub fetch_timeout: Duration,
}

/// Which logout an issuer has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogoutKind {
    /// `/v2/logout` of Auth0.
    Auth0,
    /// `end_session_endpoint` (OpenID Connect RP-Initiated Logout 1.0).
    Oidc,
}

impl LogoutKind {
    /// How its issuer compares return URLs.
    #[must_use]
    pub const fn matching(self) -> Matching {
        match self {
            Self::Auth0 => Matching::WithoutQuery,
            Self::Oidc => Matching::Exact,
        }
    }
}

/// What is known of a logout.
#[derive(Clone, Copy, Default, Debug)]
pub struct Parting<'a> {
    /// The client of the token.
    pub client: Option<&'a str>,
    /// The session of the token.
    pub session: Option<&'a str>,
    /// Where to come back to. Must be [allowed](IssuerLogout::allows).
    pub return_url: Option<&'a str>,
    /// What the application wants to get back.
    pub state: Option<&'a str>,
}

/// The logout of one issuer.
#[derive(Debug)]
pub struct IssuerLogout {
    settings: LogoutSettings,
    endpoint: Endpoint,
}

/// Where a logout is.
#[derive(Debug)]
enum Endpoint {
    Fixed(Uri),
    /// As the discovery document said last; none before it has, or when it names none.
    Discovered(Arc<ArcSwapOption<Uri>>),
}

/// An issuer whose logout is nowhere.
#[derive(Debug, thiserror::Error)]
#[error("the logout of issuer `{issuer}` is nowhere: `{identifier}` is no URL")]
pub struct NoEndpoint {
    issuer: IssuerName,
    identifier: Box<str>,
}

impl IssuerLogout {
    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &LogoutSettings {
        &self.settings
    }

    /// Whether people may come back to this URL.
    #[must_use]
    pub fn allows(&self, return_url: &str) -> bool {
        let matching = self.settings.kind.matching();
        self.settings.return_urls.iter().any(|allowed| allowed.matches(return_url, matching))
    }

    /// Where to send the browser; `None` while the issuer has not said where its logout is. A return URL that is not allowed is
    /// left out.
    #[must_use]
    pub fn url(&self, parting: &Parting<'_>) -> Option<String> {
        let discovered;
        let endpoint = match &self.endpoint {
            Endpoint::Fixed(endpoint) => endpoint,
            Endpoint::Discovered(endpoint) => {
                discovered = endpoint.load_full()?;
                &*discovered
            }
        };
        let client = self.settings.client_id.as_deref().or(parting.client);
        let return_url = parting.return_url.or(self.settings.default_return_url.as_deref());
        let return_url = return_url.filter(|url| self.allows(url));
        let mut url = LogoutUrl::new(endpoint);
        url.add("client_id", client);
        match self.settings.kind {
            LogoutKind::Auth0 => url.add("returnTo", return_url),
            LogoutKind::Oidc => {
                url.add("post_logout_redirect_uri", return_url);
                url.add("logout_hint", parting.session);
                url.add("state", parting.state.filter(|state| return_url.is_some() && state.len() <= MAX_STATE));
            }
        }
        if self.settings.federated {
            url.add_bare("federated");
        }
        Some(url.text)
    }
}

/// A URL to which parameters are added.
struct LogoutUrl {
    text: String,
    separator: char,
}

impl LogoutUrl {
    fn new(endpoint: &Uri) -> Self {
        Self { text: endpoint.to_string(), separator: if endpoint.query().is_some() { '&' } else { '?' } }
    }

    fn add(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add_bare(name);
            // Writing to a string never fails.
            let _ = write!(self.text, "={}", utf8_percent_encode(value, ESCAPED));
        }
    }

    fn add_bare(&mut self, name: &str) {
        self.text.push(self.separator);
        self.text.push_str(name);
        self.separator = '&';
    }
}

/// The logouts of all issuers that have one. Dropped, the discovery documents are not kept fresh any more.
#[derive(Debug, Default)]
pub struct IssuerLogouts {
    logouts: Vec<IssuerLogout>,
    _fetching: JoinSet<()>,
    _stop: Option<DropGuard>,
}

impl IssuerLogouts {
    /// Starts to keep the discovery documents fresh that are needed. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`NoEndpoint`].
    pub fn start(settings: Vec<LogoutSettings>, http: &HttpClient) -> Result<Self, NoEndpoint> {
        let stop = CancellationToken::new();
        let (mut logouts, mut fetching) = (Vec::new(), JoinSet::new());
        for settings in settings {
            let endpoint = match (settings.endpoint.clone(), settings.kind) {
                (Some(endpoint), _) => Endpoint::Fixed(endpoint),
                (None, LogoutKind::Auth0) => {
                    let url = format!("{}/v2/logout", settings.identifier.trim_end_matches('/'));
                    let nowhere =
                        || NoEndpoint { issuer: settings.issuer.clone(), identifier: settings.identifier.clone() };
                    Endpoint::Fixed(crate::http_client::secure(&url).map_err(|_| nowhere())?)
                }
                (None, LogoutKind::Oidc) => {
                    let found = Arc::new(ArcSwapOption::empty());
                    fetching.spawn(discovery::keep_fresh(
                        settings.clone(),
                        http.clone(),
                        Arc::clone(&found),
                        stop.clone(),
                    ));
                    Endpoint::Discovered(found)
                }
            };
            logouts.push(IssuerLogout { settings, endpoint });
        }
        Ok(Self { logouts, _fetching: fetching, _stop: Some(stop.drop_guard()) })
    }

    /// Whether any issuer has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logouts.is_empty()
    }

    /// That of this issuer.
    #[must_use]
    pub fn of(&self, issuer: &IssuerName) -> Option<&IssuerLogout> {
        self.logouts.iter().find(|logout| logout.settings.issuer == *issuer)
    }

    /// The one that is meant where no token tells: that of the issuer of this name, or the only one.
    #[must_use]
    pub fn named(&self, name: Option<&str>) -> Option<&IssuerLogout> {
        match (name, &self.logouts[..]) {
            (Some(name), logouts) => logouts.iter().find(|logout| logout.settings.issuer.as_str() == name),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// Whether pages of this origin may log people out by a link.
    #[must_use]
    pub fn trusts(&self, origin: &str) -> bool {
        let mut origins = self.logouts.iter().flat_map(|logout| &logout.settings.origins);
        origins.any(|trusted| trusted.eq_ignore_ascii_case(origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logout(kind: LogoutKind, endpoint: &str) -> IssuerLogout {
        let settings = LogoutSettings {
            issuer: IssuerName::try_from("acme").unwrap(),
            identifier: "https://acme.example/".into(),
            kind,
            endpoint: None,
            client_id: None,
            return_urls: [AllowedUrl::try_from("https://app.example/out").unwrap()].into(),
            default_return_url: None,
            origins: Box::default(),
            federated: false,
            cookie_domain: None,
            refresh_interval: Duration::from_secs(1),
            fetch_timeout: Duration::from_secs(1),
        };
        IssuerLogout { settings, endpoint: Endpoint::Fixed(endpoint.parse().unwrap()) }
    }

    const PARTING: Parting<'static> = Parting {
        client: Some("web app"),
        session: Some("s/1"),
        return_url: Some("https://app.example/out"),
        state: Some("a&b=c"),
    };

    #[test]
    fn each_kind_has_its_own_parameters() {
        let auth0 = logout(LogoutKind::Auth0, "https://acme.example/v2/logout");
        assert_eq!(
            auth0.url(&PARTING).unwrap(),
            "https://acme.example/v2/logout?client_id=web%20app&returnTo=https%3A%2F%2Fapp.example%2Fout"
        );
        let oidc = logout(LogoutKind::Oidc, "https://acme.example/end?tenant=1");
        assert_eq!(
            oidc.url(&PARTING).unwrap(),
            "https://acme.example/end?tenant=1&client_id=web%20app&post_logout_redirect_uri=https%3A%2F%2Fapp.example%2Fout\
             &logout_hint=s%2F1&state=a%26b%3Dc"
        );
        assert_eq!(oidc.url(&Parting::default()).unwrap(), "https://acme.example/end?tenant=1");
    }

    #[test]
    fn what_is_not_allowed_is_never_in_it() {
        for kind in [LogoutKind::Auth0, LogoutKind::Oidc] {
            let logout = logout(kind, "https://acme.example/out");
            let url = logout.url(&Parting { return_url: Some("https://evil.example/"), ..PARTING }).unwrap();
            assert!(!url.contains("evil") && !url.contains("state"), "{url}");
        }
    }

    #[test]
    fn settings_go_before_the_token() {
        let mut logout = logout(LogoutKind::Auth0, "https://acme.example/v2/logout");
        logout.settings.client_id = Some("configured".into());
        logout.settings.default_return_url = Some("https://app.example/out".into());
        logout.settings.federated = true;
        assert_eq!(
            logout.url(&Parting { return_url: None, ..PARTING }).unwrap(),
            "https://acme.example/v2/logout?client_id=configured&returnTo=https%3A%2F%2Fapp.example%2Fout&federated"
        );
    }
}
