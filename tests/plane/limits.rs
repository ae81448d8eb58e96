//! How much a route takes.

mod bodies;
mod own;
mod rates;
mod requests;

use http::{Method, Request, Version};

use crate::{
    proxy::route,
    support::{
        client::{Reply, request},
        upstream::StreamBody,
    },
};

/// A route with these limits.
fn limited(limits: &str) -> String {
    route(Version::HTTP_11, &format!("limits = {{ {limits} }}"))
}

/// A `GET` with an empty body.
fn get(version: Version, path: &str, token: &str) -> Request<StreamBody> {
    request(version, Method::GET, path, token).body(StreamBody::from("")).unwrap()
}

/// A gRPC call with an empty body.
fn call(token: &str) -> Request<StreamBody> {
    let builder = request(Version::HTTP_2, Method::POST, "/service/Method", token);
    builder.header("content-type", "application/grpc").body(StreamBody::from("")).unwrap()
}

/// `grpc-status` and `grpc-message` of a trailers-only response.
fn grpc_status(reply: &Reply) -> (&str, &str) {
    assert_eq!(reply.status.as_u16(), 200);
    let field = |name| reply.headers.get(name).map_or("", |value| value.to_str().unwrap());
    (field("grpc-status"), field("grpc-message"))
}

/// Status, problem code and `Retry-After` in seconds.
fn refusal(reply: &Reply) -> (u16, String, Option<u64>) {
    let after = reply.headers.get("retry-after").map(|after| after.to_str().unwrap().parse().unwrap());
    (reply.status.as_u16(), reply.code(), after)
}
