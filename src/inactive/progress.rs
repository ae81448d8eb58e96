//! What is told while a run goes on.

use std::fmt;

use crate::management::observer::Observer;

/// What a run does at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Waits for another run to end.
    Wait,
    /// Ends with users with whom an earlier run did not.
    Repair,
    /// Waits for the issuer to export its users.
    Export,
    /// Looks at all users.
    Look,
    /// Brings those who were found into their order.
    Sort,
    /// Blocks users.
    Block,
    /// Unblocks users.
    Undo,
}

impl Step {
    /// What people call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "waiting for another run to end",
            Self::Repair => "finishing what was begun",
            Self::Export => "the issuer exports its users",
            Self::Look => "looking at users",
            Self::Sort => "sorting",
            Self::Block => "blocking",
            Self::Undo => "unblocking",
        }
    }
}

/// Is told how a run goes on. Calls must not block.
pub trait Progress: Observer + fmt::Debug {
    /// A step begins; `total`: of how many users, if that is known.
    fn begin(&self, _step: Step, _total: Option<u64>) {}

    /// So many more users are done.
    fn advance(&self, _users: u64) {}

    /// The last step is over.
    fn end(&self) {}
}
