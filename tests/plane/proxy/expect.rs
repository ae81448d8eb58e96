//! `Expect: 100-continue` (RFC 9110 §10.1.1), from end to end.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
    time::timeout,
};

use super::interim::{self, read_head};
use crate::{
    secure::{Secure, connect},
    support::{client::Raw, eventually, gate::TestGate, upstream::RawUpstream},
};

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

fn head(method: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
}

/// What an upstream got before it said anything, and how it answers.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The upstream wants the content, and answers when it has it.
async fn ask_for_content(stream: &mut TcpStream, seen: &Seen) {
    stream.write_all(CONTINUE.as_bytes()).await.unwrap();
    let mut body = [0; 4];
    stream.read_exact(&mut body).await.unwrap();
    seen.note(String::from_utf8_lossy(&body));
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await.unwrap();
}

/// An upstream that asks for the content of each request once it is given the word.
async fn asking() -> (RawUpstream, Seen, Arc<Notify>) {
    let (seen, go) = (Seen::default(), Arc::new(Notify::new()));
    let (noted, word) = (seen.clone(), Arc::clone(&go));
    let upstream = RawUpstream::start(move |mut stream, _| {
        let (seen, word) = (noted.clone(), Arc::clone(&word));
        async move {
            while let Some(head) = read_head(&mut stream).await {
                seen.note(head);
                word.notified().await;
                ask_for_content(&mut stream, &seen).await;
            }
        }
    })
    .await;
    (upstream, seen, go)
}

/// Clients are asked for their content when, and only when, the upstream wants it.
#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_asks_for_the_content() {
    let (upstream, seen, go) = asking().await;
    let secure = Secure::new();
    for secure in [None, Some(&secure)] {
        seen.0.lock().unwrap().clear();
        let listener = secure.map(Secure::listener).unwrap_or_default();
        let gate = TestGate::start(&format!("{listener}{}", upstream.route("auth = \"none\""))).await;
        let mut raw = Raw(connect(secure, gate.address(), "http/1.1").await);
        for round in 1..=3 {
            raw.write(head("POST")).await;
            eventually("the upstream has the header", async || seen.all().len() == 2 * round - 1).await;
            assert!(seen.all()[2 * round - 2].contains("\r\nexpect: 100-continue\r\n"), "{:?}", seen.all());
            let mut byte = [0];
            assert!(timeout(Duration::from_millis(200), raw.0.read(&mut byte)).await.is_err(), "not yet");
            go.notify_one();
            assert_eq!(raw.read_until("\r\n\r\n").await, CONTINUE);
            raw.write("body").await;
            let reply = raw.read_until("done").await;
            assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
            assert_eq!(seen.all().last().unwrap(), "body");
        }
    }
}

