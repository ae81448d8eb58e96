//! Names and their addresses.
//!
//! The system's resolver does not say for how long an answer is good, so names are asked for again every so often, and when a
//! connection fails. A resolver that fails takes no address away.

use std::{collections::BTreeSet, fmt, io, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use tokio::{net::lookup_host, time::timeout};

/// The most addresses of one name that are used.
pub const MAX_ADDRESSES: usize = 64;

/// How long one question may take. The system's resolver has limits of its own, which may be longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Finds the addresses of names.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync {
    /// The addresses of a name, with this port; in any order, repetitions allowed.
    ///
    /// # Errors
    /// The resolver's.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The resolver of the system: `/etc/hosts`, DNS and whatever else it is set up to ask.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }
}

/// Asks, in time. No address is an error; of many the same ones are always taken, and each once.
pub(super) async fn resolve(resolver: &dyn Resolver, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let answer = timeout(PATIENCE, resolver.resolve(host, port)).await;
    let addresses: BTreeSet<_> = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.into_iter().collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses.into_iter().take(MAX_ADDRESSES).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(Vec<SocketAddr>);

    #[async_trait]
    impl Resolver for Fixed {
        async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
            Ok(self.0.clone())
        }
    }

    #[tokio::test]
    async fn answers_are_bounded_and_each_address_counts_once() {
        let address = |last: u16| {
            let [high, low] = last.to_be_bytes();
            SocketAddr::from(([10, 0, high, low], 80))
        };
        let two = Fixed(vec![address(2), address(1), address(2)]);
        assert_eq!(resolve(&two, "a", 80).await.unwrap(), [address(1), address(2)]);
        let many = Fixed((0..1000).map(address).collect());
        assert_eq!(resolve(&many, "a", 80).await.unwrap().len(), MAX_ADDRESSES);
        assert_eq!(resolve(&Fixed(Vec::new()), "a", 80).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_system_knows_this_machine() {
        let found = resolve(&SystemResolver, "localhost", 80).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
    }

    /// A resolver that never answers.
    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_for_ever() {
        #[derive(Debug)]
        struct Silent;
        #[async_trait]
        impl Resolver for Silent {
            async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
                std::future::pending().await
            }
        }
        assert_eq!(resolve(&Silent, "a", 80).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
