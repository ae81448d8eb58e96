//! TLS, with authorities of the tests' own.

use std::fs;

use http::Version;

use super::api::Api;
use crate::{
    authority::{Authority, Identity},
    support::{client::Reply, gate::TestGate, log},
};

const HTTP1: [&str; 1] = ["http/1.1"];
const HTTP2: [&str; 1] = ["h2"];

/// A gate in front of this API, with these `tls` settings.
async fn gate(api: &Api, protocol: &str, tls: &str) -> TestGate {
    let port = api.address().port();
    TestGate::start(&format!(
        "[[routes]]\nupstream = \"https://127.0.0.1:{port}\"\nauth = \"none\"\nprotocol = \"{protocol}\"\n[routes.tls]\n{tls}\n"
    ))
    .await
}

fn trusting(authority: &Authority) -> String {
    format!("ca_file = \"{}\"", authority.file())
}

/// It is said why.
#[track_caller]
fn explained(api: &Api, why: &str) {
    let said = format!("TLS with upstream `https://{}` failed: {why}", api.address());
    assert!(log::lines(&said).len() == 1, "{said}");
}

#[track_caller]
fn refused(reply: &Reply) {
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (502, "upstream_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_go_through_tls() {
    let authority = Authority::new("test");
    for (protocol, alpn, version) in
        [("http1", HTTP1, Version::HTTP_11), ("http1", [""; 1], Version::HTTP_11), ("http2", HTTP2, Version::HTTP_2)]
    {
        let alpn: Vec<_> = alpn.into_iter().filter(|name| !name.is_empty()).collect();
        let api = Api::tls(authority.certify(&["api.test"]).server(&alpn, None), "tls");
        let gate = gate(&api, protocol, &trusting(&authority)).await;
        for _ in 0..3 {
            let reply = gate.get("/a?b", "").await;
            assert_eq!((reply.status.as_u16(), reply.text()), (200, "tls"), "{protocol} {alpn:?}");
        }
        let seen = api.last();
        assert_eq!((seen.version, seen.uri.path_and_query().unwrap().as_str()), (version, "/a?b"));
        // The client came in clear text, and that is what the API is told.
        assert_eq!(seen.headers["x-forwarded-proto"], "http");
        if protocol == "http2" {
            assert_eq!(seen.uri.scheme_str(), Some("https"));
        }
        assert_eq!(api.connections(), 1, "the connection is kept");
    }
}

/// A megabyte each way: records are split and put together.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_go_through_tls() {
    use http::{Method, Response};

    use crate::support::{
        client::{Client, request},
        upstream::StreamBody,
    };

    let authority = Authority::new("test");
    for (protocol, alpn) in [("http1", HTTP1), ("http2", HTTP2)] {
        let api = Api::tls(authority.certify(&[]).server(&alpn, None), "tls");
        api.handle(|request| async { Response::new(StreamBody::incoming(request.into_body())) });
        let gate = gate(&api, protocol, &trusting(&authority)).await;
        let sent = vec![b'x'; 1 << 20];
        let request = request(Version::HTTP_11, Method::POST, "/", "").body(StreamBody::from(sent.clone())).unwrap();
        let reply = Client::http1(gate.address()).await.fetch(request).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (200, sent.len()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_sent_and_checked() {
    let authority = Authority::new("test");
    let api = Api::tls(authority.certify_only(&["api.test"]).server(&HTTP1, None), "tls");
    log::capture();
    let other = gate(&api, "http1", &trusting(&authority)).await;
    refused(&other.get("/", "").await);
    explained(&api, "its certificate is for another name; see `tls.server_name`");
    let named = gate(&api, "http1", &format!("{}\nserver_name = \"api.test\"", trusting(&authority))).await;
    assert_eq!(named.get("/", "").await.text(), "tls");
    assert_eq!(api.last().server_name.as_deref(), Some("api.test"));
    let misnamed = gate(&api, "http1", &format!("{}\nserver_name = \"other.test\"", trusting(&authority))).await;
    refused(&misnamed.get("/", "").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_believed() {
    let (authority, stranger) = (Authority::new("test"), Authority::new("stranger"));
    let serve = |identity: &Identity| Api::tls(identity.server(&HTTP1, None), "tls");

    log::capture();
    let api = serve(&stranger.certify(&[]));
    refused(&gate(&api, "http1", &trusting(&authority)).await.get("/", "").await);
    explained(&api, "its certificate is signed by nobody who is trusted; see `tls.ca_file`");
    // The system does not know the authorities of this test.
    refused(&gate(&api, "http1", "").await.get("/", "").await);
    assert_eq!(gate(&api, "http1", &trusting(&stranger)).await.get("/", "").await.text(), "tls");

    let api = serve(&authority.expired(&[]));
    refused(&gate(&api, "http1", &trusting(&authority)).await.get("/", "").await);
    explained(&api, "its certificate has expired");
    assert_eq!(api.hits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_may_be_its_own_authority() {
    let (authority, identity) = Authority::self_signed();
    let api = Api::tls(identity.server(&HTTP1, None), "tls");
    assert_eq!(gate(&api, "http1", &trusting(&authority)).await.get("/", "").await.text(), "tls");
    refused(&gate(&api, "http1", &trusting(&Authority::self_signed().0)).await.get("/", "").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_want_a_certificate() {
    let (authority, clients) = (Authority::new("test"), Authority::new("clients"));
    let api = Api::tls(authority.certify(&[]).server(&HTTP1, Some(&clients)), "tls");
    let [certificate, key] = clients.write("client", &clients.certify(&["gate.test"]));
    let identity = |certificate: &str, key: &str| {
        format!("{}\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"", trusting(&authority))
    };
    assert_eq!(gate(&api, "http1", &identity(&certificate, &key)).await.get("/", "").await.text(), "tls");
    refused(&gate(&api, "http1", &trusting(&authority)).await.get("/", "").await);
    let [certificate, key] = authority.write("client", &authority.certify(&["gate.test"]));
    refused(&gate(&api, "http1", &identity(&certificate, &key)).await.get("/", "").await);
    assert_eq!(api.hits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_agreed_upon_or_not_spoken() {
    let authority = Authority::new("test");
    for alpn in [&HTTP1[..], &[]] {
        let api = Api::tls(authority.certify(&[]).server(alpn, None), "tls");
        refused(&gate(&api, "http2", &trusting(&authority)).await.get("/", "").await);
        assert_eq!(api.hits(), 0);
    }
    // Whoever speaks HTTP/2 alone is not sent HTTP/1.1.
    let api = Api::tls(authority.certify(&[]).server(&HTTP2, None), "tls");
    refused(&gate(&api, "http1", &trusting(&authority)).await.get("/", "").await);
    assert_eq!(api.hits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_is_within_the_time_for_connecting() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = Authority::new("test");
    let gate = TestGate::start(&format!(
        "[[routes]]\nupstream = \"https://{}\"\nauth = \"none\"\nconnect_timeout = \"100ms\"\ntls.ca_file = \"{}\"\n",
        silent.local_addr().unwrap(),
        authority.file()
    ))
    .await;
    let reply = gate.get("/", "").await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (504, "upstream_connect_timeout"));
}

/// Something that speaks, but not TLS.
#[tokio::test(flavor = "multi_thread")]
async fn clear_text_is_not_taken_for_tls() {
    let (authority, api) = (Authority::new("test"), Api::start("clear"));
    refused(&gate(&api, "http1", &trusting(&authority)).await.get("/", "").await);
    assert_eq!(api.hits(), 0);
}

#[test]
fn faulty_files_are_told_at_their_keys() {
    let (authority, other) = (Authority::new("test"), Authority::new("other"));
    let directory = authority.directory();
    let [certificate, key] = authority.write("client", &authority.certify(&[]));
    let [_, other_key] = other.write("client", &other.certify(&[]));
    fs::write(directory.join("empty"), "").unwrap();
    fs::write(directory.join("broken"), "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
    let name = directory.join("gate.toml");
    let problems = |tls: &str| {
        let text = format!("[[routes]]\nauth = \"none\"\nupstream = \"https://a.test\"\n[routes.tls]\n{tls}\n");
        portcullis::config::Config::parse(&text, name.to_str().unwrap(), []).map_err(|errors| errors.to_string())
    };
    problems("ca_file = \"ca.pem\"").unwrap();
    problems(&format!("ca_file = \"ca.pem\"\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"")).unwrap();
    for (tls, place, message) in [
        ("ca_file = \"nowhere\"".to_owned(), "5:11: routes[0].tls.ca_file", "cannot be read"),
        ("ca_file = \"empty\"".to_owned(), "5:11: routes[0].tls.ca_file", "holds no certificate"),
        ("ca_file = \"broken\"".to_owned(), "5:11: routes[0].tls.ca_file", "is not in PEM form"),
        (
            format!("ca_file = \"ca.pem\"\ncertificate_file = \"{certificate}\"\nkey_file = \"{certificate}\""),
            "7:12: routes[0].tls.key_file",
            "holds no private key",
        ),
        (
            format!("ca_file = \"ca.pem\"\ncertificate_file = \"{certificate}\"\nkey_file = \"{other_key}\""),
            "7:12: routes[0].tls.key_file",
            "is not the key of the certificate",
        ),
        (
            format!("ca_file = \"ca.pem\"\ncertificate_file = \"{key}\"\nkey_file = \"{key}\""),
            "6:20: routes[0].tls.certificate_file",
            "holds no certificate",
        ),
        (
            format!("ca_file = \"ca.pem\"\ncertificate_file = \"{certificate}\""),
            "6:20: routes[0].tls.certificate_file",
            "a certificate needs its key",
        ),
        (
            format!("ca_file = \"ca.pem\"\nkey_file = \"{key}\""),
            "6:12: routes[0].tls.key_file",
            "a key needs its certificate",
        ),
        ("server_name = \"a b\"".to_owned(), "5:15: routes[0].tls.server_name", "not a name or address"),
    ] {
        let errors = problems(&tls).expect_err(&tls);
        assert!(errors.contains(place) && errors.contains(message), "{tls}\n{errors}");
    }
}
