use serde_json::{Value, json};

use super::*;

const AT: i64 = 1_777_636_800_000;

fn issuer() -> IssuerName {
    "acme".try_into().unwrap()
}

fn subject(id: &str) -> Subject {
    Subject { issuer: issuer(), id: id.try_into().unwrap() }
}

fn ended(session: &str) -> Vec<Happening> {
    vec![Happening::SessionEnded { issuer: issuer(), session: session.try_into().unwrap() }]
}

fn read_with(codes: Codes, record: &Value) -> Result<SessionEvent, Gap> {
    RecordReader::new(issuer(), codes).read(record.to_string().as_bytes())
}

fn read(record: &Value) -> Result<SessionEvent, Gap> {
    read_with(Codes::default(), record)
}

#[track_caller]
fn comes_to(record: &Value, expected: &Result<Vec<Happening>, GapReason>) {
    let read = read(record).map(|event| event.happenings).map_err(|gap| gap.reason);
    assert_eq!(&read, expected, "{record}");
}

/// A record of a user, and what else is in it; `null` removes a member.
fn record(code: &str, changes: Value) -> Value {
    let mut record = json!({ "type": code, "date": "2026-05-01T12:00:00.000Z", "log_id": "1", "user_id": "auth0|ada" });
    let Value::Object(changes) = changes else { panic!("no members") };
    record.as_object_mut().unwrap().extend(changes);
    record.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    record
}

fn call(method: &str, path: &str, body: &Value, answer: &Value) -> Value {
    let request = json!({ "method": method, "path": path, "body": body });
    let details = json!({ "request": request, "response": { "statusCode": 200, "body": answer } });
    record("sapi", json!({ "user_id": "google-oauth2|admin", "details": details }))
}

#[test]
fn each_code_does_what_the_table_says() {
    use Happening::{Active, Deleted, LoggedOut};
    let session = json!({ "session_id": "S" });
    for (code, happening) in [
        ("s", Active as fn(Subject) -> Happening),
        ("ssa", Active),
        ("seacft", Active),
        ("sertft", Active),
        ("slo", LoggedOut),
        ("scp", LoggedOut),
        ("sce", LoggedOut),
        ("scu", LoggedOut),
        ("scpn", LoggedOut),
        ("ferrt", LoggedOut),
        ("session_revoked", LoggedOut),
        ("universal_logout_succeeded", LoggedOut),
        ("sdu", Deleted),
    ] {
        comes_to(&record(code, json!({})), &Ok(vec![happening(subject("auth0|ada"))]));
        for nobody in [json!(null), json!(""), json!("*****"), json!(7.5), json!({}), json!("x".repeat(256))] {
            let mut nameless = record(code, json!({ "user_id": nobody }));
            comes_to(&nameless, &Err(GapReason::NoSubject));
            nameless["details"] = session.clone();
            let names_it = ["slo", "session_revoked"].contains(&code);
            comes_to(&nameless, &if names_it { Ok(ended("S")) } else { Err(GapReason::NoSubject) });
        }
    }
    comes_to(&record("srrt", json!({ "details": session })), &Ok(ended("S")));
    comes_to(&record("srrt", json!({})), &Err(GapReason::NoSubject));
    for code in [
        "f",
        "fp",
        "fu",
        "fsa",
        "feacft",
        "fertft",
        "flo",
        "seccft",
        "mgmt_api_read",
        "scpr",
        "sv",
        "limit_wc",
        "limit_mu",
        "limit_sul",
        "ublkdu",
        "pwd_leak",
        "signup_pwd_leak",
        "fscim",
        "sscim",
        "organization_member_added",
        "api_limit",
        "w",
        "oidc_backchannel_logout_succeeded",
        "oidc_backchannel_logout_failed",
        "universal_logout_failed",
        "gd_auth_succeed",
        "fdu",
    ] {
        comes_to(&record(code, json!({ "details": session })), &Err(GapReason::Ignored));
    }
    for code in ["zzz", "SLO", "slo ", "sl"] {
        comes_to(&record(code, json!({})), &Err(GapReason::UnknownKind));
    }
}

#[test]
fn sessions_are_found_wherever_they_stand() {
    for (record, session) in [
        (json!({ "details": { "session_id": "S" } }), "S"),
        (json!({ "details": { "refresh_token": { "session_id": "S" } } }), "S"),
        (json!({ "details": { "session_id": "*****", "refresh_token": { "session_id": "S" } } }), "S"),
        (json!({ "details": { "session_id": 5, "refresh_token": "*****" }, "session_id": "S" }), "S"),
    ] {
        comes_to(&super::tests::record("slo", record), &Ok(ended(session)));
    }
    let too_long = record("slo", json!({ "details": { "session_id": "x".repeat(256) } }));
    comes_to(&too_long, &Ok(vec![Happening::LoggedOut(subject("auth0|ada"))]));
}

