//! `GET /api/v2/users`: the first 1000 of those who fit, as the index has them, which is behind.

use std::{
    cmp::Ordering,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, request::Parts};
use serde_json::{Value, json};
use tokio::task;

use super::{
    Auth0, Shared,
    answer::{Body, Refusal, error, invalid_query, json_answer, number, only, query, truth, value},
    directory::{Directory, View},
    field::{Field, Held},
    query::Query,
    user::User,
};

/// No more results can be had.
const MOST: usize = 1000;

/// How long a query may take.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(crate) struct Search {
    /// So many of the next queries time out.
    timing_out: usize,
    /// Whether `total` ends at 1000 too; it is not documented.
    totals_end: bool,
}

/// A search, read from the query of a request.
struct Asked {
    query: Query,
    page: usize,
    per_page: usize,
    with_totals: bool,
    sort: Option<(Field, bool)>,
    fields: Chosen,
}

const PARAMETERS: [&str; 10] = [
    "q",
    "page",
    "per_page",
    "include_totals",
    "sort",
    "connection",
    "fields",
    "include_fields",
    "search_engine",
    "primary_order",
];

impl Asked {
    fn read(head: &Parts) -> Result<Self, Refusal> {
        let invalid = |message: &str| Err(Box::new(invalid_query(message)));
        let given = query(head);
        only(&given, &PARAMETERS)?;
        match (value(&given, "search_engine"), value(&given, "q")) {
            (Some("v3"), _) | (None, None) => {}
            (None, Some(_)) => {
                return invalid("The 'q' parameter is available only if you specify 'search_engine=v2|v3'.");
            }
            (Some(_), _) => {
                return invalid("You are not allowed to use this search_engine. Use search_engine=v3 instead.");
            }
        }
        truth(&given, "primary_order")?;
        let (page, per_page) = (number(&given, "page")?.unwrap_or(0), number(&given, "per_page")?.unwrap_or(50));
        if per_page == 0 || per_page > 100 {
            return invalid("Query validation error: 'Value is not from 1 to 100' on property per_page.");
        }
        if page.saturating_add(1).saturating_mul(per_page) > MOST {
            return Err(Box::new(error(
                400,
                "invalid_paging",
                "You can only page through the first 1000 records. See https://auth0.com/docs/users/search/v3/view-search-results-by-page#limitation.",
            )));
        }
        let sort = match value(&given, "sort") {
            None => None,
            Some(text) => {
                let (name, order) = text.rsplit_once(':').unwrap_or((text, ""));
                match (Field::searched(name), order) {
                    (Some(field), "1" | "-1") => Some((field, order == "-1")),
                    _ => return invalid("sort is not understood"),
                }
            }
        };
        let query = Query::read(value(&given, "q").unwrap_or_default());
        let query = match query.and_then(suited) {
            Ok(query) => query,
            Err(message) => return invalid(&format!("q is not understood: {message}")),
        };
        Ok(Self {
            query,
            page,
            per_page,
            with_totals: truth(&given, "include_totals")?.unwrap_or(false),
            sort,
            fields: Chosen::read(&given)?,
        })
    }
}

/// Ranges of times have times for bounds, and so on.
fn suited(query: Query) -> Result<Query, String> {
    fn is_suited(query: &Query) -> bool {
        match query {
            Query::Within(field, bounds) => bounds.suit(field),
            Query::Not(query) => is_suited(query),
            Query::And(queries) | Query::Or(queries) => queries.iter().all(is_suited),
            Query::All | Query::Exists(_) | Query::Is(..) => true,
        }
    }
    if is_suited(&query) { Ok(query) } else { Err("a bound that does not suit its field".into()) }
}

/// `fields` and `include_fields`.
#[derive(Default)]
pub(crate) struct Chosen {
    /// Members of the user; empty: all.
    members: Vec<String>,
    are_left_out: bool,
}

