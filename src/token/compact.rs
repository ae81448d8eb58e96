//! A JWS in compact form: three base64url segments, of which the first says how the third signs (RFC 7515 §7.1).

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;

use super::{
    TokenFault,
    json::{Object, Value},
    key::{self, Key},
};

/// The longest header that is read, in bytes of JSON.
pub const MAX_HEADER_LENGTH: usize = 4096;

/// A decoded JWS of which nothing is verified yet. `Debug` shows none of it.
pub struct Compact<'t> {
    signing_input: &'t str,
    /// Header, payload and signature, one after the other.
    decoded: Vec<u8>,
    header_end: usize,
    payload_end: usize,
}

impl<'t> Compact<'t> {
    /// Splits and decodes. Every segment is base64url without padding, white space or set bits after its end
    /// (RFC 4648 §3.5, §5), so that no two texts are the same token. The caller bounds the length.
    ///
    /// # Errors
    /// [`TokenFault::NotCompact`], or [`TokenFault::Header`] for a header beyond [`MAX_HEADER_LENGTH`].
    pub fn parse(token: &'t str) -> Result<Self, TokenFault> {
        let (signing_input, signature) = token.rsplit_once('.').ok_or(TokenFault::NotCompact)?;
        let (header, payload) = signing_input.split_once('.').ok_or(TokenFault::NotCompact)?;
        if header.is_empty() || payload.contains('.') {
            return Err(TokenFault::NotCompact);
        }
        if header.len() > MAX_HEADER_LENGTH.div_ceil(3) * 4 {
            return Err(TokenFault::Header);
        }
        let mut decoded = Vec::with_capacity(token.len());
        let mut append = |segment: &str| {
            URL_SAFE_NO_PAD.decode_vec(segment, &mut decoded).map_err(|_| TokenFault::NotCompact)?;
            Ok(decoded.len())
        };
        let header_end = append(header)?;
        let payload_end = append(payload)?;
        append(signature)?;
        if header_end > MAX_HEADER_LENGTH {
            return Err(TokenFault::Header);
        }
        Ok(Self { signing_input, decoded, header_end, payload_end })
    }

    /// The header.
    ///
    /// # Errors
    /// [`TokenFault::Header`], [`TokenFault::Algorithm`], [`TokenFault::Critical`] or [`TokenFault::Content`].
    pub fn header(&self) -> Result<Header<'_>, TokenFault> {
        Header::parse(&self.decoded[..self.header_end])
    }

    /// What it carries. Not to be believed before [`is_signed_by`](Self::is_signed_by) has said so.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.decoded[self.header_end..self.payload_end]
    }

    /// Whether `key` signed it with `algorithm`.
    #[must_use]
    pub fn is_signed_by(&self, key: &Key, algorithm: Algorithm) -> bool {
        key.verifies(algorithm, self.signing_input.as_bytes(), &self.decoded[self.payload_end..])
    }
}

impl fmt::Debug for Compact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compact").finish_non_exhaustive()
    }
}

/// What a JOSE header says that matters here (RFC 7515 §4.1).
///
/// Keys in the header and links to keys (`jwk`, `jku`, `x5c`, `x5u`, `x5t`) are not looked at: who signs a token does
/// not choose the key that it is verified with (RFC 8725 §3.10).
#[derive(Debug)]
pub struct Header<'a> {
    /// `alg`: a supported one.
    pub algorithm: Algorithm,
    /// `kid`.
    pub kid: Option<Cow<'a, str>>,
    /// `typ`.
    pub typ: Option<Cow<'a, str>>,
}

impl<'a> Header<'a> {
    fn parse(json: &'a [u8]) -> Result<Self, TokenFault> {
        let members = Object::parse(json).map_err(|_| TokenFault::Header)?;
        let (mut algorithm, mut kid, mut typ) = (None, None, None);
        let (mut is_critical, mut is_nested) = (false, false);
        for (name, value) in members {
            match (&*name, value) {
                ("alg", Value::String(value)) => algorithm = Some(value),
                ("kid", Value::String(value)) => kid = Some(value),
                ("typ", Value::String(value)) => typ = Some(value),
                ("alg" | "kid" | "typ", _) => return Err(TokenFault::Header),
                // `b64` changes what is signed, and may not stand without `crit` (RFC 7797 §3, §6).
                ("crit" | "b64", _) => is_critical = true,
                ("cty" | "zip", _) => is_nested = true,
                _ => {}
            }
        }
        let algorithm = key::algorithm(&algorithm.ok_or(TokenFault::Header)?).ok_or(TokenFault::Algorithm)?;
        if is_critical {
            return Err(TokenFault::Critical);
        }
        if is_nested { Err(TokenFault::Content) } else { Ok(Self { algorithm, kid, typ }) }
    }

