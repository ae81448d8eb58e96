//! Every published example of the Shared Signals Framework, CAEP, RISC and RFC 8935, signed and pushed.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{source, start};
use crate::support::{
    full::{World, now},
    transmitter::{AUDIENCE, Transmitter, push},
};

/// What becomes of each, when its issuer is the one that is configured and no addresses are known.
const EXPECTED: [(&str, &str); 28] = [
    ("caep/assurance-level-change-1.json", "ignored"),
    ("caep/assurance-level-change-2.json", "ignored"),
    ("caep/credential-change-1.json", "ignored"),
    ("caep/device-compliance-change-1.json", "ignored"),
    ("caep/risk-level-change-1.json", "ignored"),
    ("caep/session-established-1.json", "no_subject"),
    ("caep/session-presented-1.json", "no_subject"),
    ("caep/session-revoked-1.json", "no_subject"),
    ("caep/session-revoked-2.json", "logged_out 99beb27c-c1c2-4955-882a-e0dc4996fcbc"),
    ("caep/session-revoked-3.json", "logged_out jane.smith@example.com"),
    ("caep/token-claims-change-1.json", "ignored"),
    ("caep/token-claims-change-2.json", "ignored"),
    ("caep/token-claims-change-3.json", "ignored"),
    ("rfc8935/set.payload.json", "user_blocked 7375626A656374"),
    ("risc/account-credential-change-required.json", "logged_out 7375626A656374"),
    ("risc/account-disabled.json", "user_blocked 7375626A656374"),
    ("risc/credential-compromise.json", "logged_out joe.smith@example.com"),
    ("risc/identifier-changed.json", "ignored"),
    ("risc/identifier-recycled.json", "ignored"),
    ("ssf/set-account-disabled-1.json", "no_subject"),
    ("ssf/set-account-enabled-1.json", "no_subject"),
    ("ssf/set-session-revoked-1.json", "logged_out jane.smith@example.com"),
    ("ssf/set-stream-updated-1.json", "test"),
    ("ssf/set-token-claims-change-1.json", "ignored"),
    ("ssf/set-token-claims-change-2.json", "ignored"),
    ("ssf/set-token-claims-change-3.json", "ignored"),
    ("ssf/set-verification-1.json", "test"),
    ("ssf/set-verification-2.json", "test"),
];

/// Each in a world of its own would take long: the ids of events and users are made to differ.
#[tokio::test]
async fn every_published_example_comes_to_what_it_should() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    let gate = start(&world, &transmitter, "").await;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for folder in ["caep", "risc", "ssf"] {
        for entry in fs::read_dir(directory.join(folder)).unwrap() {
            let name = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
            let is_set = folder != "ssf" || name.starts_with("ssf/set-");
            assert_eq!(EXPECTED.iter().any(|(known, _)| *known == name), is_set, "{name}");
        }
    }
    for (number, (name, expected)) in EXPECTED.iter().enumerate() {
        let text = fs::read_to_string(directory.join(name)).unwrap();
        let mut claims: Value = serde_json::from_str(&text).unwrap();
        claims["iss"] = json!(transmitter.issuer());
        claims["aud"] = json!(AUDIENCE);
        claims["jti"] = json!(format!("fixture {number}"));
        claims["iat"] = json!(now().as_secs());
        adapt(&mut claims, &world.issuer.identifier, number);
        let before = source(&gate).await["events"].clone();
        let answer = push(gate.address, &transmitter.sign(&claims), &[]).await;
        assert_eq!(answer.status, 202, "{name}: {}", answer.text());
        if let Some((verdict, sub)) = expected.split_once(' ') {
            gate.expect(&world.token(&format!("{number} {sub}"), json!({})), verdict).await;
            gate.expect(&world.token(sub, json!({})), "admit").await;
        } else {
            let count = |events: &Value| events[*expected].as_u64().unwrap_or(0);
            assert_eq!(count(&source(&gate).await["events"]), count(&before) + 1, "{name}");
        }
    }
}

/// Times of today, the issuer that is known here, and users of its own.
fn adapt(value: &mut Value, issuer: &str, number: usize) {
    match value {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                match &**name {
                    "event_timestamp" => *value = json!(now().as_secs() - 3),
                    "iss" if value.as_str().is_some_and(|iss| iss.starts_with("https://")) => *value = json!(issuer),
                    "sub" => *value = json!(format!("{number} {}", value.as_str().unwrap())),
                    _ => adapt(value, issuer, number),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| adapt(element, issuer, number)),
        _ => {}
    }
}
