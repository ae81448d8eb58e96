//! The Management API of an Auth0 tenant.
//!
//! - [`tenant`]: calls, one at a time, with token and pace.
//! - [`pace`]: how fast they may be made.
//! - [`users`]: what is done to users, repeated as long as that can help.
//! - [`listing`]: all users there are, by an [`export`] or by a search.
//! - [`user`]: a user, as far as it is of interest here.
//! - [`access`]: what ends at a tenant.
//! - [`observer`]: who is told how it gets on.
//! - `loose`: JSON as it is in the wild.

pub mod access;
pub mod export;
pub mod listing;
pub(crate) mod loose;
pub mod observer;
pub mod pace;
mod search;
pub mod tenant;
pub mod user;
pub mod users;
