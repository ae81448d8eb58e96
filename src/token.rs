//! Access tokens: what they say, and how it is verified.
//!
//! - [`claims`]: what a verified token says, as checked types.
//! - `issuer`, `key`, `jwks` (feature `gate`): whom to trust, and with which keys (RFC 7517, 7518).
//! - `json`, `compact`, `verify` (feature `gate`): the form of a token, and the verification itself
//!   (RFC 7515, 7519, 8725, 9068).

pub mod claims;
#[cfg(feature = "gate")]
pub mod compact;
#[cfg(feature = "gate")]
pub mod issuer;
#[cfg(feature = "gate")]
pub mod json;
#[cfg(feature = "gate")]
pub mod jwks;
#[cfg(feature = "gate")]
pub mod key;
mod packed;
#[cfg(feature = "gate")]
pub mod verify;

/// Why a token failed verification. Clients see only `invalid_token`; operators see this in logs and `explain`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum TokenFault {
    /// Longer than the configured limit.
    #[error("token is too long")]
    TooLong,
    /// Not three base64url segments (RFC 7515 §7.1).
    #[error("not a JWS in compact form")]
    NotCompact,
    /// A header that is not a JSON object of the expected form, or with a doubled member.
    #[error("header is not a well-formed JOSE header")]
    Header,
    /// `alg` is `none`, unknown, or not allowed for the issuer.
    #[error("algorithm is not allowed")]
    Algorithm,
    /// `crit` is present: no extension is understood (RFC 7515 §4.1.11).
    #[error("header has critical extensions")]
    Critical,
    /// `typ` is not that of an access token (RFC 8725 §3.11, RFC 9068 §4).
    #[error("`typ` is not that of an access token")]
    Type,
    /// `cty` or `zip`: nested or compressed content (RFC 8725 §3.6).
    #[error("content is nested or compressed")]
    Content,
    /// A payload that is not a JSON object, or with a doubled member.
    #[error("payload is not a well-formed JSON object")]
    Payload,
    /// `iss` is not that of a configured issuer.
    #[error("issuer is not trusted")]
    Issuer,
    /// No key of the issuer fits `kid` and `alg`.
    #[error("no key of the issuer fits")]
    UnknownKey,
    /// The signature does not verify.
    #[error("signature does not verify")]
    Signature,
    /// `aud` is not for this gate.
    #[error("audience does not match")]
    Audience,
    /// A required claim is absent or of the wrong form.
    #[error("a required claim is absent or of the wrong form")]
    Claim,
    /// From a cookie or header that its issuer is not configured for.
    #[error("token came from a place that its issuer is not configured for")]
    Source,
    /// Bound to a key or certificate (`cnf`) that this gate does not check (RFC 9449 §7.1, RFC 8705 §3).
    #[error("token is sender-constrained")]
    SenderConstrained,
}

impl TokenFault {
    /// Whether the signature was verified before the fault was found.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::Audience | Self::Claim | Self::Source | Self::SenderConstrained)
    }
}
