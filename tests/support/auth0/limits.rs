//! The rate limits of the Management API: token buckets, one for all endpoints or one for a group of them.
//!
//! Every answer of a limited endpoint tells of its bucket. Whoever asks again before the time that a 429 named is recorded, unless the
//! request may have been on its way already.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use super::{
    Auth0,
    answer::{Body, Refusal, error},
    moment::now,
};

/// A token bucket.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Limit {
    pub(crate) burst: u32,
    pub(crate) per_second: f64,
    /// Whether a 429 says `Retry-After`; it always says `x-ratelimit-reset`.
    pub(crate) retry_after: bool,
}

impl Limit {
    /// A production tenant of an Enterprise plan.
    pub(crate) const ENTERPRISE: Self = Self { burst: 50, per_second: 16.0, retry_after: false };
    /// A tenant that is not for production.
    pub(crate) const NON_PRODUCTION: Self = Self { burst: 10, per_second: 2.0, retry_after: false };
    /// A free tenant.
    pub(crate) const FREE: Self = Self { burst: 2, per_second: 2.0, retry_after: false };
    /// [`Group::ReadUsers`] of the Essentials and Professional plans.
    pub(crate) const READ_USERS: Self = Self { burst: 40, per_second: 500.0 / 60.0, retry_after: false };
    /// [`Group::WriteUsers`] of them.
    pub(crate) const WRITE_USERS: Self = Self { burst: 20, per_second: 200.0 / 60.0, retry_after: false };
    /// [`Group::ReadLogs`] of them.
    pub(crate) const READ_LOGS: Self = Self { burst: 10, per_second: 100.0 / 60.0, retry_after: false };
    /// As good as none.
    pub(crate) const WIDE: Self = Self { burst: 1_000_000, per_second: 1_000_000.0, retry_after: false };
}

/// Endpoints that can have a bucket of their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Group {
    ReadUsers,
    WriteUsers,
    ReadLogs,
    Jobs,
    /// Everything else.
    Other,
}

impl Group {
    /// That of a call; `path` begins after `/api/v2/`.
    pub(crate) fn of(method: &str, path: &str) -> Self {
        match (method, path.split('/').next().unwrap_or_default()) {
            ("GET", "users") => Self::ReadUsers,
            (_, "users" | "sessions" | "refresh-tokens") => Self::WriteUsers,
            ("GET", "logs") => Self::ReadLogs,
            (_, "jobs") => Self::Jobs,
            _ => Self::Other,
        }
    }
}

pub(crate) struct Limits {
    shared: Bucket,
    own: HashMap<Group, Bucket>,
    /// How long a request may have been on its way when its sender hears of a 429.
    pub(crate) on_the_way: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let shared = Bucket::new(Limit { burst: 1000, per_second: 1000.0, retry_after: false });
        Self { shared, own: HashMap::new(), on_the_way: Duration::from_millis(100) }
    }
}

impl Limits {
    pub(crate) fn bucket(&mut self, group: Group) -> &mut Bucket {
        self.own.get_mut(&group).unwrap_or(&mut self.shared)
    }
}

pub(crate) struct Bucket {
    limit: Limit,
    left: f64,
    filled_at: Instant,
    /// When the last 429 was given, and the time that it named, in milliseconds since 1970.
    closed: Option<(Instant, i64)>,
}

/// What a bucket gives.
pub(crate) struct Taken {
    /// The fields that tell of the bucket, or the refusal.
    pub(crate) outcome: Result<HeaderMap, Refusal>,
    /// It was asked for before the time that a 429 had named.
    pub(crate) too_early: bool,
}

impl Bucket {
    fn new(limit: Limit) -> Self {
        Self { limit, left: f64::from(limit.burst), filled_at: Instant::now(), closed: None }
    }

    fn refill(&mut self, now: Instant) {
        let gained = (now - self.filled_at).as_secs_f64() * self.limit.per_second;
        self.left = (self.left + gained).min(f64::from(self.limit.burst));
        self.filled_at = now;
    }

    /// When a token is next added, in seconds since 1970.
    fn reset(&self) -> i64 {
        let missing = (1.0 - self.left).max(0.0);
        let wait = Duration::from_secs_f64((missing / self.limit.per_second).clamp(0.001, 86_400.0));
        let at = now() + super::moment::millis(wait);
        at.div_euclid(1000) + i64::from(at.rem_euclid(1000) > 0)
    }

    pub(crate) fn take(&mut self, on_the_way: Duration) -> Taken {
        let at = Instant::now();
        self.refill(at);
        let too_early = self.closed.is_some_and(|(since, until)| now() < until && at - since > on_the_way);
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
            self.closed = None;
        }
        let outcome = if is_left { Ok(self.fields()) } else { Err(Box::new(self.refuse())) };
        Taken { outcome, too_early }
    }

    fn fields(&self) -> HeaderMap {
        #[expect(clippy::cast_possible_truncation, reason = "whole tokens")]
        let remaining = self.left.max(0.0).floor() as i64;
        let numbers = [
            ("x-ratelimit-limit", i64::from(self.limit.burst)),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", self.reset()),
        ];
        numbers.into_iter().map(|(name, number)| (HeaderName::from_static(name), HeaderValue::from(number))).collect()
    }

    /// A 429, which names a time.
    pub(crate) fn refuse(&mut self) -> Response<Body> {
        let mut fields = self.fields();
        let mut until = self.reset() * 1000;
        if self.limit.retry_after {
            let seconds = (self.reset() - now().div_euclid(1000)).max(0);
            fields.insert(header::RETRY_AFTER, seconds.into());
            until = now() + seconds * 1000;
        }
        self.closed = Some((Instant::now(), until));
        let mut refusal = error(429, "too_many_requests", "Global limit has been reached");
        refusal.headers_mut().extend(fields);
        refusal
    }
}

impl Auth0 {
    /// One bucket for all endpoints from now on; it is full.
    pub(crate) fn limit(&self, limit: Limit) {
        let mut state = self.state();
        state.limits.shared = Bucket::new(limit);
        state.limits.own.clear();
    }

    /// These endpoints have a bucket of their own from now on; it is full.
    pub(crate) fn limit_group(&self, group: Group, limit: Limit) {
        self.state().limits.own.insert(group, Bucket::new(limit));
    }

    /// The limits of the Essentials and Professional plans: by endpoint.
    pub(crate) fn limit_as_essentials(&self) {
        self.limit_group(Group::ReadUsers, Limit::READ_USERS);
        self.limit_group(Group::WriteUsers, Limit::WRITE_USERS);
        self.limit_group(Group::ReadLogs, Limit::READ_LOGS);
    }

    /// Somebody else takes so much of the limit that all endpoints share.
    pub(crate) fn take_from_limit(&self, tokens: u32) {
        let mut state = self.state();
        state.limits.shared.refill(Instant::now());
        state.limits.shared.left -= f64::from(tokens);
    }

    /// Somebody else takes so much of the limit of these endpoints.
    pub(crate) fn take_from_group(&self, group: Group, tokens: u32) {
        let mut state = self.state();
        let bucket = state.limits.bucket(group);
        bucket.refill(Instant::now());
        bucket.left -= f64::from(tokens);
    }

    /// How long a request may be on its way: those that come so soon after a 429 are no violations. 100 ms at first.
    pub(crate) fn set_time_on_the_way(&self, time: Duration) {
        self.state().limits.on_the_way = time;
    }
}
