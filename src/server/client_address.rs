//! Which address a request came from, as far as it is believed.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::upstream::fields::Downstream;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The nearest address that is no trusted proxy's: the connection's other end, or, behind trusted proxies, what they say in
/// `X-Forwarded-For`, read from its end. What comes before an address that is not trusted may be made up, and is not looked at.
pub(super) fn client_address(downstream: &Downstream, proxies: &[IpNet], fields: &HeaderMap) -> Option<IpAddr> {
    let mut believed = downstream.address;
    if !downstream.trusted {
        return believed;
    }
    let told = fields.get_all(FORWARDED_FOR).iter().rev();
    for hop in told.flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b',')) {
        // Whoever wrote this is trusted, but it is no address: nearer than the last one is nobody.
        let Some(address) = address(hop) else { break };
        believed = Some(address);
        if !proxies.iter().any(|network| network.contains(&address)) {
            break;
        }
    }
    believed
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = str::from_utf8(hop).ok()?.trim();
    let host = match hop.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if hop.bytes().filter(|&byte| byte == b':').count() == 1 => hop.split_once(':')?.0,
        None => hop,
    };
    host.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::drain::Drain;

    #[test]
    fn it_is_read_from_the_end_as_far_as_it_is_believed() {
        let proxies: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"].iter().map(|net| net.parse().unwrap()).collect();
        for (peer, told, expected) in [
            ("192.0.2.9", &["198.51.100.1"][..], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.1 , 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6,198.51.100.1", "10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["198.51.100.1,"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["[2001:db9::1]:4711"], "2001:db9::1"),
            ("10.0.0.1", &["2001:db9::1, [2001:db8::7]"], "2001:db9::1"),
            ("2001:db8::1", &["::ffff:198.51.100.1"], "198.51.100.1"),
        ] {
            let peer: IpAddr = peer.parse().unwrap();
            let trusted = proxies.iter().any(|network| network.contains(&peer));
            let mut fields = HeaderMap::new();
            for value in told {
                fields.append(FORWARDED_FOR, HeaderValue::from_static(value));
            }
            let found = client_address(&Downstream::new(peer, trusted, Drain::default()), &proxies, &fields);
            assert_eq!(found, Some(expected.parse().unwrap()), "{peer} {told:?}");
        }
    }
}
