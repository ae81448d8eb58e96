//! The names under which markers are stored: a public format, see `docs/markers.md`.

use std::{fmt, sync::Arc};

use crate::token::claims::{ClientId, IssuerName, SessionId, Subject, TokenId};

/// What a marker is about, as its key's first part tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A subject logged out.
    Logout,
    /// A subject is blocked, or no longer.
    Block,
    /// A session ended.
    Session,
    /// One token was revoked.
    Token,
    /// Tokens of a client issued up to some time are revoked.
    Client,
    /// Tokens of an issuer issued up to some time are revoked.
    Issuer,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Logout, Self::Block, Self::Session, Self::Token, Self::Client, Self::Issuer];

    /// The first part of its keys, and its name in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Block => "block",
            Self::Session => "session",
            Self::Token => "token",
            Self::Client => "client",
            Self::Issuer => "issuer",
        }
    }
}

/// The key of a marker, without the store's prefix: `kind:issuer:id`, the id verbatim and last.
///
/// An issuer's name holds no colon, so the parts cannot be confused whatever the id holds.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MarkerKey {
    kind: Kind,
    text: Arc<str>,
}

impl MarkerKey {
    /// `logout:issuer:sub`
    #[must_use]
    pub fn logout(subject: &Subject) -> Self {
        Self::new(Kind::Logout, &subject.issuer, subject.id.as_str())
    }

    /// `block:issuer:sub`
    #[must_use]
    pub fn block(subject: &Subject) -> Self {
        Self::new(Kind::Block, &subject.issuer, subject.id.as_str())
    }

    /// `session:issuer:sid`
    #[must_use]
    pub fn session(issuer: &IssuerName, session: &SessionId) -> Self {
        Self::new(Kind::Session, issuer, session.as_str())
    }

    /// `token:issuer:jti`
    #[must_use]
    pub fn token(issuer: &IssuerName, token: &TokenId) -> Self {
        Self::new(Kind::Token, issuer, token.as_str())
    }

    /// `client:issuer:client_id`
    #[must_use]
    pub fn client(issuer: &IssuerName, client: &ClientId) -> Self {
        Self::new(Kind::Client, issuer, client.as_str())
    }

    /// `issuer:issuer`
    #[must_use]
    pub fn issuer(issuer: &IssuerName) -> Self {
        Self { kind: Kind::Issuer, text: [Kind::Issuer.as_str(), ":", issuer.as_str()].concat().into() }
    }

    fn new(kind: Kind, issuer: &IssuerName, id: &str) -> Self {
        Self { kind, text: [kind.as_str(), ":", issuer.as_str(), ":", id].concat().into() }
    }

    /// What it is about.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The key, without the store's prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Shows the kind only: the rest holds ids.
impl fmt::Debug for MarkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MarkerKey({}:…)", self.kind.as_str())
    }
}
