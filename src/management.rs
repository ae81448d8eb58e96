//! The Management API of an Auth0 tenant.
//!
//! - [`tenant`]: calls, one at a time, with token and pace.
//! - [`pace`]: how fast they may be made.
//! - [`user`]: a user, as far as it is of interest here.

pub mod access;
pub(crate) mod loose;
pub mod pace;
pub mod tenant;
pub mod user;
