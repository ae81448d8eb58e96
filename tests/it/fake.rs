//! The tenant that stands in for Auth0 keeps Auth0's rules: each that is documented, once, by bare HTTP.

mod exports;
mod faults;
mod limits;
mod population;
mod roles;
mod search;
mod users;

use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::support::{
    auth0::{Auth0, CLIENT_ID, CLIENT_SECRET},
    http::{Answer, send},
};

/// The application, with a token.
struct Api<'t> {
    tenant: &'t Auth0,
    authorization: String,
}

impl<'t> Api<'t> {
    async fn of(tenant: &'t Auth0) -> Self {
        let granted = grant(tenant).await.json();
        Self { tenant, authorization: format!("Bearer {}", granted["access_token"].as_str().unwrap()) }
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Answer {
        let fields = [("authorization", self.authorization.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        send(address(self.tenant.base()), method, &format!("/api/v2/{path}"), &fields, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &Value::Null).await
    }

    async fn patch(&self, id: &str, body: Value) -> Answer {
        self.send(Method::PATCH, &user(id), &body).await
    }
}

async fn grant(tenant: &Auth0) -> Answer {
    let body = json!({
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "audience": format!("{}/api/v2/", tenant.base()),
    });
    let fields = [("content-type", "application/json")];
    send(address(tenant.base()), Method::POST, "/oauth/token", &fields, body.to_string()).await
}

fn address(base: &str) -> std::net::SocketAddr {
    base.strip_prefix("http://").unwrap().parse().unwrap()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// `users/{id}`
fn user(id: &str) -> String {
    format!("users/{}", encoded(id))
}

/// An error has four members and this code.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    let error = answer.json();
    assert_eq!((answer.status.as_u16(), error["errorCode"].as_str()), (status, Some(code)), "{error}");
    assert_eq!(error["statusCode"], status);
    assert!(error["error"].is_string() && error["message"].is_string(), "{error}");
}

#[tokio::test]
async fn a_token_says_its_scopes_and_needs_the_right_one() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.grant(&["read:roles", "update:users"]);
    assert_eq!(grant(&tenant).await.json()["scope"], "read:roles update:users");
    for (method, path, scope) in [
        (Method::GET, "users", "read:users"),
        (Method::GET, "users/auth0%7Ca", "read:users"),
        (Method::POST, "jobs/users-exports", "read:users"),
        (Method::GET, "jobs/job_1", "read:users"),
        (Method::GET, "connections", "read:connections"),
        (Method::GET, "roles/rol_1/users", "read:users"),
        (Method::DELETE, "users/auth0%7Ca/sessions", "delete:sessions"),
        (Method::DELETE, "users/auth0%7Ca/refresh-tokens", "delete:refresh_tokens"),
        (Method::POST, "users/auth0%7Ca/revoke-access", "delete:sessions"),
    ] {
        let answer = api.send(method, path, &Value::Null).await;
        refused(&answer, 403, "insufficient_scope");
        assert!(answer.text().contains(scope), "{path}: {}", answer.text());
    }
    tenant.grant(&["read:users"]);
    refused(&api.patch("auth0|a", json!({ "blocked": true })).await, 403, "insufficient_scope");
    tenant.revoke_tokens();
    refused(&api.get("users").await, 401, "invalid_token");
}
