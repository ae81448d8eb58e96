//! TLS towards clients.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, Version};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{OPEN, connect, curl, exchange, handshakes, metrics, resumed, shown, warnings};
use crate::{
    authority::{Authority, Identity},
    support::{
        client::{Raw, Reply, request},
        eventually,
        gate::TestGate,
    },
};

/// `[listener.tls]` with this certificate, and more.
fn settings(authority: &Authority, identity: &Identity, more: &str) -> String {
    let [certificate, key] = authority.write("api", identity);
    format!("[listener]\n{more}\n[listener.tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n")
}

async fn gate(authority: &Authority, more: &str) -> TestGate {
    let identity = authority.certify(&["api.example"]);
    TestGate::start(&format!("{}{more}\n{OPEN}", settings(authority, &identity, ""))).await
}

/// Of an upstream's last request.
fn told(gate: &TestGate, field: &str) -> Option<String> {
    Some(gate.upstream.last().headers.get(field)?.to_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_gets_http2_and_http1() {
    let authority = Authority::new("test");
    let gate = gate(&authority, "").await;
    let port = gate.address().port();
    let (resolve, url) = (format!("api.example:{port}:127.0.0.1"), format!("https://api.example:{port}/"));
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1"), ("--tls-max=1.2", "2")] {
        let flags: Vec<_> = flag.split('=').collect();
        let fixed =
            ["--cacert", &authority.file(), "--resolve", &resolve, "--write-out", " over %{http_version}", &url];
        let Some((wrote, said)) = curl(&[&flags[..], &fixed].concat()).await else { return };
        assert_eq!((&*wrote, &*said), (&*format!("ok over {version}"), ""), "{flag}");
        assert_eq!(told(&gate, "x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(told(&gate, "x-forwarded-for").as_deref(), Some("127.0.0.1"));
    }
    let (_, said) = curl(&["--resolve", &resolve, &url]).await.unwrap();
    assert!(said.contains("certificate"), "{said}");
    eventually("that is counted", async || handshakes(&gate, "refused_by_client").await >= 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_and_protocols_are_agreed_on() {
    let authority = Authority::new("test");
    let gate = gate(&authority, "").await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (offered, agreed) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
        {
            let client = Arc::new(authority.client_of(offered, None, &[version]));
            let stream = connect(gate.address(), "api.example", &client).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.alpn_protocol(), agreed.map(str::as_bytes));
            assert_eq!(session.protocol_version(), Some(version.version));
            if agreed != Some("h2") {
                let reply = exchange(stream).await.unwrap();
                assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("ok"), "{reply}");
                continue;
            }
            let io = TokioIo::new(stream);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            let sent = request(Version::HTTP_2, Method::GET, "/", "").body(Empty::<bytes::Bytes>::new()).unwrap();
            let reply = Reply::read(sender.send_request(sent).await.unwrap()).await.unwrap();
            assert_eq!(reply.text(), "ok");
        }
    }
    let client = Arc::new(authority.client(&["spdy/3"], None));
    let error = connect(gate.address(), "api.example", &client).await.unwrap_err();
    assert!(format!("{error:?}").contains("NoApplicationProtocol"), "{error:?}");
    assert_eq!(handshakes(&gate, "protocol").await, 1);
    assert!(handshakes(&gate, "full").await >= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_without_agreement_is_not_spoken() {
    let authority = Authority::new("test");
    let gate = gate(&authority, "").await;
    let client = Arc::new(authority.client(&[], None));
    let mut stream = connect(gate.address(), "api.example", &client).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_certificates_of_an_authority() {
    let (authority, clients, others) = (Authority::new("test"), Authority::new("clients"), Authority::new("others"));
    let gate = gate(&authority, &format!("client_ca_file = {:?}", clients.file())).await;
    let alice = clients.certify(&["alice"]);
    let client = Arc::new(authority.client(&[], Some(&alice)));
    let stream = connect(gate.address(), "api.example", &client).await.unwrap();
    assert!(exchange(stream).await.unwrap().ends_with("ok"));
    let expected = format!(":{}:", STANDARD.encode(alice.certificate()));
    assert_eq!(told(&gate, "client-cert"), Some(expected));

    let hits = gate.upstream.hits();
    for identity in [None, Some(others.certify(&["alice"])), Some(clients.expired(&["alice"]))] {
        let client = Arc::new(authority.client(&[], identity.as_ref()));
        // With TLS 1.3 the client is done before the gate has seen its certificate.
        let refused = match connect(gate.address(), "api.example", &client).await {
            Ok(stream) => exchange(stream).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(format!("{refused:?}").contains("AlertReceived"), "{refused:?}");
    }
    assert_eq!(gate.upstream.hits(), hits);
    eventually("they are counted", async || handshakes(&gate, "client_certificate").await == 3).await;

    let [certificate, key] = clients.write("alice", &alice);
    let url = format!("https://127.0.0.1:{}/", gate.address().port());
    let arguments = ["--cacert", &authority.file(), "--cert", &certificate, "--key", &key, &url];
    let Some((wrote, said)) = curl(&arguments).await else { return };
    assert_eq!((&*wrote, &*said), ("ok", ""));
    let (_, said) = curl(&["--cacert", &authority.file(), &url]).await.unwrap();
    assert!(said.contains("certificate required"), "it is told why: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_say_of_certificates_is_not_believed() {
    let (authority, clients) = (Authority::new("test"), Authority::new("clients"));
    let more = format!("client_ca_file = {:?}\nclient_certificates = \"optional\"", clients.file());
    let gate = gate(&authority, &more).await;
    let client = Arc::new(authority.client(&[], None));
    let mut stream = connect(gate.address(), "api.example", &client).await.unwrap();
    let forged = "GET / HTTP/1.1\r\nHost: a\r\nClient-Cert: :eA==:\r\nclient_cert: :eA==:\r\nClient-Cert-Chain: :eA==:\r\n\
                  Connection: close\r\n\r\n";
    stream.write_all(forged.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    // Fields that others may take for one another are refused, or removed.
    if answer.starts_with("HTTP/1.1 200") {
        let fields = gate.upstream.last().headers;
        assert!(fields.keys().all(|name| !name.as_str().starts_with("client")), "{fields:?}");
    }
    let mut stream = connect(gate.address(), "api.example", &client).await.unwrap();
    let forged =
        "GET / HTTP/1.1\r\nHost: a\r\nClient-Cert: :eA==:\r\nClient-Cert-Chain: :eA==:\r\nConnection: close\r\n\r\n";
    stream.write_all(forged.as_bytes()).await.unwrap();
    answer.clear();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let fields = gate.upstream.last().headers;
    assert!(fields.keys().all(|name| !name.as_str().starts_with("client")), "{fields:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_fits_the_host_that_is_named() {
    let authority = Authority::new("test");
    let identities = [&["one.example"][..], &["*.two.example", "two.example"], &["x.two.example"]];
    let identities = identities.map(|names| authority.certify(names));
    let [_, two, exact] = [0, 1, 2].map(|number| authority.write(&number.to_string(), &identities[number]));
    let file =
        |[certificate, key]: [String; 2]| format!("{{ certificate_file = {certificate:?}, key_file = {key:?} }}");
    let more = format!("certificates = [{}, {}]\n", file(two), file(exact));
    let text = format!("{}{more}{OPEN}", settings(&authority, &identities[0], ""));
    let gate = TestGate::start(&text).await;
    let client = authority.client(&[], None);
    let unnamed = {
        let mut client = client.clone();
        client.enable_sni = false;
        Arc::new(client)
    };
    let client = Arc::new(client);
    for (host, number) in [
        ("one.example", 0),
        ("two.example", 1),
        ("a.two.example", 1),
        ("x.two.example", 2),
        ("X.TWO.example", 2),
        // No certificate is for an address, but all have it here.
        ("127.0.0.1", 0),
    ] {
        let stream = connect(gate.address(), host, &client).await.unwrap();
        assert_eq!(shown(&stream), identities[number].certificate(), "{host}");
    }
    for host in ["three.example", "a.b.two.example"] {
        let error = connect(gate.address(), host, &client).await.unwrap_err();
        assert!(format!("{error:?}").contains("NotValidForName"), "{host}: {error:?}");
    }
    let stream = connect(gate.address(), "one.example", &unnamed).await.unwrap();
    assert_eq!(shown(&stream), identities[0].certificate());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_tls_or_is_slow_is_turned_away_and_others_are_served() {
    let authority = Authority::new("test");
    let identity = authority.certify(&["api.example"]);
    let listener = "header_timeout = \"400ms\"\nmax_connections = 4";
    let gate = TestGate::start(&format!("{}{OPEN}", settings(&authority, &identity, listener))).await;
    let mut silent = [Raw::connect(gate.address()).await, Raw::connect(gate.address()).await];
    silent[1].write([22, 3, 1, 2]).await;
    eventually("both are connections", async || metrics(&gate).await["portcullis_connections"] == 2).await;
    let said = Raw::exchange(gate.address(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!said.contains("HTTP/"), "{said}");
    let client = Arc::new(authority.client(&[], None));
    let stream = connect(gate.address(), "api.example", &client).await.unwrap();
    assert!(exchange(stream).await.unwrap().ends_with("ok"));
    for raw in &mut silent {
        raw.read_to_end().await;
    }
    drop(Raw::connect(gate.address()).await);
    eventually("all are counted", async || {
        let [not_tls, timeout, closed] = ["not_tls", "timeout", "closed"].map(|outcome| handshakes(&gate, outcome));
        (not_tls.await, timeout.await, closed.await) == (1, 2, 1)
    })
    .await;
    eventually("nothing is left", async || metrics(&gate).await["portcullis_connections"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed() {
    let authority = Authority::new("test");
    let gate = gate(&authority, "").await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Arc::new(authority.client_of(&[], None, &[version]));
        for again in [false, true] {
            let stream = connect(gate.address(), "api.example", &client).await.unwrap();
            assert_eq!(resumed(&stream), again, "{version:?}");
            assert!(exchange(stream).await.unwrap().ends_with("ok"));
        }
    }
    assert_eq!((handshakes(&gate, "full").await, handshakes(&gate, "resumed").await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_is_told() {
    let authority = Authority::new("test");
    let identity = authority.expired(&["api.example"]);
    let gate = TestGate::start(&format!("{}{OPEN}", settings(&authority, &identity, ""))).await;
    let [warning] = &warnings(&gate).await[..] else { panic!() };
    assert!(warning.contains("api.pem has expired on 2000-01-02"), "{warning}");
    let metrics = metrics(&gate).await;
    let (name, expiry) = metrics
        .iter()
        .find(|(name, _)| name.starts_with("portcullis_tls_certificate_expiry_timestamp_seconds"))
        .unwrap();
    assert!(name.contains("api.pem") && *expiry == 946_771_200, "{name} {expiry}");
}
