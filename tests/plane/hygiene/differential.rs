//! The gate beside the strict reading of the same bytes: what reaches the upstream are requests that the strict reading has, in their
//! order, with their method, their canonical path, their fields and their content. `fuzz/` runs this under libFuzzer, the tests run it
//! for a moment.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{config::Config, instance::Instance, route::path};
use tempfile::{NamedTempFile, TempDir};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    time::timeout,
};

use super::strict::{self, Read, Step, read};

/// A key that nobody needs: the route asks for no token. RFC 7515, A.3.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

/// How long an exchange may take. The gate's own limits end it sooner.
const PATIENCE: Duration = Duration::from_secs(20);

/// Fields that are the gate's own to set.
const OWN: [&str; 11] = [
    "content-length",
    "cookie",
    "host",
    "max-forwards",
    "te",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// What came to the upstream.
#[derive(Default)]
struct Came {
    requests: Vec<Read>,
    faults: Vec<String>,
}

/// A gate in front of an upstream that reads strictly.
pub(crate) struct Differential {
    runtime: Runtime,
    gate: SocketAddr,
    came: Arc<Mutex<Came>>,
    /// What was sent before: a request that should not be may come late.
    before: Mutex<Vec<u8>>,
    _instance: Instance,
    _files: (NamedTempFile, TempDir),
}

impl Differential {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let came = Arc::new(Mutex::new(Came::default()));
        let (mut keys, store) = (NamedTempFile::new().unwrap(), tempfile::tempdir().unwrap());
        keys.write_all(KEYS.as_bytes()).unwrap();
        let instance = runtime.block_on(async {
            let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let text = format!(
                "[listener]\naddress = \"127.0.0.1:0\"\nheader_timeout = \"1s\"\nidle_timeout = \"2s\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
                 [store]\nurl = \"embedded:{}\"\n[issuers.main]\nissuer = \"https://issuer.example/\"\naudiences = [\"a\"]\n\
                 algorithms = [\"ES256\"]\njwks_file = \"{}\"\n\
                 [[routes]]\nupstream = \"http://{}\"\nauth = \"none\"\nbody_idle_timeout = \"1s\"\n",
                store.path().display(),
                keys.path().display(),
                upstream.local_addr().unwrap(),
            );
            tokio::spawn(serve(upstream, Arc::clone(&came)));
            let config = Config::parse(&text, "gate.toml", Vec::new()).unwrap_or_else(|errors| panic!("{errors}"));
            Instance::start(config).await.unwrap()
        });
        Self {
            gate: instance.address(),
            runtime,
            came,
            before: Mutex::default(),
            _instance: instance,
            _files: (keys, store),
        }
    }

    /// Sends these bytes through the gate; how many requests the strict reading has, and how many the upstream got.
    ///
    /// # Panics
    /// When the upstream got anything else, or the gate waits for what the strict reading does not.
    pub(crate) fn check(&self, bytes: &[u8]) -> (usize, usize) {
        let expected = model(bytes);
        let reply = self.runtime.block_on(exchange(self.gate, bytes, expected.len()));
        let statuses = statuses(&reply);
        let before = std::mem::replace(&mut *self.before.lock().unwrap(), bytes.to_vec());
        let shown = || format!("b\"{}\"\n{reply}\nafter b\"{}\"", bytes.escape_ascii(), before.escape_ascii());
        assert!(
            statuses.len() >= expected.len() || statuses.last().is_some_and(|status| *status >= 400),
            "the gate waits for more of {}",
            shown()
        );
        let came = std::mem::take(&mut *self.came.lock().unwrap());
        assert!(came.faults.is_empty(), "the upstream got {:?} of {}", came.faults, shown());
        let mut candidates = expected.iter();
        for got in &came.requests {
            assert!(candidates.any(|read| is_same(read, got)), "the upstream got {got:?} of {}", shown());
        }
        (expected.len(), came.requests.len())
    }
}

/// Reads strictly, and answers `ok`.
async fn serve(listener: TcpListener, came: Arc<Mutex<Came>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let came = Arc::clone(&came);
        tokio::spawn(async move {
            strict::serve(&mut stream, |request| {
                let mut came = came.lock().unwrap();
                match request {
                    Ok((request, _)) => came.requests.push(request),
                    Err(fault) => came.faults.push(fault),
                }
            })
            .await;
        });
    }
}

/// What comes back until so many responses have come, or the gate closes.
async fn exchange(gate: SocketAddr, bytes: &[u8], responses: usize) -> String {
    let mut stream = TcpStream::connect(gate).await.unwrap();
    let _ = stream.set_nodelay(true);
    let mut reply = Vec::new();
    let exchange = async {
        // The gate may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        while responses > statuses(&String::from_utf8_lossy(&reply)).len() {
            if !matches!(stream.read_buf(&mut reply).await, Ok(1..)) {
                return;
            }
        }
    };
    assert!(timeout(PATIENCE, exchange).await.is_ok(), "no end of b\"{}\"", bytes.escape_ascii());
    String::from_utf8_lossy(&reply).into_owned()
}

/// The statuses of the final responses.
fn statuses(reply: &str) -> Vec<u16> {
    let after = reply.split("HTTP/1.").skip(1);
    after.filter_map(|text| text.get(2..5)?.parse().ok()).filter(|status| *status >= 200).collect()
}

/// The requests of a connection, up to the one that ends it.
fn model(mut bytes: &[u8]) -> Vec<Read> {
    let mut requests = Vec::new();
    // This begins HTTP/2.
    if bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
        return requests;
    }
    while let Step::Request(request, length) = read(bytes) {
        bytes = &bytes[length..];
        let lists = |option: &str| {
            let mut listed =
                request.values("connection").into_iter().flat_map(|value| value.split(|&byte| byte == b','));
            listed.any(|name| name.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
        };
        let ends = lists("close") || request.minor == 0 && !lists("keep-alive");
        requests.push(*request);
        if ends {
            break;
        }
    }
    requests
}

/// Whether the upstream got this request.
fn is_same(sent: &Read, got: &Read) -> bool {
    let known = |name: &str, value: &[u8]| sent.fields.iter().any(|field| field.0 == name && field.1 == value);
    let is_host = |host: &&[u8]| {
        known("host", host) || sent.target.contains(&*String::from_utf8_lossy(host)) || sent.values("host").is_empty()
    };
    got.method == sent.method
        && canonical(&sent.target).is_some_and(|target| target == got.target)
        && got.body == sent.body
        && sent.values("transfer-encoding").iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked"))
        && got.minor == 1
        && got.values("host").len() == 1
        && got.values("host").iter().all(is_host)
        && got.values("via").last().is_some_and(|via| via.ends_with(b"portcullis"))
        && got.values("x-forwarded-for") == [b"127.0.0.1"]
        && got.fields.iter().all(|(name, value)| OWN.contains(&&**name) || known(name, value))
        && got.trailers.iter().all(|field| sent.trailers.contains(field))
        && ["connection", "upgrade", "keep-alive", "x-forwarded-user"].iter().all(|name| got.values(name).is_empty())
}

/// The path and query of a target, in their canonical form.
fn canonical(target: &str) -> Option<String> {
    let rest = match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
            &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
        }
        _ => target,
    };
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let path = if path.is_empty() { "/" } else { path };
    let canonical = if path == "*" { "*".into() } else { path::canonicalise(path).ok()?.into_owned() };
    Some(query.map_or_else(|| canonical.clone(), |query| format!("{canonical}?{query}")))
}
