//! Who may use the admin endpoints.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use secrecy::ExposeSecret;

use super::{Admin, answer::problem};

/// Lets a request through that carries the bearer secret; or, where none is configured, one that no web page can have sent.
pub(super) async fn check(State(Admin(admin)): State<Admin>, request: Request, next: Next) -> Response {
    let fields = request.headers();
    match &admin.token {
        Some(token) => {
            if !carries(fields, token.expose_secret()) {
                let mut refusal =
                    problem(StatusCode::UNAUTHORIZED, "unauthorized", "the admin token is missing or wrong");
                let challenge = HeaderValue::from_static("Bearer realm=\"portcullis admin\"");
                refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                return refusal;
            }
        }
        None if may_be_a_web_page(fields) => {
            return problem(
                StatusCode::FORBIDDEN,
                "cross_site",
                "without an admin token, only local programs are served; configure admin.token_file",
            );
        }
        None => {}
    }
    next.run(request).await
}

fn carries(fields: &HeaderMap, token: &str) -> bool {
    let mut values = fields.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let bytes = value.as_bytes();
    let Some((scheme, rest)) = bytes.split_at_checked(7) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && verify_slices_are_equal(rest.trim_ascii(), token.as_bytes()).is_ok()
}

/// A page of another site carries `Origin`; a rebound name is no loopback name.
fn may_be_a_web_page(fields: &HeaderMap) -> bool {
    let host = fields.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let loopback = name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    fields.contains_key(header::ORIGIN) || !loopback
}
