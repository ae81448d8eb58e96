//! What is deployed must fit what is built.

mod alerts;
mod release;

use std::{fs, path::Path, process::Command};

use portcullis::{config::Config, server::socket::ListenAddress};

#[test]
fn the_unit_starts_what_there_is() {
    let unit =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/portcullis.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/portcullis serve --config "), "{unit}");
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(&secret, "an-admin-token-that-is-long-enough-to-be-one").unwrap();
    let file = secret.path().display().to_string();
    let variables = unit.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    let variables: Vec<(String, String)> = variables.map(|(name, _)| (name.to_owned(), file.clone())).collect();
    assert!(!variables.is_empty());
    let text =
        "[admin]\naddress = \"0.0.0.0:9090\"\n[[routes]]\nauth = \"none\"\nupstream = \"http://127.0.0.1:3000\"\n";
    let config = Config::parse(text, "portcullis.toml", variables).unwrap();
    assert!(config.admin.token.is_some(), "the unit's variables are settings");
}

fn deployed(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)).unwrap()
}

/// Its command line is run in `inactive/deployed.rs`.
#[test]
fn the_unit_for_inactive_users_is_as_hardened_and_its_variables_are_settings() {
    let (gate, unit) = (deployed("systemd/portcullis.service"), deployed("systemd/portcullis-inactive.service"));
    let hardening = gate.lines().skip_while(|line| !line.starts_with("NoNewPrivileges"));
    let hardening: Vec<_> = hardening.take_while(|line| !line.is_empty()).collect();
    assert!(hardening.len() > 7 && hardening.iter().all(|line| unit.lines().any(|other| other == *line)), "{unit}");
    for line in ["Type=oneshot", "DynamicUser=yes", "StateDirectory=portcullis-inactive"] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
    let timer = deployed("systemd/portcullis-inactive.timer");
    assert!(timer.contains("\nRandomizedDelaySec=") && timer.contains("\nWantedBy=timers.target"), "{timer}");
    let variables = unit.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    let variables: Vec<_> = variables.map(|(name, value)| (name.to_owned(), value.replace("%d/", ""))).collect();
    for (_, file) in &variables {
        assert!(unit.contains(&format!("\nLoadCredential={file}:/etc/portcullis/{file}\n")), "{file}");
    }
    are_settings(&variables);
}

/// What the program does with a socket and tells systemd is tested in `tests/plane/listener/hand_over.rs`.
#[test]
fn the_socket_is_the_one_that_its_manual_names() {
    let (service, socket) = (deployed("systemd/portcullis.service"), deployed("systemd/portcullis.socket"));
    assert!(service.lines().any(|line| line == "Type=notify"), "{service}");
    let name = socket.lines().find_map(|line| line.strip_prefix("FileDescriptorName=")).unwrap();
    // One listening stream socket, for the service of the same name.
    assert!(
        socket.contains("\nListenStream=") && !socket.contains("Accept=") && !socket.contains("Service="),
        "{socket}"
    );
    let setting = format!("address = \"systemd:{name}\"");
    assert!(socket.contains(&setting), "{socket}");
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/listener.md");
    assert!(fs::read_to_string(manual).unwrap().contains(&setting));
    let route = "[[routes]]\nauth = \"none\"\nupstream = \"http://127.0.0.1:3000\"\n";
    let config = Config::parse(&format!("[listener]\n{setting}\n{route}"), "portcullis.toml", []).unwrap();
    assert_eq!(config.listener.addresses, [ListenAddress::Systemd(Some(name.into()))]);
}

#[test]
fn the_units_are_ones() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let units = ["portcullis-inactive.service", "portcullis-inactive.timer", "portcullis.socket"];
    let units = units.map(|name| directory.join(name));
    let Ok(output) = Command::new("systemd-analyze").arg("verify").args(&units).output() else {
        return eprintln!("SKIPPED: units are not verified, because systemd-analyze is not installed");
    };
    let said = String::from_utf8_lossy(&output.stderr);
    // It looks at units of the machine too.
    let said: Vec<_> = said.lines().filter(|line| line.contains("portcullis")).collect();
    assert!(output.status.success() && said.is_empty(), "{said:?}");
}

/// Its command line is run in `inactive/deployed.rs`.
#[test]
fn the_job_for_inactive_users_is_confined_and_its_variables_are_settings() {
    let job = deployed("kubernetes/inactive-cronjob.yaml");
    for line in [
        "apiVersion: batch/v1",
        "kind: CronJob",
        "concurrencyPolicy: Forbid",
        "runAsNonRoot: true",
        "readOnlyRootFilesystem: true",
        "allowPrivilegeEscalation: false",
        "drop: [\"ALL\"]",
    ] {
        assert_eq!(job.lines().filter(|other| other.trim() == line).count(), 1, "{line}");
    }
    let lines: Vec<_> = job.lines().map(|line| line.trim_start().trim_start_matches("- ")).collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        Some((pair[0].strip_prefix("name: ")?.to_owned(), pair[1].strip_prefix("value: ")?.to_owned()))
    });
    let pairs: Vec<_> = pairs.collect();
    assert!(pairs.contains(&("TMPDIR".to_owned(), "/tmp".to_owned())), "{pairs:?}");
    let mounts: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("mountPath: ")).collect();
    for (name, value) in &pairs {
        let is_mounted = mounts.iter().any(|mount| value.starts_with(mount));
        assert!(is_mounted || value.starts_with("http://"), "{name}: {value} is not mounted");
    }
    let secrets: Vec<_> = pairs.into_iter().filter(|(name, _)| name.ends_with("_FILE")).collect();
    assert_eq!(secrets.len(), 2);
    are_settings(&secrets);
    for (at, line) in job.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')) {
        let indent = line.len() - line.trim_start().len();
        assert!(indent % 2 == 0 && !line.contains('\t') && line.trim_end() == line, "line {}: {line}", at + 1);
    }
}

/// Each of these variables names a file with a secret of a gate.
fn are_settings(variables: &[(String, String)]) {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(&secret, "a-secret-that-is-long-enough-to-be-one").unwrap();
    let file = secret.path().display().to_string();
    let variables: Vec<_> = variables.iter().map(|(name, _)| (name.clone(), file.clone())).collect();
    let text = "[admin]\naddress = \"0.0.0.0:9090\"\n[issuers.acme]\nissuer = \"https://acme.eu.auth0.com/\"\n\
                audiences = [\"api\"]\nmanagement.client_id = \"m2m\"\n[[routes]]\nupstream = \"http://127.0.0.1:3000\"\n";
    let config = Config::parse(text, "portcullis.toml", variables).unwrap();
    assert!(config.admin.token.is_some());
    assert_eq!(config.inactive.tenants.len(), 1);
}

#[test]
fn every_secret_of_the_actions_is_told_of() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/auth0");
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let manual = read("README.md");
    let mut found = 0;
    for action in ["post-login.js", "post-change-password.js"] {
        let code = read(action);
        let (head, rest) = code.split_once("*/").unwrap();
        let is_name =
            |word: &&str| word.len() > 8 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        let words = rest.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
        for secret in words.filter(is_name).filter(|word| *word != "ATTEMPTS") {
            assert!(head.contains(&format!("{secret} ")), "{action}: {secret} is not in its head");
            assert!(manual.contains(&format!("`{secret}")), "{action}: {secret} is not in the manual");
            found += 1;
        }
    }
    assert!(found > 8, "{found} secrets were found");
}
