//! What a record of a tenant's log means.
//!
//! 1. Each code has an [`Action`]: a default, or what the configuration says.
//! 2. An event has the time of the record, never that of its arrival. A record without a readable `date` has the time that its
//!    `log_id` begins with; one without that too is malformed: a block of unknown time could undo a later one.
//! 3. `user_id` says whom a record is about, except in `sapi`, where it is whoever called the Management API. The target of a call
//!    is in its answer or its path.
//! 4. Nothing is taken from a masked value: not a block, not a session, not a user.
//! 5. Published schemas are not enforced: real records do not keep to them.

use std::{borrow::Cow, collections::HashMap};

use jiff::{civil::DateTime, tz::TimeZone};
use percent_encoding::percent_decode_str;
use serde::de::{MapAccess, SeqAccess};

use super::loose::{self, Fill, Loose, Members};
use crate::{
    clock::Timestamp,
    event::{EventId, Gap, GapReason, Happening, SessionEvent},
    token::claims::{IssuerName, SessionId, Subject, SubjectId},
};

/// How much of an unknown code is shown, in characters.
const SHOWN: usize = 64;

/// What a log code does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Nothing.
    Ignore,
    /// The user was active.
    Activity,
    /// The session that the record names ended; where it names none, all sessions of the user.
    SessionEnd,
    /// The session that the record names ended; where it names none, nothing can be done.
    NamedSessionEnd,
    /// All sessions of the user ended.
    Logout,
    /// The user is blocked.
    Block,
    /// The user is no longer blocked.
    Unblock,
    /// The user is no more.
    Delete,
    /// What the call of the Management API did that the record describes.
    Management,
    /// What the call of the SCIM endpoint did that the record describes: deactivating a user ends all its sessions.
    Provisioning,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 10] = [
        Self::Ignore,
        Self::Activity,
        Self::SessionEnd,
        Self::NamedSessionEnd,
        Self::Logout,
        Self::Block,
        Self::Unblock,
        Self::Delete,
        Self::Management,
        Self::Provisioning,
    ];

    /// Its name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Activity => "activity",
            Self::SessionEnd => "session_end",
            Self::NamedSessionEnd => "named_session_end",
            Self::Logout => "logout",
            Self::Block => "block",
            Self::Unblock => "unblock",
            Self::Delete => "delete",
            Self::Management => "management",
            Self::Provisioning => "provisioning",
        }
    }

    /// What is done about a code unless the configuration says otherwise; `None`: it is not known.
    #[must_use]
    pub fn of(code: &str) -> Option<Self> {
        Some(match code {
            // Logins, silent ones, and exchanges of a user's grant for a token.
            "s"
            | "ssa"
            | "scoa"
            | "sens"
            | "seacft"
            | "sertft"
            | "sede"
            | "sepft"
            | "seoobft"
            | "seotpft"
            | "sercft"
            | "sepkoobft"
            | "sepkotpft"
            | "sepkrcft"
            | "secte"
            | "ciba_exchange_succeeded" => Self::Activity,
            "slo" | "session_revoked" => Self::SessionEnd,
            // Without a session it stands for one of a user's devices, and no reason to log out the others.
            "srrt" => Self::NamedSessionEnd,
            // Auth0 ends the user's sessions itself when a password, an address, a name or a number changes. And when a rotated
            // refresh token comes a second time, one of the two who have it stole it.
            "scp" | "sce" | "scu" | "scpn" | "ferrt" | "universal_logout_succeeded" => Self::Logout,
            "sdu" => Self::Delete,
            "sapi" => Self::Management,
            "sscim" => Self::Provisioning,
            _ if is_of_no_concern(code) => Self::Ignore,
            _ => return None,
        })
    }
}

