//! What a verified access token says, as checked types (RFC 7519 §4, RFC 9068 §2.2).

use std::{
    cmp::Ordering,
    fmt,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher},
    iter,
    sync::Arc,
};

use super::packed::{Packed, Packing};
use crate::clock::{Moment, Timestamp};

/// The longest identifier that is accepted, in bytes (OpenID Connect Core §2 limits `sub` to 255).
pub const MAX_ID_LENGTH: usize = 255;

/// The longest session id in bytes, see [`SessionId::of_login`]: a subject, `@`, and a time.
pub const MAX_SESSION_ID_LENGTH: usize = MAX_ID_LENGTH + 21;

/// Not usable as an identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidId {
    /// Empty.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_ID_LENGTH`] bytes.
    #[error("is longer than {MAX_ID_LENGTH} bytes")]
    TooLong,
    /// A control character, which no store key or log line may carry.
    #[error("holds a control character")]
    ControlCharacter,
    /// An issuer's short name outside its alphabet.
    #[error("may hold only a-z, 0-9, `-` and `_`, 32 at most")]
    IssuerName,
}

fn check_id(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        Err(InvalidId::Empty)
    } else if text.len() > MAX_ID_LENGTH {
        Err(InvalidId::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(InvalidId::ControlCharacter)
    } else {
        Ok(())
    }
}

/// A short fingerprint for logs. It tells two ids apart and hides what they are; it protects nothing.
fn fingerprint(text: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(text) >> 32
}

/// A text that may be part of a longer one, which it shares with others.
#[derive(Clone)]
struct Text {
    whole: Arc<str>,
    start: u16,
    end: u16,
}

impl Text {
    fn as_str(&self) -> &str {
        &self.whole[usize::from(self.start)..usize::from(self.end)]
    }
}

