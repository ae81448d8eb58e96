//! Exports: jobs, links, files.

use std::{
    io::Read,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};

use super::{Api, address, refused};
use crate::support::{
    auth0::{Auth0, CONNECTIONS, Fault, Population, User, days_ago, iso},
    client::Client,
    eventually,
    http::{Answer, send},
};

async fn export(api: &Api<'_>, asked: Value) -> Answer {
    api.send(Method::POST, "jobs/users-exports", &asked).await
}

/// The link of a job that is asked for and done.
async fn link(api: &Api<'_>, asked: Value) -> String {
    let job = export(api, asked).await.json();
    let path = format!("jobs/{}", job["id"].as_str().unwrap());
    eventually("the job is done", async || api.get(&path).await.json()["status"] == "completed").await;
    location(api, &path).await
}

async fn location(api: &Api<'_>, path: &str) -> String {
    api.get(path).await.json()["location"].as_str().unwrap().to_owned()
}

async fn download(tenant: &Auth0, link: &str, fields: &[(&str, &str)]) -> Answer {
    let target = link.strip_prefix(tenant.files_base()).expect("the other origin");
    send(address(tenant.files_base()), Method::GET, target, fields, "").await
}

async fn file(tenant: &Auth0, link: &str) -> String {
    let answer = download(tenant, link, &[]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.field("content-encoding"), None, "the file is packed, not its transfer");
    let mut text = String::new();
    GzDecoder::new(&*answer.body).read_to_string(&mut text).unwrap();
    text
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_job_is_pending_then_processing_then_completed_then_forgotten() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.set_export_time(Duration::from_secs(3));
    tenant.set_job_lifetime(Duration::from_secs(5));
    let asked = json!({ "format": "json", "limit": 5, "fields": [{ "name": "user_id" }] });
    let job = export(&api, asked.clone()).await.json();
    assert_eq!((&job["type"], &job["status"]), (&json!("users_export"), &json!("pending")));
    assert_eq!((&job["fields"], &job["limit"]), (&asked["fields"], &asked["limit"]));
    let path = format!("jobs/{}", job["id"].as_str().unwrap());
    let mut seen = Vec::new();
    eventually("it is done", async || {
        let job = api.get(&path).await.json();
        let status = job["status"].as_str().unwrap().to_owned();
        let tells = job["percentage_done"].is_number() && job["time_left_seconds"].is_number();
        assert_eq!(tells, status == "processing", "{job}");
        assert_eq!(job["location"].is_string(), status == "completed", "{job}");
        seen.push(status);
        seen.last().unwrap() == "completed"
    })
    .await;
    seen.dedup();
    assert_eq!(seen, ["pending", "processing", "completed"]);
    let link = location(&api, &path).await;
    eventually("it is forgotten", async || api.get(&path).await.status == 404).await;
    refused(&api.get(&path).await, 404, "inexistent_job");
    assert_eq!(download(&tenant, &link, &[]).await.status, 404, "and so is its file");

    tenant.set_export_time(Duration::ZERO);
    tenant.fail_exports(1);
    for status in ["failed", "completed"] {
        let job = export(&api, json!({})).await.json();
        let job = api.get(&format!("jobs/{}", job["id"].as_str().unwrap())).await.json();
        assert_eq!((&job["status"], job["location"].is_string()), (&json!(status), status == "completed"));
    }
}

