//! The command line: parses it, runs it, prints one error with its causes, and exits with a documented code.

use std::process::ExitCode;

use clap::Parser;
use portcullis::cli::{Cli, report};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(outcome) => outcome.into(),
        Err(error) => report(&error),
    }
}
