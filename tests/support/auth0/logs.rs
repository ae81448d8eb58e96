//! The log of the tenant: checkpoint and search mode.

use std::{collections::BTreeMap, ops::Bound};

use http::{HeaderValue, Response, header, request::Parts};
use serde_json::{Value, json};

use super::{
    Auth0, Shared,
    answer::{Body, error, invalid_query, json_answer, query, value},
    moment::{iso, now, parse},
};

#[derive(Default)]
pub(crate) struct Logs {
    records: BTreeMap<String, Value>,
    given_out: u64,
}

impl Logs {
    fn next_id(&mut self) -> String {
        self.given_out += 1;
        format!("90020261126{:045}", self.given_out)
    }

    /// Writes a record; its id.
    pub(crate) fn write(&mut self, record: Value) -> String {
        let id = self.next_id();
        self.write_as(&id, record);
        id
    }

    fn write_as(&mut self, id: &str, mut record: Value) {
        if let Some(members) = record.as_object_mut() {
            for (name, value) in [("date", json!(iso(now()))), ("log_id", json!(id)), ("_id", json!(id))] {
                members.entry(name).or_insert(value);
            }
        }
        self.records.insert(id.to_owned(), record);
    }
}

impl Auth0 {
    /// The id of a log record that is written later than those after it.
    pub(crate) fn next_log_id(&self) -> String {
        self.state().logs.next_id()
    }

    /// Writes a record to the log; what is not given of `date` and `log_id` is filled in. Its id.
    pub(crate) fn log(&self, record: Value) -> String {
        self.state().logs.write(record)
    }

    /// The same with an id that was given out before.
    pub(crate) fn log_as(&self, id: &str, record: Value) {
        self.state().logs.write_as(id, record);
    }

    /// A user logged out.
    pub(crate) fn log_out(&self, sub: &str, session: &str) -> String {
        self.log(logout(sub, session))
    }

    /// The log no longer has what is older than this record.
    pub(crate) fn forget_logs_before(&self, id: &str) {
        let mut state = self.state();
        state.logs.records = state.logs.records.split_off(id);
    }
}

/// The record of a logout.
pub(crate) fn logout(sub: &str, session: &str) -> Value {
    json!({
        "type": "slo",
        "description": "User successfully logged out",
        "tenant_name": "acme",
        "user_id": sub,
        "client_id": "web-app",
        "details": { "session_id": session, "return_to": "https://app.example" },
    })
}

impl Shared {
    pub(crate) fn logs(&self, head: &Parts) -> Response<Body> {
        if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > 2000) {
            return error(414, "invalid_uri", "URI Too Long");
        }
        let query = query(head);
        match value(&query, "from") {
            Some(from) => self.logs_from(from, value(&query, "take")),
            None => self.search_logs(&query),
        }
    }

    /// Checkpoint mode: whatever else is asked for is ignored.
    fn logs_from(&self, from: &str, take: Option<&str>) -> Response<Body> {
        let Ok(take) = take.unwrap_or("50").parse::<usize>() else { return invalid_query("take is not a number") };
        if take == 0 || take > 100 {
            return invalid_query("take is not from 1 to 100");
        }
        let state = self.state();
        // What Auth0 does about a checkpoint that it does not know is not documented.
        if !state.logs.records.contains_key(from) {
            return invalid_query("from is not a log_id that is kept");
        }
        let after = (Bound::Excluded(from.to_owned()), Bound::Unbounded);
        let page: Vec<(&String, &Value)> = state.logs.records.range(after).take(take).collect();
        let next = page.last().map_or(from, |(id, _)| id.as_str());
        let link = format!("<{}/api/v2/logs?from={next}&take={take}>; rel=\"next\"", self.base);
        let records: Vec<&Value> = page.into_iter().map(|(_, record)| record).collect();
        let mut response = json_answer(200, &json!(records));
        if let Ok(link) = HeaderValue::try_from(link) {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }

    /// Search mode: only `date:[… TO *]` is understood here, by `date`.
    fn search_logs(&self, query: &[(String, String)]) -> Response<Body> {
        let number = |name, default| value(query, name).map_or(Some(default), |text| text.parse::<usize>().ok());
        let (Some(page), Some(per_page)) = (number("page", 0), number("per_page", 50)) else {
            return invalid_query("page and per_page are numbers");
        };
        if per_page > 100 || (page + 1) * per_page > 1000 {
            return invalid_query("more than 100 records, or more than the first 1000");
        }
        let since = value(query, "q").and_then(|q| parse(q.strip_prefix("date:[")?.strip_suffix(" TO *]")?));
        let (Some(since), Some("date:1")) = (since, value(query, "sort")) else {
            return invalid_query("q or sort is not understood");
        };
        let state = self.state();
        let date = |record: &Value| record["date"].as_str().and_then(parse);
        let mut found: Vec<&Value> =
            state.logs.records.values().filter(|record| date(record).is_some_and(|at| at >= since)).collect();
        found.sort_by_key(|record| date(record));
        json_answer(200, &json!(found.into_iter().skip(page * per_page).take(per_page).collect::<Vec<_>>()))
    }
}
