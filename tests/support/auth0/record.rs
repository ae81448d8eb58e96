//! What the tenant was asked: the last calls in full, the rest in numbers, so that a long run takes no more memory than a short one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Instant,
};

use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::Auth0;

/// A request, as the tenant got it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) at: Instant,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Value,
    pub(crate) status: StatusCode,
}

/// How many calls there were, whatever came of them; without those that hung and came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counts {
    /// Management API: those that only read.
    pub(crate) reads: u64,
    /// Management API: those that would change a user or a session.
    pub(crate) writes: u64,
    /// Management API: exports that were asked for.
    pub(crate) jobs: u64,
    /// Grants of tokens.
    pub(crate) tokens: u64,
    /// Downloads of exports.
    pub(crate) downloads: u64,
}

/// What was done to a user through the API.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Done {
    /// `PATCH` of the user.
    pub(crate) patches: u32,
    /// `POST …/revoke-access`.
    pub(crate) access_revoked: u32,
    /// `DELETE …/refresh-tokens`.
    pub(crate) refresh_tokens_deleted: u32,
    /// `DELETE …/sessions`.
    pub(crate) sessions_deleted: u32,
}

/// How many violations are told in words.
const TOLD: usize = 100;

pub(crate) struct Record {
    calls: VecDeque<Call>,
    kept: usize,
    counts: Counts,
    by_kind: BTreeMap<String, u64>,
    done: HashMap<Box<str>, Done>,
    violations: usize,
    told: Vec<String>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            calls: VecDeque::new(),
            kept: 10_000,
            counts: Counts::default(),
            by_kind: BTreeMap::new(),
            done: HashMap::new(),
            violations: 0,
            told: Vec::new(),
        }
    }
}

impl Record {
    pub(crate) fn call(&mut self, call: Call) {
        self.count(call.method.as_str(), call.target.split('?').next().unwrap_or_default());
        while self.calls.len() >= self.kept.max(1) {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    fn count(&mut self, method: &str, path: &str) {
        let counts = &mut self.counts;
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let counter = match (method, &segments[..]) {
            (_, ["oauth", ..]) => &mut counts.tokens,
            (_, ["exports", ..]) => &mut counts.downloads,
            ("GET", _) => &mut counts.reads,
            ("POST", [_, _, "jobs", ..]) => &mut counts.jobs,
            _ => &mut counts.writes,
        };
        *counter += 1;
        // Ids make no kinds, or there would be as many as users.
        let kind = match &segments[..] {
            ["api", "v2", "jobs", "users-exports"] => "jobs/users-exports".to_owned(),
            ["api", "v2", kind, _, rest @ ..] => [&[*kind, "{id}"], rest].concat().join("/"),
            ["api", "v2", kind] => (*kind).to_owned(),
            ["exports", ..] => "exports".to_owned(),
            ["oauth", kind] => format!("oauth/{kind}"),
            _ => "other".to_owned(),
        };
        let kind = if kind.len() > 60 { "other" } else { &kind };
        if self.by_kind.len() < 100 {
            *self.by_kind.entry(format!("{method} {kind}")).or_default() += 1;
        } else if let Some(count) = self.by_kind.get_mut(&format!("{method} {kind}")) {
            *count += 1;
        }
    }

    pub(crate) fn violation(&mut self, what: impl Into<String>) {
        self.violations += 1;
        if self.told.len() < TOLD {
            self.told.push(what.into());
        }
    }

    pub(crate) fn done(&mut self, id: &str) -> &mut Done {
        // Not by `entry`, which would copy each id.
        if !self.done.contains_key(id) {
            self.done.insert(id.into(), Done::default());
        }
        self.done.entry(id.into()).or_default()
    }
}

impl Auth0 {
    /// The last requests whose path begins so.
    pub(crate) fn calls(&self, path: &str) -> Vec<Call> {
        self.state().record.calls.iter().filter(|call| call.target.starts_with(path)).cloned().collect()
    }

    /// So many of the last calls are kept in full from now on; 10,000 at first.
    pub(crate) fn keep_calls(&self, kept: usize) {
        let mut state = self.state();
        state.record.kept = kept;
        let surplus = state.record.calls.len().saturating_sub(kept);
        state.record.calls.drain(..surplus);
    }

    /// How many calls there were.
    pub(crate) fn counts(&self) -> Counts {
        self.state().record.counts
    }

    /// How many calls of each kind there were, such as `PATCH users/{id}`.
    pub(crate) fn counts_by_kind(&self) -> BTreeMap<String, u64> {
        self.state().record.by_kind.clone()
    }

    /// What was done to this user through the API, successfully.
    pub(crate) fn done_to(&self, id: &str) -> Done {
        self.state().record.done.get(id).copied().unwrap_or_default()
    }

    /// The same of everybody to whom anything was done.
    pub(crate) fn done(&self) -> BTreeMap<String, Done> {
        self.state().record.done.iter().map(|(id, done)| (id.to_string(), *done)).collect()
    }

    /// How many users were patched, and how often the one who was patched most.
    pub(crate) fn patched(&self) -> (usize, u32) {
        let state = self.state();
        let patches = state.record.done.values().map(|done| done.patches).filter(|patches| *patches > 0);
        patches.fold((0, 0), |(users, most), patches| (users + 1, most.max(patches)))
    }

    /// How many requests there were that a client must not make: before the time that a 429 had named, with a user id that was not
    /// percent-encoded as it should be, with the token of the Management API to where exports are downloaded.
    pub(crate) fn violations(&self) -> usize {
        self.state().record.violations
    }

    /// The first of them in words.
    pub(crate) fn violations_told(&self) -> Vec<String> {
        self.state().record.told.clone()
    }
}
