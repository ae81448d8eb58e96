//! Who wants to know how a long undertaking at a tenant gets on.

use std::{fmt, time::Duration};

use super::tenant::TenantError;
use crate::clock::Timestamp;

/// Is told how it gets on. Whoever implements it must not block: calls are made from within tasks, several at once.
pub trait Observer: Send + Sync + fmt::Debug {
    /// Nothing is asked of the tenant before this time, by the gate's clock: its rate limit is used up, some of it is left to
    /// others, or an attempt failed. Each call is followed by one of [`resumed`](Self::resumed); several may wait at once.
    fn waiting(&self, _until: Timestamp) {}

    /// The wait is over.
    fn resumed(&self) {}

    /// The tenant prepares the export: how much of it is done, and how long it takes yet, as far as the tenant tells.
    fn exporting(&self, _percent: Option<u8>, _left: Option<Duration>) {}

    /// So much of the export has been downloaded, in bytes as they are transferred. Less than before: it was begun again, and what
    /// is there already is passed over.
    fn downloaded(&self, _bytes: u64) {}

    /// An attempt failed, the so manieth in a row, and is repeated.
    fn retrying(&self, _attempt: u32, _error: &TenantError) {}
}

/// Does not want to know.
#[derive(Clone, Copy, Default, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {}