/// Codes that tell of no session and of no user's activity.
///
/// Attempts and failures among them, which anybody can cause in anybody's name, a blocked user too: they keep nobody active. And
/// the brute-force protection, which counts attempts: it ends no session, and its release (`ublkdu`) undoes no block of a person.
/// Tokens of machines (`seccft`) and those that others fetch in a user's name are no sign of the user.
fn is_of_no_concern(code: &str) -> bool {
    let by_name = matches!(
        code,
        "acls_summary"
            | "actions_execution_failed"
            | "acul_sdk_notice"
            | "api_limit"
            | "api_limit_warning"
            | "appi"
            | "ciba_exchange_failed"
            | "ciba_start_failed"
            | "ciba_start_succeeded"
            | "cls"
            | "cs"
            | "custom_domain_verification_failed"
            | "depnote"
            | "elevated_rate_limit"
            | "failed_on_behalf_of_token_exchange"
            | "federated_logout_failed"
            | "idjag_exchange_failed"
            | "idjag_exchange_succeeded"
            | "jwt_bearer_exchange_failed"
            | "mfar"
            | "mgmt_api_read"
            | "my_account_authentication_method_failed"
            | "my_account_authentication_method_succeeded"
            | "oidc_backchannel_logout_failed"
            | "oidc_backchannel_logout_succeeded"
            | "organization_member_added"
            | "pla"
            | "pwd_leak"
            | "reset_pwd_leak"
            | "resource_cleanup"
            | "rich_consents_access_error"
            | "scpr"
            | "scv"
            | "sd"
            | "sdel"
            | "sdeleacft"
            | "sdelsa"
            | "seccft"
            | "seta"
            | "si"
            | "signup_pwd_leak"
            | "ss"
            | "ss_sso_failure"
            | "ss_sso_info"
            | "ss_sso_success"
            | "success_on_behalf_of_token_exchange"
            | "sui"
            | "sv"
            | "svr"
            | "ublkdu"
            | "universal_logout_failed"
            | "w"
            | "wn"
            | "wum"
    );
    let is_failure = || {
        matches!(
            code,
            "f" | "fc"
                | "fce"
                | "fco"
                | "fcoa"
                | "fcp"
                | "fcph"
                | "fcpn"
                | "fcpr"
                | "fcpro"
                | "fcu"
                | "fd"
                | "fdeac"
                | "fdeaz"
                | "fdecc"
                | "fdeleacft"
                | "fdelsa"
                | "fdu"
                | "feacft"
                | "feccft"
                | "fecte"
                | "fede"
                | "fens"
                | "feoobft"
                | "feotpft"
                | "fepft"
                | "fepotpft"
                | "fercft"
                | "fertft"
                | "feta"
                | "fi"
                | "flo"
                | "fn"
                | "fp"
                | "fpar"
                | "fpurh"
                | "fs"
                | "fsa"
                | "fscim"
                | "fu"
                | "fui"
                | "fv"
                | "fvr"
        )
    };
    let families = ["gd_", "limit_", "flows_", "forms_", "kms_", "passkey_", "connected_accounts_", "directory_sync_"];
    by_name || is_failure() || families.iter().any(|family| code.starts_with(family))
}

/// What is done about each code.
#[derive(Clone, Default, Debug)]
pub struct Codes {
    overrides: HashMap<Box<str>, Action, ahash::RandomState>,
}

impl Codes {
    /// What is done about a code; `None`: it is not known.
    #[must_use]
    pub fn action(&self, code: &str) -> Option<Action> {
        if self.overrides.is_empty() {
            return Action::of(code);
        }
        self.overrides.get(code).copied().or_else(|| Action::of(code))
    }
}

/// The defaults, but for these.
impl<S: Into<Box<str>>> FromIterator<(S, Action)> for Codes {
    fn from_iter<I: IntoIterator<Item = (S, Action)>>(overrides: I) -> Self {
        Self { overrides: overrides.into_iter().map(|(code, action)| (code.into(), action)).collect() }
    }
}

/// Reads the records of a tenant.
#[derive(Clone, Debug)]
pub struct RecordReader {
    issuer: IssuerName,
    codes: Codes,
}

