//! What does not take over, and what is said about it.

use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

use super::{ISSUER, Live, plain, route, text};

const GONE: &str = "scopes = [\"nobody\"]";

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_all_its_mistakes_are_told() {
    let live = Live::start(&plain("")).await;
    let bad = text("header_timeout = 5", ISSUER, &route(&format!("{GONE}\nrealms = \"x\"")));
    let report = live.fail(&bad).await;
    assert_eq!(report["outcome"], "invalid");
    let told: Vec<_> =
        report["problems"].as_array().unwrap().iter().map(|problem| (&problem["key"], &problem["line"])).collect();
    let number = |part: &str| json!(bad.lines().position(|line| line.starts_with(part)).unwrap() + 1);
    assert_eq!(
        told,
        [
            (&json!("listener.header_timeout"), &number("header_timeout")),
            (&json!("routes[0].realms"), &number("realms"))
        ]
    );
    assert_eq!(report["problems"][1]["hint"], "did you mean `realm`?");
    assert_eq!(live.outcome().await, "200");

    let last = live.admin().get("/v1/reload").await.json();
    assert_eq!(last["last"], report);
    let ready = live.admin().get("/readyz").await.json();
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["configuration"]["last_reload"]["problems"], 2);
    assert!(live.metric("portcullis_config_last_reload_successful").await.abs() < f64::EPSILON);
    assert!((live.reloads("invalid").await - 1.0).abs() < f64::EPSILON);

    live.reload(&plain(GONE)).await;
    assert_eq!(live.outcome().await, "insufficient_scope");
    assert!((live.metric("portcullis_config_last_reload_successful").await - 1.0).abs() < f64::EPSILON);
    assert!((live.reloads("applied").await - 1.0).abs() < f64::EPSILON);
}

