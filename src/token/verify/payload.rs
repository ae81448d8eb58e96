//! From the payload to checked claims (RFC 7519 §4.1, RFC 9068 §2.2).
//!
//! What is present must be readable, with one exception: a claim that could only *help* the token, `last_logout`, is
//! taken as absent when it cannot be read. `null` counts as absent.

use super::super::{
    TokenFault,
    claims::{Claims, InvalidId, Scopes, Subject, SubjectId},
    issuer::{IssuerSettings, TokenProfile},
    json::{Object, Value},
};
use crate::clock::{Moment, Timestamp};

/// The last second that RFC 3339 can write, 9999-12-31T23:59:59Z. Beyond it a date is taken for an error.
const LAST_SECOND: f64 = 253_402_300_799.0;
/// From here on, a session start or last logout counts milliseconds; as seconds it would be after the year 5100.
const FIRST_MILLIS: f64 = 1e11;

/// Reads and checks the claims of an access token whose signature is verified.
pub(super) fn read(settings: &IssuerSettings, payload: &Object<'_>) -> Result<Claims, TokenFault> {
    check_audience(payload, &settings.audiences)?;
    let claims = ClaimReader { payload };
    let client = claims.id("client_id")?;
    let token_id = claims.id("jti")?;
    if settings.profile == TokenProfile::Rfc9068 && (client.is_none() || token_id.is_none()) {
        return Err(TokenFault::Claim);
    }
    let read = Claims {
        subject: Subject {
            issuer: settings.name.clone(),
            id: claims.id::<SubjectId>("sub")?.ok_or(TokenFault::Claim)?,
        },
        session: claims.id(&settings.claims.session)?,
        client: if client.is_some() { client } else { claims.id("azp")? },
        token_id,
        issued_at: claims.date("iat")?.ok_or(TokenFault::Claim)?,
        expires_at: claims.date("exp")?.ok_or(TokenFault::Claim)?.earliest(),
        not_before: claims.date("nbf")?.map(Moment::earliest),
        session_start: claims.moment(&settings.claims.session_start)?,
        session_expiry: match &settings.claims.session_expiry {
            Some(name) => claims.moment(name)?.map(Moment::earliest),
            None => None,
        },
        last_logout: claims.moment(&settings.claims.last_logout).unwrap_or(None),
        scopes: claims.scopes(),
    };
    // Checking the proof of possession is not ours yet, and without it the token is not the bearer's.
    if payload.get("cnf").is_some() { Err(TokenFault::SenderConstrained) } else { Ok(read) }
}

/// A claim that tells how a subject can be reached, unless the claim `<name>_verified` beside it is there and not `true` (OpenID
/// Connect Core §5.1).
pub(super) fn contact(payload: &Object<'_>, name: &str) -> Option<Box<str>> {
    let value = payload.get(name)?.as_str()?;
    let verified = payload.get(&format!("{name}_verified"));
    verified.is_none_or(|verified| *verified == Value::Bool(true)).then(|| value.into())
}

/// `aud`: a string, or an array of strings, of which one is ours (RFC 7519 §4.1.3).
pub(crate) fn check_audience(payload: &Object<'_>, audiences: &[Box<str>]) -> Result<(), TokenFault> {
    let is_ours = |audience: &str| !audience.is_empty() && audiences.iter().any(|each| **each == *audience);
    let found = match payload.get("aud") {
        Some(Value::String(audience)) => is_ours(audience),
        Some(Value::Array(elements)) => {
            let is_text = |element: &Value<'_>| element.as_str().is_some_and(|text| !text.is_empty());
            elements.iter().all(is_text) && elements.iter().filter_map(Value::as_str).any(is_ours)
        }
        _ => false,
    };
    if found { Ok(()) } else { Err(TokenFault::Audience) }
}

/// Reads claims of a JWT. What is `null` counts as absent.
pub(crate) struct ClaimReader<'r, 'a> {
    /// The claims.
    pub(crate) payload: &'r Object<'a>,
}

impl<'r, 'a> ClaimReader<'r, 'a> {
    fn present(&self, name: &str) -> Option<&'r Value<'a>> {
        self.payload.get(name).filter(|value| **value != Value::Null)
    }

    /// An identifier, if it is there.
    pub(crate) fn id<I>(&self, name: &str) -> Result<Option<I>, TokenFault>
    where
        I: for<'s> TryFrom<&'s str, Error = InvalidId>,
    {
        let Some(value) = self.present(name) else { return Ok(None) };
        let text = value.as_str().ok_or(TokenFault::Claim)?;
        I::try_from(text).map(Some).map_err(|_| TokenFault::Claim)
    }

