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