impl RecordReader {
    /// A reader for the users of this issuer.
    #[must_use]
    pub const fn new(issuer: IssuerName, codes: Codes) -> Self {
        Self { issuer, codes }
    }

    /// Reads one record: bare, as the Management API gives it, or as log streams wrap it (`{"log_id": …, "data": {…}}`).
    ///
    /// # Errors
    /// A [`Gap`] for a record of which nothing comes, whatever its bytes are.
    pub fn read(&self, record: &[u8]) -> Result<SessionEvent, Gap> {
        let mut element = Element::default();
        let is_whole = loose::read(record, &mut element).is_ok();
        let record = element.into_record();
        let code = record.code.text().unwrap_or_default();
        let id = record.id();
        let gap = |reason| {
            let kind = code.chars().filter(|character| !character.is_control()).take(SHOWN).collect::<String>();
            Gap { reason, kind: kind.into(), id: id.as_deref().map(EventId::new) }
        };
        if !is_whole || code.is_empty() {
            return Err(gap(GapReason::Malformed));
        }
        let action = self.codes.action(code).ok_or_else(|| gap(GapReason::UnknownKind))?;
        let happenings = self.happenings(action, &record).map_err(gap)?;
        let at = record.time(id.as_deref()).ok_or_else(|| gap(GapReason::Malformed))?;
        Ok(SessionEvent { id: id.as_deref().map(EventId::new), at, kind: code.into(), happenings })
    }

    fn happenings(&self, action: Action, record: &Record<'_>) -> Result<Vec<Happening>, GapReason> {
        let subject = || self.subject(record.user_id().ok_or(GapReason::NoSubject)?);
        let session = || record.session_id().and_then(|id| self.session_ended(id).ok());
        let happening = match action {
            Action::Activity => Happening::Active(subject()?),
            Action::SessionEnd => match session() {
                Some(ended) => ended,
                None => Happening::LoggedOut(subject()?),
            },
            Action::NamedSessionEnd => session().ok_or(GapReason::NoSubject)?,
            Action::Logout => Happening::LoggedOut(subject()?),
            Action::Block => Happening::Blocked(subject()?),
            Action::Unblock => Happening::Unblocked(subject()?),
            Action::Delete => Happening::Deleted(subject()?),
            Action::Management => return self.management(&record.details),
            Action::Provisioning if record.details.request.body.deactivates() => Happening::LoggedOut(subject()?),
            Action::Ignore | Action::Provisioning => return Err(GapReason::Ignored),
        };
        Ok(vec![happening])
    }

    /// A call of the Management API, which the code says was successful.
    fn management(&self, Details { request, response, .. }: &Details<'_>) -> Result<Vec<Happening>, GapReason> {
        if response.status.integer().is_some_and(|status| !(200..300).contains(&status)) {
            return Err(GapReason::Ignored);
        }
        let method = request.method.text().unwrap_or_default();
        let is = |name: &str| method.eq_ignore_ascii_case(name);
        let path = segments(request.path.text().unwrap_or_default());
        let subject = |id: &str| match response.body.user_id.text() {
            Some(answered) => self.subject(answered),
            None => self.subject(&decoded(id).ok_or(GapReason::NoSubject)?),
        };
        let session = |id: &str| self.session_ended(&decoded(id).ok_or(GapReason::NoSubject)?);
        let happening = match &path[..] {
            ["users", id] if is("patch") => return update(&request.body, &response.body, || subject(id)),
            ["users", id] if is("delete") => Happening::Deleted(subject(id)?),
            ["users", id, "sessions"] if is("delete") => Happening::LoggedOut(subject(id)?),
            // A session that cannot be told ends with all others of its user.
            ["users", id, "revoke-access"] if is("post") => {
                match request.body.session_id.text().map(|id| self.session_ended(id)) {
                    Some(Ok(ended)) => ended,
                    _ => Happening::LoggedOut(subject(id)?),
                }
            }
            ["sessions", id, rest @ ..] if is("delete") && rest.is_empty() || is("post") && rest == ["revoke"] => {
                session(id)?
            }
            _ => return Err(GapReason::Ignored),
        };
        Ok(vec![happening])
    }

