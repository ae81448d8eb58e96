//! Times: milliseconds since 1970, UTC, and how Auth0 writes them.

use std::{fmt::Write as _, time::Duration};

use jiff::{civil, tz::TimeZone};

pub(crate) const DAY: i64 = 86_400_000;

/// Now.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// So many days of 24 hours ago.
pub(crate) fn days_ago(days: i64) -> i64 {
    now() - days * DAY
}

/// `2026-01-31T12:00:00.000Z`
pub(crate) fn iso(millis: i64) -> String {
    let mut text = String::with_capacity(24);
    write_iso(millis, &mut text);
    text
}

/// The same into a buffer. By hand, because exports write two for each of ten million users.
pub(crate) fn write_iso(millis: i64, text: &mut String) {
    let (day, rest) = (millis.div_euclid(DAY), millis.rem_euclid(DAY));
    let (seconds, millis) = (rest / 1000, rest % 1000);
    // From days to a date of the Gregorian calendar, with years that begin in March.
    let from_era = day + 719_468;
    let (era, of_era) = (from_era.div_euclid(146_097), from_era.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    for (number, width, before) in [
        (year, 4, None),
        (month, 2, Some('-')),
        (date, 2, Some('-')),
        (hour, 2, Some('T')),
        (minute, 2, Some(':')),
        (second, 2, Some(':')),
        (millis, 3, Some('.')),
    ] {
        text.extend(before);
        digits(number, width, text);
    }
    text.push('Z');
}

fn digits(number: i64, width: u32, text: &mut String) {
    if number < 0 || number >= 10_i64.pow(width) {
        let _ = write!(text, "{number}");
        return;
    }
    for place in (0..width).rev() {
        let digit = u8::try_from(number / 10_i64.pow(place) % 10).unwrap_or_default();
        text.push(char::from(b'0' + digit));
    }
}

/// From RFC 3339.
pub(crate) fn parse(text: &str) -> Option<i64> {
    Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond())
}

/// The first millisecond that this means, and the first one after it: a year, a month, a day, or a time to the second or closer.
pub(crate) fn span(text: &str) -> Option<(i64, i64)> {
    let start = |year: i16, month: i8, day: i8| {
        let midnight = civil::Date::new(year, month, day).ok()?.to_zoned(TimeZone::UTC).ok()?;
        Some(midnight.timestamp().as_millisecond())
    };
    if let Some(at) = parse(text) {
        return Some((at, at + 1));
    }
    let parts: Vec<&str> = text.split('-').collect();
    if parts.iter().any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    match parts[..] {
        [year] if year.len() == 4 => {
            let year: i16 = year.parse().ok()?;
            Some((start(year, 1, 1)?, start(year + 1, 1, 1)?))
        }
        [year, month] if year.len() == 4 && month.len() == 2 => {
            let (year, month): (i16, i8) = (year.parse().ok()?, month.parse().ok()?);
            let next = if month == 12 { start(year + 1, 1, 1)? } else { start(year, month + 1, 1)? };
            Some((start(year, month, 1)?, next))
        }
        [year, month, day] if year.len() == 4 && month.len() == 2 && day.len() == 2 => {
            let first = start(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?)?;
            Some((first, first + DAY))
        }
        _ => None,
    }
}

/// As milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
