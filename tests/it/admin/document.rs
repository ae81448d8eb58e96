//! The document itself, and the router method by method.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    http::send,
    openapi::{DOCUMENT, operations, validate},
    program::Gate,
};

#[tokio::test]
async fn every_path_serves_the_methods_that_are_documented_and_no_other() {
    let gate = Gate::start().await;
    for (template, documented) in operations() {
        let path = template.replace("{issuer}", "main").replace(['{', '}'], "");
        let mut served = BTreeSet::new();
        let mut allowed = BTreeSet::new();
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let answer = send(gate.admin_address(), method.clone(), &path, &[], "").await;
            if answer.status == 405 {
                answer.is(405, "method");
                allowed.extend(answer.field("allow").unwrap().split(',').map(|name| name.parse::<Method>().unwrap()));
            } else {
                served.insert(method);
            }
        }
        assert_eq!(served, documented, "{template}");
        allowed.remove(&Method::HEAD);
        assert_eq!(allowed, documented, "{template}: the field Allow");
    }
}

#[tokio::test]
async fn it_is_served_as_it_is() {
    let gate = Gate::start().await;
    assert_eq!(gate.admin().get("/openapi.json").await.json(), *DOCUMENT);
    let head = send(gate.admin_address(), Method::HEAD, "/openapi.json", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let mut references = BTreeSet::new();
    walk(&DOCUMENT, &mut |value| {
        if let Some(reference) = value["$ref"].as_str() {
            assert!(DOCUMENT.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
            references.insert(reference.to_owned());
        }
    });
    for group in ["schemas", "responses", "parameters", "headers"] {
        for name in DOCUMENT["components"][group].as_object().unwrap().keys() {
            assert!(references.contains(&format!("#/components/{group}/{name}")), "{group}/{name} is not used");
        }
    }
}

/// An example that a reader cannot rely on is worse than none.
#[test]
fn every_example_is_as_its_schema_says() {
    let mut checked = 0;
    walk(&DOCUMENT, &mut |value| {
        if let (Some(schema), Some(example)) = (value.get("schema"), value.get("example")) {
            validate("an example", schema, example);
            checked += 1;
        }
        if let Some(examples) = value.get("examples").and_then(Value::as_array) {
            for example in examples {
                validate("an example", value, example);
            }
            checked += examples.len();
        }
    });
    assert!(checked > 30, "only {checked} examples");
}

#[test]
fn every_object_says_whether_it_may_hold_more() {
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        if schema["type"] == "object" {
            assert!(schema.get("additionalProperties").is_some(), "{name}");
        }
    }
    for name in ["Change", "BlockChange", "ExplainRequest"] {
        assert_eq!(DOCUMENT["components"]["schemas"][name]["additionalProperties"], json!(false), "{name}");
    }
}

#[test]
fn every_operation_has_a_name_of_its_own_and_says_what_it_does() {
    let mut names = BTreeSet::new();
    for (path, methods) in operations() {
        for method in methods {
            let operation = &DOCUMENT["paths"][&path][method.as_str().to_lowercase()];
            assert!(names.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
            assert!(operation["summary"].is_string() && operation["description"].is_string(), "{method} {path}");
        }
    }
}

fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(members) => {
            visit(value);
            members.values().for_each(|member| walk(member, visit));
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        _ => {}
    }
}
