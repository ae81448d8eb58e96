//! Parameters in a query or in the body of a form (`application/x-www-form-urlencoded`).

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, Limited};
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use crate::incoming::Incoming;

/// The longest form that is read, in bytes.
const MAX_FORM: usize = 8 * 1024;

/// How long a form may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// A form that is too long, does not come in time, or a text that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unreadable;

/// The parameters of a request, as they were written.
#[derive(Clone, Default, Debug)]
pub(super) struct Parameters(Vec<String>);

impl Parameters {
    pub(super) fn of_query(query: Option<&str>) -> Self {
        Self(query.map(str::to_owned).into_iter().collect())
    }

    /// Adds those of a form; a body of another type is left alone.
    pub(super) async fn and_form(mut self, fields: &HeaderMap, body: Incoming) -> Result<Self, Unreadable> {
        if is_form(fields) {
            let read = timeout(PATIENCE, Limited::new(body, MAX_FORM).collect()).await;
            let body: Bytes = read.map_err(|_| Unreadable)?.map_err(|_| Unreadable)?.to_bytes();
            self.0.push(str::from_utf8(&body).map_err(|_| Unreadable)?.to_owned());
        }
        Ok(self)
    }

    /// The `name=value` pairs, not decoded.
    pub(super) fn pairs(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|text| text.split('&')).filter(|pair| !pair.is_empty())
    }

    /// The one value of any of these names.
    ///
    /// # Errors
    /// More than one value, or one that is no text.
    pub(super) fn one(&self, names: &[&str]) -> Result<Option<String>, Unreadable> {
        let mut found = None;
        for pair in self.pairs() {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if names.contains(&&*decode(name)?) && found.replace(decode(value)?.into_owned()).is_some() {
                return Err(Unreadable);
            }
        }
        Ok(found)
    }
}

fn is_form(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

fn decode(text: &str) -> Result<Cow<'_, str>, Unreadable> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode_str(&spaced)
            .decode_utf8()
            .map(|text| Cow::Owned(text.into_owned()))
            .map_err(|_| Unreadable);
    }
    percent_decode_str(text).decode_utf8().map_err(|_| Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_found_and_two_are_refused() {
        let parameters = Parameters::of_query(Some("a=1&b=x%20y+z&c&%64=4&e=%ff"));
        let one = |names: &[&str]| parameters.one(names);
        assert_eq!(one(&["a"]), Ok(Some("1".to_owned())));
        assert_eq!(one(&["b"]), Ok(Some("x y z".to_owned())));
        assert_eq!(one(&["c"]), Ok(Some(String::new())));
        assert_eq!(one(&["d"]), Ok(Some("4".to_owned())));
        assert_eq!(one(&["f"]), Ok(None));
        assert_eq!(one(&["a", "b"]), Err(Unreadable));
        assert_eq!(one(&["e"]), Err(Unreadable));
        assert_eq!(Parameters::of_query(Some("a=1&a=1")).one(&["a"]), Err(Unreadable));
        assert_eq!(Parameters::of_query(None).one(&["a"]), Ok(None));
    }
}
