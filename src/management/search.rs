//! All users by searches, which find a thousand at most: by when they were created, in windows that are halved until they hold
//! fewer.
//!
//! 1. The windows cover each millisecond once. Users of whom it is not told when they were created have a window of their own.
//! 2. A search that takes the tenant too long is one in a window that is too large.
//! 3. Pages of a window are read again when they do not add up: the index changed meanwhile. Each user is listed once.

use std::{collections::HashSet, time::Duration};

use http::{Method, StatusCode};
use tokio::sync::mpsc;

use super::{
    listing::{BATCH, Listed},
    tenant::TenantError,
    user::{Page, User},
    users::{Users, encoded},
};
use crate::clock::Timestamp;

/// How many users a search finds at most, and how far it may count.
const MOST: usize = 1000;

/// How many users a page has at most.
const PAGE: usize = 100;

/// How often a window is read whose pages do not add up.
const READINGS: u32 = 3;

/// How often in a row windows are halved for that: less than a quarter of an hour is left of a year.
const HALVINGS: u32 = 16;

/// Lists users by searches.
pub(super) struct Search {
    users: Users,
    sender: mpsc::Sender<Listed>,
}

/// What is searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    Created(Window),
    /// When they were created is not told.
    Undated,
}

/// What a search came to.
#[derive(Default)]
struct Found {
    users: Vec<User>,
    unreadable: u64,
}

impl Search {
    pub(super) fn new(users: Users, sender: mpsc::Sender<Listed>) -> Self {
        Self { users, sender }
    }

    pub(super) async fn run(self, connection: Option<&str>) -> Result<(), TenantError> {
        let filter = connection.map(|name| format!("identities.connection:{} AND ", quoted(name)));
        let filter = filter.unwrap_or_default();
        // The last is searched first.
        let mut scopes = vec![Scope::Undated];
        scopes.extend(Window::all(self.users.tenant.now()).into_iter().rev().map(Scope::Created));
        let mut slow = 0;
        while let Some(scope) = scopes.pop() {
            let halves = scope.halves().filter(|_| slow < HALVINGS);
            let found = match self.search(&format!("{filter}{scope}"), halves.is_some()).await {
                Ok(found) => {
                    slow = 0;
                    found
                }
                Err(error) if halves.is_some() && is_slow(&error) => {
                    slow += 1;
                    None
                }
                Err(error) => return Err(error),
            };
            match (found, halves.or_else(|| scope.halves())) {
                (Some(found), _) => {
                    if !found.users.is_empty() && self.sender.send(Listed::Users(found.users)).await.is_err() {
                        return Ok(());
                    }
                    if found.unreadable > 0 && self.sender.send(Listed::Unreadable(found.unreadable)).await.is_err() {
                        return Ok(());
                    }
                }
                (None, Some((earlier, later))) => scopes.extend([later, earlier]),
                (None, None) => return Err(TenantError::TooMany { what: scope.too_many() }),
            }
        }
        Ok(())
    }

    /// All users in a scope; `None`: there are too many.
    async fn search(&self, query: &str, can_halve: bool) -> Result<Option<Found>, TenantError> {
        let mut readings = 0;
        loop {
            readings += 1;
            let mut found = Found::default();
            let mut ids = HashSet::new();
            let mut total = 0;
            let mut is_steady = true;
            for page in 0..MOST / PAGE {
                let (told, users) = self.page(query, page, can_halve).await?;
                // A thousand may stand for more.
                if told >= MOST {
                    return Ok(None);
                }
                is_steady &= page == 0 || told == total;
                total = told;
                let is_last = users.len() < PAGE || (page + 1) * PAGE >= total;
                for user in users {
                    match user {
                        Some(user) if ids.insert(user.id.clone()) => found.users.push(user),
                        Some(_) => is_steady = false,
                        None => found.unreadable += 1,
                    }
                }
                if is_last {
                    break;
                }
            }
            let missing = (total as u64).saturating_sub(found.users.len() as u64 + found.unreadable);
            if (is_steady && missing == 0) || readings >= READINGS {
                found.unreadable += missing;
                return Ok(Some(found));
            }
        }
    }

    /// How many there are in all, and those of a page.
    async fn page(&self, query: &str, page: usize, can_halve: bool) -> Result<(usize, Vec<Option<User>>), TenantError> {
        const FIELDS: &str = "user_id,blocked,created_at,last_login,logins_count,app_metadata";
        let path = format!(
            "/api/v2/users?q={}&search_engine=v3&sort=created_at%3A1&per_page={PAGE}&page={page}&include_totals=true\
             &fields={}&include_fields=true",
            encoded(query),
            encoded(FIELDS),
        );
        let call = || async {
            let answer = self.users.tenant.call(Method::GET, &path, None).await?;
            let page = Page::read(&self.users.reader, &answer.body).ok_or(TenantError::Malformed)?;
            match (page.total(), page.users) {
                (Some(total), Some(users)) if users.len() <= BATCH => Ok((total, users)),
                _ => Err(TenantError::Malformed),
            }
        };
        self.users.repeat_unless(|error| can_halve && is_slow(error), call).await
    }
}