/// One of [`MAX_SESSION_ID_LENGTH`] at most.
impl From<&str> for Text {
    fn from(text: &str) -> Self {
        debug_assert!(text.len() <= MAX_SESSION_ID_LENGTH);
        Self { whole: text.into(), start: 0, end: u16::try_from(text.len()).unwrap_or(u16::MAX) }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to 255 bytes without control characters, compared byte for byte. `Debug` shows a fingerprint,
        /// because ids reach logs.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Text);

        impl $name {
            /// The identifier as the issuer wrote it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// What logs show instead, of 32 bits. It tells two ids apart; it protects nothing.
            #[must_use]
            pub fn fingerprint(&self) -> u64 {
                fingerprint(self.as_str())
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;

            fn try_from(text: &str) -> Result<Self, InvalidId> {
                check_id(text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(#{:08x})"), fingerprint(self.as_str()))
            }
        }
    };
}

id! {
    /// The `sub` claim (RFC 7519 §4.1.2): a user or a machine client, unique only within its issuer.
    SubjectId
}
id! {
    /// A session: the `sid` claim (OpenID Connect Front-Channel Logout 1.0 §3) or the claim that the
    /// issuer's configuration names, unique only within its issuer.
    SessionId
}
id! {
    /// The `jti` claim (RFC 7519 §4.1.7), unique only within its issuer.
    TokenId
}
id! {
    /// The client that a token was issued to: `client_id` (RFC 8693 §4.3) or `azp`.
    ClientId
}

impl SessionId {
    /// The session of a subject since a login, where tokens name none: `<sub>@<milliseconds>`. It may be longer than other ids.
    #[must_use]
    pub fn of_login(subject: &SubjectId, login: Timestamp) -> Self {
        Self(Text::from(&*format!("{}@{}", subject.as_str(), login.as_millis())))
    }

    /// An id that was one before: as long as that of a login may be.
    ///
    /// # Errors
    /// [`InvalidId`].
    pub fn kept(text: &str) -> Result<Self, InvalidId> {
        match check_id(text) {
            Err(InvalidId::TooLong) if text.len() > MAX_SESSION_ID_LENGTH => Err(InvalidId::TooLong),
            Err(InvalidId::TooLong) if text.chars().any(char::is_control) => Err(InvalidId::ControlCharacter),
            Ok(()) | Err(InvalidId::TooLong) => Ok(Self(text.into())),
            Err(fault) => Err(fault),
        }
    }
}

/// The short name that the configuration gives an issuer: part of every store key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerName(Arc<str>);

impl IssuerName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for IssuerName {
    type Error = InvalidId;

    fn try_from(text: &str) -> Result<Self, InvalidId> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if text.is_empty() || text.len() > 32 || !text.bytes().all(allowed) {
            return Err(InvalidId::IssuerName);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for IssuerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IssuerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Whom a token speaks for: (issuer, `sub`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subject {
    /// The issuer that knows it.
    pub issuer: IssuerName,
    /// The `sub` claim.
    pub id: SubjectId,
}

/// What a verified token says.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Issuer and `sub`.
    pub subject: Subject,
    /// The session it belongs to, if the token tells.
    pub session: Option<SessionId>,
    /// The client it was issued to, if the token tells.
    pub client: Option<ClientId>,
    /// `jti`, if any.
    pub token_id: Option<TokenId>,
    /// `iat`.
    pub issued_at: Moment,
    /// `exp`: invalid at this time and after.
    pub expires_at: Timestamp,
    /// `nbf`, if any.
    pub not_before: Option<Timestamp>,
    /// When the session began: `auth_time`, or the claim that the issuer's configuration names.
    pub session_start: Option<Moment>,
    /// When the session is over whatever its limits here, if the claim that the issuer's configuration names tells.
    pub session_expiry: Option<Timestamp>,
    /// The latest logout of this subject that the issuer knew of when it issued the token.
    pub last_logout: Option<Moment>,
    /// `scope` values and `permissions`.
    pub scopes: Scopes,
}

impl Claims {
    /// The same, with all ids in one piece of memory: for claims that are kept. Whoever clones one of the ids keeps all of them.
    #[must_use]
    pub fn packed(mut self) -> Self {
        let mut whole = String::with_capacity(self.ids().map(|id| id.as_str().len()).sum());
        self.ids().for_each(|id| whole.push_str(id.as_str()));
        let whole: Arc<str> = whole.into();
        let mut start = 0;
        for id in self.ids_mut() {
            // Four ids are far shorter than that.
            let end = start + (id.end - id.start);
            *id = Text { whole: Arc::clone(&whole), start, end };
            start = end;
        }
        self
    }

    /// How much memory it takes beside its own size, in bytes, if it is [`packed`](Self::packed). Issuers share their names.
    #[must_use]
    pub fn heap_size(&self) -> usize {
        let counts = 2 * size_of::<usize>();
        counts + self.ids().map(|id| id.as_str().len()).sum::<usize>() + self.scopes.0.size()
    }

    fn ids(&self) -> impl Iterator<Item = &Text> {
        let Self { subject, session, client, token_id, .. } = self;
        let optional =
            [session.as_ref().map(|id| &id.0), client.as_ref().map(|id| &id.0), token_id.as_ref().map(|id| &id.0)];
        iter::once(&subject.id.0).chain(optional.into_iter().flatten())
    }

    fn ids_mut(&mut self) -> impl Iterator<Item = &mut Text> {
        let Self { subject, session, client, token_id, .. } = self;
        let optional = [
            session.as_mut().map(|id| &mut id.0),
            client.as_mut().map(|id| &mut id.0),
            token_id.as_mut().map(|id| &mut id.0),
        ];
        iter::once(&mut subject.id.0).chain(optional.into_iter().flatten())
    }

    /// When the session began, if the token tells: at the login; or, if it names no session either, when the token was issued, since it is a
    /// session of its own then. Of a whole second, its beginning.
    #[must_use]
    pub fn session_began(&self) -> Option<Timestamp> {
        let alone = self.session.is_none().then_some(self.issued_at);
        self.session_start.or(alone).map(Moment::earliest)
    }
}

/// What the token allows: the values of `scope` (RFC 8693 §4.2) and `permissions`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Scopes(Packed);

impl Scopes {
    /// Whether `scope` is among them.
    #[must_use]
    pub fn contains(&self, scope: &str) -> bool {
        self.0.iter().any(|each| each == scope.as_bytes())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        // They were texts when they were put there.
        self.0.iter().map(|each| str::from_utf8(each).unwrap_or_default())
    }
}

impl<S: AsRef<str>> FromIterator<S> for Scopes {
    fn from_iter<I: IntoIterator<Item = S>>(scopes: I) -> Self {
        let mut packing = Packing::default();
        scopes.into_iter().for_each(|scope| packing.push(scope.as_ref().as_bytes()));
        Self(packing.pack())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
impl Claims {
    /// For tests: those of alice at acme, for an hour, in no session.
    pub(crate) fn of_alice() -> Self {
        Self {
            subject: Subject { issuer: IssuerName("acme".into()), id: SubjectId(Text::from("alice")) },
            session: None,
            client: None,
            token_id: None,
            issued_at: Moment::whole_second(1_700_000_000),
            expires_at: Timestamp::from_secs(1_700_003_600),
            not_before: None,
            session_start: None,
            session_expiry: None,
            last_logout: None,
            scopes: Scopes::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        assert!(SubjectId::try_from("auth0|a:b@c/%").is_ok());
        assert_eq!(SubjectId::try_from(""), Err(InvalidId::Empty));
        assert_eq!(SubjectId::try_from("a\nb"), Err(InvalidId::ControlCharacter));
        assert_eq!(SubjectId::try_from(&*"x".repeat(256)), Err(InvalidId::TooLong));
        assert!(IssuerName::try_from("acme-eu_1").is_ok());
        assert_eq!(IssuerName::try_from("Acme:"), Err(InvalidId::IssuerName));
    }

    #[test]
    fn an_id_of_a_login_is_read_back_whatever_its_length() {
        let subject = SubjectId::try_from(&*"x".repeat(MAX_ID_LENGTH)).unwrap();
        let id = SessionId::of_login(&subject, Timestamp::MIN);
        assert_eq!(id.as_str().len(), MAX_SESSION_ID_LENGTH);
        assert_eq!(SessionId::kept(id.as_str()), Ok(id));
        assert_eq!(SessionId::kept("a b:c|d"), SessionId::try_from("a b:c|d"));
        assert_eq!(SessionId::kept(""), Err(InvalidId::Empty));
        for length in [1, 200, 270] {
            assert_eq!(SessionId::kept(&format!("{}\n", "x".repeat(length))), Err(InvalidId::ControlCharacter));
        }
        assert_eq!(SessionId::kept(&"x".repeat(MAX_SESSION_ID_LENGTH + 1)), Err(InvalidId::TooLong));
    }

    #[test]
    fn packed_claims_say_the_same() {
        let claims = Claims {
            session: Some("a-session".try_into().unwrap()),
            token_id: Some("é".try_into().unwrap()),
            scopes: ["read:orders", "", "a b"].into_iter().collect(),
            ..Claims::of_alice()
        };
        let packed = claims.clone().packed();
        assert_eq!(format!("{packed:?}"), format!("{claims:?}"));
        assert_eq!((&packed.subject, &packed.session), (&claims.subject, &claims.session));
        assert_eq!((packed.token_id.as_ref().unwrap().as_str(), &packed.client), ("é", &None));
        assert!(packed.scopes.iter().eq(["read:orders", "", "a b"]));
        assert!(
            packed.scopes.contains("a b") && !packed.scopes.contains("a") && !packed.scopes.contains("read:orders ")
        );
        assert_eq!(packed.heap_size(), 16 + "alicea-sessioné".len() + "read:ordersa b".len() + 3);
        let longest = "x".repeat(MAX_ID_LENGTH);
        let id = &*longest;
        let claims = Claims {
            subject: Subject { id: id.try_into().unwrap(), ..claims.subject },
            session: Some(SessionId::kept(&"y".repeat(MAX_SESSION_ID_LENGTH)).unwrap()),
            client: Some(id.try_into().unwrap()),
            token_id: Some(id.try_into().unwrap()),
            ..claims
        };
        assert_eq!(format!("{:?}", claims.clone().packed()), format!("{claims:?}"));
    }

    #[test]
    fn debug_hides_ids() {
        let id = SubjectId::try_from("auth0|alice").unwrap();
        assert!(!format!("{id:?}").contains("alice"));
    }
}