#[tokio::test]
async fn a_link_is_its_own_authorization_for_a_minute() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.set_link_lifetime(Duration::from_secs(2));
    let first = link(&api, json!({})).await;
    assert!(first.contains("X-Amz-Expires=2&"), "{first}");
    assert_eq!(download(&tenant, &first, &[]).await.status, 200);
    let path = format!("jobs/{}", first.split('/').nth(4).unwrap());
    let second = location(&api, &path).await;
    assert_ne!(first, second, "each poll gives a new one");

    let told = Instant::now();
    eventually("their time is over", async || told.elapsed() > Duration::from_millis(2100)).await;
    for old in [&first, &second] {
        let expired = download(&tenant, old, &[]).await;
        assert_eq!((expired.status.as_u16(), expired.field("content-type")), (403, Some("application/xml")));
        assert!(expired.text().contains("<Code>AccessDenied</Code><Message>Request has expired</Message>"));
    }
    let third = location(&api, &path).await;
    let forged = download(&tenant, &third.replace("Signature=", "Signature=1"), &[]).await;
    assert!(forged.status == 403 && forged.text().contains("SignatureDoesNotMatch"), "{forged:?}");
    assert_eq!(tenant.violations(), 0);

    let twice = download(&tenant, &third, &[("authorization", &api.authorization)]).await;
    assert_eq!(twice.status, 400, "{twice:?}");
    assert_eq!(tenant.violations(), 1);
    assert_eq!(tenant.counts().downloads, 5);
}

#[tokio::test]
async fn a_file_has_a_line_for_each_user_with_what_was_asked_for() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let (created, seen) = (days_ago(9), days_ago(2));
    tenant.add_user(User::new("auth0|a").created_at(created).last_login(seen).last_active(seen).blocked(true));
    tenant.add_user(
        User::new("email|b").created_at(created).email("b@x.example").with("last_login", json!({ "$date": 1 })),
    );
    let fields = json!([
        { "name": "user_id" }, { "name": "blocked" }, { "name": "last_login" }, { "name": "logins_count" },
        { "name": "app_metadata.last_active", "export_as": "last_active" },
        { "name": "identities[0].connection", "export_as": "connection" }, { "name": "app_metadata" },
    ]);
    let text = file(&tenant, &link(&api, json!({ "format": "json", "fields": fields })).await).await;
    assert_eq!(
        lines(&text),
        [
            json!({ "user_id": "auth0|a", "blocked": true, "last_login": iso(seen), "logins_count": 1,
                    "last_active": iso(seen), "connection": CONNECTIONS[0].name, "app_metadata": { "last_active": iso(seen) } }),
            json!({ "user_id": "email|b", "last_login": { "$date": 1 }, "connection": "email" }),
        ],
        "what a user does not have is left out"
    );
    let text = file(&tenant, &link(&api, json!({})).await).await;
    assert_eq!(lines(&text)[1]["Id"], "email|b");
    assert_eq!(lines(&text)[1]["Created At"], iso(created));
    assert!(!text.to_lowercase().contains("login"), "nothing of activity unless it is asked for: {text}");

    let of_connection = json!({ "connection_id": CONNECTIONS[2].id, "fields": [{ "name": "user_id" }] });
    let text = file(&tenant, &link(&api, of_connection).await).await;
    assert_eq!(text, "{\"user_id\":\"email|b\"}\n");
    let text = file(&tenant, &link(&api, json!({ "limit": 1, "fields": [{ "name": "user_id" }] })).await).await;
    assert_eq!(text, "{\"user_id\":\"auth0|a\"}\n");
}

#[tokio::test]
async fn csv_is_safe_to_open_and_dates_in_it_are_bare() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let at = days_ago(3);
    tenant.add_user(User::new("auth0|\"a\"").last_login(at).app_metadata("plan", json!("=1+1")));
    let names = ["user_id", "last_login", "logins_count", "blocked", "app_metadata.plan"];
    let fields: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    let text = file(&tenant, &link(&api, json!({ "format": "csv", "fields": fields })).await).await;
    let expected = format!(
        "user_id,last_login,logins_count,blocked,app_metadata.plan\r\n\"'auth0|\"\"a\"\"\",{},1,,\"'=1+1\"\r\n",
        iso(at)
    );
    assert_eq!(text, expected);
    let many: Vec<Value> = (0..31).map(|number| json!({ "name": format!("app_metadata.a{number}") })).collect();
    refused(&export(&api, json!({ "format": "csv", "fields": many })).await, 400, "invalid_body");
    assert_eq!(export(&api, json!({ "format": "json", "fields": many })).await.status, 200);
    let whole = json!({ "format": "csv", "fields": [{ "name": "app_metadata" }] });
    refused(&export(&api, whole).await, 400, "invalid_body");
}

