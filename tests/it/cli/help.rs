//! What is printed without doing anything.

use std::process::Command;

use super::run;

const COMMANDS: [&str; 14] = [
    "serve",
    "check",
    "reload",
    "demo",
    "logout",
    "block",
    "unblock",
    "status",
    "explain",
    "sessions",
    "inactive",
    "sources",
    "replay",
    "completions",
];

#[test]
fn help_of_every_command() {
    insta::assert_snapshot!("help", run(&["--help"]).ends_with(0).out);
    for command in COMMANDS {
        let help = run(&[command, "--help"]);
        insta::assert_snapshot!(format!("help_{command}"), help.ends_with(0).out);
    }
    insta::assert_snapshot!("help_inactive_undo", run(&["inactive", "undo", "--help"]).ends_with(0).out);
}

#[test]
fn every_command_has_an_example() {
    for command in COMMANDS {
        run(&[command, "--help"]).says("Example").says(&format!("portcullis {command}"));
    }
    let all = run(&["--help"]);
    for command in COMMANDS {
        all.says(&format!("\n  {command}"));
    }
    all.says("Exit codes:");
}

#[test]
fn what_is_wrong_on_the_command_line_is_told() {
    for arguments in [&["frobnicate"][..], &["logout"], &["status", "--nope"], &["check", "--output", "xml"], &[]] {
        let ran = run(arguments);
        ran.ends_with(2).complains("--help");
        assert_eq!(ran.out, "");
    }
    run(&["--version"]).ends_with(0).says(concat!("portcullis ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_scripts() {
    for (shell, words) in
        [("bash", "complete -F _portcullis"), ("zsh", "#compdef portcullis"), ("fish", "complete -c portcullis")]
    {
        let script = run(&["completions", shell]);
        script.ends_with(0).says(words).says("unblock");
        assert_eq!(script.err, "");
    }
    run(&["completions", "tcsh"]).ends_with(2);
    let script = run(&["completions", "bash"]).out;
    if let Ok(output) = Command::new("bash").arg("-n").arg("-c").arg(&script).output() {
        assert!(output.status.success(), "bash: {}", String::from_utf8_lossy(&output.stderr));
    }
}
