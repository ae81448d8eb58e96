//! `portcullis check`

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Outcome, Output, load, print, runtime};
use crate::{
    clock::Clock,
    config::{Config, StoreSettings},
    instance::{StartError, open_store, verifier},
    marker::cache::MarkerCache,
    store::{Store, StoreError, StoreReport, embedded::EmbeddedOpenError},
    telemetry::with_causes,
    token::{
        claims::IssuerName,
        jwks::{JwksError, KeySetStatus},
    },
};

/// How long a store may take to come up.
const STORE_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Problem,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    level: Level,
    what: String,
    message: String,
}

pub(super) fn run(path: &Path, offline: bool, output: Output) -> anyhow::Result<Outcome> {
    let config = load(path)?;
    let mut findings = vec![Finding {
        level: Level::Ok,
        what: "configuration".to_owned(),
        message: format!(
            "{} issuers, {} routes, {} sources",
            config.issuers.len(),
            config.routes.len(),
            config.sources.len()
        ),
    }];
    findings.extend(warnings(&config));
    if !offline {
        runtime()?.block_on(async {
            findings.extend(keys(&config).await);
            findings.extend(store(&config.store, &config).await);
            findings.extend(sources(&config).await);
        });
    }
    let problems = findings.iter().any(|finding| finding.level == Level::Problem);
    match output {
        Output::Json => print::json(&json!({ "ok": !problems, "findings": findings }))?,
        Output::Text => {
            let line = |finding: &Finding| {
                let level = match finding.level {
                    Level::Ok => "ok",
                    Level::Warning => "warning",
                    Level::Problem => "PROBLEM",
                };
                format!("{level:8} {}: {}\n", finding.what, finding.message)
            };
            print::text(&findings.iter().map(line).collect::<String>())?;
        }
    }
    Ok(if problems { Outcome::No } else { Outcome::Done })
}

/// What works, and should be looked at.
fn warnings(config: &Config) -> Vec<Finding> {
    let messages = config.warnings.iter().map(|warning| warning.to_string().replace("\n ", ";"));
    let finding = |message| Finding { level: Level::Warning, what: "configuration".to_owned(), message };
    messages.map(finding).collect()
}

async fn keys(config: &Config) -> Vec<Finding> {
    let verifier = match verifier(config, Clock::System) {
        Ok(verifier) => verifier,
        Err(error) => return vec![problem("issuers".to_owned(), &error)],
    };
    verifier.load().await.into_iter().map(|(name, loaded)| key_finding(&name, loaded)).collect()
}

fn key_finding(issuer: &IssuerName, loaded: Result<KeySetStatus, Arc<JwksError>>) -> Finding {
    let what = format!("issuer `{issuer}`");
    let (level, message) = match loaded {
        Ok(KeySetStatus { keys: 0, .. }) => (Level::Problem, "its key set holds no usable key".to_owned()),
        Ok(KeySetStatus { keys, skipped: 0, .. }) => (Level::Ok, usable(keys)),
        Ok(KeySetStatus { keys, skipped, .. }) => {
            (Level::Warning, format!("{}; {skipped} others were passed over", usable(keys)))
        }
        Err(error) => return problem(what, &*error),
    };
    Finding { level, what, message }
}

fn usable(keys: usize) -> String {
    if keys == 1 { "1 usable key".to_owned() } else { format!("{keys} usable keys") }
}

async fn store(settings: &StoreSettings, config: &Config) -> Vec<Finding> {
    let what = || "store".to_owned();
    let cache = Arc::new(MarkerCache::new(config.markers));
    let store = match open_store(settings, cache, Clock::System) {
        Ok((store, _)) => store,
        Err(StartError::Embedded(error @ EmbeddedOpenError::InUse { .. })) => {
            let message = format!("{error}; a running gate is most likely the one");
            return vec![Finding { level: Level::Warning, what: what(), message }];
        }
        Err(error) => return vec![problem(what(), &error)],
    };
    let report = report(&*store).await;
    store.close().await;
    match report {
        Ok(report) => {
            let ok = Finding { level: Level::Ok, what: what(), message: report.description };
            let warning = |message| Finding { level: Level::Warning, what: what(), message };
            [ok].into_iter().chain(report.warnings.into_iter().map(warning)).collect()
        }
        Err(error) => vec![problem(what(), &error)],
    }
}

/// Sources that are asked: whether they answer.
async fn sources(config: &Config) -> Vec<Finding> {
    let probes = config.sources.iter().map(async |source| {
        let what = format!("source `{}`", source.name);
        Some(match source.kind.probe().await? {
            Ok(message) => Finding { level: Level::Ok, what, message: message.to_owned() },
            Err(error) => problem(what, &*error),
        })
    });
    join_all(probes).await.into_iter().flatten().collect()
}

/// What the store says, once it is connected.
async fn report(store: &dyn Store) -> Result<StoreReport, StoreError> {
    let deadline = Instant::now() + STORE_DEADLINE;
    loop {
        match store.report().await {
            Err(StoreError::Unavailable { .. }) if Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
            answer => return answer,
        }
    }
}

fn problem(what: String, error: &dyn std::error::Error) -> Finding {
    Finding { level: Level::Problem, what, message: with_causes(error) }
}
