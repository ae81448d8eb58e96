//! A request in the form in which its upstream gets it.

use std::sync::Arc;

use http::{
    HeaderValue, Request, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use http_body::Body as _;

use super::{
    Protocol,
    body::RequestBody,
    endpoint::Endpoint,
    fields::{self, Arrival},
    proxy::Shared,
};
use crate::incoming::Incoming;
use crate::{limit::intake::Intake, stream::Leash};

/// A request on its way to an upstream. It is handed on from one to another often, so it stays where it is.
pub(super) type Outbound = Box<Request<RequestBody>>;

impl Shared {
    /// The request as the upstream gets it, once it is [addressed](Self::address).
    pub(super) fn outbound(&self, request: Request<Incoming>, leash: Option<Leash>) -> Outbound {
        let (mut parts, body) = request.into_parts();
        if let Some(Arrival { downstream, .. }) = parts.extensions.get() {
            fields::add_forwarded(&mut parts.headers, downstream, parts.version, &self.reserved);
        }
        // HTTP/1.0 knows of no expectations, and without content there is nothing to wait with (RFC 9110 §10.1.1). Over HTTP/2 the
        // library tells nobody of `100 Continue`.
        if self.settings().protocol != Protocol::Http1 || parts.version == Version::HTTP_10 || body.is_end_stream() {
            parts.headers.remove(header::EXPECT);
        }
        let path = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        match self.settings().protocol {
            Protocol::Http1 => {
                fields::join_cookies(&mut parts.headers);
                parts.uri = Uri::from(path);
                parts.version = Version::HTTP_11;
            }
            Protocol::Http2 => {
                let host = parts.headers.remove(header::HOST).filter(|_| self.settings().preserve_host);
                let mut uri = http::uri::Parts::default();
                uri.authority = host.and_then(|host| host.as_bytes().try_into().ok());
                // An authority has to have one; which it is, the endpoint tells.
                uri.scheme = uri.authority.is_some().then_some(Scheme::HTTP);
                uri.path_and_query = Some(path);
                // All that can be missing is there.
                parts.uri = Uri::from_parts(uri).unwrap_or_default();
                parts.version = Version::HTTP_2;
            }
        }
        let intake = parts.extensions.remove::<Arc<Intake>>();
        parts.extensions.clear();
        let body =
            RequestBody::new(body, &self.reserved, self.settings().body_idle_timeout).counted(intake).leashed(leash);
        Box::new(Request::from_parts(parts, body))
    }

    /// Tells the endpoint what it is called, where it is told at all.
    pub(super) fn address(&self, request: &mut Request<RequestBody>, endpoint: &Endpoint) {
        let preserve_host = self.settings().preserve_host;
        match self.settings().protocol {
            Protocol::Http1 if preserve_host && request.headers().contains_key(header::HOST) => {}
            Protocol::Http1 => {
                request.headers_mut().insert(header::HOST, own_host(endpoint));
            }
            Protocol::Http2 => {
                let mut uri = std::mem::take(request.uri_mut()).into_parts();
                uri.scheme = Some(scheme(endpoint));
                uri.authority = uri.authority.filter(|_| preserve_host).or_else(|| Some(endpoint.authority.clone()));
                *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
            }
        }
    }
}

fn own_host(endpoint: &Endpoint) -> HeaderValue {
    HeaderValue::try_from(endpoint.authority.as_str()).unwrap_or_else(|_| HeaderValue::from_static("upstream"))
}

fn scheme(endpoint: &Endpoint) -> Scheme {
    if endpoint.transport.is_tls() { Scheme::HTTPS } else { Scheme::HTTP }
}
