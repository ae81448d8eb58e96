//! Which header fields stop at the gate, and which it adds (RFC 9110 §7.6).

use std::{net::IpAddr, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, InvalidHeaderValue},
};
use tokio::time::Instant;

use super::interim::Interim;
use crate::{drain::Drain, gate::identity::ReservedNames};

/// Meant for one connection only, whether `Connection` lists them or not.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// By which scheme the client came to whoever forwarded its request.
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The certificate that a client showed (RFC 9440).
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// Whether a field tells how a request reached us, or may be taken for one that does: believed from configured proxies only.
/// Servers that hand fields on as variables see `X-Forwarded-For` and `x_forwarded_for` as one.
fn is_forwarded(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let alike = |start: &[u8]| {
        let folded = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
        name.len() >= start.len() && name.iter().zip(start).all(|(&byte, &other)| folded(byte) == other)
    };
    match name.first() {
        Some(b'x') => alike(b"x-forwarded-") || alike(b"x-real-ip") && name.len() == b"x-real-ip".len(),
        Some(b'f') => name == b"forwarded",
        Some(b'c') => alike(b"client-cert") && (name.len() == b"client-cert".len() || alike(b"client-cert-chain")),
        _ => false,
    }
}

/// Removes from a request what is meant for this connection only: the fields that `Connection` lists, `Connection` itself, and
/// the known ones. `TE` survives as `trailers`, if that is among its values (RFC 9110 §10.1.4).
///
/// It comes before anything is added, so `Connection` can name whatever it likes.
pub fn strip_request(fields: &mut HeaderMap) {
    if !has_hop_by_hop(fields) {
        return;
    }
    let is_trailers = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"trailers");
    let te = fields.get(header::TE);
    let takes_trailers = te.is_some_and(|te| te.as_bytes().split(|&byte| byte == b',').any(is_trailers));
    strip_hop_by_hop(fields);
    if takes_trailers {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Likewise from a response, where `TE` means nothing.
pub fn strip_response(fields: &mut HeaderMap) {
    if has_hop_by_hop(fields) {
        strip_hop_by_hop(fields);
    }
}

/// Likewise from an interim response. What the gate alone says of a response, or whom it lets read one, is said once, in the final one.
pub(super) fn strip_interim(fields: &mut HeaderMap) {
    strip_response(fields);
    remove(fields, |name| {
        let name = name.as_str();
        name == "x-request-id" || name.starts_with("portcullis-") || name.starts_with("access-control-")
    });
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// Whether there is anything for one connection only. Most messages have nothing, and one look at each name takes less than one search for
/// each of theirs.
fn has_hop_by_hop(fields: &HeaderMap) -> bool {
    fields.keys().any(is_hop_by_hop)
}

fn strip_hop_by_hop(fields: &mut HeaderMap) {
    if let Some(connection) = fields.get(header::CONNECTION) {
        // Nearly every request says just this.
        if connection != "keep-alive" || fields.get_all(header::CONNECTION).iter().nth(1).is_some() {
            strip_listed(fields);
        }
    }
    remove(fields, is_hop_by_hop);
}

/// Whether a field stays though `Connection` lists it: the gate goes by it, or made it, so that clients must not take it away from a proxy
/// in front, or from the upstream.
fn is_kept(name: &HeaderName) -> bool {
    is_forwarded(name) || ["traceparent", "tracestate", "x-request-id"].contains(&name.as_str())
}

fn strip_listed(fields: &mut HeaderMap) {
    let values: Vec<HeaderValue> = fields.get_all(header::CONNECTION).iter().cloned().collect();
    let names = values.iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    for name in names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()) {
        if !is_kept(&name) {
            fields.remove(name);
        }
    }
}

/// By which scheme a request came to the gate (RFC 9110 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    const fn value(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// When and how a request came.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When its header was there.
    pub at: Instant,
    /// How it came.
    pub downstream: Arc<Downstream>,
    /// Where interim responses go; `None`: whoever serves it has no way for them.
    pub interim: Option<Interim>,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// The address of the connection's other end, as a field value; `unknown` at a Unix socket (RFC 7239 §6.2).
    pub peer: HeaderValue,
    /// The same; `None`: it has none.
    pub address: Option<IpAddr>,
    /// By which scheme it came.
    pub scheme: Scheme,
    /// The certificate that it showed, as the value of `Client-Cert` (RFC 9440 §2.1).
    pub certificate: Option<HeaderValue>,
    /// Whether what it says of those before it is believed.
    pub trusted: bool,
    /// Whether that goes for `Client-Cert` and `Client-Cert-Chain`, too.
    pub tells_certificates: bool,
    /// The end of the gate: whoever keeps the connection beyond its response runs by it.
    pub drain: Drain,
}