    /// A `NumericDate` (RFC 7519 §2), if it is there.
    pub(crate) fn date(&self, name: &str) -> Result<Option<Moment>, TokenFault> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::Number(text)) => number(text).and_then(from_secs).map(Some).ok_or(TokenFault::Claim),
            Some(_) => Err(TokenFault::Claim),
        }
    }

    /// Epoch milliseconds, epoch seconds or RFC 3339, if it is there.
    pub(crate) fn moment(&self, name: &str) -> Result<Option<Moment>, TokenFault> {
        let read = match self.present(name) {
            None => return Ok(None),
            Some(Value::Number(text)) => number(text)
                .and_then(|number| if number >= FIRST_MILLIS { from_millis(number) } else { from_secs(number) }),
            Some(Value::String(text)) => from_text(text),
            Some(_) => None,
        };
        read.map(Some).ok_or(TokenFault::Claim)
    }

    /// `scope`, `scp` and `permissions`, each a string of words or an array of strings. What is neither gives nothing.
    fn scopes(&self) -> Scopes {
        let mut scopes = Vec::new();
        for name in ["scope", "scp", "permissions"] {
            match self.payload.get(name) {
                Some(Value::String(text)) => scopes.extend(text.split(' ').filter(|word| !word.is_empty())),
                Some(Value::Array(elements)) => scopes.extend(elements.iter().filter_map(Value::as_str)),
                _ => {}
            }
        }
        scopes.into_iter().collect()
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// A whole number of seconds means some time within that second, a fraction the time itself.
fn from_secs(secs: f64) -> Option<Moment> {
    if !(-LAST_SECOND..=LAST_SECOND).contains(&secs) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "in range")]
    Some(if secs.fract() == 0.0 {
        Moment::whole_second(secs as i64)
    } else {
        Moment::exact(Timestamp::from_millis((secs * 1000.0).round() as i64))
    })
}

fn from_millis(millis: f64) -> Option<Moment> {
    #[expect(clippy::cast_possible_truncation, reason = "in range")]
    (millis <= LAST_SECOND * 1000.0).then(|| Moment::exact(Timestamp::from_millis(millis.round() as i64)))
}

/// RFC 3339 with seconds: `2026-01-31T12:00:00Z`, with or without a fraction.
fn from_text(text: &str) -> Option<Moment> {
    if text.as_bytes().get(16) != Some(&b':') {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    let has_fraction = matches!(text.as_bytes().get(19), Some(b'.' | b','));
    Some(if has_fraction { Moment::exact(time) } else { Moment::whole_second(time.as_secs()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(json: &str) -> Result<Option<Moment>, TokenFault> {
        let text = format!("{{\"t\":{json}}}");
        ClaimReader { payload: &Object::parse(text.as_bytes()).unwrap() }.moment("t")
    }

    fn date(json: &str) -> Result<Option<Moment>, TokenFault> {
        let text = format!("{{\"t\":{json}}}");
        ClaimReader { payload: &Object::parse(text.as_bytes()).unwrap() }.date("t")
    }

    fn exact(millis: i64) -> Moment {
        Moment::exact(Timestamp::from_millis(millis))
    }

    #[test]
    fn numeric_dates_are_numbers() {
        assert_eq!(date("1763700000"), Ok(Some(Moment::whole_second(1_763_700_000))));
        assert_eq!(date("1763700000.0"), Ok(Some(Moment::whole_second(1_763_700_000))));
        assert_eq!(date("1.7637e9"), Ok(Some(Moment::whole_second(1_763_700_000))));
        assert_eq!(date("1763700000.123"), Ok(Some(exact(1_763_700_000_123))));
        assert_eq!(date("-1"), Ok(Some(Moment::whole_second(-1))));
        assert_eq!(date("-0.5"), Ok(Some(exact(-500))));
        assert_eq!(date("null"), Ok(None));
        for not in ["\"1763700000\"", "true", "[]", "{}", "1e300", "-1e300", "253402300800", "99999999999999999999999"]
        {
            assert_eq!(date(not), Err(TokenFault::Claim), "{not}");
        }
    }

    #[test]
    fn moments_come_in_three_forms() {
        let whole = Ok(Some(Moment::whole_second(1_763_700_000)));
        let precise = Ok(Some(exact(1_763_700_000_123)));
        assert_eq!(moment("1763700000"), whole);
        assert_eq!(moment("\"2025-11-21T04:40:00Z\""), whole);
        assert_eq!(moment("\"2025-11-21T05:40:00+01:00\""), whole);
        assert_eq!(moment("1763700000123"), precise);
        assert_eq!(moment("1763700000.123"), precise);
        assert_eq!(moment("\"2025-11-21T04:40:00.123Z\""), precise);
        assert_eq!(moment("\"2025-11-21T04:40:00.123456789Z\""), precise);
        assert_eq!(moment("99999999999"), Ok(Some(Moment::whole_second(99_999_999_999))));
        assert_eq!(moment("100000000000"), Ok(Some(exact(100_000_000_000))));
        for not in [
            "\"\"",
            "\"yesterday\"",
            "\"2025-11-21\"",
            "\"2025-11-21T04:40Z\"",
            "\"1763700000\"",
            "1e300",
            "true",
            "[1]",
        ] {
            assert_eq!(moment(not), Err(TokenFault::Claim), "{not}");
        }
    }
}
