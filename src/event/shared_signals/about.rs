//! Whom a SET is about: one subject identifier, or a complex subject of several (Shared Signals Framework 1.0).

use crate::{
    event::subject::{InvalidSubject, SubjectIdentifier, text},
    token::json::{Object, Value},
};

/// The most members of a complex subject.
const MAX_MEMBERS: usize = 16;

/// The subject of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum About {
    /// One identifier.
    Simple(SubjectIdentifier),
    /// Several that describe one principal together, by their part in it: `user`, `session`, `device` and so on.
    Complex(Vec<(Box<str>, SubjectIdentifier)>),
}

impl About {
    /// Reads `sub_id`.
    pub(super) fn parse(value: &Value<'_>) -> Result<Self, InvalidSubject> {
        let object = value.as_object().ok_or(InvalidSubject)?;
        if text(object, "format")? == "complex" {
            Self::complex(object, "format", SubjectIdentifier::parse)
        } else {
            SubjectIdentifier::parse(object).map(Self::Simple)
        }
    }

    /// Reads `subject` of an event, as drafts of RISC and CAEP had it: the format may be called `subject_type` and be written with
    /// hyphens, and a complex subject need not say that it is one.
    pub(super) fn parse_legacy(value: &Value<'_>) -> Result<Self, InvalidSubject> {
        let object = value.as_object().ok_or(InvalidSubject)?;
        if object.get("subject_type").is_some()
            || object.get("format").is_some_and(|format| format.as_str() != Some("complex"))
        {
            return legacy_simple(object).map(Self::Simple);
        }
        Self::complex(object, "format", legacy_simple)
    }

    fn complex(
        object: &Object<'_>,
        format_member: &str,
        parse: impl Fn(&Object<'_>) -> Result<SubjectIdentifier, InvalidSubject>,
    ) -> Result<Self, InvalidSubject> {
        let members = object.iter().filter(|(name, _)| *name != format_member).map(|(name, value)| {
            let identifier = parse(value.as_object().ok_or(InvalidSubject)?)?;
            Ok((name.into(), identifier))
        });
        let members = members.collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() || members.len() > MAX_MEMBERS { Err(InvalidSubject) } else { Ok(Self::Complex(members)) }
    }
}

fn legacy_simple(object: &Object<'_>) -> Result<SubjectIdentifier, InvalidSubject> {
    let member = if object.get("subject_type").is_some() { "subject_type" } else { "format" };
    let format = text(object, member)?;
    let format = if format == "ip-addresses" { format.to_owned() } else { format.replace('-', "_") };
    SubjectIdentifier::of_format(&format, object, member, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, parse: impl Fn(&Value<'_>) -> Result<About, InvalidSubject>) -> Result<About, InvalidSubject> {
        let text = format!("{{\"s\":{json}}}");
        parse(Object::parse(text.as_bytes()).unwrap().get("s").unwrap())
    }

    fn opaque(id: &str) -> SubjectIdentifier {
        SubjectIdentifier::Opaque(id.into())
    }

    #[test]
    fn complex_subjects_have_members_that_are_simple_ones() {
        let complex = About::Complex(vec![("session".into(), opaque("s")), ("vendor".into(), opaque("v"))]);
        assert_eq!(
            parse(
                r#"{"format":"complex","session":{"format":"opaque","id":"s"},"vendor":{"format":"opaque","id":"v"}}"#,
                About::parse
            ),
            Ok(complex)
        );
        assert_eq!(parse(r#"{"format":"opaque","id":"s"}"#, About::parse), Ok(About::Simple(opaque("s"))));
        for not in [
            r#""s""#,
            "null",
            r#"{"id":"s"}"#,
            r#"{"format":"complex"}"#,
            r#"{"format":"complex","user":"u"}"#,
            r#"{"format":"complex","user":{"format":"opaque"}}"#,
            r#"{"format":"complex","user":{"format":"complex","user":{"format":"opaque","id":"s"}}}"#,
        ] {
            let parsed = parse(not, About::parse);
            // A complex subject within one is of no known format.
            let is_opaque = matches!(&parsed, Ok(About::Complex(members)) if members[0].1.format() == "complex");
            assert!(parsed == Err(InvalidSubject) || is_opaque, "{not}: {parsed:?}");
        }
    }

    #[test]
    fn subjects_of_drafts_are_read() {
        let iss_sub = SubjectIdentifier::IssSub { iss: "i".into(), sub: "s".into() };
        for json in [
            r#"{"subject_type":"iss-sub","iss":"i","sub":"s"}"#,
            r#"{"subject_type":"iss_sub","iss":"i","sub":"s"}"#,
            r#"{"format":"iss_sub","iss":"i","sub":"s"}"#,
        ] {
            assert_eq!(parse(json, About::parse_legacy), Ok(About::Simple(iss_sub.clone())), "{json}");
        }
        let complex = About::Complex(vec![("user".into(), iss_sub)]);
        assert_eq!(
            parse(r#"{"user":{"subject_type":"iss-sub","iss":"i","sub":"s"}}"#, About::parse_legacy),
            Ok(complex)
        );
        for not in ["{}", r#"{"subject_type":"iss-sub","iss":"i"}"#, r#"{"subject_type":"","iss":"i"}"#, "[]"] {
            assert_eq!(parse(not, About::parse_legacy), Err(InvalidSubject), "{not}");
        }
    }
}