#[test]
fn what_a_code_does_can_be_set() {
    let codes =
        || Codes::from_iter([("slo", Action::Logout), ("fertft", Action::NamedSessionEnd), ("zzz", Action::Block)]);
    let read = |record| read_with(codes(), &record).map(|event| event.happenings).map_err(|gap| gap.reason);
    let session = json!({ "details": { "session_id": "S" } });
    assert_eq!(read(record("slo", session.clone())), Ok(vec![Happening::LoggedOut(subject("auth0|ada"))]));
    assert_eq!(read(record("fertft", session)), Ok(ended("S")));
    assert_eq!(read(record("fertft", json!({}))), Err(GapReason::NoSubject));
    assert_eq!(read(record("zzz", json!({}))), Ok(vec![Happening::Blocked(subject("auth0|ada"))]));
    assert_eq!(read(record("s", json!({}))), Ok(vec![Happening::Active(subject("auth0|ada"))]));
}

#[test]
fn calls_of_the_management_api_do_what_they_did() {
    use Happening::{Blocked, Deleted, LoggedOut, Unblocked};
    let ada = || subject("auth0|ada");
    let user = "/api/v2/users/auth0%7Cada";
    let path = |rest: &str| format!("{user}{rest}");
    let (blocked, cleared) = (json!({ "blocked": true }), json!({ "blocked": false }));
    let masked = json!({ "blocked": "*****" });
    let password = json!({ "password": "*****" });
    let none = || json!({});
    let ignored = || Err(GapReason::Ignored);
    for (method, path, body, answer, expected) in [
        ("patch", user.to_owned(), blocked.clone(), none(), Ok(vec![Blocked(ada())])),
        ("PATCH", user.to_owned(), blocked.clone(), none(), Ok(vec![Blocked(ada())])),
        ("patch", user.to_owned(), cleared.clone(), none(), Ok(vec![Unblocked(ada())])),
        ("patch", "/v2/users/auth0|ada/".into(), blocked.clone(), none(), Ok(vec![Blocked(ada())])),
        ("patch", "/api/v2/users/auth0%257Cada?x=y".into(), blocked.clone(), none(), Ok(vec![Blocked(ada())])),
        (
            "patch",
            user.into(),
            blocked.clone(),
            json!({ "user_id": "auth0|bob" }),
            Ok(vec![Blocked(subject("auth0|bob"))]),
        ),
        ("patch", user.into(), blocked.clone(), json!({ "user_id": "*****" }), Ok(vec![Blocked(ada())])),
        ("patch", user.into(), blocked.clone(), json!("*****"), Ok(vec![Blocked(ada())])),
        ("patch", user.into(), masked, blocked.clone(), Err(GapReason::Malformed)),
        ("patch", user.into(), json!({ "password": "*****", "blocked": "*****" }), none(), Ok(vec![LoggedOut(ada())])),
        ("patch", "/api/v2/users/*****".into(), blocked.clone(), none(), Err(GapReason::NoSubject)),
        ("patch", user.into(), json!({ "app_metadata": {} }), blocked.clone(), ignored()),
        ("patch", user.into(), none(), cleared.clone(), ignored()),
        ("patch", user.into(), json!("*****"), cleared.clone(), ignored()),
        ("patch", user.into(), password.clone(), cleared.clone(), Ok(vec![Unblocked(ada()), LoggedOut(ada())])),
        ("patch", user.into(), password.clone(), none(), Ok(vec![Unblocked(ada()), LoggedOut(ada())])),
        ("patch", user.into(), password, blocked.clone(), Ok(vec![LoggedOut(ada())])),
        (
            "patch",
            user.into(),
            json!({ "password": "*****", "blocked": true }),
            none(),
            Ok(vec![Blocked(ada()), LoggedOut(ada())]),
        ),
        ("patch", path("/roles"), blocked.clone(), none(), ignored()),
        ("post", user.into(), blocked.clone(), none(), ignored()),
        ("get", user.into(), blocked.clone(), none(), ignored()),
        ("patch", "/api/v2/users/%ff".into(), blocked.clone(), none(), Err(GapReason::NoSubject)),
        ("patch", "/api/v3/users/auth0%7Cada".into(), blocked, none(), ignored()),
        ("delete", user.into(), none(), none(), Ok(vec![Deleted(ada())])),
        ("delete", path("/sessions"), none(), none(), Ok(vec![LoggedOut(ada())])),
        ("delete", path("/refresh-tokens"), none(), none(), ignored()),
        ("delete", path("/multifactor/duo"), none(), none(), ignored()),
        ("delete", "/api/v2/sessions/S%2D1".into(), none(), none(), Ok(ended("S-1"))),
        ("post", "/api/v2/sessions/S/revoke".into(), none(), none(), Ok(ended("S"))),
        ("post", "/api/v2/sessions/S".into(), none(), none(), ignored()),
        ("post", path("/revoke-access"), json!({ "session_id": "S" }), none(), Ok(ended("S"))),
        ("post", path("/revoke-access"), none(), none(), Ok(vec![LoggedOut(ada())])),
        ("post", path("/revoke-access"), json!({ "session_id": "*****" }), none(), Ok(vec![LoggedOut(ada())])),
        ("delete", "/api/v2/users".into(), none(), none(), ignored()),
        ("delete", "/api/v2/clients/x".into(), none(), none(), ignored()),
        ("*****", "*****".into(), none(), none(), ignored()),
    ] {
        comes_to(&call(method, &path, &body, &answer), &expected);
    }
}

