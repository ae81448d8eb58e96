//! The bearer token, out of the request (RFC 6750 §2).
//!
//! 1. The `Authorization` field with scheme `Bearer`, any case; other schemes are not ours and count as no credentials.
//! 2. Where configured, a named cookie or a named header, for all issuers or for one.
//! 3. Exactly one token may be presented: more than one, even the same twice, is malformed.
//!
//! A token in the query or in a form body is never read.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::token::claims::IssuerName;

/// Where a token may come from, beside the `Authorization` field.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CredentialSources {
    /// Names of cookies.
    pub cookies: Box<[Source<Box<str>>]>,
    /// Names of header fields that hold the bare token.
    pub headers: Box<[Source<HeaderName>]>,
}

/// One such place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source<N> {
    /// Its name.
    pub name: N,
    /// The only issuer whose tokens it may carry; `None`: any.
    pub issuer: Option<IssuerName>,
}

/// What a request presents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Credential<'a> {
    /// Nothing.
    Absent,
    /// More than one token, or a malformed one.
    Malformed,
    /// One token, not yet verified.
    Bearer {
        /// The token.
        token: &'a [u8],
        /// The only issuer whose tokens its place may carry.
        only: Option<&'a IssuerName>,
        /// Whether a browser sends it by itself.
        ambient: bool,
    },
}

impl CredentialSources {
    /// Finds the token of a request.
    #[must_use]
    pub fn find<'a>(&'a self, fields: &'a HeaderMap) -> Credential<'a> {
        self.find_or_recognise(fields, |_| false)
    }

    /// The same. What `is_token` knows as a well-formed token is not looked at once more: every character of every token would be.
    #[must_use]
    pub fn find_or_recognise<'a>(
        &'a self,
        fields: &'a HeaderMap,
        mut is_token: impl FnMut(&[u8]) -> bool,
    ) -> Credential<'a> {
        let mut b64token = |value: &'a [u8], only: Option<&'a IssuerName>, ambient: bool| {
            let token = value.trim_ascii_end();
            if is_token(token) || is_b64token(token) {
                Credential::Bearer { token, only, ambient }
            } else {
                Credential::Malformed
            }
        };
        let mut found = Credential::Absent;
        let mut add = |next: Credential<'a>| {
            found = match (found, next) {
                (found, Credential::Absent) => found,
                (Credential::Absent, next) => next,
                _ => Credential::Malformed,
            };
        };
        let mut authorizations = fields.get_all(header::AUTHORIZATION).iter();
        if let Some(value) = authorizations.next() {
            add(match bearer(value.as_bytes()) {
                Bearer::No => Credential::Absent,
                Bearer::Malformed => Credential::Malformed,
                Bearer::Token(token) => b64token(token, None, false),
            });
            if authorizations.next().is_some() {
                return Credential::Malformed;
            }
        }
        if !self.headers.is_empty() && fields.keys().any(|name| self.is_twin(name)) {
            return Credential::Malformed;
        }
        for source in &self.headers {
            for value in fields.get_all(&source.name) {
                add(b64token(value.as_bytes().trim_ascii(), source.issuer.as_ref(), false));
            }
        }
        if !self.cookies.is_empty() {
            for (name, value) in fields.get_all(header::COOKIE).iter().flat_map(|value| cookie_pairs(value.as_bytes()))
            {
                for source in self.cookies.iter().filter(|source| source.name.as_bytes() == name) {
                    add(b64token(value, source.issuer.as_ref(), true));
                }
            }
        }
        found
    }

    /// Whether servers that hand fields on as variables would take this one for a place of tokens, which it is not.
    fn is_twin(&self, name: &HeaderName) -> bool {
        let folded = |byte: u8| if byte == b'_' { b'-' } else { byte };
        self.headers.iter().any(|source| {
            source.name != name && source.name.as_str().bytes().map(folded).eq(name.as_str().bytes().map(folded))
        })
    }

    /// The places of both, each once.
    #[must_use]
    pub fn union(self, other: &Self) -> Self {
        Self { cookies: merge(self.cookies, &other.cookies), headers: merge(self.headers, &other.headers) }
    }

    /// The names of the cookies of a request that may hold a token.
    pub fn cookies_in<'a>(&'a self, fields: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
        let is_in = |name: &str| {
            let mut pairs = fields.get_all(header::COOKIE).iter().flat_map(|value| cookie_pairs(value.as_bytes()));
            pairs.any(|(found, _)| found == name.as_bytes())
        };
        self.cookies.iter().map(|source| &*source.name).filter(move |name| is_in(name))
    }

    /// Removes the cookies that may hold a token, and leaves the others.
    pub fn remove_cookies(&self, fields: &mut HeaderMap) {
        let is_token = |pair: &[u8]| {
            let name = pair.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii();
            self.cookies.iter().any(|source| source.name.as_bytes() == name)
        };
        let values: Vec<HeaderValue> = fields.get_all(header::COOKIE).iter().cloned().collect();
        fields.remove(header::COOKIE);
        for value in values {
            let kept: Vec<&[u8]> =
                value.as_bytes().split(|&byte| byte == b';').filter(|pair| !is_token(pair)).collect();
            if let Ok(value) = HeaderValue::from_bytes(kept.join(&b';').trim_ascii())
                && !value.is_empty()
            {
                fields.append(header::COOKIE, value);
            }
        }
    }
}

