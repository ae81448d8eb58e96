//! What is deployed must fit what is built.

use std::{fs, path::Path};

use portcullis::config::Config;

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
