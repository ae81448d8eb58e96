//! Ports for servers that must be told one before they run.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below those that Linux gives to outgoing connections: one of them could take the port between its choice and its use.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// An address of the loopback interface where nobody listens, never the same one twice in a process.
pub(crate) fn free_address() -> SocketAddr {
    // Processes that run side by side begin far from each other.
    let start = u16::try_from(process::id().wrapping_mul(7_919) % u32::from(COUNT)).unwrap_or_default();
    for _ in 0..COUNT {
        let n = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + (start + n) % COUNT));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("all ports from {FIRST} on are taken");
}
