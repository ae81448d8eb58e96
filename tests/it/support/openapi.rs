//! A client of the admin endpoints that holds every answer to the OpenAPI document.

use std::{collections::BTreeSet, net::SocketAddr, sync::LazyLock};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::http::{Answer, send};

/// The document.
pub(crate) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(portcullis::admin::OPENAPI).unwrap());

/// Asks, and panics at an answer that the document does not describe.
pub(crate) struct AdminClient {
    address: SocketAddr,
    fields: Vec<(String, String)>,
}

impl AdminClient {
    pub(crate) fn new(address: SocketAddr, token: Option<&str>) -> Self {
        let fields = token.map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
        Self { address, fields: fields.into_iter().collect() }
    }

    /// With a field more in each request.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, "").await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        let fields: Vec<(&str, &str)> = self.fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        let answer = send(self.address, method.clone(), path, &fields, body.clone()).await;
        check(&method, path, &body, &answer);
        answer
    }
}

/// Every path template of the document, and its methods.
pub(crate) fn operations() -> Vec<(String, BTreeSet<Method>)> {
    let methods = |item: &Value| {
        let names = item.as_object().unwrap().iter().filter(|(_, operation)| operation.get("responses").is_some());
        names.map(|(name, _)| name.to_uppercase().parse().unwrap()).collect()
    };
    DOCUMENT["paths"].as_object().unwrap().iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

#[track_caller]
fn check(method: &Method, path: &str, request: &Bytes, answer: &Answer) {
    let what = format!("{method} {path} → {answer:?}");
    let Some(template) = template(path) else {
        assert_eq!(answer.code().as_deref(), Some("no_endpoint"), "{what}");
        return validate(&what, &json!({ "$ref": "#/components/schemas/Problem" }), &answer.json());
    };
    let operation = &DOCUMENT["paths"][template][method.as_str().to_lowercase()];
    if operation.is_null() {
        assert_eq!(answer.status, 405, "{what}");
        assert!(answer.field("allow").is_some(), "{what}");
        return validate(&what, &json!({ "$ref": "#/components/schemas/Problem" }), &answer.json());
    }
    let documented = resolve(&operation["responses"][answer.status.as_str()]);
    assert!(documented.is_object(), "this status is not documented: {what}");
    let content_type = answer.field("content-type").unwrap_or_else(|| panic!("no content type: {what}"));
    let content = &documented["content"][content_type];
    assert!(content.is_object(), "this content type is not documented: {what}");
    for (name, field) in documented["headers"].as_object().into_iter().flatten() {
        let field = resolve(field);
        match answer.field(name) {
            Some(value) => validate(&what, &field["schema"], &json!(value)),
            None => assert_ne!(field["required"], true, "field `{name}` is missing: {what}"),
        }
    }
    let is_json = content_type == "application/json" || content_type.ends_with("+json");
    let body = if is_json { answer.json() } else { json!(answer.text()) };
    validate(&what, &content["schema"], &body);
    if answer.status.is_success() && !request.is_empty() {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "a body was taken and is not documented: {what}");
        validate(&what, schema, &serde_json::from_slice(request).unwrap());
    }
}

/// The template that a path is of.
fn template(path: &str) -> Option<&'static str> {
    let path = path.split('?').next().unwrap();
    let segments = |path: &'static str| path.split('/');
    let is_of = |template: &&'static str| {
        let (mut wanted, mut found) = (segments(template), path.split('/'));
        loop {
            match (wanted.next(), found.next()) {
                (None, None) => return true,
                (Some(wanted), Some(found)) if wanted == found || wanted.starts_with('{') && !found.is_empty() => {}
                _ => return false,
            }
        }
    };
    DOCUMENT["paths"].as_object().unwrap().keys().map(String::as_str).find(is_of)
}

fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// Whether a value is as a schema of the document says.
#[track_caller]
pub(crate) fn validate(what: &str, schema: &Value, value: &Value) {
    assert!(!schema.is_null(), "there is no schema: {what}");
    let schema = json!({ "allOf": [schema], "components": DOCUMENT["components"] });
    let options = jsonschema::draft202012::options().should_validate_formats(true);
    let validator = options.build(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(value).map(|error| format!("{error}")).collect();
    assert!(errors.is_empty(), "{what}: not as documented: {}", errors.join("; "));
}
