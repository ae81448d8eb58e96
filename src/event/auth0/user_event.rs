//! What an event of an event stream means.
//!
//! 1. `blocked: true` blocks, whatever else was updated.
//! 2. `blocked: false` lifts a block only where it is news: the user was blocked before the update, or the event does not tell what
//!    was before. Otherwise any change of a profile would lift a block that an operator has set at the gate alone.
//! 3. No `blocked` says nothing: not every event holds all of a user.
//! 4. Events have the time that their `time` says, never that of their arrival.

use serde::de::MapAccess;

use crate::{
    event::{EventId, Gap, GapReason, Happening, SessionEvent},
    management::loose::{self, Fill, Loose, Members},
    token::claims::{IssuerName, Subject, SubjectId},
};

/// How much of an unknown type is shown, in characters.
const SHOWN: usize = 64;

/// The families of events that there are; no other says anything about a user's sessions.
const FAMILIES: [&str; 3] = ["user.", "organization.", "group."];

/// Reads the events of a tenant's users.
#[derive(Clone, Debug)]
pub struct UserEventReader {
    /// The issuer whose users they are.
    pub issuer: IssuerName,
}

impl UserEventReader {
    /// Reads one event: a `CloudEvent` 1.0 in JSON.
    ///
    /// # Errors
    /// A [`Gap`] for an event of which nothing comes, whatever its bytes are.
    pub fn read(&self, event: &[u8]) -> Result<SessionEvent, Gap> {
        let mut read = Event::default();
        let is_whole = loose::read(event, &mut read).is_ok();
        let full = read.kind.text().unwrap_or_default();
        let kind = full.strip_prefix("com.auth0.").unwrap_or(full);
        let id = read.id.id();
        let gap = |reason| {
            let kind = kind.chars().filter(|character| !character.is_control()).take(SHOWN).collect::<String>();
            Gap { reason, kind: kind.into(), id: id.as_deref().map(EventId::new) }
        };
        if !is_whole || kind.is_empty() {
            return Err(gap(GapReason::Malformed));
        }
        if read.purpose.text().is_some_and(|purpose| purpose.eq_ignore_ascii_case("test")) {
            return Err(gap(GapReason::Test));
        }
        let Data { user, before } = &read.data;
        let happening = match (kind, user.blocked.bool()) {
            ("user.deleted", _) => Happening::Deleted,
            ("user.updated", Some(true)) => Happening::Blocked,
            ("user.updated", Some(false)) if before.as_ref().is_none_or(|user| user.blocked.bool() == Some(true)) => {
                Happening::Unblocked
            }
            // It was changed, and is masked: somebody should look.
            ("user.updated", None) if user.blocked.is_present() => return Err(gap(GapReason::Malformed)),
            _ if FAMILIES.iter().any(|family| kind.starts_with(family)) => return Err(gap(GapReason::Ignored)),
            _ => return Err(gap(GapReason::UnknownKind)),
        };
        let id_of_user = user.user_id.text().and_then(|user_id| SubjectId::try_from(user_id).ok());
        let subject = Subject { issuer: self.issuer.clone(), id: id_of_user.ok_or_else(|| gap(GapReason::NoSubject))? };
        let times = [&read.time, &user.deleted_at, &user.updated_at];
        let at = times.into_iter().find_map(Loose::time).ok_or_else(|| gap(GapReason::Malformed))?;
        Ok(SessionEvent {
            id: id.as_deref().map(EventId::new),
            at,
            kind: kind.into(),
            happenings: vec![happening(subject)],
        })
    }
}

/// The event.
#[derive(Default)]
struct Event<'a> {
    kind: Loose<'a>,
    id: Loose<'a>,
    time: Loose<'a>,
    purpose: Loose<'a>,
    data: Data<'a>,
}

impl<'a> Members<'a> for Event<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        let member = match name {
            b"type" => &mut self.kind,
            b"id" => &mut self.id,
            b"time" => &mut self.time,
            b"a0purpose" => &mut self.purpose,
            b"data" => return values.next_value_seed(Fill(&mut self.data)).map(drop),
            _ => return loose::skip(values),
        };
        *member = values.next_value()?;
        Ok(())
    }
}

/// `data`
#[derive(Default)]
struct Data<'a> {
    user: Profile<'a>,
    /// `previous_object`; what is there but no object is a user about whom nothing is known.
    before: Option<Profile<'a>>,
}

impl<'a> Members<'a> for Data<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        match name {
            b"object" => drop(values.next_value_seed(Fill(&mut self.user))?),
            b"previous_object" => {
                let mut user = Profile::default();
                self.before = values.next_value_seed(Fill(&mut user))?.then_some(user);
            }
            _ => loose::skip(values)?,
        }
        Ok(())
    }
}

/// A user, or as much of it as is told.
#[derive(Default)]
struct Profile<'a> {
    user_id: Loose<'a>,
    blocked: Loose<'a>,
    updated_at: Loose<'a>,
    deleted_at: Loose<'a>,
}

