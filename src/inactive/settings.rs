//! What is to be done about inactive users, as the configuration says.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use super::{brakes::Brakes, exclusion::Exclusions, find::Question};
use crate::{
    clock::Timestamp,
    management::{
        access::Extent,
        listing::{Listing, Way},
        tenant::TenantSettings,
    },
    token::claims::IssuerName,
};

/// `[inactive]`, and how issuers are asked.
#[derive(Clone, PartialEq, Debug)]
pub struct InactiveSettings {
    /// How long users have to have been inactive; `None`: whoever asks says so.
    pub inactive_for: Option<Duration>,
    /// How long a login lasts at most.
    pub login_lifetime: Option<Duration>,
    /// How often `last_active` is written at least.
    pub last_active_lifetime: Option<Duration>,
    /// Since when the operator vouches for complete recording.
    pub recorded_since: Option<Timestamp>,
    /// Who is left out.
    pub exclusions: Exclusions,
    /// The roles whose members are left out.
    pub exclude_roles: Vec<Box<str>>,
    /// The connection whose users are looked at; `None`: of all.
    pub connection: Option<Box<str>>,
    /// How the issuer is asked for its users.
    pub way: Way,
    /// What is revoked of those who are blocked.
    pub revoke: Option<Extent>,
    /// How many may be blocked.
    pub brakes: Brakes,
    /// How many are blocked at most, the longest inactive first.
    pub limit: Option<u64>,
    /// The Management API of issuers that have one.
    pub tenants: HashMap<IssuerName, TenantSettings>,
    /// When it is done by a gateway itself; `None`: never.
    pub schedule: Option<Schedule>,
}

/// When a gateway looks for inactive users itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// Whose users.
    pub issuers: Vec<IssuerName>,
    /// How often.
    pub every: Duration,
    /// How much later it may be: fleets do not begin at once.
    pub jitter: Duration,
    /// Whether they are blocked, or only reported.
    pub block: bool,
    /// The directory of the reports.
    pub reports: PathBuf,
}

impl InactiveSettings {
    /// Who is looked for at `now`, without the members of roles.
    #[must_use]
    pub fn question(&self, issuer: IssuerName, inactive_for: Duration, now: Timestamp) -> Question {
        Question {
            issuer,
            since: now.minus(inactive_for),
            recorded_since: self.recorded_since,
            login_lifetime: self.login_lifetime,
            last_active_lifetime: self.last_active_lifetime,
            exclusions: self.exclusions.clone(),
            listing: Listing { connection: self.connection.clone(), way: self.way, job: None },
        }
    }

    /// Stands for what is asked of an issuer: what is asked for again goes on with the run that was interrupted.
    #[must_use]
    pub fn asked(&self, inactive_for: Duration) -> String {
        let Self { login_lifetime, last_active_lifetime, recorded_since, exclude_roles, connection, way, .. } = self;
        format!(
            "{inactive_for:?} {login_lifetime:?} {last_active_lifetime:?} {recorded_since:?} {:?} {exclude_roles:?} {connection:?} {way:?}",
            self.exclusions
        )
    }
}
