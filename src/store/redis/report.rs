//! Whether a Redis server can keep the promises.

use std::collections::HashMap;

use ::redis::{RedisResult, aio::MultiplexedConnection};

use super::fault;
use crate::{clock::Clock, store::StoreReport};

const FIRST_MAJOR: u32 = 7;

/// How far the server's clock, by which it forgets markers, may be from ours.
const CLOCK_TOLERANCE_MILLIS: u64 = 5_000;

/// What is expected of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Expected {
    /// How many replicas must have a marker.
    pub(super) replicas: u32,
    /// Whether it is one of a Cluster's nodes.
    pub(super) clustered: bool,
}

/// Asks the server what it is and how it is set.
pub(super) async fn ask(
    connection: &mut MultiplexedConnection,
    name: &str,
    expected: Expected,
    clock: &Clock,
) -> RedisResult<StoreReport> {
    let mut report = ask_settings(connection, name, expected).await?;
    match ::redis::cmd("TIME").query_async::<(i64, i64)>(connection).await {
        Ok((secs, micros)) => {
            let theirs = secs.saturating_mul(1000).saturating_add(micros / 1000);
            let apart = theirs.abs_diff(clock.now().as_millis());
            if apart > CLOCK_TOLERANCE_MILLIS {
                report.warnings.push(format!(
                    "its clock is {} s apart from this one, so markers are forgotten too early or too late; synchronise both",
                    apart / 1000
                ));
            }
        }
        Err(error) if fault::is_denied(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(report)
}

async fn ask_settings(
    connection: &mut MultiplexedConnection,
    name: &str,
    expected: Expected,
) -> RedisResult<StoreReport> {
    let info = match ::redis::cmd("INFO").query_async::<String>(connection).await {
        Ok(text) => Some(parse_info(&text)),
        Err(error) if fault::is_denied(&error) => None,
        Err(error) => return Err(error),
    };
    let Some(info) = info else {
        return Ok(StoreReport {
            description: format!("redis at {name}"),
            warnings: vec![
                "the server's version, role, eviction and persistence could not be checked; allow its user `+info` and `+config|get`"
                    .to_owned(),
            ],
        });
    };
    let save =
        match ::redis::cmd("CONFIG").arg("GET").arg("save").query_async::<HashMap<String, String>>(connection).await {
            Ok(settings) => settings.get("save").cloned(),
            Err(error) if fault::is_denied(&error) => None,
            Err(error) => return Err(error),
        };
    Ok(judge(name, &info, save.as_deref(), expected))
}

fn parse_info(text: &str) -> HashMap<String, String> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()
}

/// `save`: the setting of that name, `None` if it could not be had.
fn judge(name: &str, info: &HashMap<String, String>, save: Option<&str>, expected: Expected) -> StoreReport {
    let field = |name: &str| info.get(name).map(String::as_str);
    let version = field("redis_version").unwrap_or("of unknown version");
    let mut warnings = Vec::new();
    if version.split('.').next().and_then(|major| major.parse().ok()).is_none_or(|major: u32| major < FIRST_MAJOR) {
        warnings.push(format!("redis {version} is too old or unknown; use Redis {FIRST_MAJOR}.0 or newer"));
    }
    match field("maxmemory_policy") {
        Some("noeviction") => {}
        Some(policy) => warnings.push(format!(
            "`maxmemory-policy {policy}` may evict markers, and what they ended would be admitted again; \
             run `CONFIG SET maxmemory-policy noeviction` and put it into redis.conf"
        )),
        None => warnings.push("`maxmemory-policy` could not be checked; it must be noeviction".to_owned()),
    }
    match (field("aof_enabled"), save) {
        (Some("1"), _) => {}
        (_, Some("")) => warnings.push(
            "nothing is written to disk (`appendonly no`, `save \"\"`), so a restart forgets all markers; set `appendonly yes`"
                .to_owned(),
        ),
        (_, Some(_)) => warnings.push(
            "only snapshots are written to disk (`appendonly no`), so a crash forgets the latest markers; set `appendonly yes`"
                .to_owned(),
        ),
        (_, None) => warnings.push(
            "`appendonly` is off and `save` could not be checked (`CONFIG GET` is not permitted); set `appendonly yes`"
                .to_owned(),
        ),
    }
    if field("role") != Some("master") {
        warnings.push(
            "this server is a replica and takes no writes; point the url at the primary, or at the sentinels"
                .to_owned(),
        );
    }
    match (field("cluster_enabled") == Some("1"), expected.clustered) {
        (true, false) => warnings.push(
            "this server is a node of a Redis Cluster, whose other nodes are not asked; write redis+cluster:// in the url"
                .to_owned(),
        ),
        (false, true) => warnings.push("this server is no node of a Redis Cluster; write redis:// in the url".to_owned()),
        _ => {}
    }
    warnings.extend(replication(info, expected.replicas));
    warnings.extend(memory(info));
    for (name, what) in [("rdb_last_bgsave_status", "snapshot"), ("aof_last_write_status", "append-only file")] {
        if field(name).is_some_and(|status| status != "ok") {
            warnings.push(format!("it cannot write its {what}, and may refuse markers until it can; see its log"));
        }
    }
    StoreReport { description: format!("redis {version} at {name}"), warnings }
}

/// Too few replicas: no marker can be acknowledged.
fn replication(info: &HashMap<String, String>, wanted: u32) -> Option<String> {
    let connected: u32 = info.get("connected_slaves")?.parse().ok()?;
    (connected < wanted).then(|| {
        format!("{connected} of {wanted} replicas are connected, so no marker is acknowledged; start them, or lower `store.replicas`")
    })
}

/// Nearly full, so that markers may soon be refused.
fn memory(info: &HashMap<String, String>) -> Option<String> {
    let bytes = |name: &str| info.get(name)?.parse::<u64>().ok();
    let (used, limit) = (bytes("used_memory")?, bytes("maxmemory")?);
    (limit > 0 && used / 9 >= limit / 10).then(|| {
        format!("{} of {} MiB of its `maxmemory` are used; raise it before it refuses markers", used >> 20, limit >> 20)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected { replicas: 0, clustered: false };

    const GOOD: &str =
        "# Server\r\nredis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\nrole:master\r\n";

    #[test]
    fn a_good_server_has_no_warnings() {
        let report = judge("here", &parse_info(GOOD), None, EXPECTED);
        assert_eq!(report, StoreReport { description: "redis 7.0.15 at here".to_owned(), warnings: vec![] });
    }

    #[test]
    fn each_trouble_is_named_with_its_remedy() {
        let cases = [
            ("redis_version:7", "redis_version:6", None, "too old"),
            ("noeviction", "allkeys-lru", None, "CONFIG SET maxmemory-policy noeviction"),
            ("aof_enabled:1", "aof_enabled:0", Some(""), "nothing is written to disk"),
            ("aof_enabled:1", "aof_enabled:0", Some("3600 1"), "only snapshots"),
            ("aof_enabled:1", "aof_enabled:0", None, "could not be checked"),
            ("role:master", "role:slave", None, "replica"),
            ("role:master", "role:master\r\ncluster_enabled:1", None, "redis+cluster://"),
            ("role:master", "role:master\r\nused_memory:91\r\nmaxmemory:100", None, "`maxmemory` are used"),
            ("role:master", "role:master\r\nrdb_last_bgsave_status:err", None, "snapshot"),
            ("role:master", "role:master\r\naof_last_write_status:err", None, "append-only file"),
        ];
        for (from, to, save, expected) in cases {
            let warnings = judge("here", &parse_info(&GOOD.replace(from, to)), save, EXPECTED).warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(expected), "{to}: {warnings:?}");
        }
    }

    #[test]
    fn what_is_expected_is_looked_for() {
        let info = parse_info(&format!("{GOOD}connected_slaves:1\r\n"));
        let warnings = |replicas, clustered| judge("here", &info, None, Expected { replicas, clustered }).warnings;
        assert_eq!(warnings(1, false), [""; 0]);
        assert!(warnings(2, false)[0].starts_with("1 of 2 replicas are connected"));
        assert!(warnings(0, true)[0].contains("write redis:// in the url"));
    }
}
