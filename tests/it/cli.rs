//! The command line of the real program.

mod commands;
mod help;
mod start;

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::program::{Gate, program};

/// What a command printed, and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn says(&self, words: &str) -> &Self {
        assert!(self.out.contains(words), "`{words}` is not in out: {}\nerr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn complains(&self, words: &str) -> &Self {
        assert!(self.err.contains(words), "`{words}` is not in err: {}\nout: {}", self.err, self.out);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.out))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().expect("no signal ended it");
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs a command without a configuration.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    program().args(arguments).stdin(Stdio::null()).output().unwrap().into()
}

/// Runs a command against a running gate.
pub(crate) fn ask(gate: &Gate, arguments: &[&str]) -> Ran {
    towards(gate).args(arguments).stdin(Stdio::null()).output().unwrap().into()
}

/// Runs a command with something on its standard input.
fn feed(mut command: Command, input: &str) -> Ran {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

fn towards(gate: &Gate) -> Command {
    let mut command = program();
    command.env("PORTCULLIS_ADMIN_URL", format!("http://{}", gate.admin_address())).env("USER", "ops");
    command
}
