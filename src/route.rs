//! Where a request wants to go: routes by host and path prefix.
//!
//! - [`path`]: the one form of a path that is matched and forwarded.
//! - [`table`]: the routes.

pub mod path;
pub mod table;

use crate::{cors::CorsSettings, gate::policy::Policy, limit::LimitSettings, upstream::UpstreamSettings};

/// One route.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// The hosts it is for; empty: every host.
    pub hosts: Vec<table::HostPattern>,
    /// The path prefix it is for, matched in whole segments. Canonical.
    pub path: path::CanonicalPath,
    /// What applies to it; its name is the route's.
    pub policy: Policy,
    /// How much it takes.
    pub limits: LimitSettings,
    /// Who may use it from other origins; `None`: the upstream says so.
    pub cors: Option<CorsSettings>,
    /// Where it leads.
    pub upstream: UpstreamSettings,
}
