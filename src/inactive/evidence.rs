//! What is known of when a user was active, and what follows from it. Pure.
//!
//! Two questions are apart from each other. *When was the user last seen?* is the latest of all evidence. *Could the user have been
//! active since, unseen?* is no, where at least one kind of evidence **covers** the time: it would have moved.
//!
//! - Recording here covers the time since when it has been complete.
//! - `last_login` covers what comes later than the lifetime of a login after it: who goes on for longer has to log in again, which
//!   moves it. Silent authentication and refresh tokens do not move it, so without such a lifetime it covers nothing.
//! - `app_metadata.last_active` likewise, by how often the tenant writes it.
//! - Who never logged in has no token, so that covers all.
//!
//! Inactive is who was not seen since, and could not have been active unseen.

use std::time::Duration;

use crate::clock::Timestamp;

/// Where a moment of activity is known from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// The creation of the user: the earliest moment that an account can be active. Only where no login is known.
    Created,
    /// `last_login` at the issuer.
    LastLogin,
    /// `app_metadata.last_active` at the issuer.
    LastActive,
    /// The gate's own record: admitted requests, and logins and refreshes that its sources told of.
    Recorded,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Created, Self::LastLogin, Self::LastActive, Self::Recorded];

    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created_at",
            Self::LastLogin => "last_login",
            Self::LastActive => "last_active",
            Self::Recorded => "recorded",
        }
    }
}

/// What the issuer knows of a user.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Registered {
    /// When the user was created.
    pub created: Option<Timestamp>,
    /// The last interactive login.
    pub last_login: Option<Timestamp>,
    /// What the tenant wrote down itself.
    pub last_active: Option<Timestamp>,
    /// Whether the issuer says that there was no login yet.
    pub never_logged_in: bool,
    /// Something is there that cannot be read, so that nothing follows from what is not.
    pub doubtful: bool,
}

/// All evidence of a user's activity.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Evidence {
    /// Recorded here.
    pub recorded: Option<Timestamp>,
    /// What the issuer knows, where it was asked and knows the user.
    pub registered: Option<Registered>,
}

/// What evidence rests on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Trust {
    /// Since when recording here is complete; `None`: it is not.
    pub recorded_since: Option<Timestamp>,
    /// How much older than the truth a recorded time can be.
    pub delay: Duration,
    /// How long after a login a user can go on without logging in again; `None`: for ever.
    pub login_lifetime: Option<Duration>,
    /// How long a user can be active without `last_active` moving; `None`: for ever.
    pub last_active_lifetime: Option<Duration>,
}

/// The latest evidence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Latest {
    /// When.
    pub at: Timestamp,
    /// Where it is known from.
    pub kind: Kind,
}

/// What makes it certain that nothing happened unseen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cover {
    /// Recording here has been complete since.
    Recording,
    /// The last login is too long ago for it to go on.
    Login,
    /// `last_active` would have moved.
    LastActive,
    /// There was never a login.
    NeverLoggedIn,
}

impl Cover {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Login => "login_lifetime",
            Self::LastActive => "last_active_lifetime",
            Self::NeverLoggedIn => "never_logged_in",
        }
    }
}

/// Whether a user has been inactive since a moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// Seen at or after it.
    Active,
    /// Not seen since, for certain.
    Inactive(Cover),
    /// Not seen since, but perhaps active.
    Uncertain,
}

impl Evidence {
    /// The latest of it.
    #[must_use]
    pub fn latest(&self) -> Option<Latest> {
        Kind::ALL.into_iter().filter_map(|kind| self.of(kind).map(|at| Latest { at, kind })).max()
    }

