//! Whom an event is about: subject identifiers (RFC 9493), and what they mean here.
//!
//! 1. An identifier has the members that its format requires, each a text that is not empty, and no others (RFC 9493 §3). Formats
//!    that nothing here can be found by are read no further than their name.
//! 2. `iss_sub` names a subject of the source's issuer, and `jwt_id` a token of it; a source may tell about no other issuer's. `opaque`
//!    means what the settings say. `email` and `phone_number` are looked up in the [index](super::identifier_index); whoever is found by them is
//!    meant, all of them. Each of `aliases` counts, and one that means nothing here is passed over.
//! 3. What cannot be mapped is a gap, never a guess.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{
    identifier_index::{self, IdentifierKind},
    session_event::GapReason,
};
use crate::{
    store::{Notes, StoreError},
    token::{
        claims::{IssuerName, SessionId, Subject, SubjectId, TokenId},
        json::{Object, Value},
        verify::CurrentVerifier,
    },
};

/// The most `aliases` that are looked at.
const MAX_ALIASES: usize = 20;

/// How much of the name of a format is shown.
const SHOWN: usize = 40;

/// A subject identifier (RFC 9493 §3). `Debug` and `Display` show its format only.
#[derive(Clone, PartialEq, Eq)]
pub enum SubjectIdentifier {
    /// `iss_sub`: a `sub` of an issuer.
    IssSub {
        /// The `iss` of its tokens.
        iss: Box<str>,
        /// The `sub`.
        sub: Box<str>,
    },
    /// `opaque`: an id of the sender's own.
    Opaque(Box<str>),
    /// `email`
    Email(Box<str>),
    /// `phone_number`
    PhoneNumber(Box<str>),
    /// `jwt_id` (Shared Signals Framework 1.0): a token.
    JwtId {
        /// Its `iss`.
        iss: Box<str>,
        /// Its `jti`.
        jti: Box<str>,
    },
    /// `aliases`: several for the same.
    Aliases(Vec<SubjectIdentifier>),
    /// Any other format, by its name.
    Other(Box<str>),
}

/// Not a subject identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a subject identifier of the form that its format requires")]
pub struct InvalidSubject;

impl SubjectIdentifier {
    /// Reads one.
    ///
    /// # Errors
    /// [`InvalidSubject`]: no `format`, or members that are missing, empty, of another type, or not of the format.
    pub fn parse(object: &Object<'_>) -> Result<Self, InvalidSubject> {
        let format = text(object, "format")?;
        Self::of_format(format, object, "format", true)
    }

    /// Reads the members of a format; `format_member` is the one that names it.
    pub(super) fn of_format(
        format: &str,
        object: &Object<'_>,
        format_member: &str,
        may_nest: bool,
    ) -> Result<Self, InvalidSubject> {
        let only = |members: &[&str]| {
            let is_known = |(name, _): (&str, &Value<'_>)| name == format_member || members.contains(&name);
            if object.iter().all(is_known) { Ok(()) } else { Err(InvalidSubject) }
        };
        let one = |member: &str| {
            only(&[member])?;
            text(object, member).map(Box::<str>::from)
        };
        let two = |first: &str, second: &str| {
            only(&[first, second])?;
            Ok((text(object, first)?.into(), text(object, second)?.into()))
        };
        Ok(match format {
            "iss_sub" => two("iss", "sub").map(|(iss, sub)| Self::IssSub { iss, sub })?,
            "jwt_id" => two("iss", "jti").map(|(iss, jti)| Self::JwtId { iss, jti })?,
            "opaque" => Self::Opaque(one("id")?),
            "email" => Self::Email(one("email")?),
            "phone_number" => Self::PhoneNumber(one("phone_number")?),
            "aliases" if may_nest => {
                only(&["identifiers"])?;
                Self::Aliases(aliases(object)?)
            }
            "aliases" => return Err(InvalidSubject),
            "account" | "uri" => one("uri").map(|_| Self::other(format))?,
            "did" => one("url").map(|_| Self::other(format))?,
            "saml_assertion_id" => two("issuer", "assertion_id").map(|_: (Box<str>, Box<str>)| Self::other(format))?,
            "ip-addresses" => {
                only(&["ip-addresses"])?;
                let addresses = object.get(format).and_then(Value::as_array).ok_or(InvalidSubject)?;
                let is_text = |address: &Value<'_>| address.as_str().is_some_and(|text| !text.is_empty());
                if addresses.is_empty() || !addresses.iter().all(is_text) {
                    return Err(InvalidSubject);
                }
                Self::other(format)
            }
            _ => Self::other(format),
        })
    }

    fn other(format: &str) -> Self {
        let shown: String = format.chars().filter(|character| !character.is_control()).take(SHOWN).collect();
        Self::Other(shown.into())
    }

    /// The name of its format.
    #[must_use]
    pub fn format(&self) -> &str {
        match self {
            Self::IssSub { .. } => "iss_sub",
            Self::Opaque(_) => "opaque",
            Self::Email(_) => "email",
            Self::PhoneNumber(_) => "phone_number",
            Self::JwtId { .. } => "jwt_id",
            Self::Aliases(_) => "aliases",
            Self::Other(format) => format,
        }
    }
}

impl fmt::Display for SubjectIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format())
    }
}