fn merge<N: Clone + PartialEq>(places: Box<[Source<N>]>, others: &[Source<N>]) -> Box<[Source<N>]> {
    let mut all = places.into_vec();
    for place in others {
        match all.iter_mut().find(|known| known.name == place.name) {
            // Read once, or one token would count as two; for any issuer, if two routes differ.
            Some(known) if known.issuer != place.issuer => known.issuer = None,
            Some(_) => {}
            None => all.push(place.clone()),
        }
    }
    all.into()
}

/// What an `Authorization` field holds.
enum Bearer<'a> {
    /// Another scheme.
    No,
    Malformed,
    /// What comes after the scheme.
    Token(&'a [u8]),
}

/// `Bearer 1*SP b64token`
fn bearer(value: &[u8]) -> Bearer<'_> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let (scheme, rest) = value.split_at(value.iter().position(is_space).unwrap_or(value.len()));
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Bearer::No;
    }
    // A tab is no separator, and some take it for one.
    if !rest.starts_with(b" ") {
        return Bearer::Malformed;
    }
    let token = rest.trim_ascii_start();
    Bearer::Token(token.strip_suffix(b" ").unwrap_or(token))
}

/// Whether these are characters of a `b64token`, padding aside. Without branches, since every byte of every token is looked at: so
/// the compiler looks at many at once, which took an eighth off a request's instructions.
#[expect(clippy::needless_bitwise_bool, reason = "lazy operators are branches")]
fn are_b64token(characters: &[u8]) -> bool {
    // `-`, `.`, `/` and the digits stand in a row.
    let is_allowed = |byte: u8| {
        ((byte | 0x20).wrapping_sub(b'a') < 26)
            | (byte.wrapping_sub(b'-') < 13)
            | (byte == b'_')
            | (byte == b'~')
            | (byte == b'+')
    };
    characters.iter().fold(true, |all, &byte| all & is_allowed(byte))
}

/// `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`
fn is_b64token(value: &[u8]) -> bool {
    let padding = value.iter().rev().take_while(|&&byte| byte == b'=').count();
    let characters = &value[..value.len() - padding];
    !characters.is_empty() && are_b64token(characters)
}

