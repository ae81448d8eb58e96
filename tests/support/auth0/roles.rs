//! Roles and who has them, and connections.

use std::collections::BTreeMap;

use http::{Response, request::Parts};
use serde_json::{Value, json};

use super::{
    Auth0, Shared,
    answer::{Body, Refusal, error, invalid_query, json_answer, number, only, query, truth, value},
    user::CONNECTIONS,
};

/// No more can be had by pages.
const MOST: usize = 1000;

#[derive(Default)]
pub(crate) struct Roles {
    roles: BTreeMap<String, Role>,
}

struct Role {
    name: String,
    description: String,
    /// In the order in which they were given it.
    users: Vec<String>,
}

/// A page of so many.
struct Page {
    number: usize,
    size: usize,
    with_totals: bool,
}

impl Page {
    fn read(given: &[(String, String)]) -> Result<Self, Refusal> {
        let (page, size) = (number(given, "page")?.unwrap_or(0), number(given, "per_page")?.unwrap_or(50));
        if size == 0 || size > 100 {
            return Err(Box::new(invalid_query("per_page is not from 1 to 100")));
        }
        if page.saturating_add(1).saturating_mul(size) > MOST {
            return Err(Box::new(error(
                400,
                "invalid_paging",
                &format!(
                    "Requesting page {page} exceeds the allowed maximum of {MOST} records. To fetch results beyond {MOST}, use the \
                     checkpoint pagination method."
                ),
            )));
        }
        Ok(Self { number: page, size, with_totals: truth(given, "include_totals")?.unwrap_or(false) })
    }

    fn answer(&self, name: &str, all: Vec<Value>) -> Response<Body> {
        let (start, total) = (self.number * self.size, all.len());
        let page: Vec<Value> = all.into_iter().skip(start).take(self.size).collect();
        if !self.with_totals {
            return json_answer(200, &json!(page));
        }
        let length = page.len();
        json_answer(200, &json!({ "start": start, "limit": self.size, "length": length, "total": total, name: page }))
    }
}

impl Shared {
    pub(crate) fn roles(&self, head: &Parts) -> Response<Body> {
        let given = query(head);
        let page =
            only(&given, &["name_filter", "page", "per_page", "include_totals"]).and_then(|()| Page::read(&given));
        let page = match page {
            Ok(page) => page,
            Err(refusal) => return *refusal,
        };
        let filter = value(&given, "name_filter").unwrap_or_default().to_lowercase();
        let state = self.state();
        // A filter finds every name that it is a part of.
        let found = state.roles.roles.iter().filter(|(_, role)| role.name.to_lowercase().contains(&filter));
        let found = found.map(|(id, role)| json!({ "id": id, "name": role.name, "description": role.description }));
        page.answer("roles", found.collect())
    }

    pub(crate) fn users_of_role(&self, role: &str, head: &Parts) -> Response<Body> {
        let given = query(head);
        if let Err(refusal) = only(&given, &["from", "take", "page", "per_page", "include_totals"]) {
            return *refusal;
        }
        let state = self.state();
        let Some(role) = state.roles.roles.get(role) else {
            return error(404, "inexistent_role", "The role does not exist.");
        };
        let directory = &state.directory;
        // Those who are no longer there have no role.
        let users = role.users.iter().filter_map(|id| directory.user(id));
        let users = users.map(|user| {
            let mut member = json!({ "user_id": user.id });
            if let Some(email) = &user.email {
                member["email"] = json!(email);
                member["name"] = json!(email);
            }
            member
        });
        let is_by_checkpoint = value(&given, "from").is_some() || value(&given, "take").is_some();
        if !is_by_checkpoint {
            return match Page::read(&given) {
                Ok(page) => page.answer("users", users.collect()),
                Err(refusal) => *refusal,
            };
        }
        let take = match number(&given, "take") {
            Ok(take) => take.unwrap_or(50),
            Err(refusal) => return *refusal,
        };
        if take == 0 || take > 100 {
            return invalid_query("take is not from 1 to 100");
        }
        let start = match value(&given, "from").map(|from| from.strip_prefix("member-").and_then(|n| n.parse().ok())) {
            None => 0,
            Some(Some(start)) => start,
            Some(None) => return invalid_query("from is not a checkpoint"),
        };
        let users: Vec<Value> = users.collect();
        let end = users.len().min(start + take);
        let mut answer = json!({ "users": users.get(start..end).unwrap_or_default() });
        if end < users.len() {
            answer["next"] = json!(format!("member-{end}"));
        }
        json_answer(200, &answer)
    }
}

pub(crate) fn connections(head: &Parts) -> Response<Body> {
    let given = query(head);
    let known = ["name", "strategy", "fields", "include_fields", "page", "per_page", "include_totals"];
    let page = only(&given, &known).and_then(|()| Page::read(&given));
    let page = match page {
        Ok(page) => page,
        Err(refusal) => return *refusal,
    };
    let is_wanted = |name: &str, of: &str| value(&given, name).is_none_or(|wanted| wanted == of);
    let found = CONNECTIONS
        .iter()
        .filter(|connection| is_wanted("name", connection.name) && is_wanted("strategy", connection.strategy));
    let found = found.map(|connection| {
        json!({ "id": connection.id, "name": connection.name, "strategy": connection.strategy, "options": {} })
    });
    page.answer("connections", found.collect())
}

impl Auth0 {
    /// Adds a role, which nobody has; its id.
    pub(crate) fn add_role(&self, name: &str) -> String {
        let mut state = self.state();
        let id = format!("rol_{:016}", state.roles.roles.len() + 1);
        let role = Role { name: name.to_owned(), description: format!("Role {name}"), users: Vec::new() };
        state.roles.roles.insert(id.clone(), role);
        id
    }

    /// Gives these users a role; whether there is one.
    pub(crate) fn assign_role(&self, role: &str, users: impl IntoIterator<Item = impl Into<String>>) -> bool {
        let mut state = self.state();
        let found = state.roles.roles.get_mut(role);
        found.map(|role| role.users.extend(users.into_iter().map(Into::into))).is_some()
    }
}