impl Downstream {
    /// A connection from `peer`.
    #[must_use]
    pub fn new(peer: IpAddr, trusted: bool, drain: Drain) -> Self {
        let address = peer.to_canonical();
        let Ok(peer) = value_of(address) else { return Self { trusted, ..Self::unix(drain) } };
        Self { peer, address: Some(address), trusted, ..Self::unix(drain) }
    }

    /// A connection from this machine, by a Unix socket.
    #[must_use]
    pub fn unix(drain: Drain) -> Self {
        Self {
            peer: HeaderValue::from_static("unknown"),
            address: None,
            scheme: Scheme::Http,
            certificate: None,
            trusted: false,
            tells_certificates: false,
            drain,
        }
    }
}

/// An address as the value of a field. What formats anything takes a thousand instructions for four numbers, of each new connection.
fn value_of(address: IpAddr) -> Result<HeaderValue, InvalidHeaderValue> {
    let IpAddr::V4(address) = address else { return HeaderValue::try_from(address.to_string()) };
    let mut text = Vec::with_capacity("255.255.255.255".len());
    for octet in address.octets() {
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let leading = digits[..2].iter().take_while(|&&digit| digit == 0).count();
        text.extend(digits[leading..].iter().map(|digit| b'0' + digit));
        text.push(b'.');
    }
    text.pop();
    HeaderValue::from_bytes(&text)
}

/// `Client-Cert` and `Client-Cert-Chain`, as they are written (RFC 9440 §2).
fn is_client_cert(name: &HeaderName) -> bool {
    matches!(name.as_str(), "client-cert" | "client-cert-chain")
}

/// Tells the upstream how the request reached us: `X-Forwarded-For`, `-Host`, `-Proto`, `Client-Cert` where the client showed a
/// certificate (RFC 9440), and `Via` (RFC 9110 §7.6.3). What a trusted proxy says stands, and its own certificate is not its client's.
///
/// Fields under a reserved name are the gate's own by now, and stay.
pub fn add_forwarded(fields: &mut HeaderMap, downstream: &Downstream, version: Version, reserved: &ReservedNames) {
    let host = fields.get(header::HOST).cloned();
    if downstream.trusted {
        // Proxies write the usual spelling. Any other is their client's, and passes them unseen.
        let is_usual =
            |name: &HeaderName| name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_believed =
            |name: &HeaderName| is_usual(name) && (downstream.tells_certificates || !is_client_cert(name));
        remove(fields, |name| is_forwarded(name) && !is_believed(name) && !reserved.contains(name));
        let before = fields.get_all(FORWARDED_FOR).iter();
        let hops: Vec<&[u8]> = before.map(HeaderValue::as_bytes).chain([downstream.peer.as_bytes()]).collect();
        if let Ok(hops) = HeaderValue::from_bytes(&hops.join(&b", "[..])) {
            fields.insert(FORWARDED_FOR, hops);
        }
        if let (Some(host), false) = (host, fields.contains_key(FORWARDED_HOST)) {
            fields.insert(FORWARDED_HOST, host);
        }
        if !fields.contains_key(FORWARDED_PROTO) {
            fields.insert(FORWARDED_PROTO, downstream.scheme.value());
        }
    } else {
        remove(fields, |name| is_forwarded(name) && !reserved.contains(name));
        fields.insert(FORWARDED_FOR, downstream.peer.clone());
        if let Some(host) = host {
            fields.insert(FORWARDED_HOST, host);
        }
        fields.insert(FORWARDED_PROTO, downstream.scheme.value());
        if let Some(certificate) = downstream.certificate.as_ref().filter(|_| !reserved.contains(&CLIENT_CERT)) {
            fields.insert(CLIENT_CERT, certificate.clone());
        }
    }
    let via = match version {
        Version::HTTP_2 => "2 portcullis",
        Version::HTTP_10 => "1.0 portcullis",
        _ => "1.1 portcullis",
    };
    fields.append(header::VIA, HeaderValue::from_static(via));
}

