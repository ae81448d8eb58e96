use std::{fs, path::PathBuf, time::Duration};

use http::{HeaderValue, StatusCode};
use jsonwebtoken::Algorithm;
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};

use super::*;
use crate::{
    cors::{CorsSettings, OriginPattern, Origins},
    gate::policy::{ActivityRule, Authentication},
    inactive::{brakes::Brakes, settings::Schedule},
    limit::{LimitSettings, concurrency::ConcurrencySettings, rate::Rate},
    logout::LogoutKind,
    management::{listing::Way, pace::RateShare},
    revocation::Extent,
    server::request_id::RequestIds,
    store::redis::Login,
    telemetry::log::{AccessSettings, LogFormat, LogOutput},
    token::issuer::{KeySource, TokenProfile},
    upstream::{Balance, Protocol, RetrySettings},
    verdict::OutagePolicy,
};

const PROBLEMS: &str = include_str!("tests/problems.txt");
const MANUAL: &str = include_str!("../../config/portcullis.toml");
const SOURCES: &str = include_str!("../../config/sources.toml");
/// The secrets that the manual of sources names.
const SOURCE_SECRETS: &[(&str, &str)] = &[
    ("PORTCULLIS_SOURCES_AUTH0_LOG_AUTHORIZATION", "0123456789abcdef"),
    ("PORTCULLIS_SOURCES_AUTH0_LOG_ASKED_CLIENT_SECRET", "0123456789abcdef"),
    ("PORTCULLIS_SOURCES_AUTH0_USERS_TOKEN", "0123456789abcdef"),
    ("PORTCULLIS_SOURCES_AUTH0_USERS_ASKED_CLIENT_SECRET", "0123456789abcdef"),
    ("PORTCULLIS_SOURCES_PARTNER_CLIENT_SECRET", "secret"),
];
const OPEN: &str = "[[routes]]\nauth = \"none\"\nupstream = \"http://127.0.0.1:3000\"\n";
const GUARDED: &str = r#"
[issuers.acme]
issuer = "https://acme.test/"
audiences = ["api"]
[[routes]]
upstream = "http://127.0.0.1:3000"
"#;

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(text, "portcullis.toml", variables)
}

