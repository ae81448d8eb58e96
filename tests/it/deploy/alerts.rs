//! Alerts: about metrics that there are, with something to do for whoever gets them.

use std::{collections::BTreeSet, path::Path, process::Command};

use super::deployed;

const PAGE: &str = include_str!("../../../docs/metrics.md");
const RUNBOOK: &str = include_str!("../../../docs/operations/alerts.md");

/// The values of a key, in their order.
fn values<'a>(rules: &'a str, key: &str) -> Vec<&'a str> {
    rules.lines().filter_map(|line| line.trim_start().strip_prefix(key)).map(str::trim).collect()
}

/// The names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    words.filter(|word| word.starts_with("portcullis_") || word.starts_with("process_")).collect()
}

/// Each of them is on the page.
fn are_told_of(text: &str) {
    let metrics = metrics(text);
    assert!(metrics.len() > 10, "{metrics:?}");
    for metric in metrics {
        let row = |name: &str| PAGE.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let is_there = match metric.strip_suffix("_bucket") {
            Some(histogram) => row(histogram).is_some_and(|row| row.contains("| histogram |")),
            None => row(metric).is_some(),
        };
        assert!(is_there, "{metric} is not in docs/metrics.md");
    }
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let dashboard: serde_json::Value = serde_json::from_str(&deployed("grafana/portcullis.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let shown: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    are_told_of(&shown.join("\n"));
    assert!(shown.iter().all(|shown| shown.contains("$instance")), "{shown:?}");
}

#[test]
fn every_alert_is_about_metrics_that_there_are_and_has_a_runbook() {
    let rules = deployed("prometheus/alerts.yml");
    let alerts = values(&rules, "- alert:");
    assert!(alerts.len() > 20, "{alerts:?}");
    assert_eq!(alerts.iter().collect::<BTreeSet<_>>().len(), alerts.len(), "no two of a name");
    let code: String = rules.lines().filter(|line| !line.starts_with('#')).collect();
    are_told_of(&code);
    let rule_texts: Vec<&str> = rules.split("- alert:").skip(1).collect();
    for (alert, rule) in alerts.iter().zip(rule_texts) {
        for (key, count) in [("expr:", 1), ("severity:", 1), ("summary:", 1), ("runbook:", 1)] {
            assert_eq!(values(rule, key).len(), count, "{alert}: {key}");
        }
        assert!(["critical", "warning"].contains(&values(rule, "severity:")[0]), "{alert}");
        let anchor = format!("docs/operations/alerts.md#{}", alert.to_ascii_lowercase());
        assert_eq!(values(rule, "runbook:"), [anchor], "{alert}");
    }
    let told: Vec<_> = RUNBOOK.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(told, alerts, "the runbook tells of each of them, in their order");
    let links = RUNBOOK.split("](#").skip(1).filter_map(|link| link.split(')').next());
    for link in links {
        assert!(alerts.iter().any(|alert| alert.to_ascii_lowercase() == link), "{link}");
    }
}

/// `tests/run` says where `promtool` is, or that it is not.
#[test]
fn prometheus_understands_the_alerts_and_raises_them_when_it_should() {
    let Some(promtool) = std::env::var_os("PORTCULLIS_PROMTOOL") else {
        println!("SKIPPED: no promtool; tests/run gets it from Debian's package of Prometheus");
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for arguments in [
        ["check", "rules", "--lint=all", "--lint-fatal", "deploy/prometheus/alerts.yml"].as_slice(),
        ["test", "rules", "tests/prometheus/alerts.test.yml"].as_slice(),
    ] {
        let output = Command::new(&promtool).current_dir(root).args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
    }
}