/// Whether the tenant gave up, or we did.
fn is_slow(error: &TenantError) -> bool {
    match error {
        TenantError::TimedOut => true,
        TenantError::Status { status, .. } => {
            matches!(*status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
        }
        _ => false,
    }
}

/// A phrase of the query language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Scope {
    fn halves(self) -> Option<(Self, Self)> {
        let Self::Created(window) = self else { return None };
        window.halves().map(|(earlier, later)| (Self::Created(earlier), Self::Created(later)))
    }

    fn too_many(self) -> Box<str> {
        let which = match self {
            Self::Created(window) => format!("were created at {}", window.first),
            Self::Undated => "have no created_at".to_owned(),
        };
        format!("{MOST} users or more {which}, which a search cannot list: export them").into()
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Created(window) => write!(f, "{window}"),
            Self::Undated => f.write_str("NOT _exists_:created_at"),
        }
    }
}

/// From one millisecond to another, both within.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Window {
    first: Timestamp,
    last: Timestamp,
}

/// The years 1 to 9999.
const EVER: Window =
    Window { first: Timestamp::from_secs(-62_135_596_800), last: Timestamp::from_millis(253_402_300_799_999) };

/// 2013, when the first tenants came to be.
const BEGINNING: Timestamp = Timestamp::from_secs(1_356_998_400);

impl Window {
    /// All time there is: before there were users, while there were, and the future.
    fn all(now: Timestamp) -> [Self; 3] {
        const MILLI: Duration = Duration::from_millis(1);
        // Clocks differ.
        let soon = now.plus(Duration::from_secs(24 * 3600)).clamp(BEGINNING, EVER.last.minus(MILLI));
        [
            Self { first: EVER.first, last: BEGINNING.minus(MILLI) },
            Self { first: BEGINNING, last: soon },
            Self { first: soon.plus(MILLI), last: EVER.last },
        ]
    }

    /// `None` for a single millisecond.
    fn halves(self) -> Option<(Self, Self)> {
        let (first, last) = (self.first.as_millis(), self.last.as_millis());
        if first >= last {
            return None;
        }
        let middle = first + (last - first) / 2;
        let earlier = Self { last: Timestamp::from_millis(middle), ..self };
        Some((earlier, Self { first: Timestamp::from_millis(middle + 1), ..self }))
    }
}

/// In the query language. The first and the last window have no ends: nobody is created outside of them.
impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = |time: Timestamp, open| if time == open { "*".to_owned() } else { time.to_string() };
        write!(f, "created_at:[{} TO {}]", end(self.first, EVER.first), end(self.last, EVER.last))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_are_written_as_the_query_language_has_them() {
        let [before, between, after] = Window::all("2026-05-01T00:00:00Z".parse().unwrap());
        assert_eq!(before.to_string(), "created_at:[* TO 2012-12-31T23:59:59.999Z]");
        assert_eq!(between.to_string(), "created_at:[2013-01-01T00:00:00.000Z TO 2026-05-02T00:00:00.000Z]");
        assert_eq!(after.to_string(), "created_at:[2026-05-02T00:00:00.001Z TO *]");
        assert_eq!(Scope::Undated.to_string(), "NOT _exists_:created_at");
        assert_eq!(quoted(r#"a"b\"#), r#""a\"b\\""#);
    }

    #[test]
    fn a_millisecond_is_not_halved() {
        let first = Timestamp::from_millis(7);
        let two = Window { first, last: Timestamp::from_millis(8) };
        let (earlier, later) = two.halves().unwrap();
        assert_eq!((earlier.first, earlier.last), (first, first));
        assert_eq!((later.first, later.last), (two.last, two.last));
        assert_eq!(earlier.halves(), None);
        assert_eq!(Scope::Undated.halves(), None);
    }

    proptest! {
        #[test]
        fn windows_cover_each_millisecond_once(
            now in any::<i64>(),
            halved in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let mut windows = Window::all(Timestamp::from_millis(now)).to_vec();
            for index in halved {
                let index = index.index(windows.len());
                if let Some((earlier, later)) = windows[index].halves() {
                    windows.splice(index..=index, [earlier, later]);
                }
            }
            prop_assert_eq!(windows[0].first, EVER.first);
            prop_assert_eq!(windows[windows.len() - 1].last, EVER.last);
            prop_assert!(windows.iter().all(|window| window.first <= window.last));
            for pair in windows.windows(2) {
                prop_assert_eq!(pair[0].last.as_millis() + 1, pair[1].first.as_millis());
            }
        }
    }
}