    fn subject(&self, id: &str) -> Result<Subject, GapReason> {
        let id = SubjectId::try_from(id).map_err(|_| GapReason::NoSubject)?;
        Ok(Subject { issuer: self.issuer.clone(), id })
    }

    fn session_ended(&self, id: &str) -> Result<Happening, GapReason> {
        let session = SessionId::try_from(id).map_err(|_| GapReason::NoSubject)?;
        Ok(Happening::SessionEnded { issuer: self.issuer.clone(), session })
    }
}

/// An update of a user. The answer repeats whether the user is blocked whatever was updated, so what was asked for counts.
fn update(
    asked: &Body<'_>,
    answered: &Body<'_>,
    subject: impl FnOnce() -> Result<Subject, GapReason>,
) -> Result<Vec<Happening>, GapReason> {
    let is_password_change = asked.password.is_present();
    let blocked = match asked.blocked.bool() {
        // It was set or cleared, and is masked: somebody should look.
        None if asked.blocked.is_present() && !is_password_change => return Err(GapReason::Malformed),
        None if asked.blocked.is_present() => None,
        // A password that is set through the Management API clears a block.
        None if is_password_change && answered.blocked.bool() != Some(true) => Some(false),
        blocked => blocked,
    };
    if blocked.is_none() && !is_password_change {
        return Err(GapReason::Ignored);
    }
    let subject = subject()?;
    let mut happenings = Vec::with_capacity(2);
    happenings.extend(blocked.map(|blocked| {
        if blocked { Happening::Blocked(subject.clone()) } else { Happening::Unblocked(subject.clone()) }
    }));
    if is_password_change {
        happenings.push(Happening::LoggedOut(subject));
    }
    Ok(happenings)
}

/// The segments of a path of the Management API after its version.
fn segments(path: &str) -> Vec<&str> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = path.strip_prefix("/api").unwrap_or(path);
    let Some(path) = path.strip_prefix("/v2/") else { return Vec::new() };
    path.split('/').filter(|segment| !segment.is_empty()).collect()
}

/// An id out of a path. Some paths are encoded twice, and every user's id holds a `|`.
fn decoded(segment: &str) -> Option<String> {
    let once = percent_decode_str(segment).decode_utf8().ok()?;
    let is_encoded_still = !once.contains('|') && (once.contains("%7C") || once.contains("%7c"));
    let id = if is_encoded_still { percent_decode_str(&once).decode_utf8().ok()?.into_owned() } else { once.into() };
    id.bytes().any(|byte| byte != b'*').then_some(id)
}

/// What a log stream wraps a record in, or the record itself.
#[derive(Default)]
struct Element<'a> {
    own: Record<'a>,
    data: Record<'a>,
}

impl<'a> Members<'a> for Element<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        match name {
            b"data" => values.next_value_seed(Fill(&mut self.data)).map(drop),
            _ => self.own.take(name, values),
        }
    }
}

impl<'a> Element<'a> {
    fn into_record(self) -> Record<'a> {
        let Self { own, mut data } = self;
        if own.code.is_present() {
            return own;
        }
        if data.id().is_none() {
            data.log_id = own.log_id;
        }
        data
    }
}

/// The members of a record that matter.
#[derive(Default)]
struct Record<'a> {
    code: Loose<'a>,
    date: Loose<'a>,
    log_id: Loose<'a>,
    other_id: Loose<'a>,
    user_id: Loose<'a>,
    client_id: Loose<'a>,
    identity_user_id: Loose<'a>,
    session_id: Loose<'a>,
    details: Details<'a>,
}

