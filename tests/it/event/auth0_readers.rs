//! What every record and event at hand means.

use std::{collections::BTreeSet, fs, path::Path};

use portcullis::event::{
    Gap, Happening, SessionEvent,
    auth0::{
        framing::records,
        record::{Codes, RecordReader},
        user_event::UserEventReader,
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};

const ADA: &str = "auth0|65f0a1b2c3d4e5f6a7b8c9d0";
const SESSION: &str = "Zx3kq0N9b5T2uV7yW1aB4cD6eF8gH0iJ";

fn reader() -> RecordReader {
    RecordReader::new("acme".try_into().unwrap(), Codes::default())
}

fn path(folder: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

/// `slo session_end 1TAd-… 2021-11-03T05:53:57.546Z`
fn described(read: Result<SessionEvent, Gap>) -> String {
    let event = match read {
        Ok(event) => event,
        Err(gap) => return format!("{} {}", gap.kind, gap.reason.as_str()),
    };
    let happenings: Vec<String> = event
        .happenings
        .iter()
        .map(|happening| {
            let whom = match happening {
                Happening::SessionEnded { session, .. } => session.as_str(),
                Happening::TokenRevoked { token, .. } => token.as_str(),
                Happening::LoggedOut(subject)
                | Happening::Blocked(subject)
                | Happening::Unblocked(subject)
                | Happening::Deleted(subject)
                | Happening::Active(subject) => subject.id.as_str(),
            };
            format!("{} {whom}", happening.as_str())
        })
        .collect();
    assert!(event.id.is_some(), "{event:?} has an id");
    format!("{} {} {}", event.kind, happenings.join(" "), event.at)
}

/// Holds every file of a folder to what it says: one line a record.
fn hold(folder: &str, read: impl Fn(&[u8]) -> Result<SessionEvent, Gap>, expected: &[(&str, &[&str])]) {
    for (file, lines) in expected {
        let text = fs::read(path(folder).join(file)).unwrap();
        let described: Vec<String> = records(&text).map(|record| described(read(record))).collect();
        let lines: Vec<String> =
            lines.iter().map(|line| line.replace("{ada}", ADA).replace("{session}", SESSION)).collect();
        assert_eq!(described, lines, "{folder}/{file}");
    }
    let listed: BTreeSet<String> = expected.iter().map(|(file, _)| (*file).to_owned()).collect();
    let there: BTreeSet<String> =
        fs::read_dir(path(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(listed, there, "files of {folder}");
}

#[test]
fn real_records() {
    hold(
        "auth0/logs",
        |record| reader().read(record),
        &[
            ("limit_wc.json", &["limit_wc ignored"]),
            ("mgmt_api_read.json", &["mgmt_api_read ignored"]),
            (
                "s.json",
                &[
                    "s activity auth0|6182002f34f4dd006b05b5c7 2021-11-03T03:25:28.923Z",
                    "s activity auth0|6182002f34f4dd006b05b5c7 2021-11-03T05:53:54.497Z",
                    "s activity auth0|618223a4e3f49e006948565c 2021-11-03T05:54:15.721Z",
                    "s activity auth0|618232c562bac1006935a7af 2021-11-03T07:00:20.901Z",
                ],
            ),
            ("sapi-create-client-grant.json", &["sapi ignored"]),
            ("sapi-create-client.json", &["sapi ignored"]),
            (
                "seacft.json",
                &[
                    "seacft activity auth0|6182002f34f4dd006b05b5c7 2021-11-03T03:25:29.382Z",
                    "seacft activity auth0|6182002f34f4dd006b05b5c7 2021-11-03T05:53:54.714Z",
                    "seacft activity auth0|618223a4e3f49e006948565c 2021-11-03T05:54:15.863Z",
                    "seacft activity auth0|618232c562bac1006935a7af 2021-11-03T07:00:21.161Z",
                ],
            ),
            ("seccft.json", &["seccft ignored"]),
            (
                "slo.json",
                &[
                    "slo session_end 1TAd-7tsPYzxWudzqfHYXN0e6q1D0GSc 2021-11-03T05:53:57.546Z",
                    "slo session_end SIMuasvKPfIe7_GhWAVKN9e2mNCtyLqV 2021-11-03T05:54:18.787Z",
                    "slo session_end W_t_rUyDtC_Zzg0UbQYlAmiWwAeRZgfU 2021-11-03T07:00:28.877Z",
                ],
            ),
            (
                "timeline-three-sessions.json",
                &[
                    "s activity auth0|6182002f34f4dd006b05b5c7 2021-11-03T03:25:28.923Z",
                    "seacft activity auth0|6182002f34f4dd006b05b5c7 2021-11-03T03:25:29.382Z",
                    "s activity auth0|6182002f34f4dd006b05b5c7 2021-11-03T05:53:54.497Z",
                    "seacft activity auth0|6182002f34f4dd006b05b5c7 2021-11-03T05:53:54.714Z",
                    "slo session_end 1TAd-7tsPYzxWudzqfHYXN0e6q1D0GSc 2021-11-03T05:53:57.546Z",
                    "s activity auth0|618223a4e3f49e006948565c 2021-11-03T05:54:15.721Z",
                    "seacft activity auth0|618223a4e3f49e006948565c 2021-11-03T05:54:15.863Z",
                    "slo session_end SIMuasvKPfIe7_GhWAVKN9e2mNCtyLqV 2021-11-03T05:54:18.787Z",
                    "s activity auth0|618232c562bac1006935a7af 2021-11-03T07:00:20.901Z",
                    "seacft activity auth0|618232c562bac1006935a7af 2021-11-03T07:00:21.161Z",
                    "slo session_end W_t_rUyDtC_Zzg0UbQYlAmiWwAeRZgfU 2021-11-03T07:00:28.877Z",
                ],
            ),
        ],
    );
}

#[test]
fn composed_records() {
    hold(
        "composed/auth0-logs",
        |record| reader().read(record),
        &[
            ("f-user-is-blocked.json", &["f ignored"]),
            ("ferrt.json", &["ferrt logout {ada} 2026-05-01T12:00:21.000Z"]),
            ("fertft-session-not-found.json", &["fertft ignored"]),
            ("fsa-login-required.json", &["fsa ignored"]),
            ("limit_wc-current-schema.json", &["limit_wc ignored"]),
            ("oidc_backchannel_logout_failed.json", &["oidc_backchannel_logout_failed ignored"]),
            ("oidc_backchannel_logout_succeeded.json", &["oidc_backchannel_logout_succeeded ignored"]),
            ("sapi-sessions-deleted.json", &["sapi logout {ada} 2026-05-01T12:00:06.000Z"]),
            ("sapi-user-blocked-dashboard.json", &["sapi block {ada} 2026-05-01T12:00:01.000Z"]),
            ("sapi-user-blocked-m2m.json", &["sapi block {ada} 2026-05-01T12:00:02.000Z"]),
            ("sapi-user-deleted.json", &["sapi delete {ada} 2026-05-01T12:00:05.000Z"]),
            ("sapi-user-unblocked-dashboard.json", &["sapi unblock {ada} 2026-05-01T12:00:03.000Z"]),
            ("sapi-user-updated-not-a-block.json", &["sapi ignored"]),
            ("sce.json", &["sce logout {ada} 2026-05-01T12:00:09.000Z"]),
            ("scp.json", &["scp logout {ada} 2026-05-01T12:00:08.000Z"]),
            ("sdu.json", &["sdu delete {ada} 2026-05-01T12:00:07.000Z"]),
            ("sertft.json", &["sertft activity {ada} 2026-05-01T12:00:12.000Z"]),
            ("slo-current-schema.json", &["slo session_end {session} 2026-05-01T12:00:14.000Z"]),
            ("slo-no-user.json", &["slo no_subject"]),
            ("srrt.json", &["srrt session_end {session} 2026-05-01T12:00:13.000Z"]),
            ("ssa.json", &["ssa activity {ada} 2026-05-01T12:00:10.000Z"]),
            ("sscim-deactivate.json", &["sscim no_subject"]),
            ("ublkdu.json", &["ublkdu ignored"]),
        ],
    );
}

#[test]
fn events_of_users() {
    let reader = UserEventReader { issuer: "acme".try_into().unwrap() };
    hold(
        "auth0/events",
        |event| reader.read(event),
        &[
            ("user.created.json", &["user.created ignored"]),
            ("user.deleted.json", &["user.deleted delete auth0|507f1f77bcf86cd799439020 2025-02-01T12:34:56.000Z"]),
            ("user.updated.json", &["user.updated ignored"]),
            ("webhook-test-user.created.json", &["user.created test"]),
        ],
    );
    let blocked = "user.updated block {ada} 2026-05-01T12:00:00.000Z";
    let expected: [(&str, &[&str]); 1] = [("user.updated-blocked.json", &[blocked])];
    hold("composed/auth0-events", |event| reader.read(event), &expected);
}

#[test]
fn the_three_forms_of_one_delivery_say_the_same() {
    let all = |file: &str| -> Vec<String> {
        let text = fs::read(path("auth0").join(file)).unwrap();
        let mut lines: Vec<_> = records(&text).map(|record| described(reader().read(record))).collect();
        lines.sort();
        lines
    };
    let timeline = all("logs/timeline-three-sessions.json");
    assert_eq!(timeline.len(), 11);
    for form in ["batch.jsonl", "batch-array.json", "batch-object.json"] {
        assert_eq!(all(&format!("log-stream/{form}")), timeline, "{form}");
    }
}

/// Records that say anything, some of it nonsense.
fn elements() -> impl Strategy<Value = Vec<Value>> {
    let codes = ["s", "slo", "scp", "srrt", "sapi", "sdu", "limit_wc", "szz"];
    let element = (0..codes.len(), any::<bool>(), prop_oneof!["[a-c]", "\\PC{1,8}"], 0..5_i64, "\\PC{0,12}");
    let element = element.prop_map(move |(code, wrapped, user, at, other)| {
        let details =
            json!({ "session_id": other, "request": { "method": "delete", "path": format!("/api/v2/users/{user}") } });
        let record = json!({
            "type": codes[code], "date": 1_777_636_800_000 + at, "user_id": user, "log_id": format!("{code}{user}{at}"),
            "description": other, "details": details,
        });
        if wrapped { json!({ "log_id": "outer", "data": record }) } else { record }
    });
    prop::collection::vec(element, 1..12)
}

proptest! {
    /// In whatever order, form and number of deliveries records come, with whatever repetitions: they say the same.
    #[test]
    fn how_records_come_does_not_matter(
        (elements, order) in elements().prop_flat_map(|elements| {
            let twice: Vec<usize> = (0..elements.len()).chain(0..elements.len() / 2).collect();
            (Just(elements), Just(twice).prop_shuffle())
        }),
        size in 1..8_usize,
        form in 0..4_u8,
    ) {
        let straight: BTreeSet<String> =
            elements.iter().map(|element| described(reader().read(element.to_string().as_bytes()))).collect();
        let coming: Vec<&Value> = order.iter().map(|place| &elements[*place]).collect();
        let mut crooked = BTreeSet::new();
        let mut count = 0;
        for delivery in coming.chunks(size) {
            let text = match form {
                0 => delivery.iter().map(ToString::to_string).collect::<Vec<_>>().join("\r\n"),
                1 => json!(delivery).to_string(),
                2 => json!({ "logs": delivery }).to_string(),
                _ => format!("{:#}", json!(delivery)),
            };
            for record in records(text.as_bytes()) {
                crooked.insert(described(reader().read(record)));
                count += 1;
            }
        }
        prop_assert_eq!(count, coming.len());
        prop_assert_eq!(crooked, straight);
    }
}
