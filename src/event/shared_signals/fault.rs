//! What a transmitter is told about a SET that is not taken.

use std::fmt;

use crate::{
    store::StoreError,
    token::{TokenFault, verify::Unverified},
};

/// The code of an error (RFC 8935 §2.4, Shared Signals Framework 1.0 for the last).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// It cannot be read, or an event is not as its type defines.
    InvalidRequest,
    /// The key that signed it is not one of the transmitter's.
    InvalidKey,
    /// It is from another issuer.
    InvalidIssuer,
    /// It is for somebody else.
    InvalidAudience,
    /// Its signature is not good, or made by an algorithm that is not allowed.
    AuthenticationFailed,
    /// A verification event with a state that nobody asked for.
    InvalidState,
}

impl Code {
    /// Its name in errors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidKey => "invalid_key",
            Self::InvalidIssuer => "invalid_issuer",
            Self::InvalidAudience => "invalid_audience",
            Self::AuthenticationFailed => "authentication_failed",
            Self::InvalidState => "invalid_state",
        }
    }
}

/// What is wrong with a SET. Sending it again is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetFault {
    /// Its kind.
    pub code: Code,
    /// More about it, for people.
    pub description: &'static str,
}

impl SetFault {
    pub(super) const fn new(code: Code, description: &'static str) -> Self {
        Self { code, description }
    }

    /// The error as the transmitter gets it.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "err": self.code.as_str(), "description": self.description })
    }
}

impl fmt::Display for SetFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SET is refused with {}: {}", self.code.as_str(), self.description)
    }
}

impl std::error::Error for SetFault {}

/// Why a SET is not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is at fault.
    Fault(SetFault),
    /// The transmitter's keys are not known, or there may be newer ones: nothing is known about it yet.
    NotReady,
    /// What it says could not be stored or looked up.
    Store(StoreError),
}

impl From<SetFault> for Refused {
    fn from(fault: SetFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TokenFault> for SetFault {
    fn from(fault: TokenFault) -> Self {
        match fault {
            TokenFault::TooLong => Self::new(Code::InvalidRequest, "the SET is too long"),
            TokenFault::NotCompact => Self::new(Code::InvalidRequest, "not a JWS in compact form"),
            TokenFault::Header => Self::new(Code::InvalidRequest, "the header is not well-formed"),
            TokenFault::Critical => Self::new(Code::InvalidRequest, "the header has critical extensions"),
            TokenFault::Content => Self::new(Code::InvalidRequest, "the content is nested or compressed"),
            TokenFault::Payload => Self::new(Code::InvalidRequest, "the payload is not a well-formed JSON object"),
            TokenFault::Type => Self::new(Code::InvalidRequest, "`typ` is not `secevent+jwt`"),
            TokenFault::Claim | TokenFault::Source | TokenFault::SenderConstrained => {
                Self::new(Code::InvalidRequest, "a claim is missing or of the wrong form")
            }
            TokenFault::Algorithm => Self::new(Code::AuthenticationFailed, "the algorithm is not allowed"),
            TokenFault::Signature => Self::new(Code::AuthenticationFailed, "the signature does not verify"),
            TokenFault::UnknownKey => Self::new(Code::InvalidKey, "no key of the issuer fits"),
            TokenFault::Issuer => Self::new(Code::InvalidIssuer, "`iss` is not the transmitter of this stream"),
            TokenFault::Audience => Self::new(Code::InvalidAudience, "`aud` does not name this recipient"),
        }
    }
}

impl From<Unverified> for Refused {
    fn from(unverified: Unverified) -> Self {
        match unverified {
            Unverified::Fault(fault) => Self::Fault(fault.into()),
            Unverified::UnknownKey { .. } => Self::Fault(TokenFault::UnknownKey.into()),
            Unverified::KeysUnavailable => Self::NotReady,
        }
    }
}
