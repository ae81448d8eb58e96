//! Metrics: well formed, known, documented, and about nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use http::Method;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::support::{
    auth0::{Auth0, CLIENT_ID, CLIENT_SECRET, User},
    eventually,
    program::{Gate, now},
};

/// One family: its type, and its samples by full name.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    samples: BTreeMap<String, f64>,
}

/// Reads OpenMetrics text, and panics where it is none (OpenMetrics 1.0).
fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    assert!(!body.contains("# EOF"));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(!families.contains_key(name), "family `{name}` is there twice");
                name.clone_into(&mut current);
                families.insert(current.clone(), Family { help: help.to_owned(), ..Family::default() });
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(name, current, "{line}");
                kind.clone_into(&mut families.get_mut(name).unwrap().kind);
            }
            ["#", "UNIT", name, unit] => assert!(name == current && name.ends_with(unit), "{line}"),
            _ => {
                let family = families.get_mut(&current).unwrap();
                let (sample, value) = sample(line);
                let name = sample.split('{').next().unwrap().to_owned();
                let suffixes: &[&str] = match family.kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    kind => panic!("`{kind}` is not a type that we have"),
                };
                assert!(suffixes.iter().any(|suffix| name == format!("{current}{suffix}")), "{line}");
                assert!(family.samples.insert(sample.to_owned(), value).is_none(), "there twice: {line}");
            }
        }
    }
    families
}

