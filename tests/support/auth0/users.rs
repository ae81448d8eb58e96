//! `/api/v2/users/{id}`: what is read at once, what may be updated, and what a login leaves behind.

use bytes::Bytes;
use http::{Response, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::{
    Auth0, CLIENT_ID, Shared,
    answer::{Body, empty, error, invalid_body, json_answer, only, query},
    moment::now,
    search::Chosen,
    user::User,
};

/// What may be updated, besides `blocked` and the metadata, and whether it is text.
const UPDATABLE: [(&str, bool); 14] = [
    ("email", true),
    ("email_verified", false),
    ("verify_email", false),
    ("phone_number", true),
    ("phone_verified", false),
    ("verify_phone_number", false),
    ("given_name", true),
    ("family_name", true),
    ("name", true),
    ("nickname", true),
    ("picture", true),
    ("username", true),
    ("connection", true),
    ("client_id", true),
];

/// What comes of a login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attempt {
    Admitted,
    /// The user is blocked.
    Refused,
    /// There is no such user.
    Unknown,
}

fn inexistent() -> Response<Body> {
    error(404, "inexistent_user", "The user does not exist.")
}

impl Shared {
    pub(crate) fn user(&self, head: &Parts, id: &str) -> Response<Body> {
        let given = query(head);
        if let Err(refusal) = only(&given, &["fields", "include_fields"]) {
            return *refusal;
        }
        let fields = match Chosen::read(&given) {
            Ok(fields) => fields,
            Err(refusal) => return *refusal,
        };
        match self.state().directory.user(id) {
            Some(user) => json_answer(200, &fields.of(&user)),
            None => inexistent(),
        }
    }

    pub(crate) fn patch(&self, id: &str, body: &Bytes) -> Response<Body> {
        let members = match patch_members(body) {
            Ok(members) => members,
            Err(message) => return invalid_body(&message),
        };
        let mut state = self.state();
        let (mut before, asked) = (None, Value::Object(members.clone()));
        let patched = state.directory.change(id, false, |user| {
            before = user.blocked;
            apply(user, members);
        });
        let Some(user) = patched else { return inexistent() };
        state.record.done(id).patches += 1;
        let user = user.json();
        if state.echoes {
            state.logs.write(patch_record(id, &asked, &user));
            let previous = before.map_or_else(|| json!({}), |blocked| json!({ "blocked": blocked }));
            state.events.publish("user.updated", json!({ "object": user, "previous_object": previous }));
        }
        json_answer(200, &user)
    }

    pub(crate) fn revoke_access(&self, id: &str, body: &Bytes) -> Response<Body> {
        let given: Value = serde_json::from_slice(body).unwrap_or_else(|_| Value::Object(Map::new()));
        let Some(members) = given.as_object() else { return invalid_body("Expected type object") };
        for (name, value) in members {
            let suits = match name.as_str() {
                "session_id" => value.is_string(),
                "preserve_refresh_tokens" => value.is_boolean(),
                _ => return invalid_body(&format!("Additional properties not allowed: {name}")),
            };
            if !suits {
                return invalid_body(&format!("Another type was expected on property {name}"));
            }
        }
        self.state().record.done(id).access_revoked += 1;
        empty(202)
    }
}

/// What the log has of a `PATCH`, where secrets are masked.
fn patch_record(id: &str, asked: &Value, user: &Value) -> Value {
    let mut asked = asked.clone();
    if let Some(password) = asked.get_mut("password") {
        *password = json!("*****");
    }
    let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
    json!({
        "type": "sapi",
        "description": "Update a User",
        "tenant_name": "acme",
        "client_id": CLIENT_ID,
        "details": {
            "request": { "method": "patch", "path": format!("/api/v2/users/{id}"), "query": {}, "body": asked, "channel": "api" },
            "response": { "statusCode": 200, "body": user },
        },
    })
}

