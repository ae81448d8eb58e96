use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(user: &Value) -> Option<User> {
    UserReader::default().read(user.to_string().as_bytes())
}

fn at(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[test]
fn a_user_is_the_same_from_wherever_they_are_read() {
    let expected = User {
        id: "auth0|ada".try_into().unwrap(),
        blocked: true,
        created_at: at("2024-03-12T08:00:00.000Z"),
        last_login: at("2026-05-01T12:00:00.123Z"),
        last_active: at("2026-05-02T00:00:00Z"),
        logins: Some(12),
        doubtful: false,
    };
    let whole = json!({
        "email": "ada@example.com", "user_id": "auth0|ada", "blocked": true, "created_at": "2024-03-12T08:00:00.000Z",
        "last_login": "2026-05-01T12:00:00.123Z", "logins_count": 12, "identities": [{ "user_id": "ada", "provider": "auth0" }],
        "app_metadata": { "plan": {}, "last_active": "2026-05-02T00:00:00Z" }, "user_metadata": { "blocked": false },
    });
    let exported = json!({
        "user_id": "auth0|ada", "blocked": true, "created_at": { "$date": "2024-03-12T08:00:00.000Z" },
        "last_login": { "$date": { "$numberLong": "1777636800123" } }, "logins_count": "12", "last_active": 1_777_680_000,
    });
    assert_eq!(read(&whole), Some(expected.clone()));
    assert_eq!(read(&exported), Some(expected.clone()));
    let mut line = exported.clone();
    line[ORDERED] = line.as_object_mut().unwrap().remove("user_id").unwrap();
    let read_exported = |line: &Value| UserReader::default().read_exported(line.to_string().as_bytes());
    assert_eq!(read_exported(&line), Exported::User(expected.clone()));
    assert_eq!(read_exported(&exported), Exported::Foreign);
    let page = json!({ "start": 0, "users": [whole, exported, { "user_id": "" }], "total": 3 }).to_string();
    let reader = UserReader::default();
    let page = Page::read(&reader, page.as_bytes()).unwrap();
    assert_eq!(page.total(), Some(3));
    assert_eq!(page.users, Some(vec![Some(expected.clone()), Some(expected), None]));
}

#[test]
fn users_as_they_were_recorded_are_read() {
    for text in [
        include_str!("../../../tests/fixtures/auth0/events/user.updated.json"),
        include_str!("../../../tests/fixtures/auth0/events/user.created.json"),
    ] {
        let event: Value = serde_json::from_str(text).unwrap();
        let object = &event["data"]["object"];
        let user = read(object).unwrap();
        assert_eq!(user.id.as_str(), object["user_id"].as_str().unwrap());
        assert!(user.created_at.is_some() && !user.doubtful && !user.blocked);
    }
}

#[test]
fn whoever_never_logged_in_has_no_login_and_is_judged_by_when_they_were_created() {
    let never = json!({ "user_id": "a", "created_at": "2024-03-12T08:00:00.000Z" });
    for count in [json!(null), json!(0)] {
        let mut user = never.clone();
        user["logins_count"] = count;
        let user = read(&user).unwrap();
        assert!(user.last_login.is_none() && user.created_at.is_some() && !user.doubtful && !user.blocked);
    }
}

#[test]
fn what_cannot_be_read_is_not_taken_for_missing() {
    let fine = json!({
        "user_id": "a", "blocked": false, "created_at": "2024-03-12T08:00:00Z", "last_login": "2024-03-12T08:00:00Z",
        "logins_count": 1, "last_active": null, "app_metadata": { "last_active": null },
    });
    assert!(!read(&fine).unwrap().doubtful);
    for (name, value) in [
        ("created_at", json!("yesterday")),
        ("created_at", json!({})),
        ("created_at", json!("*****")),
        ("last_login", json!("")),
        ("last_login", json!("0000-00-00T00:00:00Z")),
        ("last_login", json!(0)),
        ("last_login", json!(true)),
        ("last_login", json!(["2024-03-12T08:00:00Z"])),
        ("last_login", json!({ "$date": null })),
        ("last_login", json!({ "$date": "2024-03-12T08:00:00Z", "$numberLong": null })),
        ("last_active", json!("2024-02-30")),
        ("last_active", json!("2024-03-12T25:00:00")),
        ("app_metadata", json!({ "last_active": "soon" })),
        ("app_metadata", json!({ "last_active": {} })),
        ("app_metadata", json!("{\"last_active\":1777680000}")),
        ("blocked", json!("no")),
        ("blocked", json!(1)),
        ("logins_count", json!(-1)),
        ("logins_count", json!("many")),
        // There were logins, but when?
        ("last_login", json!(null)),
    ] {
        let mut user = fine.clone();
        user[name] = value.clone();
        assert!(read(&user).unwrap().doubtful, "{name}: {value}");
    }
    assert!(read(&json!({ "user_id": "a", "logins_count": 0 })).unwrap().doubtful, "no date at all");
    assert!(!read(&json!({ "user_id": "a", "app_metadata": null, "last_login": 1_777_680_000 })).unwrap().doubtful);
}

#[test]
fn a_day_is_over_where_it_ends_last() {
    let user = read(&json!({ "user_id": "a", "last_active": "2026-01-31" })).unwrap();
    assert_eq!(user.last_active, at("2026-02-01T11:59:59.999Z"));
    assert!(!user.doubtful);
}

#[test]
fn of_two_traces_of_activity_the_later_counts() {
    let user =
        json!({ "user_id": "a", "last_active": 1_777_680_000, "app_metadata": { "last_active": 1_777_680_001 } });
    assert_eq!(read(&user).unwrap().last_active, Some(Timestamp::from_secs(1_777_680_001)));
}

#[test]
fn activity_may_be_kept_under_another_name() {
    let user = json!({ "user_id": "a", "app_metadata": { "seen": "2026-05-02T00:00:00Z", "last_active": "soon" } });
    let user = UserReader::new("seen").read(user.to_string().as_bytes()).unwrap();
    assert_eq!(user.last_active, at("2026-05-02T00:00:00Z"));
    assert!(!user.doubtful);
}

#[test]
fn without_an_id_there_is_no_user() {
    for id in [json!(null), json!(""), json!(7), json!("*****"), json!("a\nb"), json!("x".repeat(256)), json!(["a"])] {
        assert_eq!(read(&json!({ "user_id": id, "created_at": 1_777_680_000 })), None, "{id}");
    }
    for text in ["", "null", "[]", "7", "\"auth0|ada\"", "{", "{}", r#"{"user_id":"a""#, r#"{"user_id":"a"} {}"#] {
        assert_eq!(UserReader::default().read(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn who_a_user_is_does_not_reach_logs() {
    let user = read(&json!({ "user_id": "auth0|ada", "created_at": 1_777_680_000 })).unwrap();
    assert!(!format!("{user:?}").contains("ada"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9TZ:. -]{0,24}".prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map(prop_oneof![Just("$date".to_owned()), ".{0,4}"], inner, 0..3)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_user_or_none(bytes in any::<Vec<u8>>()) {
        let reader = UserReader::default();
        let _ = reader.read(&bytes);
        let _ = Page::read(&reader, &bytes);
    }

    #[test]
    fn a_value_is_read_or_missing_or_doubtful(value in any_json(), member in 0..3_usize) {
        let mut user = json!({ "user_id": "a", "created_at": 1_777_680_000, "logins_count": 0, "app_metadata": {} });
        match member {
            0 => user["last_login"] = value.clone(),
            1 => user["last_active"] = value.clone(),
            _ => user["app_metadata"]["last_active"] = value.clone(),
        }
        let user = read(&user).unwrap();
        let is_read = user.last_login.or(user.last_active).is_some();
        prop_assert!(is_read || user.doubtful || value.is_null(), "{}", value);
        prop_assert!(!(is_read && user.doubtful));
    }
}
