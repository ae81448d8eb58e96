//! Request bodies: JSON objects, told what is wrong with them without repeating it, because they may hold tokens.

use std::{fmt, marker::PhantomData};

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
};
use serde::{
    Deserializer as _,
    de::{self, MapAccess, Visitor},
};
use serde_json::Value;

use super::{CurrentAdmin, MAX_BODY, answer::Refusal};
use crate::clock::Timestamp;

/// Times outside of this are slips, seconds taken for milliseconds most likely: 2001-09-09 to 9999-01-01.
const CREDIBLE: std::ops::RangeInclusive<i64> = 1_000_000_000_000..=253_370_764_800_000;

/// What a body may say. All members are optional, and so is the body.
pub(super) trait Members: Default {
    /// Their names.
    const NAMES: &'static [&'static str];

    /// Takes a member, never `null`. The error says what its value must be.
    fn set(&mut self, name: &str, value: &Value) -> Result<(), &'static str>;
}

/// A body that was read.
pub(super) struct Body<T>(pub(super) T);

impl<T: Members> FromRequest<CurrentAdmin> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, admin: &CurrentAdmin) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, admin).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("a body may have {} KiB", MAX_BODY / 1024);
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            }
            _ => Refusal::invalid("the body did not arrive"),
        })?;
        read(&bytes).map(Self)
    }
}

/// A time, as a string or in milliseconds.
pub(super) fn time(value: &Value) -> Result<Timestamp, &'static str> {
    let time = match value {
        Value::Number(millis) => millis.as_i64().map(Timestamp::from_millis),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    time.filter(|time| CREDIBLE.contains(&time.as_millis()))
        .ok_or("an RFC 3339 time such as \"2026-01-31T12:00:00Z\", or milliseconds since 1970 (not seconds)")
}

/// A few words that stand in the audit trail and on terminals.
pub(super) fn words(value: &Value) -> Result<String, &'static str> {
    let fits = |text: &&str| (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    value.as_str().filter(fits).map(str::to_owned).ok_or("text of 1 to 255 bytes without control characters")
}

fn read<T: Members>(bytes: &[u8]) -> Result<T, Refusal> {
    match bytes.trim_ascii().first() {
        None => return Ok(T::default()),
        Some(b'{') => {}
        Some(_) => return Err(Refusal::invalid("the body must be a JSON object")),
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let members = json.deserialize_map(ObjectVisitor(PhantomData));
    members
        .and_then(|members| json.end().map(|()| members))
        .map_err(|error| Refusal::invalid(format!("the body is not as it should be: {error}")))
}

/// Reads names and values itself: the messages of derived code repeat values.
struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Members> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let (mut members, mut seen) = (T::default(), Vec::new());
        while let Some(name) = map.next_key::<String>()? {
            let known = T::NAMES.iter().find(|known| **known == name);
            let known = *known.ok_or_else(|| de::Error::custom(unknown::<T>(&name)))?;
            if seen.contains(&known) {
                return Err(de::Error::custom(format!("`{known}` is there twice")));
            }
            seen.push(known);
            let value: Value = map.next_value()?;
            if !value.is_null() {
                let set = members.set(known, &value);
                set.map_err(|wanted| de::Error::custom(format!("`{known}` must be {wanted}")))?;
            }
        }
        Ok(members)
    }
}

/// What does not look like a name is not repeated.
fn unknown<T: Members>(name: &str) -> String {
    let is_name = name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let there_is_no = if is_name { format!("there is no field `{name}`") } else { "there is no such field".to_owned() };
    format!("{there_is_no}; there are: {}", T::NAMES.join(", "))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http_body_util::BodyExt;

    use super::*;

    #[derive(Default, PartialEq, Debug)]
    struct Example {
        at: Option<Timestamp>,
        reason: Option<String>,
    }

    impl Members for Example {
        const NAMES: &'static [&'static str] = &["at", "reason"];

        fn set(&mut self, name: &str, value: &Value) -> Result<(), &'static str> {
            match name {
                "at" => self.at = Some(time(value)?),
                _ => self.reason = Some(words(value)?),
            }
            Ok(())
        }
    }

    async fn refusal(body: &str) -> String {
        let response = read::<Example>(body.as_bytes()).unwrap_err().into_response();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<Value>(&bytes).unwrap()["detail"].as_str().unwrap().to_owned()
    }

    #[test]
    fn members_may_be_left_out_or_null() {
        let at = Some(Timestamp::from_millis(1_769_860_800_000));
        for (body, expected) in [
            ("", Example::default()),
            (" \r\n", Example::default()),
            ("{}", Example::default()),
            (r#"{"at": null, "reason": null}"#, Example::default()),
            (r#"{"at": "2026-01-31T12:00:00Z"}"#, Example { at, reason: None }),
            (r#"{"at": 1769860800000, "reason": "ü"}"#, Example { at, reason: Some("ü".to_owned()) }),
        ] {
            assert_eq!(read::<Example>(body.as_bytes()).unwrap(), expected, "{body}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_with_its_place() {
        let prefix = "the body is not as it should be: ";
        for (body, expected) in [
            ("{\n\"att\": 1}", "there is no field `att`; there are: at, reason at line 2 column 5"),
            (
                "{\"reason\": 5}",
                "`reason` must be text of 1 to 255 bytes without control characters at line 1 column 13",
            ),
            ("{\"at\": 1, \"at\": 2}", "must be an RFC 3339 time"),
            ("{\"reason\": \"a\", \"reason\": \"b\"}", "`reason` is there twice at line 1 column 24"),
            ("{\"at\": 1769860800}", "not seconds"),
            ("{\"at\": \"2026-01-31T12:00:00\"}", "must be an RFC 3339 time"),
            ("{\"at\": 1e400}", "number out of range"),
            ("{\"at\"", "EOF while parsing an object at line 1 column 5"),
            ("{} x", "trailing characters at line 1 column 4"),
            ("{\"reason\": \"\\u0007\"}", "without control characters"),
        ] {
            let told = refusal(body).await;
            assert!(told.starts_with(prefix) && told.contains(expected), "{body}: {told}");
        }
        assert_eq!(refusal("[]").await, "the body must be a JSON object");
    }

    #[tokio::test]
    async fn no_value_is_repeated() {
        let secret = "eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJl";
        for body in [
            format!("\"{secret}\""),
            secret.to_owned(),
            format!("{{\"at\": \"{secret}\"}}"),
            format!("{{\"{secret}\": 1}}"),
            format!("{{\"at\": {secret}}}"),
            format!("{{\"reason\": [\"{secret}\"]}}"),
            format!("{{}} {secret}"),
            format!("{{\"reason\": \"{secret}"),
        ] {
            let told = refusal(&body).await;
            assert!(!told.contains("eyJ") && !told.contains("c2lnb"), "{told}");
        }
    }
}