fn addresses(config: &Config) -> String {
    config.listener.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn texts(texts: &[Box<str>]) -> Vec<&str> {
    texts.iter().map(|text| &**text).collect()
}

#[test]
fn every_problem_is_told_with_its_place_and_remedy() {
    let mut cases = 0;
    for case in PROBLEMS.split("\n## ").skip(1) {
        let (name, rest) = case.split_once('\n').unwrap();
        let (input, expected) = rest.split_once(">>\n").unwrap();
        let (variables, lines): (Vec<_>, Vec<_>) = input.lines().partition(|line| line.starts_with("$ "));
        let variables: Vec<_> = variables.iter().map(|line| line[2..].split_once('=').unwrap()).collect();
        let errors = parse(&lines.join("\n"), &variables).expect_err(name).to_string();
        assert_eq!(errors, expected.trim_end(), "{name}");
        assert!(!errors.contains("s3cr3t") && !errors.contains("s3 cr3t"), "{name} tells a secret");
        cases += 1;
    }
    assert!(cases > 80, "{cases} cases were read");
}

#[test]
fn all_settings_arrive() {
    let directory = tempfile::tempdir().unwrap();
    let reports = directory.path().to_str().unwrap();
    let exclude_file = directory.path().join("keep");
    fs::write(&exclude_file, "# these stay\nauth0|kept\n").unwrap();
    let config = parse(
        r#"
mode = "observe"
[listener]
address = "[::]:80"
header_timeout = "1s"
idle_timeout = "2s"
busy_poll = "3ms"
max_header_size = "64KiB"
max_headers = 50
max_connections = 5
own_per_address = "30/m"
own_per_address_burst = 31
drain_delay = "3s"
drain_timeout = "4s"
trusted_proxies = ["10.0.0.0/8", "192.0.2.1"]
request_id = "keep"
traceparent = "make"
[admin]
address = "127.0.0.1:91"
[store]
url = "redis://redis.test:6380/2"
prefix = "p:"
connect_timeout = "5s"
response_timeout = "6s"
heartbeat = "700ms"
replicas = 2
replica_timeout = "1s"
index_limit = 77
[markers]
max_staleness = "8s"
clock_skew = "9s"
max_token_lifetime = "10h"
session_retention = "11d"
cache_size = "12MiB"
outage = "allow"
read_timeout = "13s"
max_waiting = 15
write_timeout = "14s"
[tokens]
cache_size = "1GiB"
max_length = "8KiB"
[activity]
resolution = "5s"
flush_interval = "2s"
retention = "3650d"
max_gap = "2h"
[session]
idle_limit = "1h"
absolute_limit = "10h"
idle_cap = "2h"
absolute_cap = "20h"
record = true
gateway = "edge-1"
origins = ["https://app.acme.test"]
[inactive]
for = "100d"
login_lifetime = "31d"
last_active_lifetime = "32d"
recorded_since = "2025-11-21"
connection = "employees"
search = true
exclude = ["auth0|ceo", "*|test-*"]
exclude_roles = ["admins"]
include_clients = true
revoke = "refresh_tokens"
max = 33
max_share = "2.5%"
limit = 34
every = "2d"
jitter = "35s"
block = true
issuers = ["acme"]
[log]
level = "warn,portcullis::store=debug"
format = "json"
access = true
access_sample = "2.5%"
access_subject = true
access_user_agent = true
access_output = "stdout"
[issuers.acme]
issuer = "https://acme.test/"
aliases = ["https://login.acme.test/"]
audiences = ["api", "web"]
algorithms = ["ES256", "EdDSA"]
profile = "rfc9068"
jwks_url = "https://acme.test/keys"
claims = { session = "https://acme.test/sid", session_start = "start", session_expiry = "end", last_logout = "logout" }
cookie = "acme"
header = "X-Acme"
refresh_interval = "15m"
refetch_interval = "16s"
fetch_timeout = "17s"
session = { idle_limit = "50m" }
logout = { kind = "oidc", client_id = "app", return_urls = ["https://*.acme.test/out"], default_return_url = "https://app.acme.test/out", federated = true, origins = ["https://app.acme.test"], endpoint = "https://login.acme.test/end", cookie_domain = "acme.test", revoke = "all" }
management = { domain = "acme-test.eu.auth0.com", client_id = "m2m", rate_share = 7 }
[issuers.other]
issuer = "http://localhost:9000/"
audiences = ["api"]
[[routes]]
name = "one"
hosts = ["API.example.com", "*.example.com"]
path = "/v1"
upstream = "http://upstream.test:81"
protocol = "http2"
auth = "optional"
mode = "enforce"
issuers = ["acme"]
scopes = ["read"]
outage = "reject"
cookie = "token"
header = "X-Token"
realm = "my realm"
describe = false
forward_token = false
preserve_host = false
connect_timeout = "18s"
response_timeout = "19s"
body_idle_timeout = "20s"
upgrades = []
tunnel_idle_timeout = "23s"
keep_alive = "21s"
max_idle = 22
balance = "round_robin"
total_timeout = "23s"
resolve_interval = "24s"
retries = { attempts = 3, budget = 25, min_per_second = 26 }
ejection = { failures = 27, time = "28s", max_time = "29s", statuses = [502, 599] }
health = { path = "/health?a=b", interval = "30s", timeout = "31s", healthy = 32, unhealthy = 33, statuses = [204] }
activity = false
preflights = "pass"
limits = { max_requests = 23, max_waiting = 24, max_wait = "25ms", per_subject = "26/s", per_subject_burst = 27, per_address = "28 / h", max_body_size = "29MiB" }
session = { absolute_limit = "8h" }
identity = { "X-User" = "sub", "X-Email" = "email" }
[[routes]]
upstreams = ["http://upstream.test", { url = "https://[2001:db8::1]", weight = 5 }]
tls = { server_name = "tls.test" }
cors = { origins = ["https://APP.test:443", "https://*.app.test:8443"], methods = ["PUT"], headers = [], expose = ["X-Total"], credentials = true, max_age = "1h" }
[[routes]]
path = "/open"
auth = "none"
upstream = "http://[::1]:82/"
"#,
        &[
            ("PORTCULLIS_ISSUERS_ACME_MANAGEMENT_CLIENT_SECRET", "s3cr3t"),
            ("PORTCULLIS_LAST_LOGOUT_TOKEN", "s3cr3t-of-readers"),
            ("PORTCULLIS_LAST_LOGOUT_WRITE_TOKEN", "s3cr3t-of-writers"),
            ("PORTCULLIS_INACTIVE_EXCLUDE_FILE", exclude_file.to_str().unwrap()),
            ("PORTCULLIS_INACTIVE_REPORTS", reports),
        ],
    )
    .unwrap();
    let seconds = Duration::from_secs;

    assert_eq!(addresses(&config), "[::]:80");
    assert_eq!([config.listener.header_timeout, config.listener.idle_timeout], [seconds(1), seconds(2)]);
    assert_eq!(
        [config.listener.max_header_size, config.listener.max_headers, config.listener.max_connections],
        [65_536, 50, 5]
    );
    assert_eq!(config.listener.own_per_address, Some(Rate { count: 30, per: seconds(60), burst: 31 }));
    assert_eq!(config.listener.busy_poll, Duration::from_millis(3));
    assert_eq!([config.listener.drain_delay, config.listener.drain_timeout], [seconds(3), seconds(4)]);
    let proxies: Vec<_> = config.listener.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "192.0.2.1/32"]);
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:91");
    let StoreSettings::Redis(redis) = &config.store else { panic!("not Redis") };
    assert_eq!((&*redis.location.to_string(), redis.database, &*redis.prefix), ("redis.test:6380", 2, "p:"));
    assert_eq!((redis.replicas, redis.replica_timeout, redis.index_limit), (2, seconds(1), 77));
    assert_eq!(
        [redis.connect_timeout, redis.response_timeout, redis.heartbeat],
        [seconds(5), seconds(6), Duration::from_millis(700)]
    );
    assert_eq!(
        [config.markers.max_staleness, config.markers.read_timeout, config.markers.write_timeout],
        [seconds(8), seconds(13), seconds(14)]
    );
    assert_eq!((config.markers.cache_size, config.markers.max_waiting), (12 << 20, 15));
    assert_eq!(
        [config.retention.clock_skew, config.retention.max_token_lifetime, config.retention.session],
        [seconds(9), seconds(36_000), seconds(11 * 86_400)]
    );
    assert_eq!((config.tokens.cache_size, config.tokens.max_length), (1 << 30, 8192));
    assert_eq!([config.activity.resolution, config.activity.flush_interval], [seconds(5), seconds(2)]);
    assert_eq!([config.upkeep.retention, config.upkeep.max_gap], [seconds(3650 * 86_400), seconds(2 * 3600)]);
    let inactive = &config.inactive;
    let days = |days: u64| seconds(days * 86_400);
    assert_eq!(
        [inactive.inactive_for, inactive.login_lifetime, inactive.last_active_lifetime],
        [Some(days(100)), Some(days(31)), Some(days(32))]
    );
    assert_eq!(inactive.recorded_since.map(|since| since.to_string()).as_deref(), Some("2025-11-21T00:00:00.000Z"));
    assert_eq!((inactive.connection.as_deref(), inactive.way), (Some("employees"), Way::Search));
    for (user, left_out) in [
        ("auth0|ceo", true),
        ("auth0|test-1", true),
        ("auth0|kept", true),
        ("auth0|other", false),
        ("machine@clients", false),
    ] {
        assert_eq!(inactive.exclusions.has(&user.try_into().unwrap()), left_out, "{user}");
    }
    assert_eq!((texts(&inactive.exclude_roles), inactive.revoke), (vec!["admins"], Some(Extent::RefreshTokens)));
    assert_eq!((inactive.brakes, inactive.limit), (Brakes { max: 33, max_share: 2.5 }, Some(34)));
    let schedule = Schedule {
        issuers: vec!["acme".try_into().unwrap()],
        every: days(2),
        jitter: seconds(35),
        block: true,
        reports: directory.path().to_owned(),
    };
    assert_eq!(inactive.schedule, Some(schedule));
    let tenant = &inactive.tenants[&"acme".try_into().unwrap()];
    assert_eq!((inactive.tenants.len(), &*tenant.client_id, tenant.rate_share), (1, "m2m", RateShare::percent(7)));
    assert_eq!(config.sessions, SessionSettings { gateway: "edge-1".into(), record_all: true });
    assert_eq!(texts(&config.origins), ["https://app.acme.test"]);
    assert_eq!((config.listener.request_ids, config.listener.begins_traces), (RequestIds::Keep, true));
    let access = AccessSettings { sample: 0.025, subject: true, user_agent: true, output: LogOutput::Stdout };
    assert_eq!(
        config.log,
        LogSettings { level: "warn,portcullis::store=debug".into(), format: LogFormat::Json, access: Some(access) }
    );

    let [acme, other] = &config.issuers[..] else { panic!("not two issuers") };
    assert_eq!(acme.name.as_str(), "acme");
    assert_eq!(texts(&acme.identifiers), ["https://acme.test/", "https://login.acme.test/"]);
    assert_eq!(texts(&acme.audiences), ["api", "web"]);
    assert_eq!(*acme.algorithms, [Algorithm::ES256, Algorithm::EdDSA]);
    assert_eq!(acme.profile, TokenProfile::Rfc9068);
    assert!(matches!(&acme.keys, KeySource::Url(url) if *url == "https://acme.test/keys"));
    assert_eq!(
        [&*acme.claims.session, &*acme.claims.session_start, &*acme.claims.last_logout],
        ["https://acme.test/sid", "start", "logout"]
    );
    assert_eq!(acme.claims.session_expiry.as_deref(), Some("end"));
    assert_eq!(
        [acme.refresh_interval, acme.refetch_interval, acme.fetch_timeout],
        [seconds(900), seconds(16), seconds(17)]
    );
    assert_eq!((acme.limits.idle, acme.limits.absolute), (Some(seconds(3000)), Some(seconds(36_000))));
    assert!(matches!(other.keys, KeySource::Discovery));
    assert_eq!(*other.algorithms, [Algorithm::RS256]);
    assert_eq!((other.limits.idle, other.limits.absolute), (Some(seconds(3600)), Some(seconds(36_000))));

    let [logout] = &config.logouts[..] else { panic!("not one logout") };
    assert_eq!((logout.issuer.as_str(), logout.kind, logout.federated), ("acme", LogoutKind::Oidc, true));
    assert_eq!((logout.client_id.as_deref(), logout.cookie_domain.as_deref()), (Some("app"), Some("acme.test")));
    assert_eq!(logout.default_return_url.as_deref(), Some("https://app.acme.test/out"));
    assert_eq!(
        (logout.return_urls[0].as_str(), &*logout.origins[0]),
        ("https://*.acme.test/out", "https://app.acme.test")
    );
    assert_eq!(logout.endpoint.as_ref().unwrap(), "https://login.acme.test/end");
    assert_eq!([logout.refresh_interval, logout.fetch_timeout], [seconds(900), seconds(17)]);
    let [revocation] = &config.revocations[..] else { panic!("not one revocation") };
    assert_eq!((revocation.issuer.as_str(), revocation.extent), ("acme", Extent::All));
    assert_eq!(revocation.tenant.base, "https://acme-test.eu.auth0.com/");
    assert_eq!(&*revocation.tenant.audience, "https://acme-test.eu.auth0.com/api/v2/");
    assert_eq!((&*revocation.tenant.client_id, revocation.tenant.rate_share), ("m2m", RateShare::percent(7)));
    assert_eq!(revocation.tenant.client_secret.expose_secret(), "s3cr3t");
    let last_logout = config.last_logout.as_ref().unwrap();
    assert_eq!(last_logout.token.expose_secret(), "s3cr3t-of-readers");
    assert_eq!(last_logout.write_token.as_ref().unwrap().expose_secret(), "s3cr3t-of-writers");
    assert!(!format!("{config:?}").contains("s3cr3t"));

    let [one, every, open] = &config.routes[..] else { panic!("not three routes") };
    let hosts: Vec<_> = one.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["api.example.com", "*.example.com"]);
    assert_eq!(one.path.as_str(), "/v1");
    let policy = &one.policy;
    assert_eq!((&*policy.name, &*policy.realm), ("one", "my realm"));
    assert_eq!((policy.authentication, policy.mode), (Authentication::Optional, Mode::Enforce));
    assert_eq!(policy.issuers.as_deref(), Some(&[acme.name.clone()][..]));
    assert_eq!((policy.describe, policy.forward_token), (false, false));
    assert_eq!((policy.limits.idle, policy.limits.absolute), (None, Some(seconds(28_800))));
    assert_eq!(policy.limits.or(acme.limits).idle, Some(seconds(3000)));
    assert_eq!((policy.activity, every.policy.activity), (ActivityRule::Never, ActivityRule::Counts));
    assert_eq!((policy.preflights, every.policy.preflights), (true, false));
    assert_eq!(texts(&policy.settings.required_scopes), ["read"]);
    assert_eq!((policy.settings.outage, policy.settings.clock_skew), (OutagePolicy::Reject, seconds(9)));
    assert_eq!(policy.settings.max_token_lifetime, seconds(36_000));
    let concurrency = ConcurrencySettings { max_requests: 23, max_waiting: 24, max_wait: Duration::from_millis(25) };
    let per_subject = Rate { count: 26, per: seconds(1), burst: 27 };
    let per_address = Rate { count: 28, per: seconds(3600), burst: 28 };
    let limits = LimitSettings {
        concurrency: Some(concurrency),
        per_subject: Some(per_subject),
        per_address: Some(per_address),
        max_body_size: Some(29 << 20),
    };
    assert_eq!((one.limits, every.limits), (limits, LimitSettings::default()));
    let origins = ["https://app.test", "https://*.app.test:8443"].map(OriginPattern::new);
    let cors = CorsSettings {
        origins: Origins::Some(origins.into()),
        methods: HeaderValue::from_static("PUT"),
        headers: None,
        expose: Some(HeaderValue::from_static("X-Total")),
        credentials: true,
        max_age: 3600,
    };
    assert_eq!((&one.cors, &every.cors), (&None, &Some(cors)));
    let cookies: Vec<_> =
        policy.sources.cookies.iter().map(|source| (&*source.name, source.issuer.is_some())).collect();
    let headers: Vec<_> =
        policy.sources.headers.iter().map(|source| (source.name.as_str(), source.issuer.is_some())).collect();
    assert_eq!(
        (cookies, headers),
        (vec![("acme", true), ("token", false)], vec![("x-acme", true), ("x-token", false)])
    );
    let named = |index: usize| &*config.forwarded_claims[index];
    let identity: Vec<_> = policy.identity.iter().map(|(name, index)| (name.as_str(), named(*index))).collect();
    assert_eq!(identity, [("x-user", "sub"), ("x-email", "email")]);
    let upstream = &one.upstream;
    assert_eq!((upstream.origins[0].authority.as_str(), upstream.protocol), ("upstream.test:81", Protocol::Http2));
    assert_eq!([upstream.connect_timeout, upstream.response_timeout], [seconds(18), seconds(19)]);
    assert_eq!([upstream.body_idle_timeout, upstream.keep_alive], [seconds(20), seconds(21)]);
    assert_eq!((upstream.max_idle, upstream.preserve_host), (22, false));
    assert_eq!((upstream.websocket, upstream.tunnel_idle_timeout), (false, seconds(23)));
    assert!(every.upstream.websocket);
    assert_eq!((upstream.balance, every.upstream.balance), (Balance::RoundRobin, Balance::LeastLoaded));
    assert_eq!((upstream.total_timeout, upstream.resolve_interval), (Some(seconds(23)), seconds(24)));
    assert_eq!(upstream.retries, RetrySettings { attempts: 3, budget: 25, floor: 26 });
    let ejection = &upstream.ejection;
    assert_eq!((ejection.failures, ejection.time, ejection.max_time), (27, seconds(28), seconds(29)));
    assert_eq!(ejection.statuses.iter().map(StatusCode::as_u16).collect::<Vec<_>>(), [502, 599]);
    let health = upstream.health.as_ref().unwrap();
    assert_eq!((health.path.as_str(), health.interval, health.timeout), ("/health?a=b", seconds(30), seconds(31)));
    assert_eq!((health.healthy, health.unhealthy, health.statuses[0].as_u16()), (32, 33, 204));
    assert_eq!((&every.upstream.health, every.upstream.total_timeout), (&None, None));
    let origins: Vec<_> =
        every.upstream.origins.iter().map(|origin| (origin.transport.to_string(), origin.weight)).collect();
    assert_eq!(origins, [("http://upstream.test:80".to_owned(), 1), ("https://[2001:db8::1]:443".to_owned(), 5)]);

    assert_eq!((&*every.policy.name, every.upstream.origins[0].authority.as_str()), ("*/", "upstream.test:80"));
    assert_eq!((every.policy.mode, every.policy.settings.outage), (Mode::Observe, OutagePolicy::Allow));
    assert_eq!(every.policy.issuers, None);
    let identity: Vec<_> = every.policy.identity.iter().map(|(name, index)| (name.as_str(), named(*index))).collect();
    assert_eq!(identity, [("x-forwarded-user", "sub")]);
    assert_eq!((&*open.policy.name, open.upstream.origins[0].authority.as_str()), ("*/open", "[::1]:82"));
    assert_eq!(texts(&config.forwarded_claims), ["sub", "email"]);
    assert!(config.identity_fields.iter().map(HeaderName::as_str).eq(["x-user", "x-email", "x-forwarded-user"]));
    assert_eq!(config.warnings, []);
}