/// What no trailer may be: it frames, routes, authenticates or describes a message, and some receivers merge trailers into the header
/// (RFC 9110 §6.5.1).
static HEADER_ONLY: [HeaderName; 18] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::FORWARDED,
    header::HOST,
    header::MAX_FORWARDS,
    header::RANGE,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::VIA,
    header::WWW_AUTHENTICATE,
];

/// Removes trailers that only the gate may set, and those that no trailer may be. Whatever may be taken for one goes as well.
pub fn strip_trailers(trailers: &mut HeaderMap, reserved: &ReservedNames) {
    remove(trailers, |name| reserved.contains(name) || is_forwarded(name) || is_header_only(name));
}

/// Removes trailers of a response that no trailer may be.
pub fn strip_response_trailers(trailers: &mut HeaderMap) {
    remove(trailers, is_header_only);
}

fn is_header_only(name: &HeaderName) -> bool {
    let folded = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    let alike = |other: &str| name.as_str().bytes().map(folded).eq(other.bytes().map(folded));
    HEADER_ONLY.iter().map(HeaderName::as_str).chain(HOP_BY_HOP).any(alike)
}

fn remove(fields: &mut HeaderMap, is_meant: impl Fn(&HeaderName) -> bool) {
    if !fields.keys().any(&is_meant) {
        return;
    }
    let meant: Vec<HeaderName> = fields.keys().filter(|name| is_meant(name)).cloned().collect();
    for name in meant {
        fields.remove(name);
    }
}