#[test]
fn the_actor_of_a_call_is_never_its_target() {
    let nameless = call("patch", "*****", &json!({ "blocked": true }), &json!({}));
    comes_to(&nameless, &Err(GapReason::Ignored));
    let masked = call("delete", "/api/v2/users/%20%0a", &json!({}), &json!({}));
    comes_to(&masked, &Err(GapReason::NoSubject));
}

#[test]
fn a_call_that_failed_did_nothing() {
    for (status, is_taken) in [
        (json!(200), true),
        (json!(204), true),
        (json!("202"), true),
        (json!(null), true),
        (json!(400), false),
        (json!(302), false),
    ] {
        let mut record = call("delete", "/api/v2/users/auth0%7Cada", &json!({}), &json!({}));
        record["details"]["response"]["statusCode"] = status.clone();
        assert_eq!(read(&record).is_ok(), is_taken, "{status}");
    }
}

#[test]
fn deactivating_a_user_by_scim_logs_it_out_if_it_is_named() {
    let patch = |operation: Value| json!({ "Operations": [{ "op": "add" }, operation] });
    for (body, deactivates) in [
        (patch(json!({ "op": "replace", "path": "active", "value": false })), true),
        (patch(json!({ "op": "Replace", "path": "active", "value": "False" })), true),
        (patch(json!({ "op": "replace", "value": { "active": false, "title": "x" } })), true),
        (json!({ "userName": "ada", "active": false }), true),
        (patch(json!({ "op": "replace", "path": "active", "value": true })), false),
        (patch(json!({ "op": "replace", "path": "active", "value": "*****" })), false),
        (patch(json!({ "op": "replace", "path": "title", "value": false })), false),
        (json!({ "Operations": "*****", "active": true }), false),
    ] {
        let details = json!({ "request": { "method": "PATCH", "body": body } });
        let named = record("sscim", json!({ "details": details }));
        let logged_out = Ok(vec![Happening::LoggedOut(subject("auth0|ada"))]);
        comes_to(&named, &if deactivates { logged_out } else { Err(GapReason::Ignored) });
        let nameless = record("sscim", json!({ "details": details, "user_id": null }));
        comes_to(&nameless, &Err(if deactivates { GapReason::NoSubject } else { GapReason::Ignored }));
    }
}

#[test]
fn the_ids_of_connections_are_no_users() {
    for (changes, user) in [
        (json!({ "identity_user_id": "auth0|bob" }), Some("auth0|bob")),
        (json!({ "details": { "body": { "user_id": "auth0|bob" } } }), Some("auth0|bob")),
        (json!({ "identity_user_id": "65f0", "details": { "body": { "user_id": "65f0" } } }), None),
    ] {
        let mut changed = record("sdu", changes.clone());
        comes_to(&changed, &Ok(vec![Happening::Deleted(subject("auth0|ada"))]));
        changed.as_object_mut().unwrap().remove("user_id");
        comes_to(&changed, &user.map_or(Err(GapReason::NoSubject), |user| Ok(vec![Happening::Deleted(subject(user))])));
    }
}

