//! The pages of the gate itself: small, self-contained, without scripts.
//!
//! Nobody may frame them, store them, or lead forms on them elsewhere by a `<base>`. The form's target is left open to redirects:
//! browsers hold `form-action` against those too, and what follows a logout is decided by the issuer.

use std::{fmt::Write as _, sync::LazyLock};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Response, header};

use crate::upstream::Body;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;min-height:100vh;display:grid;place-items:center;font:1rem/1.5 system-ui,sans-serif;background:#f4f5f7;color:#1b1f24}\
main{box-sizing:border-box;width:min(26rem,100vw - 2rem);padding:2rem;border:1px solid #d5d9de;border-radius:.75rem;background:#fff}\
h1{margin:0 0 .5rem;font-size:1.375rem;line-height:1.25}\
p{margin:0;color:#4a525c}\
button{margin-top:1.5rem;width:100%;padding:.7rem 1rem;border:0;border-radius:.5rem;font:inherit;font-weight:600;background:#1f5fd0;color:#fff;cursor:pointer}\
button:hover{background:#194fae}\
button:focus-visible{outline:3px solid #7ba7f0;outline-offset:2px}\
@media(prefers-color-scheme:dark){\
body{background:#14171b;color:#e8eaed}\
main{background:#1d2126;border-color:#353b43}\
p{color:#aab2bc}\
button{background:#7ba7f0;color:#0e1726}\
button:hover{background:#96b9f4}\
button:focus-visible{outline-color:#c9dbf9}}";

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    let policy = format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; frame-ancestors 'none'");
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"))
});

/// Asks whether to log out. The answer is a `POST` with these fields.
pub(super) fn confirmation(everywhere: bool, fields: &[(&str, &str)]) -> Response<Body> {
    let (title, text) = if everywhere {
        ("Log out everywhere?", "This ends your sessions on all devices.")
    } else {
        ("Log out?", "This ends your session here.")
    };
    let mut form = String::from("<form method=\"post\" action=\"/.portcullis/logout\">");
    for (name, value) in fields {
        // Writing to a string never fails.
        let _ = write!(form, "<input type=\"hidden\" name=\"{}\" value=\"{}\">", Escaped(name), Escaped(value));
    }
    form.push_str("<button>Log out</button></form>");
    page(title, text, &form)
}

/// Says that it is done, where there is nowhere to go from here.
pub(super) fn logged_out(at_issuer: bool) -> Response<Body> {
    let text = if at_issuer {
        "Your session has ended. You can close this page."
    } else {
        "Your session has ended here. You may still be logged in at the login service, which cannot be reached at the moment."
    };
    page("You are logged out", text, "")
}

/// `form` is HTML, the rest is text.
fn page(title: &str, text: &str, form: &str) -> Response<Body> {
    let (title, text) = (Escaped(title), Escaped(text));
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"robots\" content=\"noindex\"><title>{title}</title>\
         <style>{STYLE}</style></head><body><main><h1>{title}</h1><p>{text}</p>{form}</main></body></html>"
    );
    let mut response = Response::new(Bytes::from(html).into());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    fields.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // With `no-referrer`, the form would come with the origin `null`, as if from another site.
    fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Text within HTML, in quotes or not.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_with_the_request_stays_text() {
        let text = Escaped("\"><script>alert('x')&</script>").to_string();
        assert_eq!(text, "&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&amp;&lt;/script&gt;");
    }
}
