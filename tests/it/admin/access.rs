//! Who may use the endpoints.

use http::{Method, Request};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{http::send, openapi::AdminClient, program::Gate};

const TOKEN: &str = "open-sesame-open-sesame";

#[tokio::test]
async fn a_configured_token_is_needed() {
    let gate = Gate::setup().admin_token(TOKEN).start().await;
    let nobody = AdminClient::new(gate.admin_address(), None);
    let stranger = AdminClient::new(gate.admin_address(), Some("open-sesame-open-sesamf"));
    for client in [&nobody, &stranger] {
        client.get("/v1/subjects/main/alice").await.is(401, "unauthorized");
        client.post("/v1/subjects/main/alice/logout", json!({})).await.is(401, "unauthorized");
        client.post("/v1/subjects/elsewhere/alice/logout", json!({})).await.is(401, "unauthorized");
        client.post("/v1/explain", json!({ "token": "x" })).await.is(401, "unauthorized");
    }
    for open in ["/livez", "/healthz", "/readyz", "/startupz", "/metrics", "/openapi.json"] {
        assert_eq!(nobody.get(open).await.status, 200, "{open}");
    }
    let found = gate.admin().get("/v1/subjects/main/alice").await;
    assert_eq!(found.is(200, None).json()["logout"], json!(null), "nobody was logged out");
    assert!(gate.audit().is_empty());
}

/// With a token there is nothing that a page could send by itself.
#[tokio::test]
async fn with_a_token_any_host_name_will_do() {
    let gate = Gate::setup().admin_token(TOKEN).start().await;
    gate.admin().with("host", "admin.example").get("/v1/subjects/main/alice").await.is(200, None);
}

#[tokio::test]
async fn without_a_token_nothing_is_taken_from_a_web_page() {
    let gate = Gate::start().await;
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("host", "rebound.example:9090"),
        ("host", "127.0.0.1.nip.example"),
    ] {
        let page = gate.admin().with(name, value);
        page.put("/v1/subjects/main/alice/block", json!({})).await.is(403, "cross_site");
        page.get("/v1/subjects/main/alice").await.is(403, "cross_site");
    }
    gate.admin().with("host", "localhost:9090").get("/v1/subjects/main/alice").await.is(200, None);
    assert!(gate.audit().is_empty());
}

#[tokio::test]
async fn what_is_unknown_is_refused_in_one_form() {
    let gate = Gate::start().await;
    let admin = gate.admin();
    admin.get("/").await.is(404, "no_endpoint");
    admin.get("/v1").await.is(404, "no_endpoint");
    admin.get("/v1/subjects/main/").await.is(404, "no_endpoint");
    admin.get("/v1/subjects/main/a/b").await.is(404, "no_endpoint");
    let answer = admin.send(Method::PATCH, "/v1/subjects/main/alice", "").await;
    assert_eq!(answer.is(405, "method").field("allow"), Some("GET,HEAD"));
}

/// HTTP/2 has no `Host`: the name stands elsewhere.
#[tokio::test]
async fn over_http2_it_is_the_same() {
    let gate = Gate::start().await;
    let ask = async |authority: &str| {
        let stream = TcpStream::connect(gate.admin_address()).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let serving = tokio::spawn(connection);
        let request = Request::get(format!("http://{authority}/v1/subjects/main/alice"));
        let answer = sender.send_request(request.body(String::new()).unwrap()).await.unwrap();
        serving.abort();
        answer.status().as_u16()
    };
    assert_eq!(ask("localhost:9090").await, 200);
    assert_eq!(ask("rebound.example:9090").await, 403);
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let gate = Gate::start().await;
    let body = json!({ "reason": "x".repeat(70_000) }).to_string();
    gate.admin().send(Method::POST, "/v1/subjects/main/alice/logout", body).await.is(413, "too_large");
    let target = "/v1/subjects/main/alice/logout";
    let barely = format!("{}{{}}", " ".repeat(64 * 1024 - 2));
    send(gate.admin_address(), Method::POST, target, &[], barely).await.is(200, None);
}