/// HTTP/2 may split `Cookie`; HTTP/1.1 must not (RFC 9113 §8.2.3).
pub fn join_cookies(fields: &mut HeaderMap) {
    if fields.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        fields.insert(header::COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_connection_lists_stops_here() {
        let mut all = fields(&[
            ("connection", "X-One, te ,, close"),
            ("connection", "x-two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("te", "gzip, Trailers;q=0.5"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("upgrade", "h2c"),
        ]);
        strip_request(&mut all);
        assert_eq!(all, fields(&[("x-three", "3")]));
    }

    /// The rules once more, word by word.
    fn model(pairs: &[(String, String)]) -> Vec<(String, String)> {
        let listed: Vec<String> = pairs
            .iter()
            .filter(|(name, _)| name == "connection")
            .flat_map(|(_, value)| value.split(',').map(|name| name.trim_matches([' ', '\t']).to_ascii_lowercase()))
            .collect();
        let trailers = pairs.iter().find(|(name, _)| name == "te").is_some_and(|(_, value)| {
            value.split(',').any(|coding| coding.trim_matches([' ', '\t']).eq_ignore_ascii_case("trailers"))
        });
        let passes = |name: &str| {
            let fixed = ["te", "proxy-connection", "proxy-authenticate", "proxy-authorization", "transfer-encoding"];
            let known = ["connection", "keep-alive", "upgrade"];
            let is_listed = name != "x-forwarded-user" && listed.iter().any(|listed| listed == name);
            !fixed.contains(&name) && !known.contains(&name) && !is_listed
        };
        let mut left: Vec<(String, String)> = pairs.iter().filter(|(name, _)| passes(name)).cloned().collect();
        if trailers {
            left.push(("te".into(), "trailers".into()));
        }
        left.sort();
        left
    }

    proptest! {
        #[test]
        fn a_request_keeps_what_the_plain_model_keeps(
            pairs in prop::collection::vec(
                (
                    prop::sample::select(&[
                        "connection", "te", "keep-alive", "upgrade", "transfer-encoding", "proxy-connection", "proxy-authorization",
                        "host", "x-one", "x-two", "authorization", "x-forwarded-user", "content-length",
                    ][..]),
                    prop_oneof![
                        prop::collection::vec(
                            prop::sample::select(&[
                                "X-One", "x-two", "close", "keep-alive", "TE", "trailers", "gzip", "", " ", "\t x-one", "b ad", "Host",
                                "authorization", "connection", "X-Forwarded-User",
                            ][..]),
                            0..4,
                        )
                        .prop_map(|names| names.join(",")),
                        "[ -~]{0,12}",
                    ],
                ),
                0..10,
            ),
        ) {
            let pairs: Vec<(String, String)> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            let mut fields = HeaderMap::new();
            for (name, value) in &pairs {
                fields.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
            }
            strip_request(&mut fields);
            let shown = |value: &HeaderValue| value.to_str().unwrap().to_owned();
            let mut left: Vec<(String, String)> =
                fields.iter().map(|(name, value)| (name.to_string(), shown(value))).collect();
            left.sort();
            prop_assert_eq!(left, model(&pairs));
        }
    }

    #[test]
    fn te_trailers_survives() {
        let mut all = fields(&[("te", "gzip, trailers"), ("connection", "TE")]);
        strip_request(&mut all);
        assert_eq!(all, fields(&[("te", "trailers")]));
    }

    #[test]
    fn an_address_is_written_as_usual() {
        let octets = (0..=255).map(|octet| [octet, 0, 255, 9]).chain([[0; 4], [255; 4], [1, 10, 100, 200]]);
        for address in octets.map(IpAddr::from).chain(["2001:db8::1".parse().unwrap()]) {
            assert_eq!(value_of(address).unwrap(), address.to_string());
        }
    }

    #[test]
    fn only_trusted_peers_are_believed() {
        let told = [
            ("host", "api.example"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded-ssl", "on"),
            ("x-forwarded-user", "alice"),
            ("client-cert", ":bWFsbG9yeQ==:"),
            ("client_cert_chain", ":bWFsbG9yeQ==:"),
            ("client-certificate", "1"),
            ("x-forward", "1"),
        ];
        let user = HeaderName::from_static("x-forwarded-user");
        let reserved = ReservedNames::new([&user]);
        let peer = IpAddr::from([192, 0, 2, 1]);
        let mut stranger = fields(&told);
        add_forwarded(&mut stranger, &Downstream::new(peer, false, Drain::default()), Version::HTTP_11, &reserved);
        assert_eq!(stranger[FORWARDED_FOR], "192.0.2.1");
        assert_eq!(stranger[FORWARDED_PROTO], "http");
        assert_eq!(stranger[FORWARDED_HOST], "api.example");
        let mut names: Vec<&str> = stranger.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let left = [
            "client-certificate",
            "host",
            "via",
            "x-forward",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-user",
        ];
        assert_eq!(names, left);
        let mut proxy = fields(&told);
        add_forwarded(&mut proxy, &Downstream::new(peer, true, Drain::default()), Version::HTTP_2, &reserved);
        assert!(!proxy.contains_key(CLIENT_CERT), "nobody said that it meets clients with certificates");
        let mut proxy = fields(&told);
        let tells = Downstream { tells_certificates: true, ..Downstream::new(peer, true, Drain::default()) };
        add_forwarded(&mut proxy, &tells, Version::HTTP_2, &reserved);
        assert_eq!(proxy[FORWARDED_FOR], "6.6.6.6, 192.0.2.1");
        assert_eq!(proxy[FORWARDED_PROTO], "https");
        assert_eq!(proxy[header::VIA], "2 portcullis");
        assert_eq!(proxy[CLIENT_CERT], ":bWFsbG9yeQ==:");

        let certificate = Some(HeaderValue::from_static(":YWxpY2U=:"));
        let known = Downstream { scheme: Scheme::Https, certificate, ..Downstream::new(peer, false, Drain::default()) };
        let mut client = fields(&told);
        add_forwarded(&mut client, &known, Version::HTTP_11, &reserved);
        assert_eq!(
            (&client[CLIENT_CERT], &client[FORWARDED_PROTO]),
            (&":YWxpY2U=:".parse().unwrap(), &"https".parse().unwrap())
        );
        let mut proxy = fields(&told);
        add_forwarded(
            &mut proxy,
            &Downstream { trusted: true, tells_certificates: true, ..known },
            Version::HTTP_11,
            &reserved,
        );
        assert_eq!(proxy[CLIENT_CERT], ":bWFsbG9yeQ==:", "the proxy's client, not the proxy");
        let mut local = HeaderMap::new();
        add_forwarded(&mut local, &Downstream::unix(Drain::default()), Version::HTTP_11, &reserved);
        assert_eq!(local[FORWARDED_FOR], "unknown");
    }
}