/// Else the gate would run by something that no file says.
#[tokio::test(flavor = "multi_thread")]
async fn a_setting_of_the_start_keeps_all_others_from_changing() {
    let live = Live::start(&plain("")).await;
    for (from, to, key) in [
        ("embedded:data", "embedded:elsewhere", "store.url"),
        ("[store]", "[markers]\nmax_staleness = \"3s\"\n[store]", "markers.max_staleness"),
        ("[listener]\naddress = \"127.0.0.1:0\"", "[listener]\naddress = \"127.0.0.1:1\"", "listener.address"),
        ("[admin]\naddress = \"127.0.0.1:0\"", "[admin]\naddress = \"127.0.0.1:1\"", "admin.address"),
        ("[store]", "[activity]\nresolution = \"5s\"\n[store]", "activity.resolution"),
        ("[store]", "[log]\nformat = \"json\"\n[store]", "log.format"),
    ] {
        let other = plain(GONE).replace(from, to);
        assert_ne!(other, plain(GONE));
        let report = live.fail(&other).await;
        assert_eq!(report["outcome"], "refused", "{key}");
        assert_eq!(report["problems"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(report["problems"][0]["key"], key);
        assert!(report["problems"][0]["message"].as_str().unwrap().starts_with("needs a restart"), "{report}");
        assert_eq!(live.outcome().await, "200", "{key}");
    }
    // Without it everything goes on.
    live.reload(&plain(GONE)).await;
    assert_eq!(live.outcome().await, "insufficient_scope");
}

/// A tenant's domain is concluded from the issuer's `iss`.
#[tokio::test(flavor = "multi_thread")]
async fn what_rests_on_an_issuers_settings_is_a_setting_of_the_start_too() {
    let issuer = "[issuers.main]\nissuer = \"https://acme.eu.auth0.com/\"\naliases = [\"https://issuer.example/\"]\n\
                  audiences = [\"https://api.example\"]\nalgorithms = [\"ES256\"]\njwks_file = \"jwks.json\"\n\
                  logout.revoke = \"session\"\nmanagement.client_id = \"m2m\"\nmanagement.client_secret_file = \"secret\"\n";
    let live = Live::start_at(&text("", issuer, &route("")), |directory| {
        std::fs::write(directory.join("secret"), "that of the machine-to-machine application").unwrap();
        directory.join("gate.toml")
    })
    .await;
    assert_eq!(live.outcome().await, "200");
    let report = live.fail(&text("", &issuer.replace("acme.eu", "other.eu"), &route(GONE))).await;
    assert_eq!(report["outcome"], "refused");
    let problems = report["problems"].as_array().unwrap();
    let keys: Vec<_> = problems.iter().map(|problem| problem["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["issuers.main.logout.revoke", "inactive"], "{report}");
    let needs_restart = |problem: &Value| problem["message"].as_str().unwrap().starts_with("needs a restart");
    assert!(problems.iter().all(needs_restart), "{report}");
    assert_eq!(live.outcome().await, "200", "{report}");
    live.reload(&text("", issuer, &route(GONE))).await;
    assert_eq!(live.outcome().await, "insufficient_scope");
}

/// The only issuer, which sources are about that name none, gets another name.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_does_not_stay_with_an_issuer_that_is_called_something_else() {
    let source = "[sources.backchannel]\ntype = \"backchannel_logout\"\naudiences = [\"app\"]\n";
    let named = |name: &str| {
        text("", &format!("{}{source}", ISSUER.replace("issuers.main", &format!("issuers.{name}"))), &route(""))
    };
    let live = Live::start(&named("main")).await;
    let report = live.fail(&named("renamed")).await;
    assert_eq!(report["outcome"], "refused");
    assert_eq!(report["problems"].as_array().unwrap().len(), 1, "{report}");
    let problem = &report["problems"][0];
    assert_eq!(problem["key"], "sources.backchannel");
    assert!(problem["line"].is_u64(), "{report}");
    assert!(problem["message"].as_str().unwrap().starts_with("needs a restart"), "{report}");
    assert_eq!(live.outcome().await, "200");
}

/// It is read when the gate starts, so whom it names since is not left out yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_users_that_changed_is_told_of() {
    let inactive = format!("[inactive]\nexclude_file = \"never\"\n{ISSUER}");
    let live = Live::start_at(&text("", &inactive, &route("")), |directory| {
        std::fs::write(directory.join("never"), "auth0|alice\n").unwrap();
        directory.join("gate.toml")
    })
    .await;
    std::fs::write(live.directory.path().join("never"), "auth0|alice\nauth0|bob\n").unwrap();
    let report = live.fail(&text("", &inactive, &route(""))).await;
    assert_eq!(report["problems"][0]["key"], "inactive.exclude_file", "{report}");
    std::fs::write(live.directory.path().join("never"), "auth0|alice\n").unwrap();
    assert_eq!(live.ask().await.json()["outcome"], "unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_or_empty_changes_nothing() {
    let live = Live::start(&plain("")).await;
    for text in ["", "\n# nothing\n", "[listener"] {
        assert_eq!(live.fail(text).await["outcome"], "invalid", "{text}");
    }
    std::fs::remove_file(&live.file).unwrap();
    let answer = live.ask().await;
    assert!(answer.json()["detail"].as_str().unwrap().contains("cannot be read"), "{}", answer.text());
    assert_eq!(live.outcome().await, "200");
    live.write(&plain(""));
    assert_eq!(live.ask().await.json()["outcome"], "unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_off_nothing_is_reloaded() {
    let off = |settings: &str| plain(settings).replacen("signal", "off", 1);
    let live = Live::start(&off("")).await;
    live.write(&off(GONE));
    live.ask().await.is(409, "reload_off");
    assert_eq!(live.outcome().await, "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_come_one_after_another() {
    let live = Live::start(&plain("")).await;
    live.write(&plain(GONE));
    let outcomes =
        futures_util::future::join_all((0..20).map(|_| async { live.ask().await.json()["outcome"].clone() })).await;
    let applied = outcomes.iter().filter(|outcome| **outcome == "applied").count();
    assert_eq!(applied, 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| outcome == "applied" || outcome == "unchanged"), "{outcomes:?}");
    assert_eq!(live.outcome().await, "insufficient_scope");
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum File {
    /// Right, and told apart by its scope.
    Good(u8),
    Malformed,
    Contradictory,
    OtherStore,
    Gone,
}

/// Whatever comes, what runs is the last file that was right.
#[test]
fn the_last_right_file_runs() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let live = runtime.block_on(Live::start(&plain("")));
    let file = prop_oneof![
        4 => (0..4u8).prop_map(File::Good),
        1 => Just(File::Malformed),
        1 => Just(File::Contradictory),
        1 => Just(File::OtherStore),
        1 => Just(File::Gone),
    ];
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() });
    let scopes = |number: u8| format!("scopes = [\"scope:{number}\"]");
    runner
        .run(&proptest::collection::vec(file, 1..8), |files| {
            runtime.block_on(async {
                live.write(&plain(&scopes(0)));
                live.ask().await;
                let mut expected = 0;
                for file in files {
                    match file {
                        File::Good(number) => live.write(&plain(&scopes(number))),
                        File::Malformed => live.write("[[routes"),
                        File::Contradictory => {
                            live.write(&plain("scopes = [\"other\"]\nauth = \"none\"\nissuers = [\"x\"]"));
                        }
                        File::OtherStore => live.write(&plain("scopes = [\"other\"]").replace(":data", ":other")),
                        File::Gone => std::fs::remove_file(&live.file).unwrap_or_default(),
                    }
                    let outcome = live.ask().await;
                    if let File::Good(number) = file {
                        expected = number;
                        prop_assert!(outcome.status == 200, "{}", outcome.text());
                    } else {
                        prop_assert!(outcome.status == 409, "{}", outcome.text());
                    }
                    let has = |number: u8| live.token(json!({ "scope": format!("scope:{number}") }));
                    for number in 0..4 {
                        let reply = live.get("/", &has(number)).await;
                        prop_assert_eq!(reply.status == 200, number == expected);
                    }
                }
                Ok(())
            })
        })
        .unwrap();
}
