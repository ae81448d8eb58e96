//! Answers, and what is read from requests.

use std::{collections::BTreeMap, convert::Infallible, io};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// An answer that is an error, where another one was to come.
pub(crate) type Refusal = Box<Response<Body>>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(crate) fn typed(code: u16, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status(code);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(crate) fn json_answer(code: u16, body: &Value) -> Response<Body> {
    typed(code, "application/json; charset=utf-8", full(body.to_string()))
}

pub(crate) fn empty(code: u16) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = status(code);
    response
}

/// The error body with its four members.
pub(crate) fn error(code: u16, error_code: &str, message: &str) -> Response<Body> {
    let error = status(code).canonical_reason().unwrap_or("Error");
    json_answer(code, &json!({ "statusCode": code, "error": error, "message": message, "errorCode": error_code }))
}

pub(crate) fn invalid_query(message: &str) -> Response<Body> {
    error(400, "invalid_query_string", message)
}

pub(crate) fn invalid_body(message: &str) -> Response<Body> {
    error(400, "invalid_body", &format!("Payload validation error: '{message}'."))
}

pub(crate) fn query(head: &Parts) -> Vec<(String, String)> {
    pairs(head.uri.query().unwrap_or_default())
}

pub(crate) fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

pub(crate) fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
}

/// A number from the query; an error when it is none.
pub(crate) fn number(pairs: &[(String, String)], name: &str) -> Result<Option<usize>, Refusal> {
    let Some(text) = value(pairs, name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Box::new(invalid_query(&format!("{name} is not a number"))))
}

/// A truth from the query; an error when it is none.
pub(crate) fn truth(pairs: &[(String, String)], name: &str) -> Result<Option<bool>, Refusal> {
    let Some(text) = value(pairs, name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Box::new(invalid_query(&format!("{name} is not a boolean"))))
}

/// An error when there are parameters other than these.
pub(crate) fn only(pairs: &[(String, String)], known: &[&str]) -> Result<(), Refusal> {
    match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!("Query validation error: 'Additional properties not allowed: {name}'.");
            Err(Box::new(invalid_query(&message)))
        }
    }
}

/// The members of a form or of a JSON object, whichever the request says that it is.
pub(crate) fn members(head: &Parts, body: &Bytes) -> Option<Vec<(String, String)>> {
    let kind = head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    if kind.starts_with("application/json") {
        let object: BTreeMap<String, String> = serde_json::from_slice(body).ok()?;
        return Some(object.into_iter().collect());
    }
    kind.starts_with("application/x-www-form-urlencoded").then(|| pairs(str::from_utf8(body).unwrap_or_default()))
}