impl Chosen {
    pub(crate) fn read(given: &[(String, String)]) -> Result<Self, Refusal> {
        let are_left_out = !truth(given, "include_fields")?.unwrap_or(true);
        let fields = value(given, "fields").unwrap_or_default().split(',').map(str::trim);
        let members = fields.filter_map(|field| field.split('.').next()).filter(|member| !member.is_empty());
        Ok(Self { members: members.map(str::to_owned).collect(), are_left_out })
    }

    /// What is left of a user.
    pub(crate) fn of(&self, user: &User) -> Value {
        let mut user = user.json();
        if !self.members.is_empty()
            && let Some(members) = user.as_object_mut()
        {
            members.retain(|name, _| self.members.contains(name) != self.are_left_out);
        }
        user
    }
}

impl Shared {
    pub(crate) async fn search(&self, head: &Parts) -> Response<Body> {
        let asked = match Asked::read(head) {
            Ok(asked) => asked,
            Err(refusal) => return *refusal,
        };
        let (directory, is_made_to_fail, totals_end) = {
            let mut state = self.state();
            let is_made_to_fail = state.search.timing_out > 0;
            state.search.timing_out = state.search.timing_out.saturating_sub(1);
            (state.directory.clone(), is_made_to_fail, state.search.totals_end)
        };
        let timed_out = || {
            error(
                503,
                "query_timeout",
                "The query exceeded the timeout. Please try refining your search criteria. See https://auth0.com/docs/best-practices/search-best-practices.",
            )
        };
        if is_made_to_fail {
            return timed_out();
        }
        let asked = Arc::new(asked);
        let found = task::spawn_blocking({
            let asked = Arc::clone(&asked);
            move || find(&directory, &asked, Instant::now() + PATIENCE)
        });
        let Ok(Some((users, total))) = found.await else { return timed_out() };
        let users: Vec<Value> = users.iter().map(|user| asked.fields.of(user)).collect();
        if !asked.with_totals {
            return json_answer(200, &json!(users));
        }
        let total = if totals_end { total.min(MOST) } else { total };
        let start = asked.page * asked.per_page;
        let answer =
            json!({ "start": start, "limit": asked.per_page, "length": users.len(), "users": users, "total": total });
        json_answer(200, &answer)
    }
}

/// A page of those who fit, and how many fit; none: it takes too long.
fn find(directory: &Directory, asked: &Asked, until: Instant) -> Option<(Vec<User>, usize)> {
    let wanted = (asked.page + 1) * asked.per_page;
    let mut total = 0;
    let mut found: Vec<User> = Vec::new();
    for (looked_at, key) in directory.keys(asked.query.created()).enumerate() {
        if looked_at % 1024 == 0 && Instant::now() > until {
            return None;
        }
        let Some(user) = directory.read(key, View::Indexed).filter(|user| asked.query.fits(user)) else { continue };
        total += 1;
        if asked.sort.is_some() || found.len() < wanted {
            found.push(user);
        }
        // Only the first of them are kept, whatever their number.
        if found.len() >= 4 * MOST {
            asked.sort(&mut found);
            found.truncate(wanted);
        }
    }
    asked.sort(&mut found);
    let page = found.into_iter().skip(asked.page * asked.per_page).take(asked.per_page);
    Some((page.collect(), total))
}

impl Asked {
    fn sort(&self, users: &mut [User]) {
        let Some((field, descends)) = &self.sort else { return };
        users.sort_by(|one, two| {
            let order = |one: &Held<'_>, two: &Held<'_>| if *descends { two.order(one) } else { one.order(two) };
            // Those without the field come last, whatever the order.
            match (field.of(one), field.of(two)) {
                (Some(one), Some(two)) => order(&one, &two),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            }
        });
    }
}

impl Auth0 {
    /// So many of the next searches take too long.
    pub(crate) fn time_out_searches(&self, count: usize) {
        self.state().search.timing_out = count;
    }

    /// Whether `total` of a search ends at 1000 as its results do, or counts on, as at first. Auth0 does not document it.
    pub(crate) fn end_totals(&self, they_end: bool) {
        self.state().search.totals_end = they_end;
    }
}
