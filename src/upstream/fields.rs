//! Which header fields stop at the gate, and which it adds (RFC 9110 §7.6).

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

/// Meant for one connection only, whether `Connection` lists them or not.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields that tell how a request reached us: believed from configured proxies only.
const FORWARDED: [HeaderName; 7] = [
    header::FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-real-ip"),
];

/// Removes what is meant for this connection only: the fields that `Connection` lists, `Connection` itself, and the
/// known ones. `TE` survives as `trailers`, if that is among its values (RFC 9110 §10.1.4).
///
/// It comes before anything is added, so `Connection` can name whatever it likes.
pub fn strip_hop_by_hop(fields: &mut HeaderMap) {
    if let Some(connection) = fields.get(header::CONNECTION) {
        // Nearly every request says just this.
        if connection != "keep-alive" || fields.get_all(header::CONNECTION).iter().nth(1).is_some() {
            strip_listed(fields);
        }
    }
    if let Some(te) = fields.remove(header::TE)
        && te.as_bytes().split(|&byte| byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    for name in &HOP_BY_HOP {
        fields.remove(name);
    }
}

fn strip_listed(fields: &mut HeaderMap) {
    let values: Vec<HeaderValue> = fields.get_all(header::CONNECTION).iter().cloned().collect();
    let names = values.iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    for name in names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()) {
        // `TE` is listed by those who use it well; what it says is looked at afterwards.
        if name != header::TE {
            fields.remove(name);
        }
    }
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// The address of the connection's other end, as a field value.
    pub peer: HeaderValue,
    /// Whether what it says of those before it is believed.
    pub trusted: bool,
}

impl Downstream {
    /// A connection from `peer`.
    #[must_use]
    pub fn new(peer: IpAddr, trusted: bool) -> Self {
        let peer = HeaderValue::try_from(peer.to_canonical().to_string());
        Self { peer: peer.unwrap_or_else(|_| HeaderValue::from_static("unknown")), trusted }
    }
}

/// Tells the upstream how the request reached us: `X-Forwarded-For`, `-Host`, `-Proto`, and `Via` (RFC 9110 §7.6.3).
pub fn add_forwarded(fields: &mut HeaderMap, downstream: &Downstream, version: Version) {
    let host = fields.get(header::HOST).cloned();
    if downstream.trusted {
        let before = fields.get_all(FORWARDED_FOR).iter();
        let hops: Vec<&[u8]> = before.map(HeaderValue::as_bytes).chain([downstream.peer.as_bytes()]).collect();
        if let Ok(hops) = HeaderValue::from_bytes(&hops.join(&b", "[..])) {
            fields.insert(FORWARDED_FOR, hops);
        }
        if let (Some(host), false) = (host, fields.contains_key(FORWARDED_HOST)) {
            fields.insert(FORWARDED_HOST, host);
        }
        if !fields.contains_key(FORWARDED_PROTO) {
            fields.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
    } else {
        for name in &FORWARDED {
            fields.remove(name);
        }
        fields.insert(FORWARDED_FOR, downstream.peer.clone());
        if let Some(host) = host {
            fields.insert(FORWARDED_HOST, host);
        }
        fields.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    let via = if version == Version::HTTP_2 { "2 portcullis" } else { "1.1 portcullis" };
    fields.append(header::VIA, HeaderValue::from_static(via));
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
        strip_hop_by_hop(&mut all);
        assert_eq!(all, fields(&[("x-three", "3")]));
    }

    #[test]
    fn te_trailers_survives() {
        let mut all = fields(&[("te", "gzip, trailers"), ("connection", "TE")]);
        strip_hop_by_hop(&mut all);
        assert_eq!(all, fields(&[("te", "trailers")]));
    }

    #[test]
    fn only_trusted_peers_are_believed() {
        let told = [
            ("host", "api.example"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
        ];
        let peer = IpAddr::from([192, 0, 2, 1]);
        let mut stranger = fields(&told);
        add_forwarded(&mut stranger, &Downstream::new(peer, false), Version::HTTP_11);
        assert_eq!(stranger[FORWARDED_FOR], "192.0.2.1");
        assert_eq!(stranger[FORWARDED_PROTO], "http");
        assert_eq!(stranger[FORWARDED_HOST], "api.example");
        assert!(!stranger.contains_key("forwarded") && !stranger.contains_key("x-real-ip"));
        let mut proxy = fields(&told);
        add_forwarded(&mut proxy, &Downstream::new(peer, true), Version::HTTP_2);
        assert_eq!(proxy[FORWARDED_FOR], "6.6.6.6, 192.0.2.1");
        assert_eq!(proxy[FORWARDED_PROTO], "https");
        assert_eq!(proxy[header::VIA], "2 portcullis");
    }
}