fn sample(line: &str) -> (&str, f64) {
    let (sample, value) = line.rsplit_once(' ').unwrap();
    if let Some((name, labels)) = sample.split_once('{') {
        let labels = labels.strip_suffix('}').unwrap();
        for label in labels.split(',') {
            let (label, value) = label.split_once('=').unwrap();
            assert!(!label.is_empty() && value.starts_with('"') && value.ends_with('"'), "{line}");
        }
        assert!(!name.is_empty());
    }
    (sample, value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
}

/// The name under which a family is found in queries.
fn queried(name: &str, family: &Family) -> String {
    match family.kind.as_str() {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    }
}

async fn metrics(gate: &Gate) -> BTreeMap<String, Family> {
    let answer = gate.admin().get("/metrics").await;
    parse(answer.text())
}

#[tokio::test]
async fn they_tell_what_happened() {
    let gate = Gate::start().await;
    let token = gate.token(json!({}));
    gate.call(&token).await.is(200, None);
    gate.call(&token).await.is(200, None);
    gate.admin().put("/v1/subjects/main/auth0%7Calice/block", json!({})).await;
    gate.call(&token).await.is(401, "user_blocked");
    gate.request(Method::GET, "/hello", &[]).await.is(401, "missing_token");

    let families = metrics(&gate).await;
    let value = |family: &str, sample: &str| families[family].samples[sample];
    for (family, sample, expected) in [
        ("portcullis_requests", "portcullis_requests_total{route=\"api\",code=\"200\"}", 2.0),
        ("portcullis_requests", "portcullis_requests_total{route=\"api\",code=\"401\"}", 2.0),
        ("portcullis_responses", "portcullis_responses_total{route=\"api\",verdict=\"passed\",class=\"2xx\"}", 2.0),
        (
            "portcullis_responses",
            "portcullis_responses_total{route=\"api\",verdict=\"user_blocked\",class=\"4xx\"}",
            1.0,
        ),
        (
            "portcullis_responses",
            "portcullis_responses_total{route=\"api\",verdict=\"missing_token\",class=\"4xx\"}",
            1.0,
        ),
        ("portcullis_verdicts", "portcullis_verdicts_total{route=\"api\",verdict=\"admit\"}", 2.0),
        ("portcullis_verdicts", "portcullis_verdicts_total{route=\"api\",verdict=\"user_blocked\"}", 1.0),
        ("portcullis_verdicts", "portcullis_verdicts_total{route=\"api\",verdict=\"missing_token\"}", 1.0),
        ("portcullis_verdicts", "portcullis_verdicts_total{route=\"api\",verdict=\"logged_out\"}", 0.0),
        ("portcullis_token_cache_hits", "portcullis_token_cache_hits_total", 2.0),
        ("portcullis_token_cache_misses", "portcullis_token_cache_misses_total", 1.0),
        ("portcullis_marker_changes", "portcullis_marker_changes_total", 1.0),
        ("portcullis_markers_unreadable", "portcullis_markers_unreadable_total", 0.0),
        ("portcullis_request_duration_seconds", "portcullis_request_duration_seconds_count{route=\"api\"}", 4.0),
    ] {
        assert!((value(family, sample) - expected).abs() < f64::EPSILON, "{sample} = {}", value(family, sample));
    }
    let age = value("portcullis_marker_sync_age_seconds", "portcullis_marker_sync_age_seconds");
    assert!((0.0..2.0).contains(&age), "{age}");
    for name in ["portcullis_activity_pending", "portcullis_connections", "portcullis_requests_in_flight"] {
        assert!(families[name].samples[name] >= 0.0, "{name}");
    }
}

/// What it was built by, and what it takes of its machine.
#[tokio::test]
async fn they_tell_of_the_process() {
    let gate = Gate::start().await;
    let families = metrics(&gate).await;
    let value = |name: &str| {
        let (_, value) = families[name].samples.iter().next().unwrap();
        *value
    };
    let (build, one) = families["portcullis_build"].samples.iter().next().unwrap();
    assert!(build.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{build}");
    assert!(build.contains("commit=\"") && !build.contains("rustc=\"\""), "{build}");
    assert!((one - 1.0).abs() < f64::EPSILON);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    assert!(value("process_open_fds") > 5.0 && value("process_open_fds") < value("process_max_fds"));
    #[expect(clippy::cast_possible_truncation, reason = "a time in seconds")]
    let age = now().as_secs() - value("process_start_time_seconds") as i64;
    assert!((-2..120).contains(&age), "{age}");
    let before = value("process_cpu_seconds");
    for _ in 0..200 {
        gate.call(&gate.token(json!({}))).await.is(200, None);
    }
    assert!(metrics(&gate).await["process_cpu_seconds"].samples["process_cpu_seconds_total"] > before);
}

/// Labels are bounded: no subject, session, token or path, whatever is asked.
#[tokio::test]
async fn they_are_about_nobody() {
    let gate = Gate::start().await;
    let token =
        gate.token(json!({ "sub": "needle-sub", "sid": "needle-sid", "jti": "needle-jti", "azp": "needle-azp" }));
    gate.call(&token).await.is(200, None);
    gate.request(Method::GET, "/needle-path?needle-query", &[("host", "needle.host")]).await;
    gate.log_out(&token, "").await.is(204, None);
    gate.admin().put("/v1/subjects/main/needle-sub/block", json!({ "reason": "needle-reason" })).await;
    let answer = gate.admin().get("/metrics").await;
    assert!(!answer.text().contains("needle"), "{}", answer.text());
}

/// The same as [`Gate::call`], for a gate with this certificate.
async fn call_over_tls(gate: &Gate, certificate: CertificateDer<'static>) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(gate.address()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let token = gate.token(json!({}));
    let request =
        format!("GET /hello HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// docs/metrics.md: every metric is on the page, and the page knows no other.
#[tokio::test]
async fn the_page_tells_of_each_of_them() {
    // What is told of inactive users is told once a run is over: one is blocked.
    let (tenant, reports) = (Auth0::start().await, tempfile::tempdir().unwrap());
    let at = now().minus(Duration::from_secs(200 * 86_400)).as_millis();
    tenant.add_user(User::new("auth0|gone").created_at(at).last_login(at).logins_count(1));
    tenant.set_export_time(Duration::from_millis(50));
    let settings = format!(
        "[sources.log]\ntype = \"auth0_log_stream\"\nauthorization_file = \"log.secret\"\n\
         [issuers.main.logout]\nrevoke = \"all\"\n[issuers.main.management]\ndomain = {:?}\n\
         client_id = {CLIENT_ID:?}\nclient_secret_file = \"client.secret\"\n\
         [inactive]\nfor = \"90d\"\nevery = \"1d\"\nblock = true\nmax_share = \"100%\"\nrecorded_since = \"2020-01-01\"\n\
         reports = {:?}\n\
         [[routes]]\npath = \"/limited\"\nupstream = \"http://127.0.0.1:9\"\nlimits.max_requests = 1\n",
        tenant.base(),
        reports.path().to_str().unwrap()
    );
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let setup = Gate::setup().secret("log.secret", "known to both sides").secret("client.secret", CLIENT_SECRET);
    let setup =
        setup.secret("tls.pem", &certified.cert.pem()).secret("tls.key", &certified.signing_key.serialize_pem());
    let tls = "[listener.tls]\ncertificate_file = \"tls.pem\"\nkey_file = \"tls.key\"\n";
    let gate = setup.and(&settings).and(tls).start().await;
    let answer = call_over_tls(&gate, certified.cert.der().clone()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let done = "portcullis_inactive_runs_total{issuer=\"main\",result=\"done\"}";
    eventually("a run is over", async || metrics(&gate).await["portcullis_inactive_runs"].samples[done] > 0.0).await;
    let families = metrics(&gate).await;
    let served: BTreeSet<String> = families.iter().map(|(name, family)| queried(name, family)).collect();
    let page = include_str!("../../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let rows = rows.filter(|(name, _)| ["portcullis_", "process_"].iter().any(|prefix| name.starts_with(prefix)));
    let told: BTreeMap<String, String> = rows.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect();
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), served);
    for (name, family) in &families {
        let row = &told[&queried(name, family)];
        assert!(row.contains(&format!("| {} |", family.kind)), "{name} is a {}", family.kind);
        let labels = family.samples.keys().filter_map(|sample| sample.split_once('{')).flat_map(|(_, labels)| {
            labels.trim_end_matches('}').split(',').map(|label| label.split('=').next().unwrap().to_owned())
        });
        let labels: BTreeSet<String> = labels.filter(|label| label != "le").collect();
        assert!(labels.iter().all(|label| row.contains(&format!("`{label}`"))), "{name} has the labels {labels:?}");
        assert!(family.help.len() > 10, "{name}: {}", family.help);
    }
}