impl fmt::Debug for SubjectIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubjectIdentifier({})", self.format())
    }
}

/// A member that must be there: a text that is not empty.
pub(super) fn text<'o>(object: &'o Object<'_>, member: &str) -> Result<&'o str, InvalidSubject> {
    object.get(member).and_then(Value::as_str).filter(|text| !text.is_empty()).ok_or(InvalidSubject)
}

fn aliases(object: &Object<'_>) -> Result<Vec<SubjectIdentifier>, InvalidSubject> {
    let identifiers = object.get("identifiers").and_then(Value::as_array).ok_or(InvalidSubject)?;
    if identifiers.is_empty() || identifiers.len() > MAX_ALIASES {
        return Err(InvalidSubject);
    }
    let alias = |alias: &Value<'_>| {
        let alias = alias.as_object().ok_or(InvalidSubject)?;
        SubjectIdentifier::of_format(text(alias, "format")?, alias, "format", false)
    };
    identifiers.iter().map(alias).collect()
}

/// What an `opaque` identifier is, when nothing else tells.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Opaque {
    /// The id of a session, as the issuer's tokens carry it.
    Session,
    /// The `sub` of the issuer's tokens.
    Subject,
    /// Nothing that is known here.
    #[default]
    Refuse,
}

/// What an identifier means here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A subject.
    Subject(Subject),
    /// A session.
    Session {
        /// Whose session id.
        issuer: IssuerName,
        /// The session.
        session: SessionId,
    },
    /// A token.
    Token {
        /// Whose token id.
        issuer: IssuerName,
        /// The token.
        token: TokenId,
    },
}

/// Why it is not known what an identifier means.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// Nothing comes of it: [`GapReason::UnknownIssuer`] or [`GapReason::NoSubject`].
    #[error("subject by {format} is not known: {}", reason.as_str())]
    Gap {
        /// Why.
        reason: GapReason,
        /// The format that nothing was found by.
        format: Box<str>,
    },
    /// The index could not be asked: it may be known later.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Tells what identifiers mean for a source.
#[derive(Clone, Debug)]
pub struct Resolver {
    verifier: CurrentVerifier,
    notes: Arc<dyn Notes>,
    issuer: IssuerName,
    opaque: Opaque,
    /// Further values of `iss` that mean the issuer.
    aliases: Box<[Box<str>]>,
}

/// What can be said without asking the store.
enum Meaning {
    Known(Target),
    LookUp(IdentifierKind, String),
}

impl Resolver {
    /// A resolver for a source that tells about users of `issuer`.
    #[must_use]
    pub fn new(verifier: CurrentVerifier, notes: Arc<dyn Notes>, issuer: IssuerName, opaque: Opaque) -> Self {
        Self { verifier, notes, issuer, opaque, aliases: Box::default() }
    }

    /// The same, for a sender that names the issuer by one of these, too.
    #[must_use]
    pub fn with_aliases(self, aliases: Box<[Box<str>]>) -> Self {
        Self { aliases, ..self }
    }

    /// The issuer whose users are meant where an identifier does not tell.
    #[must_use]
    pub const fn issuer(&self) -> &IssuerName {
        &self.issuer
    }