#[test]
fn the_time_is_the_records_own() {
    let long_id = "90020260501120003500000000000000000000000000000000000016";
    for (changes, expected) in [
        (json!({}), Some(AT)),
        (json!({ "date": "2026-05-01 12:00:00.000000000" }), Some(AT)),
        (json!({ "date": AT }), Some(AT)),
        (json!({ "date": null, "log_id": long_id }), Some(AT + 3500)),
        (json!({ "date": "*****", "log_id": long_id }), Some(AT + 3500)),
        (json!({ "date": {}, "log_id": null, "_id": long_id }), Some(AT + 3500)),
        (json!({ "date": null }), None),
        (json!({ "date": null, "log_id": "90020261301120003500000000000000000000000000000000000016" }), None),
        (json!({ "date": null, "log_id": "900é0260501120003500" }), None),
        (json!({ "date": null, "log_id": "900" }), None),
    ] {
        let at = read(&record("slo", changes.clone())).map(|event| event.at.as_millis());
        assert_eq!(at.map_err(|gap| gap.reason), expected.ok_or(GapReason::Malformed), "{changes}");
    }
}

#[test]
fn a_record_is_told_by_its_id_wrapped_or_not() {
    for (text, id) in [
        (json!({ "log_id": "outer", "data": record("slo", json!({})) }), Some("1")),
        (json!({ "log_id": "outer", "data": record("slo", json!({ "log_id": null, "_id": "2" })) }), Some("2")),
        (json!({ "log_id": "outer", "data": record("slo", json!({ "log_id": null })) }), Some("outer")),
        (record("slo", json!({ "log_id": null, "_id": { "$oid": "2" } })), Some("2")),
        (record("slo", json!({ "log_id": "*****" })), None),
        (record("slo", json!({ "data": { "type": "scp" } })), Some("1")),
    ] {
        let event = read(&text).unwrap();
        assert_eq!((event.id.as_ref().map(EventId::as_str), &*event.kind), (id, "slo"), "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_malformed_and_told_by_what_could() {
    let good = record("slo", json!({})).to_string();
    let reader = RecordReader::new(issuer(), Codes::default());
    for text in
        ["", "null", "5", "\"slo\"", "[]", "{}", "{\"type\":7}", "{\"type\":\"\"}", "{", &good[..good.len() - 1]]
    {
        assert_eq!(reader.read(text.as_bytes()).unwrap_err().reason, GapReason::Malformed, "{text}");
    }
    let cut = reader.read(br#"{"log_id":"1","type":"slo","user_id":"au"#).unwrap_err();
    assert_eq!((&*cut.kind, cut.id), ("slo", Some(EventId::new("1"))));
    let strange = reader.read(&[b"{\"type\":\"", &[b'z'; 5000][..], b"\\u0007\"}"].concat()).unwrap_err();
    assert_eq!((strange.reason, strange.kind.len()), (GapReason::UnknownKind, SHOWN));
}

#[test]
fn garbage_in_what_does_not_matter_does_not_matter() {
    let reader = RecordReader::new(issuer(), Codes::default());
    for text in [
        &b"{\"type\":\"slo\",\"date\":\"2026-05-01T12:00:00Z\",\"user_agent\":\"\xff\",\"\xfe\":1,\"user_id\":\"auth0|ada\"}"[..],
        br#"{"type":"slo","date":"2026-05-01T12:00:00Z","user_agent":"\ud800","\udfff":1e999,"user_id":"auth0|ada"}"#,
        br#"{"type":"s","type":"slo","date":[],"date":"2026-05-01T12:00:00Z","user_id":null,"user_id":"auth0|ada"}"#,
        br#"{"details":{"session_id":"S"},"details":"*****","type":"slo","date":"2026-05-01T12:00:00Z","user_id":"auth0|ada"}"#,
    ] {
        let event = reader.read(text).unwrap();
        assert_eq!(event.happenings, [Happening::LoggedOut(subject("auth0|ada"))], "{}", text.escape_ascii());
    }
    let spoiled = reader.read(b"{\"type\":\"slo\",\"date\":\"2026-05-01T12:00:00Z\",\"user_id\":\"auth0|\xff\"}");
    assert_eq!(spoiled.unwrap_err().reason, GapReason::Malformed);
    let deep = [b"{\"type\":\"slo\",\"x\":".as_slice(), &b"[".repeat(100_000), &b"]".repeat(100_000), b"}"].concat();
    assert_eq!(reader.read(&deep).unwrap_err().reason, GapReason::NoSubject);
    let deep = [b"{\"type\":\"slo\",\"date\":".as_slice(), &b"{\"$date\":".repeat(100_000)].concat();
    assert_eq!(reader.read(&deep).unwrap_err().reason, GapReason::Malformed);
}
