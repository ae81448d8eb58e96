//! The files that are shipped, read as operators read them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use portcullis::config::{Config, ConfigErrors, Place, StoreSettings};

const SECRETS: [(&str, &str); 2] =
    [("PORTCULLIS_ADMIN_TOKEN", "0123456789abcdef0123456789abcdef"), ("PORTCULLIS_STORE_PASSWORD", "secret")];

/// The secrets that the manual of sources names.
const SOURCE_SECRETS: &[(&str, &str)] = &[
    ("PORTCULLIS_SOURCES_AUTH0_LOG_AUTHORIZATION", "0123456789abcdef"),
    ("PORTCULLIS_SOURCES_AUTH0_LOG_ASKED_CLIENT_SECRET", "0123456789abcdef"),
    ("PORTCULLIS_SOURCES_AUTH0_USERS_TOKEN", "0123456789abcdef"),
    ("PORTCULLIS_SOURCES_AUTH0_USERS_ASKED_CLIENT_SECRET", "0123456789abcdef"),
    ("PORTCULLIS_SOURCES_PARTNER_CLIENT_SECRET", "secret"),
];

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn load(path: &Path, variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::load(path, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[test]
fn every_shipped_file_is_valid_and_raises_no_warning() {
    let mut names = Vec::new();
    for entry in fs::read_dir(shipped("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // The embedded store has no password.
        let secrets = match &*name {
            "gateway.toml" => &SECRETS[..],
            "sources.toml" => SOURCE_SECRETS,
            _ => &SECRETS[..1],
        };
        let config = load(&path, secrets).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.warnings, [], "{name}");
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["gateway.toml", "portcullis.toml", "sidecar.toml", "sources.toml"]);
}

#[test]
fn the_gateway_is_not_open_to_all_without_its_token() {
    let errors = load(&shipped("gateway.toml"), &[]).unwrap_err();
    let [problem] = errors.problems() else { panic!("{errors}") };
    assert_eq!(problem.key, "admin.address");
    assert!(matches!(&problem.place, Place::Position { line: 14, column: 11, .. }), "{problem}");
}

#[test]
fn the_sidecar_keeps_its_markers_on_a_volume() {
    let config = load(&shipped("sidecar.toml"), &[]).unwrap();
    let StoreSettings::Embedded(store) = config.store else { panic!("not embedded") };
    assert_eq!(store.directory, Path::new("/var/lib/portcullis"));
}

#[test]
fn a_missing_file_is_named() {
    let errors = load(Path::new("/nowhere/portcullis.toml"), &[]).unwrap_err();
    assert_eq!(errors.to_string(), "/nowhere/portcullis.toml: cannot be read: No such file or directory (os error 2)");
}
