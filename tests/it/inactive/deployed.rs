//! The command lines of `deploy/`: taken out of the files, and run by the real program against a real gate.

use std::{fs, path::Path, process::Stdio};

use portcullis::inactive::report::Line;
use tokio::process::Command;

use super::{Site, logged_in};
use crate::support::{
    full::World,
    program::{PORTCULLIS, program},
};

/// A file of `deploy/`.
fn deployed(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)).unwrap()
}

/// What a shell is given by `portcullis-inactive.service`: `%` and `$` stand for themselves where they are doubled.
fn by_systemd() -> String {
    let unit = deployed("systemd/portcullis-inactive.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/bin/sh -c '")).unwrap();
    line.strip_suffix('\'').unwrap().replace("%%", "%").replace("$$", "$")
}

/// What a shell is given by cron: what follows five fields and the user, where `%` has a backslash.
fn by_cron() -> String {
    let table = deployed("cron/portcullis-inactive");
    let mut lines = table.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit() || first == '*'));
    let line = lines.next().unwrap();
    assert_eq!(lines.next(), None, "one job");
    let mut rest = line;
    for _ in 0..5 {
        let (field, after) = rest.split_once(' ').unwrap();
        assert!(field.bytes().all(|byte| byte.is_ascii_digit() || b"*/,-".contains(&byte)), "{line}");
        rest = after;
    }
    let (user, command) = rest.split_once(' ').unwrap();
    assert_eq!(user, "portcullis");
    assert!(!command.replace("\\%", "").contains('%'), "cron takes a bare % for the end of the line");
    command.replace("\\%", "%")
}

/// What the container is started with, as a shell would be given it.
fn by_kubernetes() -> String {
    let job = deployed("kubernetes/inactive-cronjob.yaml");
    let list = |name: &str| {
        let text = job.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
        serde_json::from_str::<Vec<String>>(text).unwrap()
    };
    let words = [list("command: "), list("args: ")].concat();
    words
        .iter()
        .map(|word| format!("'{}'", word.replace("$(JOB_NAME)", "portcullis-inactive-29412345")))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command line that is deployed, with the paths of the test.
async fn run(site: &Site, line: &str) -> super::Ran {
    let here = site.directory.path().to_str().unwrap();
    let line = line
        .replace("/usr/bin/portcullis", PORTCULLIS)
        .replace("/etc/portcullis/portcullis.toml", &format!("{here}/portcullis.toml"))
        .replace("/run/secrets/portcullis/", &format!("{here}/"))
        .replace("/var/lib/portcullis-inactive/", &format!("{here}/reports/"))
        .replace("'/reports/", &format!("'{here}/reports/"));
    let known = site.program(&[]);
    let mut shell = Command::new("sh");
    for (name, value) in known.as_std().get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("STATE_DIRECTORY", format!("{here}/reports")).env("PORTCULLIS_INACTIVE_RECORDED_SINCE", "2020-01-01");
    shell.env("PORTCULLIS_CONFIG", format!("{here}/portcullis.toml")).current_dir("/");
    shell.args(["-c", &line]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Site::ran(shell.spawn().unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deployed_looks_first_and_blocks_when_it_is_told_to() {
    for line in [by_systemd(), by_cron(), by_kubernetes()] {
        let site = Site::new(World::embedded().await).await;
        fs::create_dir(site.path("reports")).unwrap();
        fs::write(site.path("admin-token"), "an-admin-token-that-is-long-enough-to-be-one").unwrap();
        site.tenant.add_user(logged_in("auth0|gone", 200));
        for number in 0..20 {
            site.tenant.add_user(logged_in(&format!("auth0|here{number}"), 1));
        }
        let reports =
            || -> Vec<_> { fs::read_dir(site.path("reports")).unwrap().map(|file| file.unwrap().path()).collect() };
        let mode = |report: &Path| match portcullis::inactive::report::Lines::open(report).unwrap().next() {
            Some(Ok(Line::Run(header))) => header.mode,
            other => panic!("{other:?}"),
        };
        run(&site, &line).await.ends_with(0).says("1 would be blocked; nothing was changed");
        assert_eq!(site.tenant.counts().writes, 0, "{line}");
        let [report] = &reports()[..] else { panic!("{line}: no report") };
        assert_eq!(mode(report), "dry_run");
        fs::remove_file(report).unwrap();

        let apply =
            line.replacen("--block", "--block --apply", 1).replacen("'--block --apply'", "'--block' '--apply'", 1);
        assert_ne!(apply, line);
        run(&site, &apply).await.ends_with(0).says("blocked 1; the report is ");
        assert_eq!(site.blocked("auth0|gone").await, (true, true), "{line}");
        let [report] = &reports()[..] else { panic!("{line}: no report") };
        assert_eq!(mode(report), "block");
    }
}

/// The program takes what stands in `docs/inactive-users.md`.
#[test]
fn the_commands_of_the_page_are_taken() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/inactive-users.md")).unwrap();
    let commands: Vec<&str> = page.lines().map(str::trim).filter(|line| line.starts_with("portcullis ")).collect();
    assert!(commands.len() > 13, "{commands:?}");
    for command in commands {
        // Without a configuration: what is wrong on the command line is told before.
        let line = command.replacen("portcullis", PORTCULLIS, 1);
        let mut shell = std::process::Command::new("sh");
        for (name, value) in program().get_envs() {
            if value.is_none() {
                shell.env_remove(name);
            }
        }
        let nowhere = tempfile::tempdir().unwrap();
        let output = shell
            .args(["-c", &line])
            .env("PORTCULLIS_CONFIG", "nowhere.toml")
            .current_dir(nowhere.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("nowhere.toml") && !said.contains("Usage:"), "{command}: {said}");
    }
}