    /// Everything that the identifier means here: at least one target, each once.
    ///
    /// # Errors
    /// [`Unresolved`].
    pub async fn resolve(&self, identifier: &SubjectIdentifier) -> Result<Vec<Target>, Unresolved> {
        self.resolve_as(identifier, self.opaque).await
    }

    /// The same, where the place of the identifier tells what an `opaque` one is.
    ///
    /// # Errors
    /// [`Unresolved`].
    pub async fn resolve_as(&self, identifier: &SubjectIdentifier, opaque: Opaque) -> Result<Vec<Target>, Unresolved> {
        let SubjectIdentifier::Aliases(aliases) = identifier else { return self.resolve_one(identifier, opaque).await };
        let mut targets = BTreeSet::new();
        let mut first = None;
        for alias in aliases {
            match self.resolve_one(alias, opaque).await {
                Ok(found) => targets.extend(found),
                Err(gap @ Unresolved::Gap { .. }) => first = first.or(Some(gap)),
                Err(Unresolved::Store(error)) => return Err(error.into()),
            }
        }
        match first {
            Some(gap) if targets.is_empty() => Err(gap),
            _ => Ok(targets.into_iter().collect()),
        }
    }

    async fn resolve_one(&self, identifier: &SubjectIdentifier, opaque: Opaque) -> Result<Vec<Target>, Unresolved> {
        let gap = |reason| Unresolved::Gap { reason, format: identifier.format().into() };
        match self.meaning(identifier, opaque).map_err(gap)? {
            Meaning::Known(target) => Ok(vec![target]),
            Meaning::LookUp(kind, value) => {
                let set = identifier_index::set_name(&self.issuer, kind, &value);
                let members: BTreeSet<String> = self.notes.members(&set).await?.into_iter().collect();
                let found: Vec<Target> = members.iter().filter_map(|sub| subject(&self.issuer, sub)).collect();
                if found.is_empty() { Err(gap(GapReason::NoSubject)) } else { Ok(found) }
            }
        }
    }

    fn meaning(&self, identifier: &SubjectIdentifier, opaque: Opaque) -> Result<Meaning, GapReason> {
        let issuer_of = |iss: &str| {
            let is_alias = self.aliases.iter().any(|alias| **alias == *iss);
            let is_own = || self.verifier.load().issuer_by_identifier(iss) == Some(&self.issuer);
            if is_alias || is_own() { Ok(&self.issuer) } else { Err(GapReason::UnknownIssuer) }
        };
        let known = match identifier {
            SubjectIdentifier::IssSub { iss, sub } => subject(issuer_of(iss)?, sub),
            SubjectIdentifier::JwtId { iss, jti } => {
                let issuer = issuer_of(iss)?.clone();
                TokenId::try_from(&**jti).ok().map(|token| Target::Token { issuer, token })
            }
            SubjectIdentifier::Opaque(id) => match opaque {
                Opaque::Session => SessionId::try_from(&**id)
                    .ok()
                    .map(|session| Target::Session { issuer: self.issuer.clone(), session }),
                Opaque::Subject => subject(&self.issuer, id),
                Opaque::Refuse => None,
            },
            SubjectIdentifier::Email(email) => return look_up(IdentifierKind::Email, email),
            SubjectIdentifier::PhoneNumber(number) => return look_up(IdentifierKind::Phone, number),
            SubjectIdentifier::Aliases(_) | SubjectIdentifier::Other(_) => None,
        };
        known.map(Meaning::Known).ok_or(GapReason::NoSubject)
    }
}

fn subject(issuer: &IssuerName, sub: &str) -> Option<Target> {
    let id = SubjectId::try_from(sub).ok()?;
    Some(Target::Subject(Subject { issuer: issuer.clone(), id }))
}

