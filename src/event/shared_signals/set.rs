//! One security event token, and whether it is good (RFC 8417, Shared Signals Framework 1.0).
//!
//! 1. `typ` is `secevent+jwt`: no access, ID or logout token passes for one, and it for none of them (RFC 8725 §3.11).
//! 2. `iss` is the transmitter, and one of its keys signed it, by an algorithm that the settings allow.
//! 3. `aud` names this gate.
//! 4. `iat`, `jti` and `events` are there; `events` has members, each of them an object.
//! 5. `sub` and `exp` are not there: the profile forbids them, so that it cannot be taken for another kind of token.
//!
//! What an event needs beyond that is judged where it is used. Members that are not known are passed over.

use std::fmt;

use super::{
    about::About,
    fault::{Code, SetFault},
    mapping::{Actions, Meaning},
};
use crate::{
    clock::Moment,
    event::subject::InvalidSubject,
    token::{
        json::{Object, Value},
        verify::{ClaimReader, check_audience},
    },
};

/// The media type of a SET, without `application/`.
pub(super) const MEDIA_TYPE: &str = "secevent+jwt";

/// The most events of one SET. The interoperability profile allows one.
const MAX_EVENTS: usize = 16;

/// A SET whose signature is verified. `Debug` shows nobody's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecurityEventToken {
    pub(super) jti: Box<str>,
    /// When it was issued.
    pub(super) issued_at: Moment,
    /// `toe`: when its events happened.
    pub(super) happened_at: Option<Moment>,
    /// `sub_id`: whom it is about.
    pub(super) about: Option<Result<About, InvalidSubject>>,
    pub(super) events: Vec<Event>,
}

