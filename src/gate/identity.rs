//! Who the request is from, in header fields for the upstream.
//!
//! 1. What a client sends under such a name is removed, in every spelling that an upstream may fold together: servers that
//!    hand fields on as variables (CGI, WSGI, PHP) see `X-Forwarded-User`, `x_forwarded_user` and `X.Forwarded.User` as one.
//! 2. Trailers are treated likewise.
//! 3. What the gate adds comes after that, and after `Connection` has been obeyed: nothing a client sends takes it away.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::token::verify::ForwardedClaims;

/// Set when a request was admitted although markers may have been missed.
pub const STALE: HeaderName = HeaderName::from_static("portcullis-stale");

/// Names that belong to the gate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReservedNames(Arc<Folded>);

#[derive(PartialEq, Eq, Debug)]
struct Folded {
    names: Box<[Box<str>]>,
    /// Bit n: some name has n bytes. Nearly every other field is passed over by this alone.
    lengths: u64,
}

impl ReservedNames {
    /// The names that must not come from a client; [`STALE`] is always one of them.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        let folded = |name: &str| name.bytes().map(fold).map(char::from).collect();
        let names: Box<[Box<str>]> =
            names.into_iter().map(|name| folded(name.as_str())).chain([folded(STALE.as_str())]).collect();
        let lengths = names.iter().fold(0, |lengths, name| lengths | length_bit(name.len()));
        Self(Arc::new(Folded { names, lengths }))
    }

    /// Whether this name, or one that may be taken for it, is reserved.
    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        let alike = |reserved: &str| reserved.len() == name.len() && reserved.bytes().eq(name.bytes().map(fold));
        self.0.lengths & length_bit(name.len()) != 0 && self.0.names.iter().any(|reserved| alike(reserved))
    }

    /// Removes every such field.
    pub fn strip(&self, fields: &mut HeaderMap) {
        if !fields.keys().any(|name| self.contains(name)) {
            return;
        }
        let reserved: Vec<HeaderName> = fields.keys().filter(|name| self.contains(name)).cloned().collect();
        for name in reserved {
            fields.remove(&name);
        }
    }
}

const fn length_bit(length: usize) -> u64 {
    1 << (length & 63)
}

/// Field names are lower-case already.
const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'-' }
}

/// Adds the claims that the policy names. A claim that the token does not have adds nothing.
pub fn add(identity: &[(HeaderName, usize)], claims: &ForwardedClaims, fields: &mut HeaderMap) {
    for (name, claim) in identity {
        if let Some(value) = claims.get(*claim) {
            fields.insert(name.clone(), value);
        }
    }
}

/// Tells the upstream that markers may have been missed.
pub fn flag_stale(fields: &mut HeaderMap) {
    fields.insert(STALE, HeaderValue::from_static("true"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_removed_and_nothing_else() {
        let user = HeaderName::from_static("x-forwarded-user");
        let reserved = ReservedNames::new([&user]);
        let mut fields = HeaderMap::new();
        for name in ["x-forwarded-user", "x_forwarded_user", "x-forwarded_user", "x.forwarded.user", "portcullis_stale"]
        {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static("mallory"));
            fields.append(HeaderName::from_static(name), HeaderValue::from_static("again"));
        }
        for name in ["x-forwarded-users", "x-forwarded-for", "xforwardeduser", "portcullis-stal"] {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static("kept"));
        }
        reserved.strip(&mut fields);
        let mut left: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["portcullis-stal", "x-forwarded-for", "x-forwarded-users", "xforwardeduser"]);
    }
}
