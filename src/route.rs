//! Where a request wants to go: routes by host and path prefix.
//!
//! - [`path`]: the one form of a path that is matched and forwarded.
//! - [`table`]: the routes.

pub mod path;
pub mod table;

use crate::{gate::policy::Policy, upstream::UpstreamSettings};

/// One route.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// The hosts it is for; empty: every host.
    pub hosts: Vec<table::HostPattern>,
    /// The path prefix it is for, matched in whole segments. Canonical.
    pub path: path::CanonicalPath,
    /// What applies to it; its name is the route's.
    pub policy: Policy,
    /// Where it leads.
    pub upstream: UpstreamSettings,
}
