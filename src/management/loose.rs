//! JSON as it is in the wild: members are missing, doubled (the last counts), masked, or of another type than they should be, and
//! text that does not matter here need not even be UTF-8.

use std::{borrow::Cow, fmt};

use jiff::{civil::DateTime, tz::TimeZone};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::clock::Timestamp;

/// Markers do not take times before this: 2001-09-09 in milliseconds, in which it is the first with so many digits.
pub(crate) const EARLIEST: Timestamp = Timestamp::from_millis(1_000_000_000_000);

/// Numbers of a smaller magnitude are seconds, others milliseconds, microseconds and nanoseconds, a thousand times as many each.
const FIRST_MILLIS: f64 = 1e11;

/// A value of which some members matter.
pub(crate) trait Members<'a>: Default {
    /// Takes the value of a member, or passes over it.
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error>;

    /// Takes the elements of an array, where the value is one.
    fn take_elements<A: SeqAccess<'a>>(&mut self, elements: &mut A) -> Result<(), A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    /// Takes a value that has no members.
    fn take_scalar(&mut self, _: Loose<'a>) {}
}

/// Reads one JSON text. After an error, `members` holds what was read before it.
///
/// A string with a bare control character in it is an error in every member, as RFC 8259 §7 has it: with a line break in one, what the
/// text is would depend on what it stands in.
pub(crate) fn read<'a>(text: &'a [u8], members: &mut impl Members<'a>) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    Fill(members).deserialize(&mut deserializer)?;
    deserializer.end()?;
    if has_bare_control(text) { Err(Error::custom("control character in a string")) } else { Ok(()) }
}

/// Whether any string of a JSON text holds a control character as it is.
fn has_bare_control(text: &[u8]) -> bool {
    let (mut in_string, mut is_escaped) = (false, false);
    text.iter().any(|&byte| {
        match (in_string, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_string = !in_string,
            _ => {}
        }
        in_string && byte < b' '
    })
}

/// Passes over the value of a member.
pub(crate) fn skip<'a, A: MapAccess<'a>>(values: &mut A) -> Result<(), A::Error> {
    values.next_value::<IgnoredAny>().map(drop)
}

/// Takes in a value in place of what was there before. Says whether it was anything but `null`.
pub(crate) struct Fill<'m, T>(pub(crate) &'m mut T);

impl<'a, T: Members<'a>> DeserializeSeed<'a> for Fill<'_, T> {
    type Value = bool;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<bool, D::Error> {
        *self.0 = T::default();
        deserializer.deserialize_any(self)
    }
}

impl<'a, T: Members<'a>> Fill<'_, T> {
    fn scalar(self, value: Loose<'a>) -> bool {
        self.0.take_scalar(value);
        true
    }
}

impl<'a, T: Members<'a>> Visitor<'a> for Fill<'_, T> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut values: A) -> Result<bool, A::Error> {
        while let Some(Name(name)) = values.next_key()? {
            self.0.take(&name, &mut values)?;
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut elements: A) -> Result<bool, A::Error> {
        self.0.take_elements(&mut elements).map(|()| true)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        Ok(self.scalar(Loose::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        Ok(self.scalar(Loose::Integer(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        Ok(self.scalar(Loose::from(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        Ok(self.scalar(Loose::Float(value)))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'a str) -> Result<bool, E> {
        Ok(self.scalar(Loose::Text(Cow::Borrowed(text))))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        Ok(self.scalar(Loose::Text(Cow::Owned(text.to_owned()))))
    }
}

/// Takes in a value on top of what was there before.
pub(crate) struct Onto<'m, T>(pub(crate) &'m mut T);

impl<'a, T: Members<'a>> DeserializeSeed<'a> for Onto<'_, T> {
    type Value = bool;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(Fill(self.0))
    }
}

/// The name of a member.
struct Name<'a>(Cow<'a, [u8]>);

impl<'a> Deserialize<'a> for Name<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        // As bytes, since text would have to be valid.
        deserializer.deserialize_bytes(NameVisitor)
    }
}

struct NameVisitor;

impl<'a> Visitor<'a> for NameVisitor {
    type Value = Name<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'a [u8]) -> Result<Name<'a>, E> {
        Ok(Name(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Name<'a>, E> {
        Ok(Name(Cow::Owned(bytes.to_vec())))
    }
}

/// A scalar of whatever type.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) enum Loose<'a> {
    /// Missing, or `null`.
    #[default]
    Absent,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// An object or an array.
    Other,
}

impl<'a> Deserialize<'a> for Loose<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'a> Visitor<'a> for LooseVisitor {
    type Value = Loose<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Loose<'a>, E> {
        Ok(Loose::Absent)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Loose<'a>, E> {
        Ok(Loose::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Loose<'a>, E> {
        Ok(Loose::Integer(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Loose<'a>, E> {
        Ok(Loose::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Loose<'a>, E> {
        Ok(Loose::Float(value))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'a str) -> Result<Loose<'a>, E> {
        Ok(Loose::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Loose<'a>, E> {
        Ok(Loose::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut elements: A) -> Result<Loose<'a>, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }

    /// MongoDB's Extended JSON, in which logs are exported: `{"$date": …}`, `{"$oid": …}`.
    fn visit_map<A: MapAccess<'a>>(self, mut values: A) -> Result<Loose<'a>, A::Error> {
        let mut value = Loose::Other;
        while let Some(Name(name)) = values.next_key()? {
            if name.starts_with(b"$") {
                value = values.next_value()?;
                // Something is there, whatever it wraps.
                if !value.is_present() {
                    value = Loose::Other;
                }
            } else {
                skip(&mut values)?;
            }
        }
        Ok(value)
    }
}

impl From<u64> for Loose<'_> {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Self::Other, Self::Integer)
    }
}

impl Loose<'_> {
    /// Whether it is there.
    pub(crate) const fn is_present(&self) -> bool {
        !matches!(self, Self::Absent)
    }

    /// The text, unless it is empty or masked.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) if text.bytes().any(|byte| byte != b'*') => Some(text),
            _ => None,
        }
    }

    /// The value, if it is `true` or `false`.
    pub(crate) const fn bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// An id: a text, or a number that was written without loss.
    pub(crate) fn id(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Integer(number) => Some(number.to_string().into()),
            _ => self.text().map(Cow::Borrowed),
        }
    }

    /// The whole number, also one in quotes.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => self.text()?.trim().parse().ok(),
        }
    }

    /// A time: RFC 3339, the same with a space or without an offset (then in UTC), or a number since 1970.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        let time = match self {
            #[expect(clippy::cast_precision_loss, reason = "exact for every time that is in range")]
            Self::Integer(number) => from_number(*number as f64),
            Self::Float(number) => from_number(*number),
            Self::Text(text) => from_text(text.trim()),
            _ => None,
        };
        time.filter(|time| *time >= EARLIEST)
    }
}

