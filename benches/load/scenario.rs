//! What is asked, and what must be answered.

use http::StatusCode;

use crate::{client::Manner, proxy::Kind};

/// One kind of load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    Pass,
    Repeated1k,
    Repeated50k,
    AllNew,
    BadSignature,
    Revoked,
    NoToken,
    Es256New,
    Large,
    Upload,
    NewConnection,
    Tls,
    Http2,
}

impl Scenario {
    pub(crate) const ALL: [Self; 13] = [
        Self::Pass,
        Self::Repeated1k,
        Self::Repeated50k,
        Self::AllNew,
        Self::BadSignature,
        Self::Revoked,
        Self::NoToken,
        Self::Es256New,
        Self::Large,
        Self::Upload,
        Self::NewConnection,
        Self::Tls,
        Self::Http2,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Repeated1k => "repeated_1k",
            Self::Repeated50k => "repeated_50k",
            Self::AllNew => "all_new",
            Self::BadSignature => "bad_signature",
            Self::Revoked => "revoked",
            Self::NoToken => "no_token",
            Self::Es256New => "es256_new",
            Self::Large => "large",
            Self::Upload => "upload",
            Self::NewConnection => "new_connection",
            Self::Tls => "tls",
            Self::Http2 => "http2",
        }
    }

    pub(crate) const fn description(self) -> &'static str {
        match self {
            Self::Pass => "a route that does not look at tokens",
            Self::Repeated1k => "1,000 tokens in turn, all seen before",
            Self::Repeated50k => "50,000 tokens in turn, all seen before",
            Self::AllNew => "every token is new, and so is its subject",
            Self::BadSignature => "every token is well-formed and has a wrong signature: 401",
            Self::Revoked => "1,000 tokens in turn whose subjects have logged out: 401",
            Self::NoToken => "no token: 401",
            Self::Es256New => "every token is new, and signed with ES256",
            Self::Large => "as repeated_1k, with answers of 16 KiB",
            Self::Upload => "as repeated_1k, with 16 KiB to pass on",
            Self::NewConnection => "as repeated_1k, with a new connection for each request",
            Self::Tls => "as repeated_1k, over TLS 1.3; no TLS to the upstream",
            Self::Http2 => "as repeated_1k, over HTTP/2; HTTP/1.1 to the upstream",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Pass => "/open/v1/orders/4711",
            Self::Large => "/api/v1/orders/4711/large",
            Self::Upload => "/api/v1/orders/upload",
            _ => "/api/v1/orders/4711",
        }
    }

    /// How connections are used.
    pub(crate) const fn manner(self) -> Manner {
        match self {
            Self::NewConnection => Manner::New,
            Self::Tls => Manner::Tls,
            Self::Http2 => Manner::Http2,
            _ => Manner::Kept,
        }
    }

    /// How a proxy must answer. nginx looks at no token, `HAProxy` and Envoy know of no logout.
    pub(crate) const fn expected(self, kind: Kind) -> StatusCode {
        match (kind, self) {
            (Kind::Gate(_), Self::BadSignature | Self::Revoked | Self::NoToken)
            | (Kind::Haproxy | Kind::Envoy, Self::BadSignature | Self::NoToken) => StatusCode::UNAUTHORIZED,
            _ => StatusCode::OK,
        }
    }

    /// Requests a second, unless the command line says otherwise. Tokens that are all new have to be signed beforehand.
    pub(crate) const fn default_rate(self) -> u32 {
        match self {
            Self::AllNew | Self::Es256New => 1500,
            Self::NewConnection => 2000,
            _ => 4000,
        }
    }
}