fn look_up(kind: IdentifierKind, value: &str) -> Result<Meaning, GapReason> {
    kind.canonical(value).map(|value| Meaning::LookUp(kind, value)).ok_or(GapReason::NoSubject)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<SubjectIdentifier, InvalidSubject> {
        SubjectIdentifier::parse(&Object::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn every_format_is_read() {
        let iss_sub = SubjectIdentifier::IssSub { iss: "https://idp.example/".into(), sub: "a|b".into() };
        for (json, expected) in [
            (r#"{"format":"iss_sub","iss":"https://idp.example/","sub":"a|b"}"#, iss_sub.clone()),
            (r#"{"format":"opaque","id":"1|2.3"}"#, SubjectIdentifier::Opaque("1|2.3".into())),
            (r#"{"email":"a@b.example","format":"email"}"#, SubjectIdentifier::Email("a@b.example".into())),
            (
                r#"{"format":"phone_number","phone_number":"+1 206 555 0123"}"#,
                SubjectIdentifier::PhoneNumber("+1 206 555 0123".into()),
            ),
            (
                r#"{"format":"jwt_id","iss":"https://idp.example/","jti":"t"}"#,
                SubjectIdentifier::JwtId { iss: "https://idp.example/".into(), jti: "t".into() },
            ),
            (
                r#"{"format":"aliases","identifiers":[{"format":"iss_sub","iss":"https://idp.example/","sub":"a|b"},{"format":"did","url":"did:x:y"}]}"#,
                SubjectIdentifier::Aliases(vec![iss_sub, SubjectIdentifier::Other("did".into())]),
            ),
            (r#"{"format":"account","uri":"acct:a@b.example"}"#, SubjectIdentifier::Other("account".into())),
            (r#"{"format":"uri","uri":"urn:x:y"}"#, SubjectIdentifier::Other("uri".into())),
            (
                r#"{"format":"saml_assertion_id","issuer":"i","assertion_id":"a"}"#,
                SubjectIdentifier::Other("saml_assertion_id".into()),
            ),
            (
                r#"{"format":"ip-addresses","ip-addresses":["192.0.2.1"]}"#,
                SubjectIdentifier::Other("ip-addresses".into()),
            ),
            (
                r#"{"format":"catalog_item","catalog_id":"c0384/winter/2354122"}"#,
                SubjectIdentifier::Other("catalog_item".into()),
            ),
        ] {
            assert_eq!(parse(json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn members_are_those_of_the_format_and_no_others() {
        for json in [
            "{}",
            r#"{"format":""}"#,
            r#"{"format":null,"id":"x"}"#,
            r#"{"format":["opaque"],"id":"x"}"#,
            r#"{"format":"opaque"}"#,
            r#"{"format":"opaque","id":""}"#,
            r#"{"format":"opaque","id":null}"#,
            r#"{"format":"opaque","id":7}"#,
            r#"{"format":"opaque","id":"x","sub":"y"}"#,
            r#"{"format":"iss_sub","sub":"y"}"#,
            r#"{"format":"iss_sub","iss":"x","sub":""}"#,
            r#"{"format":"iss_sub","iss":"x","sub":"y","email":"z"}"#,
            r#"{"format":"email","email":{"value":"a@b"}}"#,
            r#"{"format":"phone_number","phone":"+1"}"#,
            r#"{"format":"account"}"#,
            r#"{"format":"ip-addresses","ip-addresses":[]}"#,
            r#"{"format":"ip-addresses","ip-addresses":[""]}"#,
            r#"{"format":"aliases"}"#,
            r#"{"format":"aliases","identifiers":[]}"#,
            r#"{"format":"aliases","identifiers":["x"]}"#,
            r#"{"format":"aliases","identifiers":[{"format":"opaque"}]}"#,
            r#"{"format":"aliases","identifiers":[{"format":"aliases","identifiers":[{"format":"opaque","id":"x"}]}]}"#,
        ] {
            assert_eq!(parse(json), Err(InvalidSubject), "{json}");
        }
        let many = vec![r#"{"format":"opaque","id":"x"}"#; MAX_ALIASES + 1].join(",");
        assert_eq!(parse(&format!(r#"{{"format":"aliases","identifiers":[{many}]}}"#)), Err(InvalidSubject));
    }

    #[test]
    fn nothing_shows_whom_it_is_about() {
        let identifier = parse(r#"{"format":"email","email":"alice@b.example"}"#).unwrap();
        assert_eq!(format!("{identifier} {identifier:?}"), "email SubjectIdentifier(email)");
        let long = parse(&format!(r#"{{"format":"\n{}"}}"#, "x".repeat(1000))).unwrap();
        assert_eq!(long.format(), "x".repeat(SHOWN));
    }
}