#[test]
fn the_gate_itself_is_asked_within_limits_unless_they_are_off() {
    let rate = |count, per, burst| Some(Rate { count, per: Duration::from_secs(per), burst });
    for (listener, expected) in [
        ("", rate(200, 1, 2000)),
        ("own_per_address_burst = 5", rate(200, 1, 5)),
        ("own_per_address = \"6/h\"", rate(6, 3600, 6)),
        ("own_per_address = \"off\"", None),
    ] {
        let text =
            format!("[listener]\n{listener}\n[[routes]]\nauth = \"none\"\nupstream = \"http://127.0.0.1:3000\"\n");
        let config = parse(&text, &[]).unwrap();
        assert_eq!(config.listener.own_per_address, expected, "{listener}");
    }
}

#[test]
fn no_limit_goes_over_its_cap() {
    let text = GUARDED
        .replace("[[routes]]\n", "session = { idle_limit = \"30m\" }\n[[routes]]\nsession.idle_limit = \"3h\"\n");
    let config = parse(&format!("[session]\nidle_cap = \"1h\"\nabsolute_cap = \"8h\"\n{text}"), &[]).unwrap();
    let hours = |hours: u64| Some(Duration::from_secs(3600 * hours));
    let limits = config.issuers[0].limits;
    assert_eq!((limits.idle, limits.absolute), (Some(Duration::from_secs(1800)), hours(8)), "a cap alone is a limit");
    assert_eq!(config.routes[0].policy.limits.idle, hours(1));
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(
        warning
            .ends_with("routes[0].session.idle_limit: 3h is more than `session.idle_cap`, 1h, which applies instead")
    );
}

