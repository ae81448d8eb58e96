//! `Date` of responses that have none (RFC 9110 §6.6.1).

use std::cell::Cell;

use crate::clock::Clock;

/// `Mon, 01 Jan 2024 00:00:00 GMT`.
type Value = [u8; 29];

thread_local! {
    /// The value of a second.
    static NOW: Cell<(i64, Value)> = const { Cell::new((i64::MIN, [0; 29])) };
}

/// Calls `write` with the value of this second, which is made once. Years that have no such form have none.
pub(super) fn with(write: impl FnOnce(&Value)) {
    let second = Clock::System.now().as_secs();
    let (mut of, mut value) = NOW.get();
    if of != second {
        let Some(made) = of_second(second) else { return };
        (of, value) = (second, made);
        NOW.set((of, value));
    }
    write(&value);
}

fn of_second(second: i64) -> Option<Value> {
    let at = jiff::Timestamp::from_second(second).ok()?;
    let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok()?;
    text.into_bytes().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_one_of_http() {
        let date = |second| of_second(second).map(|date| String::from_utf8(date.to_vec()).unwrap());
        assert_eq!(date(784_111_777).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(0).unwrap(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(i64::MAX), None);
    }
}