/// One member of `events`. `Debug` shows its type only.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Its type.
    pub(super) uri: Box<str>,
    /// `event_timestamp`
    pub(super) happened_at: Option<Moment>,
    /// `subject`, where drafts had whom it is about.
    pub(super) about: Option<Result<About, InvalidSubject>>,
    /// The texts that mean something to the gate, by their names.
    texts: Vec<(&'static str, Box<str>)>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Event {
    /// The names of the texts that are kept.
    const TEXTS: [&'static str; 5] = ["change_type", "state", "status", "reason", "new-value"];

    fn read(uri: &str, payload: &Object<'_>) -> Self {
        let text = |name: &'static str| Some((name, payload.get(name)?.as_str()?.into()));
        Self {
            uri: uri.into(),
            // Early drafts had milliseconds.
            happened_at: ClaimReader { payload }.moment("event_timestamp").unwrap_or(None),
            about: payload.get("subject").map(About::parse_legacy),
            texts: Self::TEXTS.into_iter().filter_map(text).collect(),
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.texts.iter().find(|(each, _)| *each == name).map(|(_, text)| &**text)
    }
}

impl SecurityEventToken {
    /// Reads a verified payload, which must be for one of these.
    ///
    /// # Errors
    /// [`SetFault`].
    pub fn read(payload: &Object<'_>, audiences: &[Box<str>]) -> Result<Self, SetFault> {
        const INVALID: fn(&'static str) -> SetFault = |why| SetFault::new(Code::InvalidRequest, why);
        if payload.get("sub").is_some() || payload.get("exp").is_some() {
            return Err(INVALID("`sub` and `exp` must not be in a SET"));
        }
        check_audience(payload, audiences)?;
        let claims = ClaimReader { payload };
        let jti = payload.get("jti").and_then(Value::as_str).filter(|jti| !jti.is_empty());
        let events = payload.get("events").and_then(Value::as_object).ok_or(INVALID("`events` is not an object"))?;
        let events: Vec<Event> = events
            .iter()
            .map(|(uri, payload)| payload.as_object().map(|payload| Event::read(uri, payload)))
            .collect::<Option<_>>()
            .ok_or(INVALID("the payload of an event is not an object"))?;
        if events.is_empty() || events.len() > MAX_EVENTS {
            return Err(INVALID("`events` has no members, or too many"));
        }
        Ok(Self {
            jti: jti.ok_or(INVALID("`jti` is missing"))?.into(),
            issued_at: claims.date("iat").unwrap_or(None).ok_or(INVALID("`iat` is missing or no time"))?,
            happened_at: claims.date("toe").unwrap_or(None),
            about: payload.get("sub_id").map(About::parse),
            events,
        })
    }

    /// What each of its events is to the gate.
    #[must_use]
    pub fn meanings(&self, actions: &Actions) -> Vec<Meaning> {
        self.events.iter().map(|event| actions.meaning(event)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const GOOD: &str = r#"{"iss":"i","jti":"j","iat":1520364019,"aud":["x","us"],"toe":1520364018.5,"sub_id":{"format":"opaque","id":"o"},"events":{"urn:e":{"event_timestamp":1520364017,"state":"s","other":[1]}}}"#;

    fn read(json: &str) -> Result<SecurityEventToken, SetFault> {
        SecurityEventToken::read(&Object::parse(json.as_bytes()).unwrap(), &["us".into()])
    }

    #[test]
    fn a_good_one_is_read() {
        let set = read(GOOD).unwrap();
        assert_eq!((&*set.jti, set.issued_at), ("j", Moment::whole_second(1_520_364_019)));
        assert_eq!(set.happened_at, Some(Moment::exact(Timestamp::from_millis(1_520_364_018_500))));
        let [event] = &set.events[..] else { panic!() };
        assert_eq!(event.happened_at, Some(Moment::whole_second(1_520_364_017)));
        assert_eq!((event.text("state"), event.text("other"), event.text("status")), (Some("s"), None, None));
    }

    #[test]
    fn each_rule_has_its_code() {
        for (from, to, code) in [
            (r#""jti":"j""#, r#""jti":"j","sub":"x""#, Code::InvalidRequest),
            (r#""jti":"j""#, r#""jti":"j","sub":null"#, Code::InvalidRequest),
            (r#""jti":"j""#, r#""jti":"j","exp":9999999999"#, Code::InvalidRequest),
            (r#""jti":"j""#, r#""jti":"""#, Code::InvalidRequest),
            (r#""jti":"j","#, "", Code::InvalidRequest),
            (r#""jti":"j""#, r#""jti":7"#, Code::InvalidRequest),
            (r#""iat":1520364019,"#, "", Code::InvalidRequest),
            ("1520364019", "\"1520364019\"", Code::InvalidRequest),
            ("1520364019", "1e300", Code::InvalidRequest),
            (r#"{"urn:e":{"event_timestamp":1520364017,"state":"s","other":[1]}}"#, "{}", Code::InvalidRequest),
            (r#"{"urn:e":{"event_timestamp":1520364017,"state":"s","other":[1]}}"#, "[]", Code::InvalidRequest),
            (r#"{"event_timestamp":1520364017,"state":"s","other":[1]}"#, "\"x\"", Code::InvalidRequest),
            (r#"{"event_timestamp":1520364017,"state":"s","other":[1]}"#, "null", Code::InvalidRequest),
            (r#","events":"#, r#","event":"#, Code::InvalidRequest),
            (r#"["x","us"]"#, r#"["x"]"#, Code::InvalidAudience),
            (r#"["x","us"]"#, "\"\"", Code::InvalidAudience),
            (r#"["x","us"]"#, "null", Code::InvalidAudience),
            (r#""aud":["x","us"],"#, "", Code::InvalidAudience),
        ] {
            let json = GOOD.replacen(from, to, 1);
            assert_ne!(json, GOOD, "{from}");
            assert_eq!(read(&json).unwrap_err().code, code, "{json}");
        }
        let many = (0..=MAX_EVENTS).map(|n| format!("\"urn:{n}\":{{}}")).collect::<Vec<_>>().join(",");
        assert_eq!(
            read(&format!(r#"{{"jti":"j","iat":1,"aud":"us","events":{{{many}}}}}"#)).unwrap_err().code,
            Code::InvalidRequest
        );
    }

    #[test]
    fn event_times_are_seconds_and_were_milliseconds() {
        let at = |json: &str| read(&GOOD.replace("1520364017,", &format!("{json},"))).unwrap().events[0].happened_at;
        assert_eq!(at("1615304991643"), Some(Moment::exact(Timestamp::from_millis(1_615_304_991_643))));
        assert_eq!(at("1615304991.25"), Some(Moment::exact(Timestamp::from_millis(1_615_304_991_250))));
        for none in ["\"1615304991\"", "null", "[]", "1e300"] {
            assert_eq!(at(none), None, "{none}");
        }
    }
}