    /// The evidence of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<Timestamp> {
        let registered = self.registered.unwrap_or_default();
        match kind {
            Kind::Created => registered.created,
            Kind::LastLogin => registered.last_login,
            Kind::LastActive => registered.last_active,
            Kind::Recorded => self.recorded,
        }
    }

    /// Whether the user has been inactive since `since`.
    #[must_use]
    pub fn judge(&self, since: Timestamp, trust: &Trust) -> Standing {
        let seen = Kind::ALL.into_iter().filter_map(|kind| {
            let delay = if kind == Kind::Recorded { trust.delay } else { Duration::ZERO };
            Some(self.of(kind)?.plus(delay))
        });
        let Some(seen) = seen.max() else { return Standing::Uncertain };
        if seen >= since {
            return Standing::Active;
        }
        if self.registered.is_some_and(|registered| registered.doubtful) {
            return Standing::Uncertain;
        }
        self.cover(since, trust).map_or(Standing::Uncertain, Standing::Inactive)
    }

    /// Whoever was seen had a token, whatever the issuer counts.
    fn is_created_only(&self) -> bool {
        [Kind::LastLogin, Kind::LastActive, Kind::Recorded].into_iter().all(|kind| self.of(kind).is_none())
    }

    fn cover(&self, since: Timestamp, trust: &Trust) -> Option<Cover> {
        if trust.recorded_since.is_some_and(|begun| begun <= since) {
            return Some(Cover::Recording);
        }
        let registered = self.registered?;
        let over = |at: Option<Timestamp>, lifetime: Option<Duration>| {
            at.zip(lifetime).is_some_and(|(at, lifetime)| at.plus(lifetime) <= since)
        };
        if over(registered.last_login, trust.login_lifetime) {
            Some(Cover::Login)
        } else if over(registered.last_active, trust.last_active_lifetime) {
            Some(Cover::LastActive)
        } else if registered.never_logged_in && self.is_created_only() {
            Some(Cover::NeverLoggedIn)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn day(day: u32) -> Timestamp {
        Timestamp::from_secs(1_700_000_000).plus(DAY * day)
    }

    fn login(at: u32) -> Evidence {
        let registered = Registered { created: Some(day(1)), last_login: Some(day(at)), ..Registered::default() };
        Evidence { recorded: None, registered: Some(registered) }
    }

    #[test]
    fn the_latest_evidence_tells_where_it_is_from() {
        let registered = Registered { last_active: Some(day(7)), ..login(5).registered.unwrap() };
        let all = Evidence { recorded: Some(day(6)), registered: Some(registered) };
        assert_eq!(all.latest(), Some(Latest { at: day(7), kind: Kind::LastActive }));
        assert_eq!(login(5).latest(), Some(Latest { at: day(5), kind: Kind::LastLogin }));
        assert_eq!(Evidence::default().latest(), None);
    }

    #[test]
    fn who_was_seen_is_active_whatever_is_covered() {
        for trust in [Trust::default(), Trust { recorded_since: Some(day(0)), ..Trust::default() }] {
            assert_eq!(login(50).judge(day(50), &trust), Standing::Active);
        }
        let almost = Evidence { recorded: Some(day(50).minus(Duration::from_secs(30))), registered: None };
        let late = Trust { recorded_since: Some(day(0)), delay: Duration::from_secs(61), ..Trust::default() };
        assert_eq!(almost.judge(day(50), &late), Standing::Active, "it may have been recorded before the last request");
    }

    #[test]
    fn a_gate_that_has_run_for_twenty_days_says_nothing_about_ninety() {
        let (now, since) = (day(100), day(10));
        let young = Trust { recorded_since: Some(now.minus(20 * DAY)), ..Trust::default() };
        assert_eq!(login(5).judge(since, &young), Standing::Uncertain);
        assert_eq!(Evidence { recorded: Some(day(5)), registered: None }.judge(since, &young), Standing::Uncertain);
        let old = Trust { recorded_since: Some(since), ..Trust::default() };
        assert_eq!(login(5).judge(since, &old), Standing::Inactive(Cover::Recording));
    }

    #[test]
    fn a_login_covers_what_comes_after_its_lifetime() {
        let trust = Trust { login_lifetime: Some(30 * DAY), ..Trust::default() };
        assert_eq!(login(5).judge(day(35), &trust), Standing::Inactive(Cover::Login));
        assert_eq!(login(6).judge(day(35), &trust), Standing::Uncertain, "a refresh token may have been used");
        let trust = Trust { last_active_lifetime: Some(DAY), ..Trust::default() };
        let registered = Registered { last_active: Some(day(9)), ..login(5).registered.unwrap() };
        let evidence = Evidence { recorded: None, registered: Some(registered) };
        assert_eq!(evidence.judge(day(10), &trust), Standing::Inactive(Cover::LastActive));
        assert_eq!(evidence.judge(day(9), &trust), Standing::Active);
    }

    #[test]
    fn who_never_logged_in_is_judged_by_their_creation() {
        let never = Registered { created: Some(day(5)), never_logged_in: true, ..Registered::default() };
        let evidence = Evidence { recorded: None, registered: Some(never) };
        assert_eq!(evidence.judge(day(10), &Trust::default()), Standing::Inactive(Cover::NeverLoggedIn));
        assert_eq!(evidence.judge(day(5), &Trust::default()), Standing::Active, "created since");
        let doubtful = Evidence { registered: Some(Registered { doubtful: true, ..never }), ..evidence };
        assert_eq!(doubtful.judge(day(10), &Trust::default()), Standing::Uncertain);
        let recorded = Trust { recorded_since: Some(day(0)), ..Trust::default() };
        assert_eq!(doubtful.judge(day(10), &recorded), Standing::Uncertain, "what cannot be read may be later");
        for seen in [
            Evidence { recorded: Some(day(2)), ..evidence },
            Evidence { registered: Some(Registered { last_active: Some(day(6)), ..never }), ..evidence },
        ] {
            assert_eq!(seen.judge(day(10), &Trust::default()), Standing::Uncertain, "there was a token");
        }
        let nothing = Evidence { recorded: None, registered: Some(Registered { created: None, ..never }) };
        assert_eq!(nothing.judge(day(10), &Trust::default()), Standing::Uncertain, "no evidence at all");
    }

    fn times() -> impl Strategy<Value = Option<Timestamp>> {
        prop::option::of((0..60_u32).prop_map(day))
    }

    prop_compose! {
        fn evidences()(recorded in times(), created in times(), last_login in times(), last_active in times(),
            never_logged_in: bool, doubtful: bool, known: bool) -> Evidence {
            let registered = Registered { created, last_login, last_active, never_logged_in, doubtful };
            Evidence { recorded, registered: known.then_some(registered) }
        }
    }

    prop_compose! {
        fn trusts()(recorded_since in times(), login in prop::option::of(0..40_u32), active in prop::option::of(0..40_u32)) -> Trust {
            let days = |days: Option<u32>| days.map(|days| DAY * days);
            Trust { recorded_since, delay: Duration::ZERO, login_lifetime: days(login), last_active_lifetime: days(active) }
        }
    }

    proptest! {
        /// What may have happened unseen is played through: whoever is called inactive was, in every course of events that the
        /// evidence allows.
        #[test]
        fn nobody_is_called_inactive_who_may_have_been_active(evidence in evidences(), trust in trusts(), since in 0..60_u32) {
            let since_at = day(since);
            if let Standing::Inactive(_) = evidence.judge(since_at, &trust) {
                prop_assert!(!evidence.registered.is_some_and(|registered| registered.doubtful));
                prop_assert!(evidence.latest().is_some_and(|latest| latest.at < since_at));
                for hidden in since..61 {
                    let at = day(hidden);
                    let registered = evidence.registered;
                    let recorded = trust.recorded_since.is_some_and(|begun| at >= begun);
                    let needs = |from: Option<Timestamp>, lifetime: Option<Duration>| {
                        from.zip(lifetime).is_some_and(|(from, lifetime)| at >= from.plus(lifetime))
                    };
                    let impossible = recorded
                        || registered.is_some_and(|known| {
                            needs(known.last_login, trust.login_lifetime)
                                || needs(known.last_active, trust.last_active_lifetime)
                                || known.never_logged_in
                                    && known.last_login.is_none()
                                    && known.last_active.is_none()
                                    && evidence.recorded.is_none()
                        });
                    prop_assert!(impossible, "activity at {at} would have gone unseen");
                }
            }
        }

        /// More evidence never makes somebody inactive who was not, nor does a later bound of what is trusted.
        #[test]
        fn later_evidence_never_makes_inactive(evidence in evidences(), trust in trusts(), since in 0..60_u32, later in 0..60_u32) {
            let recorded = evidence.recorded.max(Some(day(later)));
            let more = Evidence { recorded, ..evidence };
            if evidence.judge(day(since), &trust) == Standing::Active {
                prop_assert_eq!(more.judge(day(since), &trust), Standing::Active);
            }
            let wider = Trust { login_lifetime: trust.login_lifetime.map(|lifetime| lifetime + DAY), ..trust };
            if evidence.judge(day(since), &trust) == Standing::Uncertain {
                prop_assert_eq!(evidence.judge(day(since), &wider), Standing::Uncertain);
            }
        }
    }
}
