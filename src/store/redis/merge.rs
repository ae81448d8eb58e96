//! The one write of a marker: compare and set. What is to be set is decided in Rust, by the merge rule.

use ::redis::{Cmd, ErrorKind, RedisError, RedisResult, Value};

use super::script;
use crate::clock::Timestamp;

/// KEYS: the marker. ARGV: `1` if it is expected to hold the next argument, `0` if nothing; that value; the new value;
/// its expiry in ms, empty for none, or `keep`. Answers 1, or what the key holds instead.
const COMPARE_AND_SET: &str = "\
local held = redis.call('GET', KEYS[1])
local expected = ARGV[1] == '1' and ARGV[2] or false
if held ~= expected then return held end
if ARGV[4] == 'keep' then redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
elseif ARGV[4] == '' then redis.call('SET', KEYS[1], ARGV[3])
else redis.call('SET', KEYS[1], ARGV[3], 'PXAT', ARGV[4]) end
return 1";

/// What became of a write.
pub(super) enum Swap {
    /// The new value is stored.
    Done,
    /// The key held this instead of what was expected.
    Found(Option<Vec<u8>>),
}

/// When a value may be forgotten.
#[derive(Clone, Copy)]
pub(super) enum Expiry {
    At(Timestamp),
    Never,
    /// When it may be already.
    Unchanged,
}

/// A call that sets `key` to `value` if it still holds `expected`.
pub(super) fn compare_and_set(key: &str, expected: Option<&[u8]>, value: &str, expiry: Expiry) -> [Cmd; 2] {
    script::call(COMPARE_AND_SET, key, |call| {
        call.arg(i32::from(expected.is_some())).arg(expected.unwrap_or_default()).arg(value);
        call.arg(match expiry {
            // A server refuses expiries that are not positive; the first millisecond is as long ago.
            Expiry::At(at) => at.as_millis().max(1).to_string(),
            Expiry::Never => String::new(),
            Expiry::Unchanged => "keep".to_owned(),
        });
    })
}

/// What the answer to such a call means.
pub(super) fn swap(answer: Value) -> RedisResult<Swap> {
    match answer {
        Value::Int(1) => Ok(Swap::Done),
        Value::Nil => Ok(Swap::Found(None)),
        Value::BulkString(held) => Ok(Swap::Found(Some(held))),
        _ => Err(RedisError::from((ErrorKind::UnexpectedReturnType, "the merge script answered in another form"))),
    }
}
