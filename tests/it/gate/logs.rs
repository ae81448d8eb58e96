//! Logs never hold a token, whatever the level.

use std::{
    fs::{self, File},
    net::SocketAddr,
    process::Stdio,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{
    client::{Client, Raw},
    eventually,
    full::{World, now, request, subject_path},
    ports::free_address,
};

/// `portcullis serve` as a process of its own that writes its log into a file.
struct Process {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
}

impl Process {
    fn start(world: &World, route: &str, format: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (text, variables) = world.configuration(route);
        let file = directory.path().join("portcullis.toml");
        fs::write(&file, text).unwrap();
        let (address, admin) = (free_address(), free_address());
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["serve", "--config"])
            .arg(&file)
            .envs(variables)
            .env("PORTCULLIS_LISTENER_ADDRESS", address.to_string())
            .env("PORTCULLIS_ADMIN_ADDRESS", admin.to_string())
            .env("PORTCULLIS_LISTENER_MAX_HEADER_SIZE", "256KiB")
            .env("PORTCULLIS_LOG_LEVEL", "trace")
            .env("PORTCULLIS_LOG_FORMAT", format)
            .env("PORTCULLIS_LOG_ACCESS", "true")
            .env("PORTCULLIS_ADMIN_TOKEN", ADMIN_SECRET)
            .stdout(Stdio::null())
            .stderr(File::create(directory.path().join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, address, admin, directory }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.path().join("log")).unwrap()).into_owned()
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> u16 {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {ADMIN_SECRET}"))
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        Client::http1(self.admin).await.fetch(request).await.status.as_u16()
    }
}

const ADMIN_SECRET: &str = "correct-horse-battery-staple-0123456789";

async fn logs_hold_no_token(world: World, format: &str, protocol: &str) {
    let route = format!("cookie = \"token\"\nheader = \"X-Token\"\n{protocol}");
    let mut process = Process::start(&world, &route, format);
    eventually("the process is up", async || {
        tokio::net::TcpStream::connect(process.address).await.is_ok()
            && tokio::net::TcpStream::connect(process.admin).await.is_ok()
    })
    .await;
    eventually("the process is ready", async || process.ask(Method::GET, "/readyz", Value::Null).await == 200).await;

    let forged = {
        let token = world.token("auth0|forged", json!({}));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        format!("{signed}.{}", signature.chars().rev().collect::<String>())
    };
    let tokens = [
        world.token("auth0|alice", json!({})),
        world.token("auth0|bob", json!({"exp": now().as_secs() - 10})),
        world.token("auth0|eve", json!({"aud": "https://other.example"})),
        world.token("auth0|mallory", json!({"iss": "https://other.example"})),
        world.token("auth0|carol", json!({"exp": now().as_secs() + 100_000})),
        world.token("auth0|long", json!({"padding": "x".repeat(14_000)})),
        forged,
    ];
    let mut shared = Client::http2(process.address).await;
    for token in &tokens {
        let mut first = Client::http1(process.address).await;
        for (name, value) in [
            ("authorization", format!("Bearer {token}")),
            ("cookie", format!("a=b; token={token}")),
            ("x-token", token.clone()),
            ("authorization", format!("Bearer {token} {token}")),
            ("authorization", format!("DPoP {token}")),
        ] {
            for version in 1..=2 {
                let mut request = request(Method::GET, &format!("/path?token={token}"), "");
                request.headers_mut().insert(name, value.parse().unwrap());
                if version == 1 {
                    first.fetch(request).await;
                } else {
                    *request.uri_mut() = format!("http://api.example/path?token={token}").parse().unwrap();
                    request.headers_mut().remove("host");
                    shared.fetch(request).await;
                }
            }
        }
        assert_eq!(process.ask(Method::POST, "/v1/explain", json!({"token": token})).await, 200);
        process.ask(Method::POST, "/v1/explain", json!({"token": token, "other": token})).await;
    }
    let mut malformed = Raw::connect(process.address).await;
    malformed
        .write(format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nbroken line\r\n\r\n", tokens[0]))
        .await;
    malformed.read_to_end().await;
    let mut logout = request(Method::POST, "/.portcullis/logout", &tokens[0]);
    logout.headers_mut().insert("x-other", tokens[0].parse().unwrap());
    assert_eq!(Client::http1(process.address).await.fetch(logout).await.status, 204);
    process.ask(Method::PUT, &subject_path("auth0|alice", "/block"), json!({"reason": "test"})).await;

    let id = process.child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    assert!(process.child.wait().await.unwrap().success());
    let log = process.log();
    assert!(log.len() > 10_000 && log.contains("TRACE"), "{} bytes were logged at level trace", log.len());
    let secrets = tokens.iter().flat_map(|token| token.split('.')).skip(1);
    for secret in secrets.chain([ADMIN_SECRET]).filter(|secret| secret.len() > 60 || *secret == ADMIN_SECRET) {
        if let Some(at) = log.find(&secret[..30]) {
            let line = log[..at].rfind('\n').map_or(0, |at| at + 1);
            panic!("a secret is logged: {}", &log[line..at + 30]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_log_holds_no_token() {
    logs_hold_no_token(World::embedded().await, "text", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_log_holds_no_token() {
    let Some(world) = World::redis().await else { return };
    logs_hold_no_token(world, "json", "protocol = \"http2\"").await;
}