#[test]
fn variables_go_over_the_file() {
    let text = format!("mode = \"observe\"\n[listener]\naddress = \"127.0.0.1:1\"\n{GUARDED}");
    let config = parse(
        &text,
        &[
            ("PORTCULLIS_MODE", "enforce"),
            ("PORTCULLIS_LISTENER_ADDRESS", "127.0.0.1:2"),
            ("PORTCULLIS_LISTENER_MAX_HEADERS", "77"),
            ("PORTCULLIS_LISTENER_TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1"),
            ("PORTCULLIS_LOG_ACCESS", "true"),
            ("PORTCULLIS_SESSION_IDLE_LIMIT", "30m"),
            ("PORTCULLIS_ISSUERS_ACME_AUDIENCES", "one,two"),
            ("PORTCULLIS_ISSUERS_ACME_CLAIMS_SESSION", "session"),
            ("PORTCULLIS_ISSUERS_ACME_SESSION_ABSOLUTE_LIMIT", "8h"),
            // unset, as far as we are concerned
            ("PORTCULLIS_ADMIN_ADDRESS", ""),
            // not ours, or not the gateway's
            ("PORTCULLIS_CONFIG", "x"),
            ("PORTCULLIS_ADMIN_URL", "x"),
            ("PORTCULLIS_LOG", "x"),
            ("PORTCULLIS_SKIP_REDIS", "1"),
            ("PORTCULLIS_UNHEARD_OF", "1"),
            ("LISTENER_ADDRESS", "x"),
        ],
    )
    .unwrap();
    assert_eq!(addresses(&config), "127.0.0.1:2");
    assert_eq!((config.listener.max_headers, config.listener.trusted_proxies.len()), (77, 2));
    assert!(config.log.access.is_some());
    assert_eq!(config.routes[0].policy.mode, Mode::Enforce);
    assert_eq!(texts(&config.issuers[0].audiences), ["one", "two"]);
    assert_eq!(&*config.issuers[0].claims.session, "session");
    assert_eq!(config.issuers[0].limits.absolute, Some(Duration::from_secs(28_800)));
    assert_eq!(config.issuers[0].limits.idle, Some(Duration::from_secs(1800)));
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9090");
}