    /// Whether `typ` is this media type, given without `application/` (RFC 7515 §4.1.9).
    #[must_use]
    pub fn is_typ(&self, media_type: &str) -> bool {
        const PREFIX: &str = "application/";
        self.typ.as_deref().is_some_and(|typ| {
            let prefixed = typ.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
            let name = if prefixed { &typ[PREFIX.len()..] } else { typ };
            name.eq_ignore_ascii_case(media_type)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(header: &str) -> Option<TokenFault> {
        Header::parse(header.as_bytes()).err()
    }

    #[test]
    fn headers_are_judged() {
        assert_eq!(fault(r#"{"alg":"RS256"}"#), None);
        assert_eq!(fault(r#"{"alg":"Ed25519","kid":"a/../b","typ":"JWT","jku":"https://evil.example"}"#), None);
        for (header, expected) in [
            (r#"{"typ":"JWT"}"#, TokenFault::Header),
            (r#"{"alg":256}"#, TokenFault::Header),
            (r#"{"alg":"RS256","alg":"none"}"#, TokenFault::Header),
            (r#"{"alg":"RS256","kid":7}"#, TokenFault::Header),
            (r#"{"alg":"RS256","typ":["JWT"]}"#, TokenFault::Header),
            (r#"["alg"]"#, TokenFault::Header),
            (r#"{"alg":"none"}"#, TokenFault::Algorithm),
            (r#"{"alg":"NoNe"}"#, TokenFault::Algorithm),
            (r#"{"alg":"rs256"}"#, TokenFault::Algorithm),
            (r#"{"alg":""}"#, TokenFault::Algorithm),
            (r#"{"alg":"ES512"}"#, TokenFault::Algorithm),
            (r#"{"alg":"RS256","crit":["exp"],"exp":1}"#, TokenFault::Critical),
            (r#"{"alg":"RS256","crit":[]}"#, TokenFault::Critical),
            (r#"{"alg":"RS256","crit":null}"#, TokenFault::Critical),
            (r#"{"alg":"RS256","b64":false}"#, TokenFault::Critical),
            (r#"{"alg":"RS256","cty":"JWT"}"#, TokenFault::Content),
            (r#"{"alg":"RS256","zip":"DEF"}"#, TokenFault::Content),
        ] {
            assert_eq!(fault(header), Some(expected), "{header}");
        }
    }

    #[test]
    fn types_are_compared_as_media_types() {
        let is_access_token =
            |typ: &str| Header { algorithm: Algorithm::RS256, kid: None, typ: Some(typ.into()) }.is_typ("at+jwt");
        assert!(is_access_token("at+jwt") && is_access_token("AT+JWT") && is_access_token("Application/at+jwt"));
        assert!(!is_access_token("application/application/at+jwt") && !is_access_token("text/at+jwt"));
        assert!(!is_access_token("at+jwt ") && !is_access_token("") && !is_access_token("äpplication/at+jwt"));
    }

    #[test]
    fn segments_are_strict() {
        for token in [
            "",
            ".",
            "..",
            "a.b",
            "e30.e30",
            ".e30.e30",
            "e30.e30.e30.e30",
            "e30.e30.e30.",
            "e30=.e30.",
            "e30 .e30.",
            "e30.e31.",
            "e30.e3+.",
            "e30.e30.\n",
            "e30.é.e30",
        ] {
            assert_eq!(Compact::parse(token).err(), Some(TokenFault::NotCompact), "{token:?}");
        }
        assert!(Compact::parse("e30.e30.").is_ok());
        let longest = URL_SAFE_NO_PAD.encode([b' '; MAX_HEADER_LENGTH]);
        assert!(Compact::parse(&format!("{longest}.e30.")).is_ok());
        let longer = URL_SAFE_NO_PAD.encode([b' '; MAX_HEADER_LENGTH + 1]);
        assert_eq!(Compact::parse(&format!("{longer}.e30.")).err(), Some(TokenFault::Header));
    }
}
