//! A request in the form in which its upstream gets it.

use std::sync::Arc;

use http::{
    HeaderValue, Request, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{
    Protocol,
    body::RequestBody,
    endpoint::Endpoint,
    fields::{self, Arrival},
    proxy::Shared,
};
use crate::{limit::intake::Intake, stream::Leash};

impl Shared {
    /// The request as the upstream gets it.
    pub(super) fn outbound(&self, request: Request<Incoming>, endpoint: &Endpoint) -> Request<RequestBody> {
        let (mut parts, body) = request.into_parts();
        if let Some(Arrival { downstream, .. }) = parts.extensions.get() {
            fields::add_forwarded(&mut parts.headers, downstream, parts.version, &self.reserved);
        }
        // HTTP/1.0 knows of no expectations, and without content there is nothing to wait with (RFC 9110 §10.1.1). Over HTTP/2 the
        // library tells nobody of `100 Continue`.
        if self.settings().protocol != Protocol::Http1 || parts.version == Version::HTTP_10 || body.is_end_stream() {
            parts.headers.remove(header::EXPECT);
        }
        let host = parts.headers.get(header::HOST).cloned();
        let path = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        match self.settings().protocol {
            Protocol::Http1 => {
                fields::join_cookies(&mut parts.headers);
                if !self.settings().preserve_host || host.is_none() {
                    parts.headers.insert(header::HOST, own_host(endpoint));
                }
                parts.uri = Uri::from(path);
                parts.version = Version::HTTP_11;
            }
            Protocol::Http2 => {
                parts.headers.remove(header::HOST);
                let shown =
                    host.filter(|_| self.settings().preserve_host).and_then(|host| host.as_bytes().try_into().ok());
                let mut uri = http::uri::Parts::default();
                uri.scheme = Some(scheme(endpoint));
                uri.authority = Some(shown.unwrap_or_else(|| endpoint.authority.clone()));
                uri.path_and_query = Some(path);
                // Scheme, authority and path are all there, which is all that can be missing.
                parts.uri = Uri::from_parts(uri).unwrap_or_default();
                parts.version = Version::HTTP_2;
            }
        }
        let intake = parts.extensions.remove::<Arc<Intake>>();
        let leash = parts.extensions.remove::<Leash>();
        parts.extensions.clear();
        let body =
            RequestBody::new(body, &self.reserved, self.settings().body_idle_timeout).counted(intake).leashed(leash);
        Request::from_parts(parts, body)
    }

    /// Tells another endpoint what it is called, where it is told at all.
    pub(super) fn readdress(&self, request: &mut Request<RequestBody>, endpoint: &Endpoint) {
        let preserve_host = self.settings().preserve_host;
        match self.settings().protocol {
            Protocol::Http1 if preserve_host => {}
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
