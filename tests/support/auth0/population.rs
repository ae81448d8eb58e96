//! Ten million users that take no memory: each is a function of a seed and a number, and each id tells the number.

use super::{
    moment::DAY,
    user::{CONNECTIONS, User},
};

/// Shares are from 0 to 1, and of all users if nothing else is said.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Population {
    pub(crate) seed: u64,
    pub(crate) count: u64,
    /// The time that ages count from, in milliseconds since 1970. Nothing has happened later.
    pub(crate) as_of: i64,
    /// How long ago the first user was created, in days; they came evenly since, the last one now.
    pub(crate) days: i64,
    /// Those who logged in within `active_days`, as far as they exist so long.
    pub(crate) active: f64,
    pub(crate) active_days: i64,
    /// Those who never logged in: without `last_login`, half of them with a `logins_count` of 0, half without one.
    pub(crate) never_logged_in: f64,
    pub(crate) blocked: f64,
    /// Those with `app_metadata.last_active`, which is later than their last login.
    pub(crate) last_active: f64,
    /// Those of them with a number of milliseconds there instead of a date.
    pub(crate) last_active_as_number: f64,
    /// Those of a social connection.
    pub(crate) google: f64,
    /// Those with a link by mail and no password.
    pub(crate) email: f64,
    /// Those of an Enterprise connection, whose ids have every character in them that a path must not.
    pub(crate) saml: f64,
}

impl Population {
    /// So many users, the first of whom was created five years ago.
    pub(crate) fn of(count: u64) -> Self {
        Self {
            seed: 1,
            count,
            as_of: super::moment::now(),
            days: 5 * 365,
            active: 0.7,
            active_days: 30,
            never_logged_in: 0.05,
            blocked: 0.03,
            last_active: 0.2,
            last_active_as_number: 0.25,
            google: 0.2,
            email: 0.05,
            saml: 0.02,
        }
    }

    /// When this user was created: later than all before.
    pub(crate) fn created_at(&self, number: u64) -> i64 {
        let span = self.days.saturating_mul(DAY);
        let at = i128::from(span) * i128::from(number + 1) / i128::from(self.count.max(1));
        self.as_of - span + i64::try_from(at).unwrap_or(span)
    }

    /// The numbers of the users who were created from the one time until before the other.
    pub(crate) fn created_between(&self, from: i64, until: i64) -> std::ops::Range<u64> {
        let first_at = |time: i64| {
            let (mut low, mut high) = (0, self.count);
            while low < high {
                let middle = low + (high - low) / 2;
                if self.created_at(middle) < time { low = middle + 1 } else { high = middle }
            }
            low
        };
        first_at(from)..first_at(until)
    }

    pub(crate) fn id(&self, number: u64) -> String {
        self.spelled(number, self.roll(number).share(Trait::Connection))
    }

    fn spelled(&self, number: u64, share: f64) -> String {
        let hidden = hide(number, self.seed);
        if share < self.google {
            format!("google-oauth2|1{hidden:020}")
        } else if share < self.google + self.email {
            format!("email|5f3c2a10{hidden:016x}")
        } else if share < self.google + self.email + self.saml {
            format!("samlp|acme-saml|Jörg/{hidden:016x} #1?+&%7C;@corp.example")
        } else {
            format!("auth0|5f3c2a10{hidden:016x}")
        }
    }

    /// Whose id this is.
    pub(crate) fn number(&self, id: &str) -> Option<u64> {
        let hidden = if let Some(digits) = id.strip_prefix("google-oauth2|1") {
            digits.parse().ok()?
        } else if let Some(rest) = id.strip_prefix("samlp|acme-saml|Jörg/") {
            u64::from_str_radix(rest.split(' ').next()?, 16).ok()?
        } else {
            let (_, rest) = id.split_once("|5f3c2a10")?;
            u64::from_str_radix(rest, 16).ok()?
        };
        let number = reveal(hidden, self.seed);
        (number < self.count && self.id(number) == id).then_some(number)
    }

    /// This user, to whom nothing has happened since.
    pub(crate) fn user(&self, number: u64) -> User {
        let roll = self.roll(number);
        let of_connection = roll.share(Trait::Connection);
        let mut user = User::new(self.spelled(number, of_connection));
        user.connection = if of_connection < self.google {
            &CONNECTIONS[1]
        } else if of_connection < self.google + self.email {
            &CONNECTIONS[2]
        } else if of_connection < self.google + self.email + self.saml {
            &CONNECTIONS[3]
        } else {
            &CONNECTIONS[0]
        };
        user.email = Some(format!("user{number}@example{}.com", number % 7));
        user.email_verified = roll.share(Trait::Verified) < 0.9;
        user.created_at = self.created_at(number);
        if roll.share(Trait::LoggedIn) < self.never_logged_in {
            user.logins_count = (roll.share(Trait::Logins) < 0.5).then_some(0);
        } else {
            let window = self.active_days.saturating_mul(DAY);
            let is_active = roll.share(Trait::Active) < self.active;
            let (least, most) = if is_active { (0, window) } else { (window, self.days.saturating_mul(DAY)) };
            let age = least + scaled(most - least, roll.share(Trait::LastLogin));
            user.last_login = Some((self.as_of - age).max(user.created_at));
            user.logins_count = Some(1 + scaled(500, roll.share(Trait::Logins)).unsigned_abs());
        }
        let evidence = user.last_login.unwrap_or(user.created_at);
        user.updated_at = evidence;
        if roll.share(Trait::Blocked) < self.blocked {
            user.blocked = Some(true);
        } else if roll.share(Trait::Blocked) > 0.99 {
            // Those who were blocked once say so; the others say nothing.
            user.blocked = Some(false);
        }
        if roll.share(Trait::LastActive) < self.last_active {
            let at = evidence + scaled(self.as_of - evidence, roll.share(Trait::LastActiveAt));
            let is_number = roll.share(Trait::LastActiveForm) < self.last_active_as_number;
            user = if is_number { user.last_active_millis(at) } else { user.last_active(at) };
        }
        user
    }

    fn roll(&self, number: u64) -> Roll {
        Roll(mix(self.seed ^ mix(number)))
    }
}

/// What is drawn for a user, each for itself.
#[derive(Clone, Copy)]
enum Trait {
    Connection = 1,
    Verified,
    LoggedIn,
    Logins,
    Active,
    LastLogin,
    Blocked,
    LastActive,
    LastActiveAt,
    LastActiveForm,
}

struct Roll(u64);

impl Roll {
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    fn share(&self, of: Trait) -> f64 {
        (mix(self.0.wrapping_add((of as u64).wrapping_mul(GOLDEN))) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "spans of time, to about a millisecond"
)]
fn scaled(span: i64, share: f64) -> i64 {
    (span.max(0) as f64 * share) as i64
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64.
pub(crate) fn mix(mut number: u64) -> u64 {
    number = number.wrapping_add(GOLDEN);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Odd, so that multiplying by it can be undone.
const FACTOR: u64 = 0xd130_2a87_3e6b_5f4d;

const INVERSE: u64 = {
    // Newton's iteration doubles the bits that are right; an odd number is its own inverse to three bits.
    let mut inverse = FACTOR;
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(FACTOR.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
};

fn hide(number: u64, seed: u64) -> u64 {
    number.wrapping_mul(FACTOR).wrapping_add(mix(seed))
}

fn reveal(hidden: u64, seed: u64) -> u64 {
    hidden.wrapping_sub(mix(seed)).wrapping_mul(INVERSE)
}
