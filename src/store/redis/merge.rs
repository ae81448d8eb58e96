//! The one write of a marker: compare and set. What is to be set is decided in Rust, by the merge rule.

use ::redis::{
    Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use crate::clock::Timestamp;

/// KEYS: the marker. ARGV: `1` if it is expected to hold the next argument, `0` if nothing; that value; the new value;
/// its expiry in ms or empty. Answers 1, or what the key holds instead.
const COMPARE_AND_SET: &str = "\
local held = redis.call('GET', KEYS[1])
local expected = ARGV[1] == '1' and ARGV[2] or false
if held ~= expected then return held end
if ARGV[4] == '' then redis.call('SET', KEYS[1], ARGV[3])
else redis.call('SET', KEYS[1], ARGV[3], 'PXAT', ARGV[4]) end
return 1";

/// What became of a write.
pub(super) enum Swap {
    /// The new value is stored.
    Done,
    /// The key held this instead of what was expected.
    Found(Option<Vec<u8>>),
}

/// Sets `key` to `value` if it still holds `expected`.
pub(super) async fn compare_and_set(
    connection: &mut MultiplexedConnection,
    key: &str,
    expected: Option<&[u8]>,
    value: &str,
    expires: Option<Timestamp>,
) -> RedisResult<Swap> {
    let call = |command: &str, script: &str| {
        let mut call = ::redis::cmd(command);
        call.arg(script).arg(1).arg(key);
        call.arg(i32::from(expected.is_some())).arg(expected.unwrap_or_default()).arg(value);
        // A server refuses expiries that are not positive; the first millisecond is as long ago.
        call.arg(expires.map(|at| at.as_millis().max(1).to_string()).unwrap_or_default());
        call
    };
    let script = Script::new(COMPARE_AND_SET);
    let answer = match send(connection, &call("EVALSHA", script.get_hash())).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            send(connection, &call("EVAL", COMPARE_AND_SET)).await
        }
        answer => answer,
    };
    match answer? {
        Value::Int(1) => Ok(Swap::Done),
        Value::Nil => Ok(Swap::Found(None)),
        Value::BulkString(held) => Ok(Swap::Found(Some(held))),
        _ => Err(RedisError::from((ErrorKind::UnexpectedReturnType, "the merge script answered in another form"))),
    }
}

async fn send(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
    connection.req_packed_command(command).await?.extract_error()
}
