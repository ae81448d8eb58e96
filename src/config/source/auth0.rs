//! The sources of Auth0.

use super::{
    super::{
        problem::Fault,
        reader::Section,
        secret,
        value::{Raw, Setting, choose},
    },
    Basis, issuer,
};
use crate::event::auth0::{
    event_stream::EventStreamSettings,
    events::EventsSettings,
    log_stream::LogStreamSettings,
    logs::LogsSettings,
    record::{Action, Codes},
};

/// The longest log code, in bytes; those that there are have half as many.
const MAX_CODE_LENGTH: usize = 64;

/// `type = "auth0_log_stream"`
pub(super) fn log_stream(section: &Section<'_>, basis: &Basis<'_>) -> Option<LogStreamSettings> {
    let issuer = issuer(section, basis);
    let authorization = secret::required_text(section, "authorization");
    let codes = codes(section);
    Some(LogStreamSettings { issuer: issuer?, authorization: authorization?, codes })
}

/// `type = "auth0_logs"`
pub(super) fn logs(section: &Section<'_>, basis: &Basis<'_>) -> Option<LogsSettings> {
    Some(LogsSettings { issuer: issuer(section, basis)? })
}

/// `type = "auth0_event_stream"`
pub(super) fn event_stream(section: &Section<'_>, basis: &Basis<'_>) -> Option<EventStreamSettings> {
    let issuer = issuer(section, basis);
    let token = secret::required_text(section, "token");
    Some(EventStreamSettings { issuer: issuer?, token: token? })
}

/// `type = "auth0_events"`
pub(super) fn events(section: &Section<'_>, basis: &Basis<'_>) -> Option<EventsSettings> {
    Some(EventsSettings { issuer: issuer(section, basis)? })
}

/// `codes`: what log codes do, where it is not what they do by default.
pub(super) fn codes(section: &Section<'_>) -> Codes {
    let codes = section.map::<Action>("codes").option().unwrap_or_default();
    let is_code = |code: &str| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        !code.is_empty() && code.len() <= MAX_CODE_LENGTH && code.bytes().all(allowed)
    };
    for (code, _, at) in codes.iter().filter(|(code, ..)| !is_code(code)) {
        let fault = Fault::new(format!("\"{code}\" cannot be a log code")).hint("such as \"slo\" or \"limit_wc\"");
        section.reader().report(at, fault);
    }
    codes.into_iter().map(|(code, action, _)| (code, action)).collect()
}

impl Setting for Action {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &Self::ALL.map(|action| (action.as_str(), action)))
    }
}
