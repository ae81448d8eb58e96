//! A request in the form in which its upstream gets it.

use std::{mem, sync::Arc};

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

/// A request on its way to an upstream.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Where its client's was: it is handed on from one to another often. Without content.
    pub(super) head: Box<Request<Incoming>>,
    pub(super) body: RequestBody,
}

impl Shared {
    /// The request as the upstream gets it, once it is [addressed](Self::address).
    pub(super) fn outbound(
        &self,
        mut head: Box<Request<Incoming>>,
        arrival: &Arrival,
        leash: Option<Leash>,
    ) -> Outbound {
        let body = mem::replace(head.body_mut(), Incoming::Empty);
        let version = head.version();
        fields::add_forwarded(head.headers_mut(), &arrival.downstream, version, &self.reserved);
        // HTTP/1.0 knows of no expectations, and without content there is nothing to wait with (RFC 9110 §10.1.1).
        if version == Version::HTTP_10 || body.is_end_stream() {
            head.headers_mut().remove(header::EXPECT);
        }
        match self.settings().protocol {
            // It is sent without scheme and authority, whether it has them or not.
            Protocol::Http1 => {
                fields::join_cookies(head.headers_mut());
                *head.version_mut() = Version::HTTP_11;
            }
            Protocol::Http2 => {
                let path = mem::take(head.uri_mut()).into_parts().path_and_query;
                let host = head.headers_mut().remove(header::HOST).filter(|_| self.settings().preserve_host);
                let mut uri = http::uri::Parts::default();
                uri.authority = host.and_then(|host| host.as_bytes().try_into().ok());
                // An authority has to have one; which it is, the endpoint tells.
                uri.scheme = uri.authority.is_some().then_some(Scheme::HTTP);
                uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
                // All that can be missing is there.
                *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
                *head.version_mut() = Version::HTTP_2;
            }
        }
        let intake = head.extensions_mut().remove::<Arc<Intake>>();
        head.extensions_mut().clear();
        let body =
            RequestBody::new(body, &self.reserved, self.settings().body_idle_timeout).counted(intake).leashed(leash);
        Outbound { head, body }
    }

    /// Tells the endpoint what it is called, where it is told at all.
    pub(super) fn address(&self, Outbound { head: request, .. }: &mut Outbound, endpoint: &Endpoint) {
        let preserve_host = self.settings().preserve_host;
        match self.settings().protocol {
            Protocol::Http1 if preserve_host && request.headers().contains_key(header::HOST) => {}
            Protocol::Http1 => {
                request.headers_mut().insert(header::HOST, own_host(endpoint));
            }
            Protocol::Http2 => {
                let mut uri = mem::take(request.uri_mut()).into_parts();
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
