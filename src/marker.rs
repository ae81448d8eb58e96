//! Markers: stored facts that end something, and what is known of them here.
//!
//! - [`key`]: the names they are stored under.
//! - [`record`]: what they say, how they merge, how long they are kept.
//! - [`known`]: what a gateway knows about the keys that concern one token.
//! - `cache`, `ledger` (feature `gate`): that knowledge, kept current by the store's pushes, and the way to write;
//!   `generations` is how, `propagation` how fast.

#[cfg(feature = "gate")]
pub mod cache;
#[cfg(feature = "gate")]
mod generations;
pub mod key;
pub mod known;
#[cfg(feature = "gate")]
pub mod ledger;
#[cfg(feature = "gate")]
mod propagation;
pub mod record;

// `generations` takes them from here, so that `tests/loom` can put others in their place.
#[cfg(feature = "gate")]
use std::sync::atomic;

pub use self::{
    key::{Kind, MarkerKey},
    known::{Known, Reading},
    record::{Block, Logout, Marker, MarkerClock, MarkerRecord, Retention, Source, Unreadable},
};
