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

use crate::{
    clock::Timestamp,
    event::{EventId, Gap, GapReason, Happening, SessionEvent},
    management::loose::{self, Fill, Loose, Members},
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
#[derive(Clone, PartialEq, Eq, Default, Debug)]
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
    let time = Timestamp::from_millis(TimeZone::UTC.to_timestamp(civil).ok()?.as_millisecond());
    (time >= loose::EARLIEST).then_some(time)
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
mod tests;
