//! `deploy/release/build` with a compiler, a bench and a reader of counts that only say what they would: the real ones take twenty
//! minutes. `docs/performance.md` tells how to see what came of those.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// The tools, all in one: what each notes and does. `$SAID` is what the compiler says, `$COUNT` how often the gate's functions were
/// called, `$HOT` how many of them are often run, `$READS` whether counts can be read.
const TOOLS: &str = r#"#!/usr/bin/env bash
tool="$(basename "$0")"
echo "$tool ${CARGO_ENCODED_RUSTFLAGS:+[${CARGO_ENCODED_RUSTFLAGS//$'\x1f'/|}] }$*" >>"$NOTES"
after() { local want="$1"; shift; while [ $# -gt 0 ]; do if [ "$1" = "$want" ]; then printf '%s' "$2"; return; fi; shift; done; }
program() { mkdir -p "$(dirname "$1")"; printf '#!/bin/sh\nexit %s\n' "${RUNS:-0}" >"$1"; chmod +x "$1"; }
case "$tool $1" in
  "rustc -vV") printf 'host: some-host\nLLVM version: 7.1.2\n' ;;
  "rustc --print") echo /nonexistent ;;
  "rustc -O") RUNS=0 program "$(after -o "$@")" ;;
  "cargo rustc")
    echo "$SAID" >&2
    program "$(after --target-dir "$@")/some-host/release/portcullis"
    for word; do case "$word" in -Clink-arg=-Wl,-Map=*) yes ' (.text.hot.name)' | head -n "$HOT" >"${word#*Map=}" ;; esac; done ;;
  "cargo bench") case "$*" in *"--smoke"*) exit "${RUNS:-0}" ;; esac ;;
  "llvm-profdata merge") [ -n "$READS" ] && echo counts >"$(after -o "$@")" ;;
  "llvm-profdata show") echo "Maximum function count: $COUNT" ;;
  *) exit 1 ;;
esac
"#;

/// A directory to build in, with a space in its name, and the tools.
struct Site {
    directory: TempDir,
    variables: Vec<(&'static str, &'static str)>,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("a release ").tempdir().unwrap();
        for tool in ["rustc", "cargo", "rustup", "llvm-profdata", "redis-server", "apt-get", "apt-cache", "sudo"] {
            let path = directory.path().join(tool);
            fs::write(&path, TOOLS).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let variables = vec![("SAID", "Finished"), ("COUNT", "100000"), ("HOT", "4000"), ("READS", "yes")];
        Self { directory, variables }
    }

    fn with(name: &'static str, value: &'static str) -> Self {
        let mut site = Self::new();
        site.variables.retain(|(other, _)| *other != name);
        site.variables.push((name, value));
        site
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let tools = self.directory.path();
        Command::new("bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/release/build"))
            .args(arguments)
            .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
            .env("CARGO_TARGET_DIR", tools.join("target"))
            .env("NOTES", tools.join("notes"))
            .env("RUSTFLAGS", "-Ctarget-cpu=native")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .envs(self.variables.iter().copied())
            .output()
            .unwrap()
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("target/release-pgo/portcullis")
    }

    /// What the tools were called with.
    fn notes(&self) -> String {
        fs::read_to_string(self.directory.path().join("notes")).unwrap_or_default()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[test]
fn the_second_build_is_as_the_first_but_for_the_counts() {
    let site = Site::new();
    let output = site.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(site.program().exists());
    let notes = site.notes();
    let builds: Vec<_> = notes.lines().filter(|line| line.starts_with("cargo [")).collect();
    let work = site.directory.path().canonicalize().unwrap().join("target/pgo");
    let [counting, counted] = builds[..] else { panic!("{notes}") };
    let common = "rustc --locked --release --bin portcullis --target some-host --target-dir";
    let expected = format!("[-Ctarget-cpu=native|-Cprofile-generate={0}/raw] {common} {0}/counting --", work.display());
    assert!(counting.contains(&expected), "{counting}");
    let expected =
        format!("[-Ctarget-cpu=native|-Cprofile-use={0}/gate.profdata] {common} {0}/counted --", work.display());
    assert!(counted.contains(&expected), "{counted}");
}

#[test]
fn all_that_the_load_bench_sends_is_counted() {
    let site = Site::new();
    site.run(&[]);
    let notes = site.notes();
    let trained: Vec<_> = notes.lines().filter(|line| line.contains("/counting/")).collect();
    assert_eq!(trained.len(), 3, "one thread, several, and Redis: {notes}");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/load/scenario.rs");
    let source = fs::read_to_string(source).unwrap();
    let names = source.split_once("fn name(self)").unwrap().1.split_once("\n    }").unwrap().0;
    let names: Vec<_> = names.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 10, "{names:?}");
    // Of more tokens than `repeated_1k`, and the same otherwise.
    for name in names.into_iter().filter(|name| *name != "repeated_50k") {
        assert!(trained[0].split(' ').any(|word| word == name), "{name} is not sent to the gate that counts");
    }
}

#[test]
fn nothing_is_built_where_counts_do_not_apply_or_the_gate_is_none() {
    let cases = [
        ("SAID", "warning: function control flow change detected (hash mismatch) _ZN4main", "not those of this gate"),
        ("SAID", "warning: profile data may be out of date: of 9 functions, 3 have mismatched data", "not those of"),
        ("COUNT", "12", "next to nothing"),
        ("COUNT", "", "next to nothing"),
        ("HOT", "7", "only 7 functions"),
        ("RUNS", "3", "whether it is a gate"),
    ];
    for (name, value, expected) in cases {
        let site = Site::with(name, value);
        let output = site.run(&[]);
        assert!(!output.status.success() && text(&output).contains(expected), "{name}={value}: {}", text(&output));
        assert!(!site.program().exists(), "{name}={value}");
    }
}

#[test]
fn tools_are_looked_for_before_anything_is_built() {
    let site = Site::with("READS", "");
    let output = site.run(&["--check"]);
    let (said, notes) = (text(&output), site.notes());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("LLVM 7") && said.contains("rustup component add llvm-tools"), "{said}");
    assert!(notes.contains("rustup component add llvm-tools\n"), "{notes}");
    assert!(notes.contains("apt-get update"), "{notes}");
    assert!(!notes.contains("cargo"), "{notes}");

    let site = Site::new();
    let output = site.run(&["--check"]);
    assert!(output.status.success(), "{}", text(&output));
    let notes = site.notes();
    assert!(!notes.contains("cargo") && !notes.contains("apt-get") && !notes.contains("rustup"), "{notes}");
}

#[test]
fn it_tells_what_it_does() {
    let output = Site::new().run(&["--help"]);
    assert!(output.status.success() && text(&output).contains("target/release-pgo/portcullis"), "{}", text(&output));
    let site = Site::new();
    let output = site.run(&["--chekc"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("`--chekc`"), "{}", text(&output));
    assert_eq!(site.notes(), "");
}