#[test]
fn an_issuer_may_come_from_variables_alone() {
    let text = "[issuers.my-tenant]\n[[routes]]\nupstream = \"http://127.0.0.1:3000\"\n";
    let variables = [
        ("PORTCULLIS_ISSUERS_MY_TENANT_ISSUER", "https://acme.test/"),
        ("PORTCULLIS_ISSUERS_MY_TENANT_AUDIENCES", "api"),
    ];
    assert_eq!(&*parse(text, &variables).unwrap().issuers[0].identifiers[0], "https://acme.test/");
}

/// A Kubernetes service called `portcullis-admin` brings variables that look like ours.
#[test]
fn service_links_of_kubernetes_are_no_settings() {
    let variables = [
        ("PORTCULLIS_ADMIN_SERVICE_HOST", "10.0.0.7"),
        ("PORTCULLIS_ADMIN_SERVICE_PORT", "9090"),
        ("PORTCULLIS_ADMIN_SERVICE_PORT_METRICS", "9090"),
        ("PORTCULLIS_ADMIN_PORT", "tcp://10.0.0.7:9090"),
        ("PORTCULLIS_ADMIN_PORT_9090_TCP", "tcp://10.0.0.7:9090"),
        ("PORTCULLIS_ADMIN_PORT_9090_TCP_ADDR", "10.0.0.7"),
    ];
    parse(OPEN, &variables).unwrap();
    assert!(parse(OPEN, &[("PORTCULLIS_ADMIN_PORT", "9090")]).is_err());
}

