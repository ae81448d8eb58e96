//! Unix sockets.

use super::api::Api;
use crate::support::gate::TestGate;

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_may_be_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    for (protocol, preserve, host) in
        [("http1", true, "api.example"), ("http1", false, "localhost"), ("http2", true, "")]
    {
        let api = Api::unix(&path, "unix");
        let gate = TestGate::start(&format!(
            "[[routes]]\nupstream = \"unix:{}\"\nauth = \"none\"\nprotocol = \"{protocol}\"\npreserve_host = {preserve}\n",
            path.display()
        ))
        .await;
        for _ in 0..3 {
            let reply = gate.get("/a?b", "").await;
            assert_eq!((reply.status.as_u16(), reply.text()), (200, "unix"));
        }
        let seen = api.last();
        assert_eq!(seen.uri.path_and_query().unwrap(), "/a?b");
        if !host.is_empty() {
            assert_eq!(seen.headers["host"], host);
        }
        assert_eq!(api.connections(), 1, "the connection is kept");
        drop(api);
        std::fs::remove_file(&path).unwrap();
        let reply = gate.get("/", "").await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (502, "upstream_unavailable"));
    }
}

/// Relative to the file of the configuration, as every path in it.
#[tokio::test]
async fn its_path_may_be_relative() {
    let text = "[[routes]]\nauth = \"none\"\nupstream = \"unix:run/app.sock\"\n";
    let config = portcullis::config::Config::parse(text, "/etc/gate/gate.toml", []).unwrap();
    assert_eq!(config.routes[0].upstream.origins[0].transport.to_string(), "unix:/etc/gate/run/app.sock");
}
