//! What the events of CAEP 1.0 and RISC 1.0 come to.

use std::collections::BTreeMap;

use super::set::Event;
use crate::event::{session_event::Happening, subject::Target};

const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";
const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type/";
/// Where drafts had the events of streams.
const SSE: &str = "https://schemas.openid.net/secevent/sse/event-type/";

/// How much of an event type that is not known is shown.
const SHOWN: usize = 80;

/// What an event does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ends the session or token that it names, or all sessions of the subject.
    Logout,
    /// Blocks the subject.
    Block,
    /// Lets the subject in again.
    Unblock,
    /// The subject is no more.
    Delete,
    /// The subject was active.
    Active,
    /// Nothing.
    Ignore,
}

/// Each event type that has a meaning here, by the end of its URI, and what it does unless the settings say otherwise.
pub const EVENTS: [(&str, &str, Action); 22] = [
    (CAEP, "session-revoked", Action::Logout),
    (CAEP, "credential-change", Action::Logout),
    (CAEP, "session-established", Action::Active),
    (CAEP, "session-presented", Action::Active),
    (CAEP, "token-claims-change", Action::Ignore),
    (CAEP, "assurance-level-change", Action::Ignore),
    (CAEP, "device-compliance-change", Action::Ignore),
    (CAEP, "risk-level-change", Action::Ignore),
    (RISC, "account-disabled", Action::Block),
    (RISC, "account-enabled", Action::Unblock),
    (RISC, "account-purged", Action::Delete),
    (RISC, "account-credential-change-required", Action::Logout),
    (RISC, "credential-compromise", Action::Logout),
    (RISC, "sessions-revoked", Action::Logout),
    (RISC, "identifier-changed", Action::Ignore),
    (RISC, "identifier-recycled", Action::Ignore),
    (RISC, "recovery-activated", Action::Ignore),
    (RISC, "recovery-information-changed", Action::Ignore),
    (RISC, "opt-in", Action::Ignore),
    (RISC, "opt-out-initiated", Action::Ignore),
    (RISC, "opt-out-cancelled", Action::Ignore),
    (RISC, "opt-out-effective", Action::Ignore),
];

/// What events do, as the settings have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actions(BTreeMap<Box<str>, Action>);

/// Those of [`EVENTS`].
impl Default for Actions {
    fn default() -> Self {
        Self::new([])
    }
}

impl Actions {
    /// Those of [`EVENTS`], but for these: by the ends of their URIs, or by whole URIs for events of others.
    #[must_use]
    pub fn new(changed: impl IntoIterator<Item = (Box<str>, Action)>) -> Self {
        let named = |(name, action): (Box<str>, Action)| {
            let known = EVENTS.iter().find(|(_, known, _)| **known == *name);
            let uri = known.map_or(name, |(base, name, _)| format!("{base}{name}").into());
            (uri, action)
        };
        let defaults = EVENTS.iter().map(|(base, name, action)| (format!("{base}{name}").into(), *action));
        let mut actions: BTreeMap<_, _> = defaults.collect();
        actions.extend(changed.into_iter().map(named));
        Self(actions)
    }

    /// The event types that do something, for a stream to be asked for.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &str> {
        let moves = |uri: &str| uri.starts_with(RISC) && uri[RISC.len()..].starts_with("identifier-");
        self.0.iter().filter(move |(uri, action)| **action != Action::Ignore || moves(uri)).map(|(uri, _)| &**uri)
    }

    /// What an event is to the gate.
    pub(super) fn meaning(&self, event: &Event) -> Meaning {
        if let Some(name) = [SSF, SSE].iter().find_map(|base| event.uri.strip_prefix(base)) {
            return match name {
                "verification" => Meaning::Verification,
                "stream-updated" => Meaning::StreamUpdated,
                _ => Meaning::Unknown,
            };
        }
        match event.uri.strip_prefix(RISC) {
            Some("identifier-changed") => return Meaning::IdentifierChanged,
            Some("identifier-recycled") => return Meaning::IdentifierRecycled,
            _ => {}
        }
        let Some(action) = self.0.get(&event.uri) else { return Meaning::Unknown };
        if event.uri.strip_prefix(CAEP) == Some("credential-change") {
            return match event.text("change_type") {
                // Another way to log in ends no session.
                Some("create") => Meaning::Action(Action::Ignore),
                Some("update" | "revoke" | "delete") => Meaning::Action(*action),
                Some(_) => Meaning::Unknown,
                None => Meaning::Malformed("`change_type` of a credential change is missing"),
            };
        }
        Meaning::Action(*action)
    }
}

