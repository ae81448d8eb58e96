//! Through a failover.
use crate::run::{Bench, Fleet};
pub(crate) struct Failover {}
pub(crate) async fn run(bench: &Bench<'_>, fleet: Fleet) -> anyhow::Result<Failover> {
    Ok(Failover {})
}