#[cfg(unix)]
#[test]
fn secrets_come_from_files_and_variables() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str, mode: u32| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("token", "0123456789abcdef\r\n", 0o600);
    write("password", "p@ss/w:rd\n", 0o644);
    write("secret", &format!(" {}\n", "k".repeat(31)), 0o600);
    write("empty", "\n", 0o600);
    write("lines", "a\nb", 0o600);
    write("long", &"a".repeat(70_000), 0o600);
    let name = directory.path().join("portcullis.toml");
    let parse = |text: &str, variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(text, name.to_str().unwrap(), variables)
    };

    let text = r#"
[admin]
address = "0.0.0.0:9090"
token_file = "token"
[store]
url = "redis://redis.test"
username = "us er"
password_file = "password"
[issuers.acme]
issuer = "acme"
audiences = ["api"]
algorithms = ["HS256"]
secret_file = "secret"
[[routes]]
upstream = "http://127.0.0.1:3000"
"#;
    let config = parse(text, &[]).unwrap();
    assert_eq!(config.admin.token.as_ref().unwrap().expose_secret(), "0123456789abcdef");
    let StoreSettings::Redis(redis) = &config.store else { panic!("not Redis") };
    assert_eq!(credentials(redis), (Some("us er"), Some("p@ss/w:rd")));
    // Space is a part of keys.
    let KeySource::Secret(secret) = &config.issuers[0].keys else { panic!("no secret") };
    assert_eq!(secret.expose_secret(), format!(" {}", "k".repeat(31)).as_bytes());
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.contains(":8:17: store.password_file: secret file "), "{warning}");
    assert!(warning.ends_with("password can be read by every user of this machine\n  hint: chmod 600"), "{warning}");
    let shown = format!("{config:?}");
    assert!(!shown.contains("0123456789") && !shown.contains("p@ss") && !shown.contains("kkk"), "{shown}");

    let config = parse(text, &[("PORTCULLIS_ADMIN_TOKEN", "fedcba9876543210"), ("PORTCULLIS_STORE_PASSWORD", "x")]);
    let config = config.unwrap();
    assert_eq!(config.admin.token.unwrap().expose_secret(), "fedcba9876543210");
    let StoreSettings::Redis(redis) = &config.store else { panic!("not Redis") };
    assert_eq!(credentials(redis), (Some("us er"), Some("x")));

    let unix = text.replace("redis://redis.test", "redis+unix:///run/redis.sock?db=3");
    let config = parse(&unix, &[]).unwrap();
    let StoreSettings::Redis(redis) = &config.store else { panic!("not Redis") };
    assert_eq!((&*redis.location.to_string(), redis.database), ("/run/redis.sock", 3));
    assert_eq!(credentials(redis), (Some("us er"), Some("p@ss/w:rd")));

    for (file, message) in
        [("empty", "is empty"), ("lines", "is not one line of text"), ("long", "is longer than 64KiB")]
    {
        let errors = parse(&text.replace("\"token\"", &format!("\"{file}\"")), &[]).unwrap_err();
        let [problem] = errors.problems() else { panic!("{errors}") };
        assert!(problem.message.ends_with(message), "{problem}");
    }
}

fn credentials(redis: &RedisSettings) -> (Option<&str>, Option<&str>) {
    let Login { username, password } = &redis.login;
    (username.as_deref(), password.as_ref().map(SecretString::expose_secret))
}

#[test]
fn a_url_with_password_may_come_from_a_variable() {
    let config = parse(OPEN, &[("PORTCULLIS_STORE_URL", "rediss://:s3cr3t@redis.test:6380/1")]).unwrap();
    let StoreSettings::Redis(redis) = &config.store else { panic!("not Redis") };
    assert_eq!((&*redis.location.to_string(), redis.database, redis.tls.is_some()), ("redis.test:6380", 1, true));
    assert_eq!(credentials(redis), (None, Some("s3cr3t")));
    assert!(!format!("{config:?}").contains("s3cr3t"));
}

