//! From a claim to a field value for the upstream (RFC 9110 §5.5).
//!
//! - A string of visible ASCII and inner spaces goes as it is; any other is percent-encoded as UTF-8, as a whole.
//! - A boolean or number goes as its JSON text.
//! - An array's elements are joined with `,`; an element that holds one is percent-encoded, so that a split at `,`
//!   gives back the elements.
//! - An object goes as compact JSON, percent-encoded where it is not ASCII.
//! - `null` is not forwarded.

use std::borrow::Cow;

use http::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::super::{
    json::Value,
    packed::{Packed, Packing},
};

/// What is encoded in a text that cannot go as it is. Beyond ASCII, everything is.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b',');

/// What upstreams are told of a token, in one piece of memory. `Debug` shows none of it.
///
/// The values of some claims, in the order of [`VerifierOptions::forwarded_claims`](super::VerifierOptions::forwarded_claims); none for
/// what the token does not say.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ForwardedClaims(Packed);

/// What a value that is there begins with.
const PRESENT: u8 = b'=';

impl ForwardedClaims {
    /// The field value of one of them.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<HeaderValue> {
        self.0.iter().nth(index).and_then(present)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Option<HeaderValue>> {
        self.0.iter().map(present)
    }

    /// How much memory they take beside their own size, in bytes.
    #[must_use]
    pub const fn heap_size(&self) -> usize {
        self.0.size()
    }
}

fn present(kept: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(kept.strip_prefix(&[PRESENT])?).ok()
}

impl FromIterator<Option<HeaderValue>> for ForwardedClaims {
    fn from_iter<I: IntoIterator<Item = Option<HeaderValue>>>(values: I) -> Self {
        let mut packing = Packing::default();
        for value in values {
            match value {
                Some(value) => packing.push(&[&[PRESENT], value.as_bytes()].concat()),
                None => packing.push(&[]),
            }
        }
        Self(packing.pack())
    }
}

/// The field value of a claim.
pub(super) fn field_value(claim: &Value<'_>) -> Option<HeaderValue> {
    let value = match claim {
        Value::Null => return None,
        Value::Array(elements) => {
            let elements: Vec<String> =
                elements.iter().map(|element| encoded(&text(element), true).into_owned()).collect();
            HeaderValue::try_from(elements.join(","))
        }
        Value::Object(_) => HeaderValue::try_from(&*utf8_percent_encode(&text(claim), CONTROLS).to_string()),
        _ => HeaderValue::try_from(&*encoded(&text(claim), false)),
    };
    value.ok()
}

fn text<'v>(value: &'v Value<'_>) -> Cow<'v, str> {
    if let Value::String(text) = value {
        return Cow::Borrowed(text);
    }
    let mut json = String::new();
    value.write_json(&mut json);
    Cow::Owned(json)
}

fn encoded(text: &str, is_element: bool) -> Cow<'_, str> {
    // A recipient strips spaces at the ends: ` admin` must not arrive as `admin`.
    let needs_encoding = !text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        || text.starts_with(' ')
        || text.ends_with(' ')
        || (is_element && text.contains(','));
    if needs_encoding { utf8_percent_encode(text, ENCODED).into() } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::json::Object;

    #[test]
    fn claims_become_field_values() {
        for (claim, expected) in [
            (r#""auth0|a b""#, Some("auth0|a b")),
            (r#""50%""#, Some("50%")),
            (r#""""#, Some("")),
            (r#"" admin""#, Some("%20admin")),
            (r#""Zoë 50%""#, Some("Zo%C3%AB%2050%25")),
            (r#""a\r\nX-Admin: 1""#, Some("a%0D%0AX-Admin:%201")),
            (r#""\u007f\u0000""#, Some("%7F%00")),
            ("true", Some("true")),
            ("12345678901234567890123", Some("12345678901234567890123")),
            ("1.50", Some("1.50")),
            (r#"["a","b c",1,false,null]"#, Some("a,b c,1,false,null")),
            (r#"["a,b","c"]"#, Some("a%2Cb,c")),
            (r#"[{"k":[1,2]},[]]"#, Some(r#"{"k":[1%2C2]},[]"#)),
            ("[]", Some("")),
            (r#"{ "k" : "é\n" }"#, Some(r#"{"k":"%C3%A9\u000a"}"#)),
            ("null", None),
        ] {
            let text = format!("{{\"c\":{claim}}}");
            let object = Object::parse(text.as_bytes()).unwrap();
            let value = object.get("c").and_then(field_value);
            assert_eq!(value.as_ref().map(|value| value.to_str().unwrap()), expected, "{claim}");
        }
    }
}