#[tokio::test]
async fn what_is_not_known_is_refused() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    for asked in [
        json!({ "formats": "json" }),
        json!({ "format": "xml" }),
        json!({ "limit": 0 }),
        json!({ "fields": [] }),
        json!({ "fields": ["user_id"] }),
        json!({ "fields": [{ "name": "user_id", "as": "id" }] }),
        json!({ "fields": [{ "export_as": "id" }] }),
        json!({ "fields": [{ "name": "last_activity" }] }),
        json!([]),
    ] {
        refused(&export(&api, asked).await, 400, "invalid_body");
    }
    refused(&export(&api, json!({ "connection_id": "con_none" })).await, 400, "inexistent_connection");
    refused(&api.get("jobs/job_none").await, 404, "inexistent_job");
}

#[tokio::test]
async fn an_export_shows_how_things_were_when_it_began() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.populate(Population::of(50));
    let id = Population::of(50).id(10);
    assert!(tenant.change_user(&id, |user| user.blocked = None));
    tenant.add_user(User::new("auth0|a"));
    let asked = json!({ "fields": [{ "name": "user_id" }, { "name": "blocked" }] });
    let before = link(&api, asked.clone()).await;
    for id in [&id, "auth0|a"] {
        assert_eq!(api.patch(id, json!({ "blocked": true })).await.status, 200);
    }
    tenant.add_user(User::new("auth0|late"));
    let found = lines(&file(&tenant, &before).await);
    assert_eq!((found.len(), found[10].get("blocked"), found[50].get("blocked")), (51, None, None));
    let found = lines(&file(&tenant, &link(&api, asked).await).await);
    assert_eq!((found.len(), &found[10]["blocked"], &found[50]["blocked"]), (52, &json!(true), &json!(true)));
}

#[tokio::test]
async fn a_file_is_written_as_it_is_read_however_long_it_is() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.populate(Population::of(10_000_000));
    let link = link(&api, json!({ "fields": [{ "name": "user_id" }, { "name": "last_login" }] })).await;
    let target = link.strip_prefix(tenant.files_base()).unwrap();
    let mut client = Client::http1(address(tenant.files_base())).await;
    let request = Request::get(target).header("host", "files").body(Empty::<Bytes>::new()).unwrap();
    let mut body = client.send(request).await.unwrap().into_body();
    let mut packed = Vec::new();
    while packed.len() < 200_000 {
        packed.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    let mut text = Vec::new();
    let _ = GzDecoder::new(&*packed).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().next().unwrap();
    let made = tenant.user(serde_json::from_str::<Value>(first).unwrap()["user_id"].as_str().unwrap()).unwrap();
    assert_eq!(made.id, Population::of(10_000_000).id(0));
    assert!(text.lines().count() > 5000, "{}", text.lines().count());
}

#[tokio::test]
async fn a_file_can_end_in_the_middle() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.populate(Population::of(1000));
    let link = link(&api, json!({ "fields": [{ "name": "user_id" }] })).await;
    tenant.fail("/exports/", Fault::Truncate);
    let answer = download(&tenant, &link, &[]).await;
    let mut text = Vec::new();
    let error = GzDecoder::new(&*answer.body).read_to_end(&mut text).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "only the end of the file is missing");
    let lines = String::from_utf8_lossy(&text).lines().count();
    assert!((100..900).contains(&lines), "{lines}");

    tenant.fail("/exports/", Fault::CutBody);
    let target = link.strip_prefix(tenant.files_base()).unwrap();
    let mut client = Client::http1(address(tenant.files_base())).await;
    let request = Request::get(target).header("host", "files").body(Empty::<Bytes>::new()).unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(tenant.faults_left(), 0);
    assert_eq!(file(&tenant, &link).await.lines().count(), 1000, "the same link serves again");
}