#[test]
fn paths_start_at_the_directory_of_the_file() {
    let parse = |text: &str, variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(text, "/etc/portcullis/portcullis.toml", variables).unwrap()
    };
    let directory = |config: &Config| match &config.store {
        StoreSettings::Embedded(settings) => settings.directory.clone(),
        StoreSettings::Redis(_) => panic!("Redis"),
    };
    assert_eq!(directory(&parse(OPEN, &[])), PathBuf::from("/etc/portcullis/data"));
    assert_eq!(directory(&parse(OPEN, &[("PORTCULLIS_STORE_URL", "embedded:data")])), PathBuf::from("data"));
    assert_eq!(
        directory(&parse(OPEN, &[("PORTCULLIS_STORE_URL", "embedded:/var/lib/p")])),
        PathBuf::from("/var/lib/p")
    );
    let config = parse(&GUARDED.replace("[[routes]]", "jwks_file = \"keys.json\"\n[[routes]]"), &[]);
    assert!(matches!(&config.issuers[0].keys, KeySource::File(path) if path == Path::new("/etc/portcullis/keys.json")));
}

#[test]
fn what_works_but_is_risky_is_a_warning() {
    let text = format!("[listener]\ntrusted_proxies = [\"0.0.0.0/0\"]\n{OPEN}");
    let config = parse(&text, &[("PORTCULLIS_ADMIN_TOKEN", "short")]).unwrap();
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "portcullis.toml:2:20: listener.trusted_proxies: every client can say who it is: the whole internet is trusted as a proxy\n  \
             hint: name the addresses of the proxies in front of this gateway",
            "environment variable PORTCULLIS_ADMIN_TOKEN: admin.token: the token is shorter than 16 characters and can be guessed\n  \
             hint: make one with `openssl rand -hex 32`",
        ]
    );
}

#[test]
fn what_goes_with_a_schedule_is_of_no_use_without_one() {
    let text = format!(
        "[inactive]\nfor = \"90d\"\njitter = \"1h\"\nblock = true\nreports = \"/nowhere\"\nissuers = []\n{OPEN}"
    );
    let config = parse(&text, &[]).unwrap();
    assert_eq!(config.inactive.schedule, None);
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    let expected = [("3:10", "jitter"), ("4:9", "block"), ("5:11", "reports"), ("6:11", "issuers")].map(|(at, key)| {
        format!("portcullis.toml:{at}: inactive.{key}: nothing is done by itself\n  hint: set `every`, such as \"1d\"")
    });
    assert_eq!(warnings, expected);
}

#[test]
fn what_is_close_to_a_refusal_is_accepted() {
    let accepted = [
        // an identifier that is no URL, or plain http, where keys come from elsewhere
        GUARDED.replace("https://acme.test/\"", "acme\"\njwks_url = \"https://acme.test/keys\""),
        GUARDED.replace("https://acme.test/\"", "http://acme.test/\"\njwks_file = \"keys.json\""),
        GUARDED.replace("https://acme.test/", "http://127.0.0.1:8000/"),
        // ports of their own
        format!("[listener]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n{OPEN}"),
        // another machine with the same port
        OPEN.replace("127.0.0.1:3000", "192.0.2.1:8080"),
        // next to what is reserved
        format!("{OPEN}path = \"/.portcullis-docs\"\n"),
        // the same path for other hosts
        format!("{OPEN}hosts = [\"a.test\"]\n{OPEN}hosts = [\"*.test\"]\n{OPEN}"),
        // just within limits
        format!("[session]\nidle_limit = \"123s\"\nabsolute_limit = \"30d\"\n{OPEN}"),
        format!("[store]\nurl = \"redis://h\"\nheartbeat = \"1s\"\n{OPEN}"),
        // twice the heartbeat of the embedded store
        format!("[markers]\nmax_staleness = \"500ms\"\n{OPEN}"),
        format!("{OPEN}identity = {{}}\n"),
        // one cookie for two issuers that no route takes both of
        format!(
            "issuers.a = {{ issuer = \"https://a.test/\", audiences = [\"api\"], cookie = \"t\" }}\n\
             issuers.b = {{ issuer = \"https://b.test/\", audiences = [\"api\"], cookie = \"t\" }}\n\
             [[routes]]\npath = \"/a\"\nissuers = [\"a\"]\nupstream = \"http://127.0.0.1:3000\"\n\
             [[routes]]\npath = \"/b\"\nissuers = [\"b\"]\nupstream = \"http://127.0.0.1:3000\"\n{OPEN}"
        ),
        format!("[log]\nlevel = \"off,portcullis=TRACE\"\n{OPEN}"),
    ];
    for text in accepted {
        if let Err(errors) = parse(&text, &[]) {
            panic!("{errors}\n{text}");
        }
    }
}

/// Lines `#key = value` of the manual are defaults: uncommenting them changes nothing.
#[test]
fn the_manual_tells_the_defaults() {
    let is_default = |line: &str| {
        let key = line.strip_prefix('#').and_then(|line| line.split_once(" = "));
        key.is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte)))
    };
    let mut defaults = 0;
    for (manual, secrets) in [(MANUAL, &[][..]), (SOURCES, SOURCE_SECRETS)] {
        defaults += manual.lines().filter(|line| is_default(line)).count();
        let uncommented: Vec<_> = manual.lines().map(|line| if is_default(line) { &line[1..] } else { line }).collect();
        let as_is = parse(manual, secrets).unwrap();
        let uncommented = parse(&uncommented.join("\n"), secrets).unwrap();
        assert_eq!(format!("{as_is:#?}"), format!("{uncommented:#?}"));
    }
    assert!(defaults > 45, "{defaults} defaults were found");
}