fn from_text(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    if let Ok(number) = text.parse() {
        return from_number(number);
    }
    let text = text.strip_suffix("UTC").unwrap_or(text).trim_end();
    // A mere day would pass for its midnight.
    let civil: DateTime = text.contains(':').then(|| text.parse().ok())??;
    Some(Timestamp::from_millis(TimeZone::UTC.to_timestamp(civil).ok()?.as_millisecond()))
}

fn from_number(number: f64) -> Option<Timestamp> {
    let scale = [1000.0, 1.0, 1e-3, 1e-6].into_iter().zip([1.0, 1e3, 1e6, 1e9]);
    let (scale, _) = scale.into_iter().find(|(_, bound)| number < FIRST_MILLIS * bound)?;
    #[expect(clippy::cast_possible_truncation, reason = "in range, or saturated and then refused")]
    Some(Timestamp::from_millis((number * scale).round() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_hold_no_bare_control_characters_wherever_they_stand() {
        for (text, expected) in [
            ("{\"a\": \"b\",\n\t\"c\": \"d\"}\r\n", false),
            (r#"{"a\nb": "\t\\\"", "c": "\u0001"}"#, false),
            ("{\"a\": \"b\nc\"}", true),
            ("{\"a\tb\": 1}", true),
            ("{\"a\": [\"\\\\\", \"\0\"]}", true),
            ("{\"a\": \"\\\"\r\"}", true),
            ("{\"a\": \"b\\\n\"}", true),
        ] {
            assert_eq!(has_bare_control(text.as_bytes()), expected, "{text:?}");
        }
    }

    fn loose(text: &str) -> Loose<'_> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn times_are_read_in_all_forms_that_were_seen() {
        let expected = Some(Timestamp::from_millis(1_759_267_429_689));
        for text in [
            r#""2025-09-30T21:23:49.689Z""#,
            r#""2025-09-30T23:23:49.689+02:00""#,
            r#""2025-09-30 21:23:49.689000000""#,
            r#"" 2025-09-30 21:23:49.689 UTC""#,
            r#""2025-09-30T21:23:49.689""#,
            "1759267429689",
            r#""1759267429689""#,
            "1759267429.689",
            "1759267429689000",
            "1.759267429689e18",
            r#"{"$date":"2025-09-30T21:23:49.689Z"}"#,
            r#"{"$date":{"$numberLong":"1759267429689"}}"#,
        ] {
            assert_eq!(loose(text).time(), expected, "{text}");
        }
        for text in [
            "null",
            "true",
            "[]",
            "{}",
            "0",
            "-1",
            "1e300",
            r#""""#,
            r#""*****""#,
            r#""2025-09-30""#,
            r#""soon""#,
            r#""1970-01-01T00:00:00Z""#,
            r#""inf""#,
            r#""NaN""#,
            r#""2025-09-30T24:61:00""#,
        ] {
            assert_eq!(loose(text).time(), None, "{text}");
        }
    }

    #[test]
    fn masks_say_nothing() {
        assert_eq!(loose(r#""*****""#).text(), None);
        assert_eq!(loose(r#""*****""#).bool(), None);
        assert!(loose(r#""*****""#).is_present());
        assert!(!loose("null").is_present());
        assert!(loose(r#"{"$date":null}"#).is_present());
    }

    #[test]
    fn numbers_that_lost_digits_are_no_ids() {
        assert_eq!(loose("9007199254740993").id().as_deref(), Some("9007199254740993"));
        assert_eq!(loose("90020211103055400418223355659153263714766654532376068162").id(), None);
    }
}
