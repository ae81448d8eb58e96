//! Who has been inactive, and what a run keeps, as the document says.

use http::Method;
use portcullis::{
    clock::Timestamp,
    token::claims::{IssuerName, Subject},
};
use serde_json::{Value, json};

use crate::support::{
    full::{World, now},
    openapi::AdminClient,
};

const INACTIVE: &str = "/v1/issuers/acme/inactive";

async fn worlds() -> Vec<World> {
    let mut worlds = vec![World::embedded().await];
    worlds.extend(World::redis().await);
    worlds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subjects_are_told_a_page_at_a_time() {
    for world in worlds().await {
        let gate = world.gate().start().await;
        let issuer: IssuerName = "acme".try_into().unwrap();
        let subject = |id: &str| Subject { issuer: issuer.clone(), id: id.try_into().unwrap() };
        let day = |days: i64| Timestamp::from_millis(now().as_millis() - days * 86_400_000);
        let ids: Vec<String> = (0..25).map(|number| format!("auth0|a b/{number:02}&=#?ü")).collect();
        let mut batch: Vec<_> = ids.iter().map(|id| (subject(id), day(100))).collect();
        batch.push((subject("auth0|here"), day(1)));
        gate.instance.judge().parts().ledger.store().record_activity(&batch).await.unwrap();

        let admin = AdminClient::new(gate.admin, None);
        let since = day(90);
        let first = admin.get(&format!("{INACTIVE}?since={since}&limit=0")).await.is(200, None).json();
        let overview = &first["overview"];
        assert_eq!((&overview["known"], &overview["inactive"]), (&json!(26), &json!(25)));
        assert_eq!(first["subjects"], json!([]));
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("{INACTIVE}?since={}&limit=10{after}", since.as_millis());
            let page = admin.get(&path).await.is(200, None).json();
            assert_eq!(page["overview"].is_null(), !after.is_empty());
            found.extend(
                page["subjects"].as_array().unwrap().iter().map(|seen| seen["subject"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next"].as_str() else { break };
            after =
                format!("&after={}", percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC));
        }
        assert_eq!(found, ids);
        for wrong in ["", "?since=yesterday", "?since=1763700000", "?since=2026-01-01T00:00:00Z&limit=10001"] {
            admin.get(&format!("{INACTIVE}{wrong}")).await.is(400, "invalid_request");
        }
        for wrong in ["after=x", "after=1:", "after=x:a", "page=2"] {
            admin.get(&format!("{INACTIVE}?since=2026-01-01T00:00:00Z&{wrong}")).await.is(400, "invalid_request");
        }
        admin.get("/v1/issuers/other/inactive?since=2026-01-01T00:00:00Z").await.is(404, "no_issuer");

        let known = "/v1/issuers/acme/activity";
        let asked = json!({ "subjects": ["auth0|here", "auth0|nobody", ids[3]] });
        admin.put("/v1/subjects/acme/auth0%7Cnobody/block", json!({ "by": "cli:ops" })).await.is(200, None);
        let answer = admin.post(known, asked).await.is(200, None).json();
        let subjects = answer["subjects"].as_array().unwrap();
        assert!(subjects[0]["last_activity"].as_str().unwrap() > since.to_string().as_str());
        assert_eq!(subjects[0]["blocked"], Value::Null);
        assert_eq!(subjects[1]["last_activity"], Value::Null);
        let block = &subjects[1]["blocked"];
        assert_eq!((&block["by"], &block["source"]), (&json!("cli:ops"), &json!("admin")));
        assert_eq!(subjects[2]["subject"], ids[3]);
        let many: Vec<String> = (0..1000).map(|number| format!("{number:0200}")).collect();
        assert_eq!(
            admin.post(known, json!({ "subjects": many })).await.is(200, None).json()["subjects"]
                .as_array()
                .unwrap()
                .len(),
            1000
        );
        for wrong in [
            json!({ "subjects": vec!["a"; 1001] }),
            json!({ "subjects": [""] }),
            json!({ "subjects": "a" }),
            json!({ "users": [] }),
        ] {
            admin.post(known, wrong).await.is(400, "invalid_request");
        }

        let activity = "/v1/subjects/acme/auth0%7Chere/activity";
        admin.delete(activity).await.is(200, None);
        let here = async || admin.get("/v1/subjects/acme/auth0%7Chere").await.json()["last_activity"].clone();
        assert_eq!(here().await, Value::Null);
        admin.send(Method::PUT, activity, "").await.is(200, None);
        assert!(here().await.as_str().unwrap() > since.to_string().as_str());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_run_at_a_time_keeps_what_it_needs() {
    const RUN: &str = "/v1/issuers/acme/inactive/run";
    for world in worlds().await {
        let gate = world.gate().start().await;
        let admin = AdminClient::new(gate.admin, None);
        let kept = async || admin.get(RUN).await.is(200, None).json();
        assert_eq!(kept().await, json!({ "issuer": "acme", "owner": null, "progress": null, "unfinished": {} }));
        let change = json!({ "owner": "one", "progress": "half", "begin": { "a1": "auth0|a", "b2": "auth0|b" } });
        admin.put(RUN, change.clone()).await.is(200, None);
        admin.put(RUN, json!({ "owner": "two", "progress": "mine", "end": ["a1"] })).await.is(409, "run_under_way");
        let unfinished = json!({ "a1": "auth0|a", "b2": "auth0|b" });
        let expected = json!({ "issuer": "acme", "owner": "one", "progress": "half", "unfinished": unfinished });
        assert_eq!(kept().await, expected);
        admin.put(RUN, change).await.is(200, None);
        assert_eq!(kept().await, expected, "repeating it is harmless");
        admin.put(RUN, json!({ "owner": "one", "end": ["a1", "zz"] })).await.is(200, None);
        assert_eq!(kept().await["unfinished"], json!({ "b2": "auth0|b" }));
        admin.send(Method::DELETE, RUN, json!({ "owner": "two" }).to_string()).await.is(200, None);
        assert_eq!(kept().await["owner"], "one", "it is not theirs");
        admin.send(Method::DELETE, RUN, json!({ "owner": "one" }).to_string()).await.is(200, None);
        admin.put(RUN, json!({ "owner": "two", "forget_progress": true, "end": ["b2"] })).await.is(200, None);
        assert_eq!(kept().await, json!({ "issuer": "acme", "owner": "two", "progress": null, "unfinished": {} }));
        for wrong in [
            json!({}),
            json!({ "owner": "" }),
            json!({ "owner": "two", "begin": { "a/b": "x" } }),
            json!({ "owner": "two", "begin": { "a": 1 } }),
            json!({ "owner": "two", "end": "a" }),
            json!({ "owner": "two", "progress": "x".repeat(4097) }),
            json!({ "owner": "two", "forget_progress": "yes" }),
        ] {
            admin.put(RUN, wrong).await.is(400, "invalid_request");
        }
    }
}