#[test]
fn what_is_taken_at_the_start_is_there() {
    let (_, one) = asked(MANUAL, &[]);
    let (_, other) = asked(SOURCES, SOURCE_SECRETS);
    let known: Vec<&String> = one.iter().chain(&other).collect();
    for pattern in written::AT_START {
        let names = |key: &str| {
            let (mut wanted, mut found) = (pattern.split('.'), key.split('.'));
            wanted.all(|wanted| found.next().is_some_and(|found| wanted == "*" || wanted == found))
        };
        assert!(known.iter().any(|key| names(key)), "no key is called {pattern}");
    }
}

/// Lines `# e.g. key = value` are settings that work.
#[test]
fn the_examples_of_the_manuals_work() {
    const MARK: &str = "# e.g. ";
    let mut examples = 0;
    for (manual, secrets) in [(MANUAL, &[][..]), (SOURCES, SOURCE_SECRETS)] {
        for (number, line) in manual.lines().enumerate().filter(|(_, line)| line.starts_with(MARK)) {
            let with: Vec<_> = manual
                .lines()
                .enumerate()
                .map(|(each, line)| if each == number { &line[MARK.len()..] } else { line })
                .collect();
            examples += 1;
            if let Err(errors) = parse(&with.join("\n"), secrets) {
                // Files of secrets, the users and connections of another store, TLS to the upstream, and one beside several are not here.
                // Neither is a Management API in full, nor what goes with a schedule, a limit or an origin.
                let expected = [
                    "cannot be read",
                    "the embedded store has no",
                    "the upstream is reached without TLS",
                    "stands beside `upstreams`",
                    "needs the Management API, and no issuer has one",
                    "management.client_secret: is missing",
                    "inactive.reports: is missing",
                    "cors.origins: is missing",
                    "means nothing without",
                    // One part of TLS without the others.
                    "listener.tls.certificate_file: is missing",
                    "listener.tls.key_file: is missing",
                ];
                assert!(expected.iter().any(|expected| errors.to_string().contains(expected)), "{line}\n{errors}");
            }
        }
    }
    assert!(examples > 20, "{examples} examples were found");
}

#[test]
fn the_manuals_have_every_key() {
    let (one, asked_of_one) = asked(MANUAL, &[]);
    let (other, asked_of_other) = asked(SOURCES, SOURCE_SECRETS);
    let sources = |key: &&String| key.starts_with("sources.");
    for (manual, key) in asked_of_one
        .iter()
        .filter(|key| !sources(key))
        .map(|key| (one, key))
        .chain(asked_of_other.iter().filter(sources).map(|key| (other, key)))
    {
        let (section, key) = if let Some(key) = key.strip_prefix("routes[0].") {
            ("[[routes]]".to_owned(), key)
        } else if let Some(key) = key.strip_prefix("issuers.acme.") {
            ("[issuers.acme]".to_owned(), key)
        } else if let Some((name, key)) = key.strip_prefix("sources.").and_then(|key| key.split_once('.')) {
            (format!("[sources.{name}]"), key)
        } else {
            key.split_once('.').map_or((String::new(), key.as_str()), |(section, key)| (format!("[{section}]"), key))
        };
        let start = manual.find(&format!("\n{section}")).unwrap_or_else(|| panic!("{section} is missing"));
        let text = &manual[start + 1 + section.len()..];
        let text = if section.is_empty() { manual } else { &text[..text.find("\n[").unwrap_or(text.len())] };
        let written = text.lines().any(|line| {
            let line = line.strip_prefix("# e.g. ").or_else(|| line.strip_prefix('#')).unwrap_or(line);
            line.split_once(" = ").is_some_and(|(name, _)| name == key)
        });
        assert!(written, "{section} {key} is not in the manual");
    }
}

/// The keys that were asked for when a manual was read, sections left out.
fn asked<'a>(manual: &'a str, variables: &[(&str, &str)]) -> (&'a str, Vec<String>) {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let reader = Reader::new("manual.toml", manual, variables);
    read(&reader, manual).unwrap_or_else(|errors| panic!("{errors}"));
    let asked = reader.asked();
    let is_section = |key: &String| asked.iter().any(|other| other.starts_with(&format!("{key}.")));
    let keys = asked.iter().filter(|key| {
        !is_section(key) && !key.starts_with("routes[1]") && !matches!(&***key, "routes" | "issuers" | "sources")
    });
    (manual, keys.cloned().collect())
}

proptest! {
    #[test]
    fn nothing_panics_on_arbitrary_text(text in any::<String>(), value in any::<String>()) {
        let _ = parse(&text, &[("PORTCULLIS_STORE_URL", &value)]);
        let quoted = toml::Value::String(value).to_string();
        for key in ["issuers.a.issuer", "store.url", "listener.address", "log.level", "markers.cache_size", "tokens"] {
            let _ = parse(&format!("{key} = {quoted}\n{OPEN}path = {quoted}\nrealm = {quoted}\nhosts = [{quoted}]\n"), &[]);
        }
    }
}
