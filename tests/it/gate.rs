//! The gate from end to end: real sockets, a real issuer's key server, a real Redis and the embedded store.

mod activity;
mod faults;
mod keys;
mod logs;
mod outside;
mod propagation;
mod refusals;
mod stop;
mod story;
mod tokens;

/// Runs each of these tests over both stores.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::support::full::World::embedded().await).await;
            })*
        }

        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(world) = $crate::support::full::World::redis().await {
                    super::$name(world).await;
                }
            })*
        }
    };
}
pub(crate) use on_both_stores;