/// `name=value` pairs of a `Cookie` field (RFC 6265 §4.2.1); quotes around a value are dropped.
fn cookie_pairs(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(|&byte| byte == b';').filter_map(|pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let value = pair[equals + 1..].trim_ascii();
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some((pair[..equals].trim_ascii(), unquoted))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn sources() -> CredentialSources {
        CredentialSources {
            cookies: [Source { name: "token".into(), issuer: None }].into(),
            headers: [Source { name: HeaderName::from_static("x-token"), issuer: None }].into(),
        }
    }

    #[test]
    fn one_token_is_found_wherever_it_may_be() {
        let cases: &[(&str, &str)] = &[
            ("authorization", "Bearer a.b.c"),
            ("authorization", "bEARER   a.b.c"),
            ("x-token", "a.b.c"),
            ("cookie", "other=1; token=a.b.c; last=2"),
            ("cookie", "token=\"a.b.c\""),
        ];
        for case in cases {
            let fields = fields(&[*case]);
            let sources = sources();
            assert!(matches!(sources.find(&fields), Credential::Bearer { token: b"a.b.c", .. }), "{case:?}");
        }
    }

    /// What some read as a token and others do not is a credential in doubt, not none.
    #[test]
    fn what_others_may_take_for_a_token_is_malformed() {
        for case in [
            &[("authorization", "Bearer\ta.b.c")][..],
            &[("authorization", "bearer")],
            &[("x_token", "a.b.c")],
            &[("x-token", "a.b.c"), ("x_token", "d.e.f")],
        ] {
            assert_eq!(sources().find(&fields(case)), Credential::Malformed, "{case:?}");
        }
    }

    #[test]
    fn other_schemes_and_unconfigured_places_are_no_credentials() {
        for case in
            [("authorization", "Basic YTpi"), ("authorization", "DPoP a.b.c"), ("cookie", "tokens=a"), ("x-other", "a")]
        {
            assert_eq!(sources().find(&fields(&[case])), Credential::Absent, "{case:?}");
        }
        let none = CredentialSources::default();
        assert_eq!(none.find(&fields(&[("cookie", "token=a"), ("x-token", "a")])), Credential::Absent);
    }

    #[test]
    fn doubled_or_malformed_tokens_are_malformed() {
        let cases: &[&[(&str, &str)]] = &[
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer a b")],
            &[("authorization", "Bearer a,b")],
            &[("authorization", "Bearer ===")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
            &[("authorization", "Bearer a"), ("authorization", "Basic a")],
            &[("authorization", "Bearer a"), ("x-token", "a")],
            &[("authorization", "Bearer a"), ("cookie", "token=a")],
            &[("x-token", "a"), ("x-token", "a")],
            &[("cookie", "token=a; token=a")],
            &[("cookie", "token=")],
        ];
        for case in cases {
            assert_eq!(sources().find(&fields(case)), Credential::Malformed, "{case:?}");
        }
    }

    #[test]
    fn the_characters_of_a_token_are_those_of_the_grammar() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            assert_eq!(are_b64token(&[byte]), expected, "{byte}");
            // Wherever it stands.
            for place in [0, 15, 16, 40, 99] {
                let mut text = [b'a'; 100];
                text[place] = byte;
                assert_eq!(are_b64token(&text), expected, "{byte} at {place}");
            }
        }
    }

    #[test]
    fn a_union_reads_each_place_once() {
        let acme = IssuerName::try_from("acme").unwrap();
        let source =
            |name: &str, issuer: Option<&IssuerName>| Source { name: Box::from(name), issuer: issuer.cloned() };
        let one = CredentialSources {
            cookies: [source("a", Some(&acme)), source("b", Some(&acme))].into(),
            ..Default::default()
        };
        let two = CredentialSources { cookies: [source("b", None), source("c", None)].into(), ..Default::default() };
        let both = CredentialSources::default().union(&one).union(&two);
        assert_eq!(*both.cookies, [source("a", Some(&acme)), source("b", None), source("c", None)]);
    }

    #[test]
    fn only_token_cookies_are_removed() {
        let mut fields = fields(&[("cookie", "a=1; token=x.y.z; b=2"), ("cookie", "token=q")]);
        sources().remove_cookies(&mut fields);
        let left: Vec<_> = fields.get_all(header::COOKIE).iter().collect();
        assert_eq!(left, ["a=1; b=2"]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(authorization in any::<Vec<u8>>(), cookie in any::<Vec<u8>>()) {
            let mut fields = HeaderMap::new();
            for (name, value) in [(header::AUTHORIZATION, authorization), (header::COOKIE, cookie)] {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    fields.insert(name, value);
                }
            }
            let _ = sources().find(&fields);
        }
    }
}
