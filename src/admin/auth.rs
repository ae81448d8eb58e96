//! Who may use the admin endpoints.

use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::Response,
};
use secrecy::ExposeSecret;

use super::{Admin, answer::Refusal};

/// Lets a request through that carries the bearer secret; or, where none is configured, one that no web page can have sent.
pub(super) async fn check(
    State(Admin(admin)): State<Admin>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let fields = request.headers();
    match &admin.token {
        Some(token) if !carries(fields, token.expose_secret()) => {
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", "the admin token is missing or wrong"));
        }
        None if may_be_a_web_page(request.uri(), fields) => {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "cross_site",
                "without an admin token, only local programs are served; configure admin.token_file",
            ));
        }
        Some(_) | None => {}
    }
    Ok(next.run(request).await)
}

/// Takes as long for any token of the right length.
fn carries(fields: &HeaderMap, token: &str) -> bool {
    let mut values = fields.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Some((scheme, rest)) = value.as_bytes().split_at_checked(7) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && verify_slices_are_equal(rest.trim_ascii(), token.as_bytes()).is_ok()
}

/// A page of another site carries `Origin` or says so by Fetch Metadata; a rebound name is no loopback name.
fn may_be_a_web_page(target: &Uri, fields: &HeaderMap) -> bool {
    let site = fields.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let foreign = !matches!(site, None | Some(b"none" | b"same-origin"));
    let named = fields.get_all(header::HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok());
    let mut hosts = named.chain(target.authority().cloned().map(Some)).peekable();
    let local = hosts.peek().is_some() && hosts.all(|host| host.is_some_and(|host| is_loopback(host.host())));
    foreign || fields.contains_key(header::ORIGIN) || !local
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (name.parse::<header::HeaderName>().unwrap(), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_web_page_is_told_from_a_program() {
        for (pairs, suspect) in [
            (&[("host", "127.0.0.1:9090")][..], false),
            (&[("host", "LocalHost")], false),
            (&[("host", "[::1]:9090")], false),
            (&[("host", "127.0.0.1"), ("sec-fetch-site", "none")], false),
            (&[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")], true),
            (&[("host", "127.0.0.1"), ("sec-fetch-site", "same-site")], true),
            (&[("host", "127.0.0.1"), ("origin", "http://127.0.0.1")], true),
            (&[("host", "127.0.0.1"), ("origin", "null")], true),
            (&[("host", "rebound.example:9090")], true),
            (&[("host", "127.0.0.1.rebound.example")], true),
            (&[("host", "localhost.rebound.example")], true),
            (&[("host", "10.0.0.1")], true),
            (&[("host", "not a host")], true),
            (&[], true),
        ] {
            assert_eq!(may_be_a_web_page(&Uri::from_static("/"), &fields(pairs)), suspect, "{pairs:?}");
        }
        let (local, rebound) = (Uri::from_static("http://localhost/"), Uri::from_static("http://rebound.example/"));
        assert!(!may_be_a_web_page(&local, &fields(&[])), "http/2 has no host field");
        assert!(may_be_a_web_page(&rebound, &fields(&[("host", "localhost")])));
    }

    #[test]
    fn one_secret_in_one_field() {
        for (pairs, good) in [
            (&[("authorization", "Bearer open-sesame")][..], true),
            (&[("authorization", "bearer  open-sesame ")], true),
            (&[("authorization", "Bearer open-sesamf")], false),
            (&[("authorization", "Bearer open-sesame1")], false),
            (&[("authorization", "Bearer ")], false),
            (&[("authorization", "Basic open-sesame")], false),
            (&[("authorization", "open-sesame")], false),
            (&[("authorization", "Bearer open-sesame"), ("authorization", "Bearer open-sesame")], false),
            (&[], false),
        ] {
            assert_eq!(carries(&fields(pairs), "open-sesame"), good, "{pairs:?}");
        }
    }
}