/// What the log has of a login.
fn login_record(user: &User) -> Value {
    let (kind, description) = if user.is_blocked() { ("f", "user is blocked") } else { ("s", "Successful login") };
    json!({
        "type": kind,
        "description": description,
        "tenant_name": "acme",
        "connection": user.connection.name,
        "connection_id": user.connection.id,
        "strategy": user.connection.strategy,
        "user_id": user.id,
        "client_id": "web-app",
        "details": {},
    })
}

fn patch_members(body: &Bytes) -> Result<Map<String, Value>, String> {
    let Ok(Value::Object(members)) = serde_json::from_slice(body) else { return Err("Expected type object".into()) };
    if members.is_empty() {
        return Err("Object has not enough properties".into());
    }
    let is_known = |name: &str| {
        ["blocked", "password", "app_metadata", "user_metadata"].contains(&name)
            || UPDATABLE.iter().any(|(known, _)| *known == name)
    };
    // Those that only the tenant writes are no properties of the request at all.
    let unknown: Vec<&str> = members.keys().map(String::as_str).filter(|name| !is_known(name)).collect();
    if !unknown.is_empty() {
        return Err(format!(
            "Additional properties not allowed: {} (consider storing them in app_metadata or user_metadata)",
            unknown.join(",")
        ));
    }
    for (name, value) in &members {
        let suits = match name.as_str() {
            "blocked" => value.is_boolean(),
            "password" => value.is_string(),
            "app_metadata" | "user_metadata" => value.is_object() || value.is_null(),
            name => UPDATABLE.iter().any(|(known, is_text)| {
                *known == name && (value.is_null() || if *is_text { value.is_string() } else { value.is_boolean() })
            }),
        };
        if !suits {
            return Err(format!("Another type was expected on property {name}"));
        }
    }
    Ok(members)
}

fn apply(user: &mut User, members: Map<String, Value>) {
    user.updated_at = now();
    for (name, value) in members {
        match (name.as_str(), value) {
            ("blocked", value) => user.blocked = value.as_bool(),
            // An admin block ends with a new password that is set here.
            ("password", _) => user.blocked = user.blocked.map(|_| false),
            ("app_metadata", value) => merge(&mut user.app_metadata, value),
            ("user_metadata", value) => merge(&mut user.user_metadata, value),
            ("email", Value::String(email)) => user.email = Some(email),
            ("email_verified", Value::Bool(verified)) => user.email_verified = verified,
            // What says how to do it is no part of the user.
            ("verify_email" | "verify_phone_number" | "connection" | "client_id", _) => {}
            (_, value) => {
                user.more.insert(name, value);
            }
        }
    }
}

/// At the first level: members replace those of the same name, `null` removes one, and an empty object all.
fn merge(metadata: &mut Map<String, Value>, patch: Value) {
    let Value::Object(patch) = patch else { return metadata.clear() };
    if patch.is_empty() {
        metadata.clear();
    }
    for (name, value) in patch {
        if value.is_null() {
            metadata.remove(&name);
        } else {
            metadata.insert(name, value);
        }
    }
}

impl Auth0 {
    /// Whether from now on what is patched is seen in the log and in events, and logins in the log. Not at first, because both are kept
    /// in memory for good.
    pub(crate) fn set_echo(&self, echoes: bool) {
        self.state().echoes = echoes;
    }

    /// Somebody logs in as this user, or tries to. `last_login` and `logins_count` move in either case: that an attempt was refused
    /// is not to be seen in them.
    pub(crate) fn attempt_login(&self, id: &str) -> Attempt {
        let mut state = self.state();
        let user = state.directory.change(id, false, |user| {
            user.last_login = Some(now());
            user.updated_at = now();
            user.logins_count = Some(user.logins_count.unwrap_or(0) + 1);
        });
        if let Some(user) = user.as_ref().filter(|_| state.echoes) {
            state.logs.write(login_record(user));
        }
        match user {
            Some(user) if user.is_blocked() => Attempt::Refused,
            Some(_) => Attempt::Admitted,
            None => Attempt::Unknown,
        }
    }
}
