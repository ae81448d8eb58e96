//! How the other proxies are configured: as whoever runs them for such an API would, and so that they lose nothing by it.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

use crate::{client::Manner, proxy::Setup, tokens::ISSUER};

/// A plain proxy with kept-alive connections on both sides. It looks at no token.
pub(crate) fn nginx(directory: &Path, [address, other]: [SocketAddr; 2], setup: &Setup<'_>) -> String {
    let upstream = setup.upstream;
    let (how, certificate) = if setup.manner == Manner::Tls {
        let path = |name| setup.directory.join(name).display().to_string();
        let (certificate, key) = (path("certificate.pem"), path("certificate.key"));
        (
            "ssl",
            format!(
                "        ssl_certificate {certificate};\n        ssl_certificate_key {key};\n        ssl_protocols TLSv1.3;\n"
            ),
        )
    } else {
        ("http2", String::new())
    };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {}/{kind};\n", directory.display()))
        .concat();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {}/pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
{temporary}    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_header_buffer_size 4k;
    client_body_buffer_size 64k;
    upstream api {{
        server {upstream};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address};
        listen {other} {how};
{certificate}        location / {{
            proxy_pass http://api;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
",
        directory.display()
    )
}

/// HAProxy again, which passes the bytes of each connection on.
pub(crate) fn relay(address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 8000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend public
    bind {address}
    default_backend api
backend api
    server api {upstream}
"
    )
}

/// Checks signature, issuer and expiry of each token, each time.
pub(crate) fn haproxy([address, other]: [SocketAddr; 2], setup: &Setup<'_>) -> String {
    let Setup { directory, upstream, algorithm, manner, .. } = setup;
    let how = match manner {
        Manner::Tls => format!("ssl crt {} alpn http/1.1", directory.join("both.pem").display()),
        _ => "proto h2".to_owned(),
    };
    format!(
        "global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    http-reuse always
frontend public
    bind {address}
    bind {other} {how}
    acl open path_beg /open
    http-request set-var(txn.bearer) http_auth_bearer unless open
    http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg') unless open
    http-request set-var(txn.iss) var(txn.bearer),jwt_payload_query('$.iss') unless open
    http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int') unless open
    http-request set-var(txn.now) date() unless open
    http-request deny deny_status 401 unless open or {{ var(txn.alg) -m str {algorithm} }}
    http-request deny deny_status 401 unless open or {{ var(txn.iss) -m str {ISSUER} }}
    http-request deny deny_status 401 unless open or {{ var(txn.exp),sub(txn.now) -m int gt 0 }}
    http-request deny deny_status 401 unless open or {{ var(txn.bearer),jwt_verify(txn.alg,\"{}\") -m int 1 }}
    default_backend api
backend api
    server api {upstream}
",
        directory.join("key.pem").display()
    )
}

/// Checks signature, issuer and expiry of each token that is not in its cache of verified ones.
pub(crate) fn envoy([address, other]: [SocketAddr; 2], setup: &Setup<'_>) -> String {
    const TYPES: &str = "type.googleapis.com/envoy.extensions";
    let bind =
        |at: SocketAddr| json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
    let file = |name: &str| json!({ "filename": setup.directory.join(name).display().to_string() });
    let tokens = json!({
        "@type": format!("{TYPES}.filters.http.jwt_authn.v3.JwtAuthentication"),
        "providers": { "bench": {
            "issuer": ISSUER,
            "local_jwks": file("jwks.json"),
            "forward": true,
            "jwt_cache_config": { "jwt_cache_size": 100_000 },
        } },
        "rules": [
            { "match": { "prefix": "/open" } },
            { "match": { "prefix": "/" }, "requires": { "provider_name": "bench" } },
        ],
    });
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "public",
        "route_config": { "virtual_hosts": [{
            "name": "api",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "api" } }],
        }] },
        "http_filters": [
            { "name": "jwt", "typed_config": tokens },
            { "name": "router", "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") } },
        ],
    });
    let listener = |at: SocketAddr, tls: Option<Value>| {
        let filters = json!([{ "name": "http", "typed_config": manager.clone() }]);
        let chain = tls.map_or_else(
            || json!({ "filters": filters.clone() }),
            |tls| json!({ "filters": filters.clone(), "transport_socket": { "name": "tls", "typed_config": tls } }),
        );
        json!({ "address": bind(at), "filter_chains": [chain] })
    };
    let tls = (setup.manner == Manner::Tls).then(|| {
        json!({
            "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["http/1.1"],
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_3" },
                "tls_certificates": [{ "certificate_chain": file("certificate.pem"), "private_key": file("certificate.key") }],
            },
        })
    });
    let many = json!({ "max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192 });
    let upstream = json!({ "endpoint": { "address": bind(setup.upstream) } });
    json!({
        "static_resources": {
            "listeners": [listener(address, None), listener(other, tls)],
            "clusters": [{
                "name": "api",
                "type": "STATIC",
                "connect_timeout": "5s",
                "circuit_breakers": { "thresholds": [many] },
                "load_assignment": { "cluster_name": "api", "endpoints": [{ "lb_endpoints": [upstream] }] },
            }],
        },
    })
    .to_string()
}
