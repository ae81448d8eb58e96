//! What errors of Redis mean, and what to do about them.

use std::sync::Arc;

use ::redis::{ErrorKind, RedisError};

use crate::store::StoreError;

/// Why Redis cannot be used at present.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Outage(String);

/// Redis cannot be used at present.
pub(super) fn outage(store: &Arc<str>, what: impl Into<String>) -> StoreError {
    StoreError::unavailable(store, Outage(what.into()))
}

/// Whether the user may not send a command. Managed servers take some away altogether.
pub(super) fn is_denied(error: &RedisError) -> bool {
    error.code() == Some("NOPERM") || error.detail().is_some_and(|detail| detail.starts_with("unknown command"))
}

/// Whether a key holds another type than expected.
pub(super) fn is_wrong_type(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
}

/// An error as a store's: passing trouble is unavailability, the rest somebody must mend.
pub(super) fn classify(store: &Arc<str>, error: &RedisError) -> StoreError {
    if error.is_timeout() {
        return StoreError::timed_out(store);
    }
    let kind = error.kind();
    let (code, detail) = match error.clone().into_server_errors() {
        Some(errors) => errors.first().map(|(_, each)| (each.code().to_owned(), each.details().map(str::to_owned))),
        None => error.code().map(|code| (code.to_owned(), error.detail().map(str::to_owned))),
    }
    .unzip();
    let detail = without_echo(&detail.flatten().unwrap_or_default());
    let refused = |message: String| StoreError::Refused { store: Arc::clone(store), message };
    match (code.as_deref(), kind) {
        (Some("LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN" | "BUSY" | "NOREPLICAS" | "UNKILLABLE"), _) => {
            outage(store, format!("{} {detail}", code.unwrap_or_default()))
        }
        (Some(code), _) => refused(match remedy(code, &detail) {
            Some(remedy) => format!("{code} {detail}; {remedy}"),
            None => format!("{code} {detail}"),
        }),
        (None, ErrorKind::AuthenticationFailed) => refused("authentication failed; check user and password".to_owned()),
        (None, ErrorKind::RESP3NotSupported) => refused("it does not speak RESP3; use Redis 7 or newer".to_owned()),
        (None, ErrorKind::InvalidClientConfig | ErrorKind::UnexpectedReturnType | ErrorKind::Client) => {
            refused(error.category().to_owned())
        }
        (None, _) => outage(store, error.to_string()),
    }
}

fn remedy(code: &str, detail: &str) -> Option<&'static str> {
    Some(match code {
        "READONLY" if detail.contains("sentinel") => "write redis+sentinel:// in the url, and the name of the service",
        "ERR" if detail.to_ascii_lowercase().contains("command 'sentinel'") => {
            "this is no sentinel: name the sentinels in the url, or write redis:// for a server"
        }
        "READONLY" => "point the url at the primary, or at the sentinels",
        "OOM" => "its memory is full: raise `maxmemory` (and keep `maxmemory-policy noeviction`)",
        "NOPERM" => "its user lacks a permission: grant what docs/markers.md lists",
        "WRONGTYPE" => "a key of ours holds another type: find out who writes it, then delete it",
        "NOAUTH" => "it wants a password: put one into the url",
        "WRONGPASS" => "check user and password",
        "ERR" if detail.contains("cluster support disabled") => "this is no Cluster: write redis:// in the url",
        "ERR" if detail.contains("No such master") => "check the name after the sentinels in the url",
        "MISCONF" => "it cannot save to disk: see its log",
        "MOVED" | "ASK" | "CROSSSLOT" => "this is a node of a Redis Cluster: write redis+cluster:// in the url",
        "NOPROTO" => "it does not speak RESP3: use Redis 7 or newer",
        "ERR" if detail.starts_with("unknown command") => "use Redis 7 or newer",
        "ERR" if detail.contains("AUTH") => "check user and password",
        _ => return None,
    })
}

/// Old servers repeat the arguments of a command that they do not know, a password among them.
fn without_echo(detail: &str) -> String {
    detail.split(", with args").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_trouble_is_unavailability_and_the_rest_is_refused() {
        let store: Arc<str> = "test".into();
        let server = |code: &str| ::redis::make_extension_error(code.to_owned(), Some("detail".to_owned()));
        for code in ["LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN"] {
            assert!(matches!(classify(&store, &server(code)), StoreError::Unavailable { .. }), "{code}");
        }
        for code in ["READONLY", "OOM", "NOPERM", "WRONGTYPE", "NOAUTH", "WRONGPASS", "MISCONF", "MOVED"] {
            let StoreError::Refused { message, .. } = classify(&store, &server(code)) else { panic!("{code}") };
            assert!(message.starts_with(&format!("{code} detail; ")), "{message}");
        }
        let timeout = RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        assert!(matches!(classify(&store, &timeout), StoreError::Unavailable { .. }));
    }

    #[test]
    fn echoed_arguments_are_cut_off() {
        let store: Arc<str> = "test".into();
        let detail = "unknown command `HELLO`, with args beginning with: `3` `AUTH` `u` `hunter2`".to_owned();
        let shown = format!("{:?}", classify(&store, &::redis::make_extension_error("ERR".to_owned(), Some(detail))));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("use Redis 7 or newer"), "{shown}");
    }
}
