//! Changes of files that nobody tells of: however they are written.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{Live, plain};
use crate::support::eventually;

const GONE: &str = "scopes = [\"nobody\"]";

fn auto(settings: &str) -> String {
    plain(settings).replacen("signal", "auto", 1)
}

async fn takes_over(live: &Live, what: &str) {
    eventually(what, async || live.outcome().await == "insufficient_scope").await;
    // It is noted once it is done.
    let last = async || live.admin().get("/v1/reload").await.json()["last"]["trigger"].clone();
    eventually("it is told", async || last().await == "change").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_over() {
    let live = Live::start(&auto("")).await;
    live.write(&auto(GONE));
    takes_over(&live, "the file is noticed").await;
}

/// Editors write another file, and rename it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_is_renamed_to() {
    let live = Live::start(&auto("")).await;
    for round in 0..2 {
        let draft = live.directory.path().join(".gate.toml.swp");
        fs::write(&draft, auto(if round == 0 { "" } else { GONE }).replace("{upstream}", &live.upstream.url()))
            .unwrap();
        fs::rename(&draft, &live.file).unwrap();
    }
    takes_over(&live, "the new file is noticed").await;
}

/// Kubernetes: `gate.toml` leads to `..data/gate.toml`, and `..data` to a directory with a name of its own, which is swapped.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_link_is_swapped() {
    let live = Live::start_at(&auto(""), |directory| volume(directory, "..one")).await;
    for version in ["..two", "..three"] {
        let directory = live.directory.path();
        fs::create_dir(directory.join(version)).unwrap();
        let settings = if version == "..three" { GONE } else { "scopes = [\"openid\"]" };
        let text = auto(settings).replace("{upstream}", &live.upstream.url()).replace("jwks.json", "../jwks.json");
        fs::write(directory.join(version).join("gate.toml"), text.replace("../jwks.json", "jwks.json")).unwrap();
        symlink(version, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
        if version == "..two" {
            eventually("the first swap is noticed", async || live.reloads("applied").await > 0.0).await;
            fs::remove_dir_all(directory.join("..one")).unwrap();
        }
    }
    takes_over(&live, "the second swap is noticed").await;
}

fn volume(directory: &Path, version: &str) -> PathBuf {
    fs::create_dir(directory.join(version)).unwrap();
    symlink(version, directory.join("..data")).unwrap();
    fs::write(directory.join(version).join("gate.toml"), "").unwrap();
    symlink("..data/gate.toml", directory.join("gate.toml")).unwrap();
    directory.join("gate.toml")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_beside_it() {
    let guarded = auto("").replace("[store]", "token_file = \"secrets/token\"\n[store]");
    let mut live = Live::start_at(&guarded, |directory| {
        fs::create_dir(directory.join("secrets")).unwrap();
        fs::write(directory.join("secrets/token"), "the-first-secret-of-all").unwrap();
        directory.join("gate.toml")
    })
    .await;
    live.admin_token = Some("the-first-secret-of-all".to_owned());
    live.admin().get("/v1/reload").await.is(200, None);
    fs::write(live.directory.path().join("secrets/token"), "another-secret-than-that").unwrap();
    live.admin_token = Some("another-secret-than-that".to_owned());
    eventually("the new secret is noticed", async || live.admin().get("/v1/reload").await.status == 200).await;
}

/// It is said once, and whoever mends the file needs nobody's help.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_and_its_remedy() {
    let live = Live::start(&auto("")).await;
    live.write("[[routes]");
    eventually("the bad file is noticed", async || live.reloads("invalid").await > 0.0).await;
    assert_eq!(live.outcome().await, "200");
    live.write(&auto(GONE));
    takes_over(&live, "the good file is noticed").await;
}

/// The store beside the file is written to all the time, which is no reason to look.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_meant_is_passed_over() {
    let live = Live::start(&auto("")).await;
    for number in 0..20 {
        fs::write(live.directory.path().join("other.toml"), number.to_string()).unwrap();
    }
    assert_eq!(live.outcome().await, "200");
    live.write(&auto(GONE));
    takes_over(&live, "the file is noticed").await;
    let all: f64 = live.reloads("unchanged").await + live.reloads("invalid").await;
    assert!(all.abs() < f64::EPSILON, "nothing else was read");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_a_signal_counts_changes_do_not() {
    let live = Live::start(&plain("")).await;
    live.write(&plain(GONE));
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(live.outcome().await, "200");
    // Until somebody asks; and then they may count.
    live.write(&auto(""));
    live.ask().await.is(200, None);
    live.write(&auto(GONE));
    takes_over(&live, "the file is noticed").await;
}
