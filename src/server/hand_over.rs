//! Leaves an address that is shared with another process without losing a connection.
//!
//! The system spreads new connections over all sockets of an address, and resets those that wait in the queue of one that is closed,
//! and those whose handshake is under way. So they are led to the other process first, by a program of one instruction that names a
//! socket (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)); what was under way to this one is still taken; then it is closed.
//!
//! Which number a socket has is not told, so it is tried: a connection of our own shows whether it comes back to us.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpSocket,
    time::{Instant, sleep, timeout},
};

/// How long handshakes that began with this process may take: a client repeats what was lost after a second.
pub(super) const UNDER_WAY: Duration = Duration::from_secs(2);

/// How long a connection of our own may take to come back.
const ECHO: Duration = Duration::from_millis(200);

/// No socket has it: the system spreads connections by itself.
const NOBODY: u32 = u32::MAX;

/// A connection of our own, as whoever accepts connections looks for it.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Its address.
    expected: Mutex<Option<SocketAddr>>,
    came_back: AtomicBool,
}

impl Probe {
    /// Whether a connection is our own, and not a client's.
    pub(super) fn is(&self, peer: SocketAddr) -> bool {
        let is = *self.expected.lock().unwrap_or_else(PoisonError::into_inner) == Some(peer);
        if is {
            self.came_back.store(true, Ordering::Relaxed);
        }
        is
    }

    fn expect(&self, address: SocketAddr) {
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
        self.came_back.store(false, Ordering::Relaxed);
    }

    /// Connects to `address`, and tells whether that comes back to this process, which must go on accepting meanwhile.
    async fn comes_back(&self, address: SocketAddr) -> io::Result<bool> {
        let (socket, local): (_, IpAddr) = match address.ip() {
            IpAddr::V4(ip) => (TcpSocket::new_v4()?, if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip }.into()),
            IpAddr::V6(ip) => (TcpSocket::new_v6()?, if ip.is_unspecified() { Ipv6Addr::LOCALHOST } else { ip }.into()),
        };
        socket.bind(SocketAddr::new(local, 0))?;
        self.expect(socket.local_addr()?);
        let _open = timeout(ECHO, socket.connect(SocketAddr::new(local, address.port()))).await??;
        let since = Instant::now();
        while !self.came_back.load(Ordering::Relaxed) && since.elapsed() < ECHO {
            sleep(Duration::from_millis(5)).await;
        }
        Ok(self.came_back.load(Ordering::Relaxed))
    }
}

/// Leads new connections to another process, if there is one. Whoever accepts connections goes on meanwhile, and tells `probe` of each;
/// while it `is_full` it accepts none, and silence says nothing.
pub(super) async fn lead_away(
    socket: &impl AsFd,
    address: SocketAddr,
    probe: &Probe,
    is_full: impl Fn() -> bool,
) -> bool {
    // The older of two sockets has the number 0, so it mostly ends with the first.
    for number in [1, 0] {
        let came_back = async {
            lead_to(socket, number)?;
            probe.comes_back(address).await
        };
        match came_back.await {
            Ok(false) if !is_full() => return true,
            Ok(false) => {
                tracing::warn!(%address, "connections are not led away: there is no room to find out whether anybody else takes them");
                break;
            }
            Ok(true) => {}
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, %address, "connections are not led away");
                break;
            }
        }
    }
    let _ = lead_to(socket, NOBODY);
    false
}

/// Has the system spread connections, whatever was said before.
pub(super) fn spread(socket: &impl AsFd) {
    // Where it cannot be said, nobody has said anything else.
    let _ = lead_to(socket, NOBODY);
}

/// Leads new connections to the socket of this number; with one that there is not, the system spreads them.
#[cfg(target_os = "linux")]
fn lead_to(socket: &impl AsFd, number: u32) -> io::Result<()> {
    use nix::{
        libc::{BPF_K, BPF_RET, sock_filter, sock_fprog},
        sys::socket::{setsockopt, sockopt::AttachReusePortCbpf},
    };

    #[expect(clippy::cast_possible_truncation, reason = "the codes of instructions have sixteen bits")]
    let code = (BPF_RET | BPF_K) as u16;
    let mut program = sock_filter { code, jt: 0, jf: 0, k: number };
    let program = sock_fprog { len: 1, filter: &raw mut program };
    Ok(setsockopt(&socket.as_fd(), AttachReusePortCbpf, &program)?)
}

#[cfg(not(target_os = "linux"))]
fn lead_to(_: &impl AsFd, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::socket::{Accepted, ListenAddress, Listening, SocketOptions, bind};

    const OPTIONS: SocketOptions = SocketOptions { shared: true, unix_mode: 0 };

    fn listen(address: SocketAddr) -> (Listening, SocketAddr) {
        let bound = bind(&ListenAddress::Tcp(address), OPTIONS).unwrap().remove(0);
        let ListenAddress::Tcp(address) = *bound.address() else { unreachable!() };
        (bound.listen().unwrap(), address)
    }

    async fn leads_away(socket: &Listening, address: SocketAddr) -> bool {
        let probe = Probe::default();
        let accept = async {
            loop {
                if let Ok(Accepted::Tcp(_, peer)) = socket.accept().await {
                    probe.is(peer);
                }
            }
        };
        tokio::select! {
            led = lead_away(socket, address, &probe, || false) => led,
            () = accept => unreachable!(),
        }
    }

    #[tokio::test]
    async fn the_silence_of_a_full_gate_is_nobody() {
        let (alone, address) = listen(([127, 0, 0, 1], 0).into());
        // Nobody accepts.
        assert!(!lead_away(&alone, address, &Probe::default(), || true).await);
        connect(address).await;
        assert!(waiting(&alone) >= 32, "they still come here");
    }

    fn waiting(socket: &Listening) -> usize {
        std::iter::from_fn(|| socket.accept_now().ok()).count()
    }

    async fn connect(address: SocketAddr) {
        for _ in 0..32 {
            tokio::net::TcpStream::connect(address).await.unwrap();
        }
    }

    #[tokio::test]
    async fn either_of_two_can_leave_and_neither_alone() {
        let (older, address) = listen(([127, 0, 0, 1], 0).into());
        assert!(!leads_away(&older, address).await, "there is nobody else");
        let (newer, _) = listen(address);
        spread(&newer);
        connect(address).await;
        assert_eq!(waiting(&older) + waiting(&newer), 32);
        assert!(leads_away(&older, address).await);
        // Among them is the probe.
        assert!(waiting(&newer) <= 1);
        connect(address).await;
        assert_eq!((waiting(&older), waiting(&newer)), (0, 32));
        assert!(leads_away(&newer, address).await);
        assert!(waiting(&older) <= 1);
        connect(address).await;
        assert_eq!((waiting(&older), waiting(&newer)), (32, 0));
        drop(newer);
        assert!(!leads_away(&older, address).await, "the other is gone");
        connect(address).await;
        assert_eq!(waiting(&older), 32);
    }
}
