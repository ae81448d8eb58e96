//! The Management API: who asks, whether they may, how often, and only then what.

use bytes::Bytes;
use http::{Response, header, request::Parts};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    Shared,
    answer::{Body, empty, error, invalid_body, json_answer},
    limits::{Group, Taken},
    roles::connections,
};

impl Shared {
    pub(crate) async fn manage(&self, head: &Parts, body: &Bytes) -> Response<Body> {
        let Some(path) = head.uri.path().strip_prefix("/api/v2/") else {
            return error(404, "not_found", "Not Found");
        };
        let taken = {
            let mut state = self.state();
            let on_the_way = state.limits.on_the_way;
            let Taken { outcome, too_early } =
                state.limits.bucket(Group::of(head.method.as_str(), path)).take(on_the_way);
            if too_early {
                let kind = path.split('/').next().unwrap_or_default();
                state.record.violation(format!("{} {kind} before the time that a 429 had named", head.method));
            }
            outcome
        };
        let fields = match taken {
            Ok(fields) => fields,
            Err(refusal) => return *refusal,
        };
        let mut response = self.decide(path, head, body).await;
        response.headers_mut().extend(fields);
        response
    }

    async fn decide(&self, path: &str, head: &Parts, body: &Bytes) -> Response<Body> {
        if !self.state().tokens.accept(head) {
            return error(401, "invalid_token", "Invalid token");
        }
        let segments: Vec<&str> = path.split('/').collect();
        let method = head.method.as_str();
        let Some(needed) = scopes(method, &segments) else {
            if let ["users", _, _, ..] = segments[..] {
                self.state()
                    .record
                    .violation(format!("{method} {path}: no such endpoint, or an id with a slash in it"));
            }
            return error(404, "not_found", "Not Found");
        };
        let missing = self.state().tokens.missing(needed);
        if let Some(scope) = missing {
            return error(403, "insufficient_scope", &format!("Insufficient scope, expected any of: {scope}"));
        }
        let id = match segments[..] {
            ["users", id, ..] => {
                let Some(id) = user_id(id) else {
                    self.state().record.violation(format!("{method} {path}: not a percent-encoded user id"));
                    return error(400, "invalid_uri", "Object didn't pass validation for format user-id");
                };
                id
            }
            _ => String::new(),
        };
        if !body.is_empty() {
            let kind =
                head.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes().starts_with(b"application/json"));
            if kind != Some(true) || serde_json::from_slice::<Value>(body).is_err() {
                return invalid_body("the body is not JSON");
            }
        }
        match (method, &segments[..]) {
            ("GET", ["logs"]) => self.logs(head),
            ("GET", ["events"]) => self.events(head),
            ("GET", ["users"]) => self.search(head).await,
            ("GET", ["users", _]) => self.user(head, &id),
            ("PATCH", ["users", _]) => self.patch(&id, body),
            ("GET", ["users", _, "sessions"]) => json_answer(200, &json!({ "sessions": [] })),
            // These are accepted and done later; whether there is such a user, the answer does not say.
            ("POST", ["users", _, "revoke-access"]) => self.revoke_access(&id, body),
            ("DELETE", ["users", _, "refresh-tokens"]) => {
                self.state().record.done(&id).refresh_tokens_deleted += 1;
                empty(202)
            }
            ("DELETE", ["users", _, "sessions"]) => {
                self.state().record.done(&id).sessions_deleted += 1;
                empty(202)
            }
            ("POST", ["jobs", "users-exports"]) => self.export(body),
            ("GET", ["jobs", id]) => self.job(id),
            ("GET", ["roles"]) => self.roles(head),
            ("GET", ["roles", role, "users"]) => self.users_of_role(role, head),
            ("GET", ["connections"]) => connections(head),
            ("GET", _) => json_answer(200, &json!({ "id": segments[1] })),
            _ => empty(202),
        }
    }
}

/// What an endpoint needs; none: there is no such endpoint.
fn scopes(method: &str, segments: &[&str]) -> Option<&'static [&'static str]> {
    Some(match (method, segments) {
        ("GET", ["logs"]) => &["read:logs"],
        ("GET", ["events"]) => &["read:events"],
        ("GET", ["users"] | ["users" | "jobs", _]) | ("POST", ["jobs", "users-exports"]) => &["read:users"],
        ("PATCH", ["users", _]) => &["update:users"],
        ("GET", ["roles"]) => &["read:roles"],
        ("GET", ["roles", _, "users"]) => &["read:roles", "read:users"],
        ("GET", ["connections"]) => &["read:connections"],
        ("GET", ["users", _, "sessions"] | ["sessions", _]) => &["read:sessions"],
        ("DELETE", ["users", _, "sessions"] | ["sessions", _]) => &["delete:sessions"],
        ("POST", ["sessions", _, "revoke"] | ["users", _, "revoke-access"]) => {
            &["delete:sessions", "delete:refresh_tokens"]
        }
        ("DELETE", ["users", _, "refresh-tokens"]) | ("POST", ["refresh-tokens", "revoke"]) => {
            &["delete:refresh_tokens"]
        }
        _ => return None,
    })
}

/// The user id that a segment of a path holds, if it is percent-encoded as it should be, and once.
fn user_id(segment: &str) -> Option<String> {
    let id = percent_decode_str(segment).decode_utf8().ok()?;
    (!segment.contains('|') && id.contains('|')).then(|| id.into_owned())
}