impl<'a> Members<'a> for Record<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        let member = match name {
            b"type" => &mut self.code,
            b"date" => &mut self.date,
            b"log_id" => &mut self.log_id,
            b"_id" => &mut self.other_id,
            b"user_id" => &mut self.user_id,
            b"client_id" => &mut self.client_id,
            b"identity_user_id" => &mut self.identity_user_id,
            b"session_id" => &mut self.session_id,
            b"details" => return values.next_value_seed(Fill(&mut self.details)).map(drop),
            _ => return loose::skip(values),
        };
        *member = values.next_value()?;
        Ok(())
    }
}

impl Record<'_> {
    fn id(&self) -> Option<Cow<'_, str>> {
        self.log_id.id().or_else(|| self.other_id.id())
    }

    /// Whom it is about. Ids without a connection (`auth0|…`) are the connection's own, and no `sub`.
    fn user_id(&self) -> Option<&str> {
        let others = [&self.identity_user_id, &self.details.body.user_id];
        let other = || others.into_iter().filter_map(Loose::text).find(|id| id.contains('|'));
        self.user_id.text().or_else(other)
    }

    fn session_id(&self) -> Option<&str> {
        let Details { session_id, refresh_token, .. } = &self.details;
        [session_id, &refresh_token.session_id, &self.session_id].into_iter().find_map(Loose::text)
    }

    fn time(&self, id: Option<&str>) -> Option<Timestamp> {
        self.date.time().or_else(|| time_of_id(id?))
    }
}

/// The time within a `log_id`: `900`, then year to millisecond. It is when the record was written, some seconds after it happened.
fn time_of_id(id: &str) -> Option<Timestamp> {
    let digits = id.strip_prefix("900")?.get(..17).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (day, time) = digits.split_at(8);
    let (seconds, millis) = time.split_at(6);
    let civil: DateTime = format!("{day}T{seconds}.{millis}").parse().ok()?;
    Some(Timestamp::from_millis(TimeZone::UTC.to_timestamp(civil).ok()?.as_millisecond()))
}

/// `details`
#[derive(Default)]
struct Details<'a> {
    session_id: Loose<'a>,
    refresh_token: RefreshToken<'a>,
    body: Body<'a>,
    request: Request<'a>,
    response: Response<'a>,
}

impl<'a> Members<'a> for Details<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        match name {
            b"session_id" => self.session_id = values.next_value()?,
            b"refresh_token" => drop(values.next_value_seed(Fill(&mut self.refresh_token))?),
            b"body" => drop(values.next_value_seed(Fill(&mut self.body))?),
            b"request" => drop(values.next_value_seed(Fill(&mut self.request))?),
            b"response" => drop(values.next_value_seed(Fill(&mut self.response))?),
            _ => loose::skip(values)?,
        }
        Ok(())
    }
}

/// `details.refresh_token`
#[derive(Default)]
struct RefreshToken<'a> {
    session_id: Loose<'a>,
}

impl<'a> Members<'a> for RefreshToken<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        match name {
            b"session_id" => self.session_id = values.next_value()?,
            _ => loose::skip(values)?,
        }
        Ok(())
    }
}

/// `details.request`
#[derive(Default)]
struct Request<'a> {
    method: Loose<'a>,
    path: Loose<'a>,
    body: Body<'a>,
}

impl<'a> Members<'a> for Request<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        match name {
            b"method" => self.method = values.next_value()?,
            b"path" => self.path = values.next_value()?,
            b"body" => drop(values.next_value_seed(Fill(&mut self.body))?),
            _ => loose::skip(values)?,
        }
        Ok(())
    }
}

/// `details.response`
#[derive(Default)]
struct Response<'a> {
    status: Loose<'a>,
    body: Body<'a>,
}

impl<'a> Members<'a> for Response<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        match name {
            b"statusCode" => self.status = values.next_value()?,
            b"body" => drop(values.next_value_seed(Fill(&mut self.body))?),
            _ => loose::skip(values)?,
        }
        Ok(())
    }
}

