//! What only HTTP/2 has: requests that are taken back alone, and responses without a word of the connection.

use std::sync::{Arc, Mutex};

use h2::Reason;
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::interim::{http2, read_head, whole};
use crate::support::{eventually, gate::TestGate, upstream::RawUpstream};

/// An upstream that answers `/hello`, begins to answer `/begin`, and says nothing to others. It notes what comes after a header, when the
/// connection has ended.
async fn upstream() -> (RawUpstream, Arc<Mutex<Vec<(String, String)>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let upstream = RawUpstream::start(move |mut stream, _| {
        let noted = Arc::clone(&noted);
        async move {
            let Some(head) = read_head(&mut stream).await else { return };
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let answer = match path.split('?').next().unwrap() {
                "/hello" => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                "/begin" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
                _ => "",
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            noted.lock().unwrap().push((path, String::from_utf8(rest).unwrap()));
        }
    })
    .await;
    (upstream, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_taken_back_ends_its_exchange_and_no_other() {
    let (upstream, seen) = upstream().await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let mut requests = http2(None, &gate).await;
    let to = |path: &str| Request::post(format!("http://api.example{path}")).body(()).unwrap();
    let ended = async |path: &str| {
        let of = |noted: &[(String, String)]| noted.iter().find(|noted| noted.0 == path).map(|noted| noted.1.clone());
        eventually("its connection to the upstream ends", async || of(&seen.lock().unwrap()).is_some()).await;
        of(&seen.lock().unwrap()).unwrap()
    };
    let (other, _content) = requests.send_request(to("/begin"), true).unwrap();
    let mut other = other.await.unwrap().into_body();
    assert_eq!(other.data().await.unwrap().unwrap(), "hello");

    let (response, mut content) = requests.send_request(to("/waits"), true).unwrap();
    eventually("the upstream has it", async || gate_has(&gate, 2).await).await;
    content.send_reset(Reason::CANCEL);
    assert_eq!(ended("/waits").await, "");
    drop(response);

    let (response, mut content) = requests.send_request(to("/uploads"), false).unwrap();
    content.send_data("some of it".into(), false).unwrap();
    eventually("the upstream has it", async || gate_has(&gate, 2).await).await;
    content.send_reset(Reason::CANCEL);
    let upload = ended("/uploads").await;
    assert!(!upload.contains("0\r\n\r\n"), "what broke off looks whole: {upload}");
    drop(response);

    let (response, mut content) = requests.send_request(to("/begin?again"), true).unwrap();
    let mut response = response.await.unwrap().into_body();
    assert_eq!(response.data().await.unwrap().unwrap(), "hello");
    content.send_reset(Reason::CANCEL);
    assert_eq!(ended("/begin?again").await, "");

    // The first one is still being answered, and others are.
    assert!(seen.lock().unwrap().iter().all(|noted| noted.0 != "/begin"));
    let (response, _content) = requests.send_request(to("/hello"), true).unwrap();
    assert_eq!(whole(response).await, (StatusCode::OK, "hello".to_owned()));
}

/// Whether so many requests are being served.
async fn gate_has(gate: &TestGate, count: usize) -> bool {
    let metrics = crate::support::client::get(gate.admin(), "/metrics", "").await;
    metrics.text().contains(&format!("\nportcullis_requests_in_flight {count}\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gate_says_itself_has_a_length_and_a_date() {
    let (upstream, _) = upstream().await;
    let gate = TestGate::start(&upstream.route("path = \"/api\"")).await;
    let mut requests = http2(None, &gate).await;
    for (path, status) in [("/nowhere", 404), ("/api", 401)] {
        let request = Request::get(format!("http://api.example{path}")).body(()).unwrap();
        let response = requests.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        let (head, mut body) = response.into_parts();
        let content = body.data().await.unwrap().unwrap();
        assert_eq!(head.headers["content-length"], content.len().to_string());
        assert!(head.headers["date"].to_str().unwrap().ends_with(" GMT"), "{:?}", head.headers);
        assert!(!head.headers.contains_key("connection"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_too_large_is_refused_and_the_connection_goes_on() {
    let (upstream, _) = upstream().await;
    let listener = "[listener]\nmax_header_size = \"16KiB\"\n";
    let gate = TestGate::start(&format!("{listener}{}", upstream.route("auth = \"none\""))).await;
    let mut requests = http2(None, &gate).await;
    for length in [17_000, 60_000] {
        let request = Request::get("http://api.example/hello").header("x-long", "x".repeat(length)).body(()).unwrap();
        let (response, _content) = requests.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let request = Request::get("http://api.example/hello").header("x-long", "x".repeat(15_000)).body(()).unwrap();
    let (response, _content) = requests.send_request(request, true).unwrap();
    assert_eq!(whole(response).await, (StatusCode::OK, "hello".to_owned()));
}