impl<'a> Members<'a> for Profile<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        let member = match name {
            b"user_id" => &mut self.user_id,
            b"blocked" => &mut self.blocked,
            b"updated_at" => &mut self.updated_at,
            b"deleted_at" => &mut self.deleted_at,
            _ => return loose::skip(values),
        };
        *member = values.next_value()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Timestamp;

    fn read(event: &Value) -> Result<SessionEvent, Gap> {
        UserEventReader { issuer: "acme".try_into().unwrap() }.read(event.to_string().as_bytes())
    }

    fn event(kind: &str, object: Value, previous: Value) -> Value {
        let mut event = json!({
            "specversion": "1.0",
            "type": kind,
            "source": "urn:auth0:acme.us.auth0.com",
            "id": "evt_1",
            "time": "2026-05-01T12:00:00.000Z",
            "data": { "object": { "user_id": "auth0|ada" } },
        });
        let Value::Object(object) = object else { panic!("no members") };
        event["data"]["object"].as_object_mut().unwrap().extend(object);
        if previous != json!("absent") {
            event["data"]["previous_object"] = previous;
        }
        event
    }

    #[test]
    fn only_a_change_of_blocked_lifts_a_block() {
        use Happening::{Blocked, Unblocked};
        let ada = Subject { issuer: "acme".try_into().unwrap(), id: "auth0|ada".try_into().unwrap() };
        let (yes, no, masked) =
            (json!({ "blocked": true }), json!({ "blocked": false }), json!({ "blocked": "*****" }));
        let (none, absent) = (json!({}), json!("absent"));
        let ignored = Err(GapReason::Ignored);
        for (object, previous, expected) in [
            (&yes, &no, Ok(Blocked(ada.clone()))),
            (&yes, &yes, Ok(Blocked(ada.clone()))),
            (&yes, &none, Ok(Blocked(ada.clone()))),
            (&yes, &absent, Ok(Blocked(ada.clone()))),
            (&no, &yes, Ok(Unblocked(ada.clone()))),
            (&no, &absent, Ok(Unblocked(ada.clone()))),
            (&no, &Value::Null, Ok(Unblocked(ada.clone()))),
            (&no, &no, ignored.clone()),
            (&no, &none, ignored.clone()),
            (&no, &masked, ignored.clone()),
            (&no, &json!("*****"), ignored.clone()),
            (&none, &yes, ignored.clone()),
            (&none, &absent, ignored.clone()),
            (&json!({ "blocked": null }), &yes, ignored),
            (&masked, &no, Err(GapReason::Malformed)),
        ] {
            for kind in ["user.updated", "com.auth0.user.updated"] {
                let event = event(kind, object.clone(), previous.clone());
                let read = read(&event).map(|event| event.happenings).map_err(|gap| gap.reason);
                assert_eq!(read, expected.clone().map(|happening| vec![happening]), "{event}");
            }
        }
    }

    #[test]
    fn events_of_other_kinds_come_to_nothing() {
        let yes = json!({ "blocked": true });
        for (kind, reason) in [
            ("user.created", GapReason::Ignored),
            ("organization.member.added", GapReason::Ignored),
            ("group.created", GapReason::Ignored),
            ("session.revoked", GapReason::UnknownKind),
            ("", GapReason::Malformed),
        ] {
            assert_eq!(read(&event(kind, yes.clone(), json!("absent"))).unwrap_err().reason, reason, "{kind}");
        }
    }

    #[test]
    fn a_deleted_user_is_no_more_and_a_test_is_none() {
        let mut event = event("user.deleted", json!({ "deleted_at": "2026-05-01T12:00:01Z" }), json!("absent"));
        let deleted = read(&event).unwrap();
        assert!(matches!(deleted.happenings[..], [Happening::Deleted(_)]));
        assert_eq!((deleted.at, deleted.id), (Timestamp::from_millis(1_777_636_800_000), Some(EventId::new("evt_1"))));
        event.as_object_mut().unwrap().remove("time");
        assert_eq!(read(&event).unwrap().at.as_millis(), 1_777_636_801_000);
        event["a0purpose"] = json!("test");
        assert_eq!(read(&event).unwrap_err().reason, GapReason::Test);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let nobody = event("user.deleted", json!({ "user_id": "" }), json!("absent"));
        assert_eq!(read(&nobody).unwrap_err().reason, GapReason::NoSubject);
        let mut timeless = event("user.deleted", json!({}), json!("absent"));
        timeless["time"] = json!("soon");
        let gap = read(&timeless).unwrap_err();
        assert_eq!(
            (gap.reason, &*gap.kind, gap.id),
            (GapReason::Malformed, "user.deleted", Some(EventId::new("evt_1")))
        );
        for text in ["", "[]", "{}", "{\"type\":\"user.updated\",\"data\":{\"object\":"] {
            let reader = UserEventReader { issuer: "acme".try_into().unwrap() };
            assert_eq!(reader.read(text.as_bytes()).unwrap_err().reason, GapReason::Malformed, "{text}");
        }
    }
}