/// The upstream's answer comes without the content, and the content is asked for by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_answers_without_the_content() {
    let seen = Seen::default();
    let noted = seen.clone();
    let upstream = RawUpstream::start(move |mut stream, _| {
        let seen = noted.clone();
        async move {
            read_head(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!").await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            seen.note(String::from_utf8_lossy(&rest));
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let reply = Raw::exchange(gate.address(), head("POST")).await;
    assert!(reply.starts_with("HTTP/1.1 413") && reply.ends_with("no!"), "{reply}");
    eventually("its connection ends", async || seen.all() == [""]).await;
    // Over HTTP/2 likewise.
    let mut requests = interim::http2(None, &gate).await;
    let (mut response, _content) = requests.send_request(waiting_request(), false).unwrap();
    assert!(interim::next(&mut response).await.is_none(), "asked for content that nobody wants");
    assert_eq!(interim::whole(response).await, (StatusCode::PAYLOAD_TOO_LARGE, "no!".to_owned()));
}

/// A request over HTTP/2 whose client waits with its content.
fn waiting_request() -> Request<()> {
    let request = Request::post("https://api.example/").header("content-length", "4");
    request.header("expect", "100-continue").body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_http2_are_asked_likewise() {
    let (upstream, seen, go) = asking().await;
    let secure = Secure::new();
    for secure in [None, Some(&secure)] {
        seen.0.lock().unwrap().clear();
        let listener = secure.map(Secure::listener).unwrap_or_default();
        let gate = TestGate::start(&format!("{listener}{}", upstream.route("auth = \"none\""))).await;
        let mut requests = interim::http2(secure, &gate).await;
        for round in 1..=2 {
            let (mut response, mut content) = requests.send_request(waiting_request(), false).unwrap();
            eventually("the upstream has the header", async || seen.all().len() == 2 * round - 1).await;
            assert!(seen.all()[2 * round - 2].contains("\r\nexpect: 100-continue\r\n"), "{:?}", seen.all());
            let asked = timeout(Duration::from_millis(200), interim::next(&mut response)).await;
            assert!(asked.is_err(), "not yet");
            go.notify_one();
            assert_eq!(interim::next(&mut response).await.unwrap().status(), StatusCode::CONTINUE);
            content.send_data("body".into(), true).unwrap();
            assert_eq!(interim::whole(response).await, (StatusCode::OK, "done".to_owned()));
            assert_eq!(seen.all().last().unwrap(), "body");
        }
    }
}

/// What an upstream of HTTP/2 does when it is asked, and is given the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// It asks for the content, and answers when it has it.
    Asks,
    /// It answers without the content.
    Refuses,
    /// It waits for the content, and answers when it has it.
    Waits,
}

/// An upstream of HTTP/2.
async fn http2_upstream(how: Answer) -> (RawUpstream, Seen, Arc<Notify>) {
    let (seen, go) = (Seen::default(), Arc::new(Notify::new()));
    let (noted, word) = (seen.clone(), Arc::clone(&go));
    let upstream = RawUpstream::start(move |stream, _| {
        let (seen, word) = (noted.clone(), Arc::clone(&word));
        async move {
            let mut requests = h2::server::handshake(stream).await.unwrap();
            let mut answering = JoinSet::new();
            while let Some(Ok((request, mut answer))) = requests.accept().await {
                let (seen, word) = (seen.clone(), Arc::clone(&word));
                answering.spawn(async move {
                    let (head, mut content) = request.into_parts();
                    seen.note(format!("{:?} {:?}", head.method, head.headers.get("expect")));
                    word.notified().await;
                    if how == Answer::Asks {
                        answer.send_informational(Response::builder().status(100).body(()).unwrap()).unwrap();
                    }
                    if how != Answer::Refuses {
                        let mut body = Vec::new();
                        while let Some(data) = content.data().await {
                            let data = data.unwrap();
                            content.flow_control().release_capacity(data.len()).unwrap();
                            body.extend_from_slice(&data);
                        }
                        seen.note(String::from_utf8_lossy(&body));
                    }
                    let status = if how == Answer::Refuses { 413 } else { 200 };
                    let response = Response::builder().status(status).body(()).unwrap();
                    answer.send_response(response, false).unwrap().send_data("done".into(), true).unwrap();
                    // Whatever else comes is noted.
                    while let Some(Ok(data)) = content.data().await {
                        seen.note(String::from_utf8_lossy(&data));
                    }
                });
            }
        }
    })
    .await;
    (upstream, seen, go)
}

const EXPECTED: &str = "POST Some(\"100-continue\")";

/// Upstreams of HTTP/2 ask for the content likewise, or answer without it.
#[tokio::test(flavor = "multi_thread")]
async fn upstreams_of_http2_ask_likewise() {
    for how in [Answer::Asks, Answer::Refuses] {
        let (upstream, seen, go) = http2_upstream(how).await;
        let gate = TestGate::start(&upstream.route("auth = \"none\"\nprotocol = \"http2\"")).await;
        let answers = match how {
            Answer::Refuses => vec![EXPECTED],
            _ => vec![EXPECTED, "body"],
        };
        // From a client of HTTP/1.1.
        let mut raw = Raw::connect(gate.address()).await;
        raw.write(head("POST")).await;
        eventually("the upstream has the header", async || seen.all() == [EXPECTED]).await;
        let mut byte = [0];
        assert!(timeout(Duration::from_millis(200), raw.0.read(&mut byte)).await.is_err(), "not yet");
        go.notify_one();
        let given = Instant::now();
        if how == Answer::Asks {
            assert_eq!(raw.read_until("\r\n\r\n").await, CONTINUE);
            assert!(given.elapsed() < Duration::from_millis(600), "it did not need to be asked");
            raw.write("body").await;
        }
        let reply = raw.read_until("done").await;
        assert_eq!(reply.starts_with("HTTP/1.1 200"), how == Answer::Asks, "{reply}");
        assert_eq!(seen.all(), answers);
        // And of HTTP/2.
        seen.0.lock().unwrap().clear();
        let mut requests = interim::http2(None, &gate).await;
        let (mut response, mut content) = requests.send_request(waiting_request(), false).unwrap();
        eventually("the upstream has the header", async || seen.all() == [EXPECTED]).await;
        assert!(timeout(Duration::from_millis(200), interim::next(&mut response)).await.is_err(), "not yet");
        go.notify_one();
        if how == Answer::Asks {
            assert_eq!(interim::next(&mut response).await.unwrap().status(), StatusCode::CONTINUE);
            content.send_data("body".into(), true).unwrap();
        } else {
            assert!(interim::next(&mut response).await.is_none(), "asked for content that nobody wants");
        }
        let status = if how == Answer::Asks { StatusCode::OK } else { StatusCode::PAYLOAD_TOO_LARGE };
        assert_eq!(interim::whole(response).await, (status, "done".to_owned()));
        assert_eq!(seen.all(), answers);
    }
}

/// Those who say nothing get it after a second, which is no part of the time that the upstream has to answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_of_http2_that_says_nothing_gets_the_content_too() {
    let (upstream, seen, go) = http2_upstream(Answer::Waits).await;
    let settings = "auth = \"none\"\nprotocol = \"http2\"\nresponse_timeout = \"700ms\"";
    let gate = TestGate::start(&upstream.route(settings)).await;
    go.notify_one();
    let mut raw = Raw::connect(gate.address()).await;
    let begun = Instant::now();
    raw.write(head("POST")).await;
    assert_eq!(raw.read_until("\r\n\r\n").await, CONTINUE);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    raw.write("body").await;
    assert!(raw.read_until("done").await.starts_with("HTTP/1.1 200"));
    assert_eq!(seen.all(), [EXPECTED, "body"]);
    // Then it has that time, and no more.
    raw.write(format!("{}body", head("POST"))).await;
    let reply = raw.read_until("upstream_timeout").await;
    assert!(reply.contains("HTTP/1.1 504"), "{reply}");
}

/// Some upstreams know of no expectations: the content goes to them after a while.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_nothing_gets_the_content_after_a_second() {
    let upstream = RawUpstream::start(|mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await.unwrap();
            stream.write_all(&body).await.unwrap();
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let mut raw = Raw::connect(gate.address()).await;
    let begun = Instant::now();
    raw.write(head("POST")).await;
    assert_eq!(raw.read_until("\r\n\r\n").await, CONTINUE);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    raw.write("body").await;
    assert!(raw.read_until("\r\n\r\nbody").await.starts_with("HTTP/1.1 200"));
    // Whoever does not wait is not made to.
    let begun = Instant::now();
    for _ in 0..10 {
        raw.write(format!("{}body", head("POST"))).await;
        raw.read_until("\r\n\r\nbody").await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// Content that was not asked for was not sent, so it goes to another, if the method allows that.
#[tokio::test(flavor = "multi_thread")]
async fn content_that_still_waits_goes_elsewhere() {
    let count = Arc::new(AtomicUsize::new(0));
    let failing = |count: &Arc<AtomicUsize>| {
        let count = Arc::clone(count);
        RawUpstream::start(move |mut stream, _| {
            let count = Arc::clone(&count);
            async move {
                read_head(&mut stream).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let bad = failing(&count).await;
    let seen = Seen::default();
    let noted = seen.clone();
    let good = RawUpstream::start(move |mut stream, _| {
        let seen = noted.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                seen.note(head);
                ask_for_content(&mut stream, &seen).await;
            }
        }
    })
    .await;
    let both = |settings: &str| {
        format!(
            "[[routes]]\nauth = \"none\"\nupstreams = [\"http://{}\", \"http://{}\"]\nbalance = \"round_robin\"\n\
             ejection.failures = 0\n{settings}\n",
            bad.address(),
            good.address()
        )
    };
    let gate = TestGate::start(&both("retries.attempts = 2\nretries.budget = 100")).await;
    for _ in 0..4 {
        let mut raw = Raw::connect(gate.address()).await;
        raw.write(head("PUT")).await;
        assert_eq!(raw.read_until("\r\n\r\n").await, CONTINUE);
        raw.write("body").await;
        assert!(raw.read_until("done").await.starts_with("HTTP/1.1 200"));
    }
    assert!(count.load(Ordering::SeqCst) > 0, "the bad one was asked");
    assert!(
        seen.all().chunks(2).all(|pair| pair[0].contains("expect: 100-continue") && pair[1] == "body"),
        "{:?}",
        seen.all()
    );
    // What may have been done once is not done again.
    let (before, mut failed) = (seen.all().len(), 0);
    for _ in 0..4 {
        let mut raw = Raw::connect(gate.address()).await;
        raw.write(head("POST")).await;
        if raw.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 502") {
            failed += 1;
        } else {
            raw.write("body").await;
            raw.read_until("done").await;
        }
    }
    assert_eq!((failed, seen.all().len() - before), (2, 4));
}

/// Where nobody knows of it, the expectation ends at the gate.
#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_that_cannot_be_passed_on_is_met_by_the_gate() {
    let gate = TestGate::start("[[routes]]\nauth = \"none\"\nupstream = \"{upstream}\"\n").await;
    let old = head("POST").replace("HTTP/1.1", "HTTP/1.0");
    let reply = Raw::exchange(gate.address(), format!("{old}body")).await;
    assert!(reply.contains(" 200 OK") && !reply.contains("100 Continue"), "{reply}");
    assert!(gate.upstream.last().values("expect").is_empty());
    // Without content there is nothing to wait with.
    let reply =
        Raw::exchange(gate.address(), "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
            .await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(gate.upstream.last().values("expect").is_empty());
}