/// What an event is to the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// It does this.
    Action(Action),
    /// A sign of life of the stream.
    Verification,
    /// The stream stands still, or goes on.
    StreamUpdated,
    /// An address has become another.
    IdentifierChanged,
    /// An address belongs to somebody else now.
    IdentifierRecycled,
    /// Not known here.
    Unknown,
    /// Not as its type defines, for this reason.
    Malformed(&'static str),
}

/// The end of the URI of an event type, for people.
pub(super) fn short_name(uri: &str) -> String {
    let name = uri.rsplit('/').find(|part| !part.is_empty()).unwrap_or(uri);
    name.chars().filter(|character| !character.is_control()).take(SHOWN).collect()
}

impl Action {
    /// What it comes to for this target, if anything.
    pub(super) fn happening(self, target: Target) -> Option<Happening> {
        Some(match (self, target) {
            (Self::Logout, Target::Subject(subject)) => Happening::LoggedOut(subject),
            (Self::Logout, Target::Session { issuer, session }) => Happening::SessionEnded { issuer, session },
            (Self::Logout, Target::Token { issuer, token }) => Happening::TokenRevoked { issuer, token },
            (Self::Block, Target::Subject(subject)) => Happening::Blocked(subject),
            (Self::Unblock, Target::Subject(subject)) => Happening::Unblocked(subject),
            (Self::Delete, Target::Subject(subject)) => Happening::Deleted(subject),
            (Self::Active, Target::Subject(subject)) => Happening::Active(subject),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::shared_signals::set::SecurityEventToken, token::json::Object};

    fn meaning(actions: &Actions, uri: &str, payload: &str) -> Meaning {
        let claims = format!(r#"{{"jti":"j","iat":1,"aud":"us","events":{{"{uri}":{payload}}}}}"#);
        let set = SecurityEventToken::read(&Object::parse(claims.as_bytes()).unwrap(), &["us".into()]).unwrap();
        set.meanings(actions)[0]
    }

    #[test]
    fn events_do_what_they_are_said_to() {
        let actions = Actions::default();
        for (base, name, payload, expected) in [
            (CAEP, "session-revoked", "{}", Meaning::Action(Action::Logout)),
            (CAEP, "session-presented", "{}", Meaning::Action(Action::Active)),
            (CAEP, "credential-change", r#"{"change_type":"create"}"#, Meaning::Action(Action::Ignore)),
            (CAEP, "credential-change", r#"{"change_type":"update"}"#, Meaning::Action(Action::Logout)),
            (CAEP, "credential-change", r#"{"change_type":"revoke"}"#, Meaning::Action(Action::Logout)),
            (CAEP, "credential-change", r#"{"change_type":"delete"}"#, Meaning::Action(Action::Logout)),
            (CAEP, "credential-change", r#"{"change_type":"rotate"}"#, Meaning::Unknown),
            (RISC, "account-purged", "{}", Meaning::Action(Action::Delete)),
            (RISC, "identifier-changed", "{}", Meaning::IdentifierChanged),
            (RISC, "opt-in", "{}", Meaning::Action(Action::Ignore)),
            (SSF, "verification", "{}", Meaning::Verification),
            (SSE, "stream-updated", "{}", Meaning::StreamUpdated),
            (SSF, "session-revoked", "{}", Meaning::Unknown),
            (RISC, "session-revoked", "{}", Meaning::Unknown),
            ("", "session-revoked", "{}", Meaning::Unknown),
        ] {
            assert_eq!(meaning(&actions, &format!("{base}{name}"), payload), expected, "{base}{name} {payload}");
        }
        let credential_change = format!("{CAEP}credential-change");
        assert!(matches!(meaning(&actions, &credential_change, "{}"), Meaning::Malformed(_)));
        let changed = Actions::new([
            ("risk-level-change".into(), Action::Logout),
            ("session-revoked".into(), Action::Ignore),
            ("https://else.example/x".into(), Action::Block),
        ]);
        assert_eq!(meaning(&changed, &format!("{CAEP}risk-level-change"), "{}"), Meaning::Action(Action::Logout));
        assert_eq!(meaning(&changed, &format!("{CAEP}session-revoked"), "{}"), Meaning::Action(Action::Ignore));
        assert_eq!(meaning(&changed, "https://else.example/x", "{}"), Meaning::Action(Action::Block));
        let wanted: Vec<_> = changed.wanted().collect();
        assert!(wanted.contains(&"https://else.example/x") && wanted.contains(&&*format!("{RISC}identifier-recycled")));
        assert!(!wanted.contains(&&*format!("{CAEP}session-revoked")));
    }
}