/// What was sent or answered.
#[derive(Default)]
struct Body<'a> {
    user_id: Loose<'a>,
    blocked: Loose<'a>,
    password: Loose<'a>,
    session_id: Loose<'a>,
    active: Loose<'a>,
    operations: Operations,
}

impl<'a> Members<'a> for Body<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        let member = match name {
            b"user_id" => &mut self.user_id,
            b"blocked" => &mut self.blocked,
            b"password" => &mut self.password,
            b"session_id" => &mut self.session_id,
            b"active" => &mut self.active,
            b"Operations" => return values.next_value_seed(Fill(&mut self.operations)).map(drop),
            _ => return loose::skip(values),
        };
        *member = values.next_value()?;
        Ok(())
    }
}

impl Body<'_> {
    /// Whether it deactivates a user (RFC 7643 §4.1.1 `active`), by `PUT` or by `PATCH`.
    fn deactivates(&self) -> bool {
        is_false(&self.active) || self.operations.deactivate
    }
}

/// The operations of a SCIM `PATCH` (RFC 7644 §3.5.2).
#[derive(Default)]
struct Operations {
    deactivate: bool,
}

impl<'a> Members<'a> for Operations {
    fn take<A: MapAccess<'a>>(&mut self, _: &[u8], values: &mut A) -> Result<(), A::Error> {
        loose::skip(values)
    }

    fn take_elements<A: SeqAccess<'a>>(&mut self, elements: &mut A) -> Result<(), A::Error> {
        let mut operation = Operation::default();
        while elements.next_element_seed(Fill(&mut operation))?.is_some() {
            let Operation { path, value } = &operation;
            let is_about_it = path.text().is_some_and(|path| path.eq_ignore_ascii_case("active"));
            self.deactivate |= is_about_it && is_false(&value.scalar) || is_false(&value.active);
        }
        Ok(())
    }
}

/// One of them.
#[derive(Default)]
struct Operation<'a> {
    path: Loose<'a>,
    value: OperationValue<'a>,
}

impl<'a> Members<'a> for Operation<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        match name {
            b"path" => self.path = values.next_value()?,
            b"value" => drop(values.next_value_seed(Fill(&mut self.value))?),
            _ => loose::skip(values)?,
        }
        Ok(())
    }
}

/// The value of an attribute that `path` names, or attributes.
#[derive(Default)]
struct OperationValue<'a> {
    scalar: Loose<'a>,
    active: Loose<'a>,
}

impl<'a> Members<'a> for OperationValue<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        match name {
            b"active" => self.active = values.next_value()?,
            _ => loose::skip(values)?,
        }
        Ok(())
    }

    fn take_scalar(&mut self, value: Loose<'a>) {
        self.scalar = value;
    }
}

/// Some clients put it in quotes.
fn is_false(value: &Loose<'_>) -> bool {
    value.bool() == Some(false) || value.text().is_some_and(|text| text.eq_ignore_ascii_case("false"))
}

#[cfg(test)]
mod tests {
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
        let mut record =
            json!({ "type": code, "date": "2026-05-01T12:00:00.000Z", "log_id": "1", "user_id": "auth0|ada" });
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
            (
                "patch",
                user.into(),
                json!({ "password": "*****", "blocked": "*****" }),
                none(),
                Ok(vec![LoggedOut(ada())]),
            ),
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
            comes_to(
                &changed,
                &user.map_or(Err(GapReason::NoSubject), |user| Ok(vec![Happening::Deleted(subject(user))])),
            );
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
        let deep =
            [b"{\"type\":\"slo\",\"x\":".as_slice(), &b"[".repeat(100_000), &b"]".repeat(100_000), b"}"].concat();
        assert_eq!(reader.read(&deep).unwrap_err().reason, GapReason::NoSubject);
        let deep = [b"{\"type\":\"slo\",\"date\":".as_slice(), &b"{\"$date\":".repeat(100_000)].concat();
        assert_eq!(reader.read(&deep).unwrap_err().reason, GapReason::Malformed);
    }
}
