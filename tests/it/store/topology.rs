//! What stands behind the address: TLS, Sentinel, Cluster; and what a gateway knows without asking.

use std::{fs, path::Path, sync::Arc, time::Duration};

use portcullis::{
    clock::Clock,
    marker::{MarkerKey, Reading},
    store::{
        Store, StoreError,
        redis::{InvalidRedisSettings, RedisSettings, RedisStore, RedisTls},
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::{
    logout, open_redis, raw_key, subject,
    suite::{activity::index_works, notes::notes_work, sessions::sessions_work},
    time,
};
use crate::support::{
    cluster::{Cluster, ask_cluster},
    eventually,
    redis::{RedisServer, ask},
    sentinel::Sentinels,
    watcher::{Recorder, Told},
};

/// A user with a password and nothing else, and what `docs/markers.md` lists for one server.
const USER: [&str; 6] = ["ACL", "SETUSER", "gateway", "reset", "on", ">secret"];
const FOR_ONE: [&str; 15] = [
    "~portcullis:m:*",
    "+ping",
    "+client|tracking",
    "+get",
    "+set",
    "+eval",
    "+evalsha",
    "+role",
    "+scan",
    "+info",
    "+config|get",
    "+time",
    "(~portcullis:n:* +get +set +del +eval +evalsha +zadd +zmscore +zrange +zremrangebyrank +hset +hdel +hlen +hrandfield \
     +sadd +scard +smembers +pexpire)",
    "(~portcullis:sessions:* ~portcullis:active:* +eval +evalsha +hmget +hset +hdel +hlen +hgetall +pexpiretime +pexpireat +zadd \
     +zscore +zmscore +zcount +zremrangebyrank)",
    "(~portcullis:seen:* +eval +evalsha +zadd +zrem +zscore +zmscore +zcount +zcard +zrange +zremrangebyrank)",
];

/// An authority, and what it has certified: a server on loopback, and a client.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        for (name, host) in [("server", "127.0.0.1"), ("client", "gateway.test")] {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
            fs::write(directory.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(directory.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self(directory)
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A server that listens for TLS on another port too, which it returns.
    fn serve(&self, authenticate: &str) -> Option<(RedisServer, u16)> {
        let port = crate::support::redis::free_port();
        let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(|name| self.file(name));
        let options = ["--tls-port", &port.to_string(), "--tls-ca-cert-file", &ca, "--tls-cert-file", &certificate];
        let options = [&options[..], &["--tls-key-file", &key, "--tls-auth-clients", authenticate]].concat();
        Some((RedisServer::start_with(&options)?, port))
    }

    fn settings(&self, port: u16, client: bool) -> RedisSettings {
        let identity = client.then(|| (self.file("client.pem").into(), self.file("client.key").into()));
        let tls = RedisTls { authorities: Some(self.file("ca.pem").into()), identity };
        RedisSettings { tls: Some(tls), ..RedisSettings::from_url(&format!("rediss://127.0.0.1:{port}")).unwrap() }
    }
}

fn open(settings: &RedisSettings, watcher: &Arc<Recorder>) -> Arc<RedisStore> {
    RedisStore::open(settings, watcher.clone(), Clock::System).unwrap()
}

/// Writes, reads, pushes, activity and its index, notes and sessions work.
async fn works(store: &RedisStore, watcher: &Recorder, write: impl Fn(&str)) {
    eventually("the store is connected", async || store.report().await.is_ok()).await;
    let key = MarkerKey::logout(&subject("a"));
    store.merge(&key, &logout(time(1)), None).await.unwrap();
    assert_eq!(store.read(&key).await.unwrap(), Reading::Present(logout(time(1))));
    store.record_activity(&[(subject("a"), time(1)), (subject("b"), time(2))]).await.unwrap();
    assert_eq!(store.last_activity(&subject("b")).await.unwrap(), Some(time(2)));
    store.forget_activity(&[(subject("a"), time(1)), (subject("b"), time(1))]).await.unwrap();
    let seen = [store.last_activity(&subject("a")).await.unwrap(), store.last_activity(&subject("b")).await.unwrap()];
    assert_eq!(seen, [None, Some(time(2))]);
    index_works(store, "index").await.unwrap();
    // In a Cluster, of all nodes.
    for name in 0..12 {
        notes_work(store, &name.to_string()).await.unwrap();
        sessions_work(store, &name.to_string()).await.unwrap();
    }
    watcher.forget();
    write(&raw_key(&key));
    eventually("it is pushed", async || watcher.was_told_of(key.as_str())).await;
}

#[tokio::test]
async fn tls_with_an_authority_of_ones_own() {
    let authority = Authority::new();
    let Some((server, port)) = authority.serve("no") else { return };
    let watcher = Recorder::new();
    let store = open(&authority.settings(port, false), &watcher);
    works(&store, &watcher, |key| server.ask(&["SET", key, "1763700000123"]).unwrap()).await;
}

#[tokio::test]
async fn tls_with_a_certificate_of_the_client() {
    let authority = Authority::new();
    let Some((server, port)) = authority.serve("yes") else { return };
    let watcher = Recorder::new();
    let store = open(&authority.settings(port, true), &watcher);
    works(&store, &watcher, |key| server.ask(&["SET", key, "1763700000123"]).unwrap()).await;
    let nobody = open(&authority.settings(port, false), &Recorder::new());
    never_answers(&nobody, "certificate").await;
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_talked_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    let Some((_server, port)) = authority.serve("no") else { return };
    let settings = RedisSettings { tls: other.settings(port, false).tls, ..authority.settings(port, false) };
    never_answers(&open(&settings, &Recorder::new()), "certificate").await;
    let system = RedisSettings { tls: Some(RedisTls::default()), ..authority.settings(port, false) };
    never_answers(&open(&system, &Recorder::new()), "certificate").await;
    // The certificate is for the address, not for the name.
    let url = format!("rediss://localhost:{port}");
    let named = RedisSettings { tls: authority.settings(port, false).tls, ..RedisSettings::from_url(&url).unwrap() };
    never_answers(&open(&named, &Recorder::new()), "certificate").await;
}

async fn never_answers(store: &RedisStore, why: &str) {
    eventually("it is tried", async || {
        let Err(StoreError::Unavailable { source, .. }) = store.read(&MarkerKey::logout(&subject("a"))).await else {
            panic!("it was talked to");
        };
        source.to_string().to_ascii_lowercase().contains(why)
    })
    .await;
}

#[tokio::test]
async fn files_that_hold_no_certificates_are_named() {
    let authority = Authority::new();
    let fault = |tls: RedisTls| match tls.check().unwrap_err() {
        InvalidRedisSettings::Tls { path, what } => (path, what),
        other => panic!("{other}"),
    };
    let path = |name: &str| Path::new(&authority.file(name)).to_owned();
    let tls = |ca: &str| RedisTls { authorities: Some(path(ca)), identity: None };
    assert_eq!(fault(tls("nowhere.pem")).0, path("nowhere.pem"));
    assert_eq!(fault(tls("server.key")), (path("server.key"), "holds no certificate".to_owned()));
    let identity = RedisTls { authorities: None, identity: Some((path("client.pem"), path("server.key"))) };
    assert_eq!(fault(identity).0, path("server.key"), "a key of another certificate");
}

#[tokio::test]
async fn sentinels_name_the_primary() {
    let Some(sentinels) = Sentinels::start() else { return };
    for number in 0..3 {
        sentinels.server(number).ask::<String>(&[&USER[..], &FOR_ONE, &["+wait"]].concat()).unwrap();
    }
    for port in sentinels.ports() {
        let further = ["+sentinel|master", "+sentinel|get-master-addr-by-name"];
        ask::<String>(port, &[&USER[..], &further].concat()).unwrap();
    }
    let watcher = Recorder::new();
    let url = sentinels.url().replace("://", "://gateway:secret@");
    let settings = RedisSettings::from_url(&url).unwrap();
    let settings = RedisSettings { replicas: 2, sentinel_login: settings.login.clone(), ..settings };
    let store = open(&settings, &watcher);
    works(&store, &watcher, |key| sentinels.server(0).ask(&["SET", key, "1763700000123"]).unwrap()).await;
    let report = store.report().await.unwrap();
    assert!(report.description.ends_with("primary of `gate` by 3 of 3 sentinels"), "{report:?}");
    assert_eq!(report.warnings, [""; 0]);

    let lonely = sentinels.url().replace(&format!(",127.0.0.1:{}", sentinels.ports()[2]), "");
    let store = open_redis(&lonely, &Recorder::new()).await;
    let warnings = store.report().await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("name them all")), "{warnings:?}");

    let unknown = sentinels.url().replace("/gate", "/other");
    let store = open(&RedisSettings::from_url(&unknown).unwrap(), &Recorder::new());
    eventually("it is refused", async || match store.report().await {
        Err(StoreError::Refused { message, .. }) => {
            message.contains("No such master") && message.contains("check the name")
        }
        Err(StoreError::Unavailable { .. }) => false,
        other => panic!("{other:?}"),
    })
    .await;
}

#[tokio::test]
async fn every_node_of_a_cluster_is_followed() {
    let Some(cluster) = Cluster::start() else { return };
    let watcher = Recorder::new();
    // One of the nodes is enough to find the others.
    let url = format!("redis+cluster://gateway:secret@127.0.0.1:{}", cluster.ports()[4]);
    for port in cluster.ports() {
        let further = ["+wait", "+cluster|info", "+cluster|nodes", "+asking"];
        ask::<String>(port, &[&USER[..], &FOR_ONE, &further].concat()).unwrap();
    }
    let settings = RedisSettings { replicas: 1, ..RedisSettings::from_url(&url).unwrap() };
    let store = open(&settings, &watcher);
    let ports = cluster.ports();
    works(&store, &watcher, |key| ask_cluster(&ports, &["SET", key, "1763700000123"]).unwrap()).await;
    eventually("it is heard", async || watcher.was_told(&Told::Heard)).await;
    let report = store.report().await.unwrap();
    assert_eq!(
        (report.description.matches("redis 7").count(), &report.warnings[..]),
        (3, &[] as &[String]),
        "{report:?}"
    );

    let keys: Vec<_> = (0..60).map(|id| MarkerKey::logout(&subject(&format!("{{tag}} {id} {{x}}")))).collect();
    let keys: Vec<_> = keys.into_iter().chain((0..60).map(|id| MarkerKey::logout(&subject(&id.to_string())))).collect();
    let mut owners = std::collections::BTreeSet::new();
    for key in &keys {
        store.merge(key, &logout(time(1)), None).await.unwrap();
        assert!(cluster.holds(&raw_key(key)));
        owners.insert(cluster.primary_of(cluster.slot(&raw_key(key))));
    }
    assert_eq!(owners.len(), 3, "all primaries have some");
    watcher.forget();
    for key in &keys {
        ask_cluster::<i64>(&ports, &["DEL", &raw_key(key)]).unwrap();
    }
    for key in &keys {
        eventually("each node pushes", async || watcher.was_told_of(key.as_str())).await;
        assert_eq!(store.read(key).await.unwrap(), Reading::Absent);
    }
}

#[tokio::test]
async fn a_url_of_another_topology_says_so() {
    let Some(server) = RedisServer::start() else { return };
    let url = format!("redis+cluster://127.0.0.1:{}", server.port());
    let store = open(&RedisSettings::from_url(&url).unwrap(), &Recorder::new());
    eventually("it is refused", async || match store.report().await {
        Err(StoreError::Refused { message, .. }) => message.contains("write redis:// in the url"),
        Err(StoreError::Unavailable { .. }) => false,
        other => panic!("{other:?}"),
    })
    .await;
}

#[tokio::test]
async fn servers_and_sentinels_are_told_apart() {
    let Some(sentinels) = Sentinels::start() else { return };
    let [server, sentinel] = [sentinels.server(0).port(), sentinels.ports()[0]];
    for (url, told) in [
        (format!("redis://127.0.0.1:{sentinel}"), "it is a sentinel; write redis+sentinel://"),
        (format!("redis+sentinel://127.0.0.1:{server}/gate"), "this is no sentinel"),
    ] {
        let store = open(&RedisSettings::from_url(&url).unwrap(), &Recorder::new());
        eventually(&format!("{url}: {told}"), async || match store.report().await {
            Err(StoreError::Refused { message, .. }) => message.contains(told),
            _ => false,
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_is_let_go() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let store = open_redis(&server.url(), &watcher).await;
    server.ask::<String>(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    let key = MarkerKey::logout(&subject("a"));
    eventually("it is refused", async || match store.read(&key).await {
        Err(StoreError::Refused { message, .. }) => message.contains("it is a replica; point the url at the primary"),
        _ => false,
    })
    .await;
    watcher.forget();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(watcher.told(), [], "what a replica says is not heard");
    server.ask::<String>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    eventually("it is back", async || store.read(&key).await.is_ok() && watcher.was_told(&Told::Heard)).await;
}

mod index {
    use super::*;

    async fn knows(store: &RedisStore) {
        eventually("names are loaded", async || store.lacks(&MarkerKey::logout(&subject("nobody")))).await;
    }

    #[tokio::test]
    async fn absence_is_known_without_asking() {
        let Some(server) = RedisServer::start() else { return };
        let keys = ["a", "b", "c", "d"].map(|id| MarkerKey::logout(&subject(id)));
        let [a, b, c, d] = &keys;
        server.ask::<String>(&["SET", &raw_key(a), "1763700000123"]).unwrap();
        for number in 0..2000 {
            server
                .ask::<String>(&["SET", &format!("portcullis:m:logout:main:user-{number}"), "1763700000123"])
                .unwrap();
        }
        let watcher = Recorder::new();
        let store = open_redis(&server.url(), &watcher).await;
        knows(&store).await;
        assert!(!store.lacks(a) && store.lacks(b));
        for number in 0..2000 {
            let key = MarkerKey::logout(&portcullis::token::claims::Subject {
                issuer: "main".try_into().unwrap(),
                id: (&*format!("user-{number}")).try_into().unwrap(),
            });
            assert!(!store.lacks(&key), "{number}");
        }
        // By others, and by this very store.
        server.ask::<String>(&["SET", &raw_key(b), "1763700000123"]).unwrap();
        eventually("it is told", async || watcher.was_told_of(b.as_str())).await;
        assert!(!store.lacks(b) && store.lacks(c));
        store.merge(c, &logout(time(1)), None).await.unwrap();
        assert!(!store.lacks(c) && store.lacks(d));
        // After a flush nothing is there; after a new connection everything is looked for again.
        server.ask::<String>(&["FLUSHALL"]).unwrap();
        eventually("all is forgotten", async || store.lacks(a) && store.lacks(b) && store.lacks(c)).await;
        watcher.forget();
        server.ask::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
        server.ask::<String>(&["SET", &raw_key(d), "1763700000123"]).unwrap();
        eventually("it is reset", async || watcher.was_told(&Told::Reset)).await;
        assert!(!store.lacks(d));
        knows(&store).await;
        assert!(!store.lacks(d) && store.lacks(a));
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_asked_for_and_told() {
        let Some(server) = RedisServer::start_with(&["--appendonly", "yes"]) else { return };
        for number in 0..3000 {
            server
                .ask::<String>(&["SET", &format!("portcullis:m:logout:main:user-{number}"), "1763700000123"])
                .unwrap();
        }
        let settings = RedisSettings { index_limit: 100, ..RedisSettings::from_url(&server.url()).unwrap() };
        let store = open(&settings, &Recorder::new());
        let told = async |what: &str| {
            eventually("it is told", async || {
                store.report().await.is_ok_and(|report| report.warnings.iter().any(|warning| warning.contains(what)))
            })
            .await;
        };
        told("store.index_limit").await;
        assert!(!store.lacks(&MarkerKey::logout(&subject("a"))));
        let none = open(&RedisSettings { index_limit: 0, ..settings }, &Recorder::new());
        eventually("it is connected", async || none.report().await.is_ok()).await;
        assert_eq!(none.report().await.unwrap().warnings, [""; 0], "that was asked for");
        assert!(!none.lacks(&MarkerKey::logout(&subject("a"))));
    }
}
