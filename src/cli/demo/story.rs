//! The story: admitted → logout → refused → fresh token admitted → block → refused → unblock → last activity shown.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use http::{Method, Uri};
use serde_json::{Value, json};

use super::issuer::DemoIssuer;
use crate::cli::{
    Outcome,
    client::{self, Answer},
    print,
};

const USER: &str = "auth0|alice";

/// How long what was written may take to be seen.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) struct Story {
    pub(super) issuer: Arc<DemoIssuer>,
    pub(super) gate: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Story {
    /// What to type to play with it.
    pub(super) fn invitation(&self, data: &Path) -> anyhow::Result<String> {
        let Self { gate, admin, .. } = self;
        let token = self.issuer.token_url(USER);
        let user = USER.replace('|', "%7C");
        let binary = std::env::current_exe().context("own path is unknown")?;
        let binary = binary.display();
        Ok(format!(
            "\
portcullis demo: gate on http://{gate}, admin on http://{admin}, store in {}

Paste these, one after another:

  TOKEN=$(curl -s '{token}')                                                      # log in
  curl -i -H \"Authorization: Bearer $TOKEN\" http://{gate}/hello                   # 200: admitted
  curl -i -X POST -H \"Authorization: Bearer $TOKEN\" http://{gate}/.portcullis/logout   # 204: logged out
  curl -i -H \"Authorization: Bearer $TOKEN\" http://{gate}/hello                   # 401: session_ended
  TOKEN=$(curl -s '{token}')                                                      # log in again
  curl -i -H \"Authorization: Bearer $TOKEN\" http://{gate}/hello                   # 200: admitted
  curl -s -X PUT http://{admin}/v1/subjects/demo/{user}/block                     # block
  curl -i -H \"Authorization: Bearer $TOKEN\" http://{gate}/hello                   # 401: user_blocked
  curl -s -X DELETE http://{admin}/v1/subjects/demo/{user}/block                  # unblock
  curl -s http://{admin}/v1/subjects/demo/{user}                                  # markers, last activity

or from another terminal:

  export PORTCULLIS_ADMIN_URL=http://{admin}
  {binary} status '{USER}'
  {binary} explain \"$TOKEN\"

Ctrl-C ends it.",
            data.display()
        ))
    }

    /// What to look at.
    pub(super) fn invitation_to_the_page(&self) -> String {
        let Self { gate, admin, .. } = self;
        format!(
            "\
portcullis demo: open http://{gate}/ in a browser, and in a second tab

A session ends there after 90 s without activity, and after 15 minutes whatever happens; a warning comes 30 s before.
To see it end from elsewhere:

  curl -s -X PUT http://{admin}/v1/subjects/demo/{}/block                     # block
  curl -s -X DELETE http://{admin}/v1/subjects/demo/{}/block                  # unblock

Ctrl-C ends it.",
            USER.replace('|', "%7C"),
            USER.replace('|', "%7C"),
        )
    }

    /// Walks the story. Fails at the first step that goes differently.
    pub(super) async fn walk(&self) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        print::text(&format!("gate on http://{}, admin on http://{}, user {USER}\n", self.gate, self.admin))?;

        let first = self.issuer.log_in(USER).await?;
        self.expect("a valid token is admitted", &first, 200, None).await?;
        self.expect_without_token().await?;
        let forged = forge(&first)?;
        self.expect("a token with a broken signature is refused", &forged, 401, Some("invalid_token")).await?;

        self.log_out(&first, "").await?;
        self.expect("the session is over: the same token is refused", &first, 401, Some("session_ended")).await?;
        let second = self.issuer.log_in(USER).await?;
        self.expect("a fresh login is admitted", &second, 200, None).await?;

        self.log_out(&second, "?everywhere").await?;
        self.expect("logged out everywhere: the token is refused", &second, 401, Some("logged_out")).await?;
        let third = self.issuer.log_in(USER).await?;
        self.expect("a login after that is admitted, in the same second too", &third, 200, None).await?;

        self.administrate(Method::PUT, "/block", "blocked by an operator").await?;
        self.expect("a blocked user is refused", &third, 401, Some("user_blocked")).await?;
        self.administrate(Method::DELETE, "/block", "unblocked").await?;
        self.expect("an unblocked user is admitted again", &third, 200, None).await?;

        let seen = self.last_activity(started).await?;
        say("last activity is known", &seen)?;
        print::text(&format!("\nall as it should be, in {} ms", started.elapsed().as_millis()))?;
        Ok(Outcome::Done)
    }

    async fn expect(&self, step: &str, token: &str, status: u16, code: Option<&str>) -> anyhow::Result<()> {
        let answer = self.call(Method::GET, "/hello", Some(token)).await?;
        check(step, &answer, status, code)?;
        if status == 200 {
            let user = answer.json()?["user"].clone();
            ensure!(user == USER, "{step}: the API was told the user is {user}");
        }
        Ok(())
    }

    async fn expect_without_token(&self) -> anyhow::Result<()> {
        let answer = self.call(Method::GET, "/hello", None).await?;
        check("a request without a token is refused", &answer, 401, Some("missing_token"))
    }

    async fn log_out(&self, token: &str, query: &str) -> anyhow::Result<()> {
        let answer = self.call(Method::POST, &format!("/.portcullis/logout{query}"), Some(token)).await?;
        let step = if query.is_empty() { "the user logs out" } else { "the user logs out everywhere" };
        check(step, &answer, 204, None)
    }

    async fn administrate(&self, method: Method, action: &str, step: &str) -> anyhow::Result<()> {
        let url = self.subject_url(action)?;
        let answer = client::send(method, &url, None, Some(&json!({ "reason": "demo" }))).await?;
        check(step, &answer, 200, None)
    }

    async fn last_activity(&self, started: Instant) -> anyhow::Result<String> {
        let url = self.subject_url("")?;
        loop {
            let known = client::send(Method::GET, &url, None, None).await?.json()?;
            match &known["last_activity"] {
                Value::String(time) => return Ok(time.clone()),
                _ => ensure!(started.elapsed() < DEADLINE, "no activity was recorded"),
            }
        }
    }

    async fn call(&self, method: Method, path: &str, token: Option<&str>) -> anyhow::Result<Answer> {
        let url: Uri = format!("http://{}{path}", self.gate).parse()?;
        client::send(method, &url, token, None).await
    }

    fn subject_url(&self, action: &str) -> anyhow::Result<Uri> {
        let user = USER.replace('|', "%7C");
        Ok(format!("http://{}/v1/subjects/demo/{user}{action}", self.admin).parse()?)
    }
}

fn check(step: &str, answer: &Answer, status: u16, code: Option<&str>) -> anyhow::Result<()> {
    let problem = answer.json().unwrap_or_default();
    let found = problem["code"].as_str();
    let matches = answer.status.as_u16() == status && (code.is_none() || found == code);
    let came = format!("{}{}", answer.status.as_u16(), found.map(|code| format!(" {code}")).unwrap_or_default());
    ensure!(matches, "{step}: expected {status} {}, and {came} came", code.unwrap_or_default());
    let challenge = answer.fields.contains_key("www-authenticate");
    ensure!(status != 401 || challenge, "{step}: the refusal carries no challenge");
    Ok(say(step, &came)?)
}

fn say(step: &str, came: &str) -> std::io::Result<()> {
    print::text(&format!("ok  {step:58} {came}"))
}

/// The same token with another signature.
fn forge(token: &str) -> anyhow::Result<String> {
    let (signed, signature) = token.rsplit_once('.').context("the token has no signature")?;
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    Ok(format!("{signed}.{other}{}", &signature[1..]))
}
