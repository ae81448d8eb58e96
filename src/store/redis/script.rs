//! Calls of scripts. Each touches one key, so that a Cluster's node has all that it needs.

use ::redis::{Cmd, Script};

/// A call of a script: by its hash, and in full for servers that do not know it.
pub(super) fn call(script: &str, key: &str, arguments: impl Fn(&mut Cmd)) -> [Cmd; 2] {
    let call = |command: &str, script: &str| {
        let mut call = ::redis::cmd(command);
        call.arg(script).arg(1).arg(key);
        arguments(&mut call);
        call
    };
    [call("EVALSHA", Script::new(script).get_hash()), call("EVAL", script)]
}
