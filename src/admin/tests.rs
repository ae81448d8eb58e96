//! The document and the router, path by path. Method by method, and answer by answer, `tests/it/admin.rs` compares them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{OPENAPI, guarded, open};

#[test]
fn the_document_describes_every_path_and_no_other() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let described: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let served: BTreeSet<&str> = guarded().iter().chain(&open()).map(|(path, _)| *path).collect();
    assert_eq!(described, served);
}

#[test]
fn only_health_metrics_and_the_document_are_open() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(document["security"], serde_json::json!([{ "adminToken": [] }]));
    let operations = |paths: Vec<(&'static str, _)>| -> Vec<Value> {
        let of_path = |(path, _)| document["paths"][path].as_object().unwrap().values().cloned().collect::<Vec<_>>();
        paths.into_iter().flat_map(of_path).filter(|operation| operation.get("responses").is_some()).collect()
    };
    assert!(operations(open()).iter().all(|operation| operation["security"] == serde_json::json!([])));
    assert!(operations(guarded()).iter().all(|operation| operation.get("security").is_none()));
}
