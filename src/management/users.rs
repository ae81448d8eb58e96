//! What is asked about users, and done to them.
//!
//! 1. A call is repeated as long as that can help, [`Patience::attempts`] times at most: after a 429 at the time that it names,
//!    after a 5xx, no answer or a broken one after pauses that double. See [`pace`](super::pace).
//! 2. What is final or lasting ends it at once: nobody but an operator can mend that.
//! 3. Every call may be repeated: whoever is blocked twice is blocked.

use std::{collections::HashSet, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    access::{Extent, Revocation, user_path},
    observer::Observer,
    tenant::{Answer, Tenant, TenantError},
    user::{User, UserReader},
};
use crate::token::claims::SubjectId;

/// The most members of a role that are listed.
pub const MAX_MEMBERS: usize = 1_000_000;

/// How many roles, and members of one, a page has at most; Auth0 gives no more.
const PAGE: usize = 100;

/// The most pages of roles; Auth0 gives no more.
const MAX_ROLE_PAGES: usize = 10;

/// How many times as often as failures a call is repeated that is refused because of the rate limit: others may use it up.
const MORE_REFUSALS: u32 = 8;

/// How long what can fail is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// How often something is tried before its failure is final; 1 at least, 8 by default. Refusals because of the rate limit are
    /// counted apart, up to eight times as many.
    pub attempts: u32,
    /// The first pause between two looks at a job, 1 s by default; they grow.
    pub poll: Duration,
    /// The longest, 20 s by default.
    pub longest_poll: Duration,
    /// The first pause after a download that failed, 1 s by default; it doubles, up to a minute.
    pub pause: Duration,
    /// How long a download may stand still, 30 s by default.
    pub stalled: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 8,
            poll: Duration::from_secs(1),
            longest_poll: Duration::from_secs(20),
            pause: Duration::from_secs(1),
            stalled: Duration::from_secs(30),
        }
    }
}

/// The users of a tenant. Clones share its token and pace.
#[derive(Clone, Debug)]
pub struct Users {
    pub(super) tenant: Tenant,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) reader: UserReader,
    pub(super) patience: Patience,
}

impl Users {
    /// Those of this tenant. The observer is told of waits of calls that are made here, and of how listings get on.
    #[must_use]
    pub fn new(tenant: Tenant, observer: Arc<dyn Observer>) -> Self {
        let tenant = tenant.with_observer(Arc::clone(&observer));
        Self { tenant, observer, reader: UserReader::default(), patience: Patience::default() }
    }

    /// The same, where activity is kept in this member of `app_metadata` and not in `last_active`.
    #[must_use]
    pub fn with_last_active(self, member: &str) -> Self {
        Self { reader: UserReader::new(member), ..self }
    }

    /// The same with other patience.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The tenant, to ask which scopes it grants, say.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// A user as they are now: this is not read from an index that lags behind. `None`: the tenant has no such user. Needs
    /// `read:users`.
    ///
    /// # Errors
    /// [`TenantError`].
    pub async fn get(&self, user: &SubjectId) -> Result<Option<User>, TenantError> {
        self.one(user, Method::GET, None).await
    }

    /// Has the tenant refuse a user's logins, or take them again, and nothing else; the user as they are then. `None`: the tenant
    /// has no such user. Needs `update:users`. Sessions and refresh tokens live on, see [`revoke`](Self::revoke).
    ///
    /// # Errors
    /// [`TenantError`]; unless it is final, the user may be blocked or not.
    ///
    /// # Cancel safety
    /// The user may be blocked or not; repeating is the remedy.
    pub async fn set_blocked(&self, user: &SubjectId, blocked: bool) -> Result<Option<User>, TenantError> {
        self.one(user, Method::PATCH, Some(json!({ "blocked": blocked }))).await
    }

    /// Ends all sessions of a user at the tenant, all their refresh tokens, or both. Whether the tenant has such a user. It takes
    /// effect a little later. Needs `delete:sessions`, `delete:refresh_tokens`, or both.
    ///
    /// # Errors
    /// [`TenantError`].
    ///
    /// # Cancel safety
    /// It may have been done or not; repeating is the remedy.
    pub async fn revoke(&self, user: &SubjectId, extent: Extent) -> Result<bool, TenantError> {
        let revocation = Revocation::of_user(user, extent);
        let revoked = self.repeat(|| revocation.call(&self.tenant)).await;
        Ok(found(revoked)?.is_some())
    }

    /// The members of a role. Those whose ids are no ids here are left out: they are never listed as users either. Needs
    /// `read:roles` and `read:users`.
    ///
    /// # Errors
    /// [`TenantError::Unknown`] where there is no such role, [`TenantError::TooMany`] where it has more than [`MAX_MEMBERS`].
    pub async fn members_of(&self, role: &str) -> Result<HashSet<SubjectId>, TenantError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            users: Vec<Member>,
            #[serde(default)]
            next: Option<String>,
        }

        #[derive(Deserialize)]
        struct Member {
            user_id: String,
        }

        let id = self.role_id(role).await?;
        let base = format!("/api/v2/roles/{}/users?take={PAGE}", encoded(&id));
        let mut members = HashSet::new();
        let mut path = base.clone();
        // Pages need not be full, but most are.
        for _ in 0..=2 * MAX_MEMBERS / PAGE {
            let page: Page = self.read(&path).await?;
            members.extend(page.users.iter().filter_map(|member| SubjectId::try_from(&*member.user_id).ok()));
            if members.len() > MAX_MEMBERS {
                break;
            }
            let Some(next) = page.next.filter(|next| !next.is_empty()) else { return Ok(members) };
            path = format!("{base}&from={}", encoded(&next));
        }
        Err(TenantError::TooMany { what: format!("the role `{role}` has more than {MAX_MEMBERS} members").into() })
    }

    async fn role_id(&self, role: &str) -> Result<Box<str>, TenantError> {
        for page in 0..MAX_ROLE_PAGES {
            // The filter takes parts of names, in any case.
            let path = format!("/api/v2/roles?name_filter={}&per_page={PAGE}&page={page}", encoded(role));
            let roles: Vec<Named> = self.read(&path).await?;
            if let Some(found) = roles.iter().find(|found| found.name == role) {
                return Ok(found.id.as_str().into());
            }
            if roles.len() < PAGE {
                break;
            }
        }
        Err(TenantError::Unknown { what: "role", name: role.into() })
    }

    /// The id of a connection. Needs `read:connections`.
    ///
    /// # Errors
    /// [`TenantError::Unknown`] where there is no such connection.
    pub async fn connection_id(&self, name: &str) -> Result<Box<str>, TenantError> {
        let path = format!("/api/v2/connections?name={}&fields=id%2Cname", encoded(name));
        let connections: Vec<Named> = self.read(&path).await?;
        let found = connections.into_iter().find(|found| found.name == name);
        let unknown = || TenantError::Unknown { what: "connection", name: name.into() };
        found.map(|found| found.id.into()).ok_or_else(unknown)
    }

    async fn one(&self, user: &SubjectId, method: Method, body: Option<Value>) -> Result<Option<User>, TenantError> {
        let path = user_path(user);
        let call = || async {
            let answer = self.tenant.call(method.clone(), &path, body.as_ref()).await?;
            // Whatever is done next is done to whom was asked for, and to nobody else.
            let read = self.reader.read(&answer.body).filter(|read| read.id == *user);
            read.ok_or(TenantError::Malformed)
        };
        found(self.repeat(call).await)
    }

    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, TenantError> {
        self.repeat(|| async { self.tenant.call(Method::GET, path, None).await?.json() }).await
    }

    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, TenantError> {
        self.repeat(|| self.tenant.call(method.clone(), path, body)).await
    }

    /// Tries as long as that can help.
    pub(super) async fn repeat<T, F>(&self, call: impl Fn() -> F) -> Result<T, TenantError>
    where
        F: Future<Output = Result<T, TenantError>>,
    {
        self.repeat_unless(|_| false, call).await
    }

    /// The same, unless a failure is better met in another way.
    pub(super) async fn repeat_unless<T, F>(
        &self,
        is_enough: impl Fn(&TenantError) -> bool,
        call: impl Fn() -> F,
    ) -> Result<T, TenantError>
    where
        F: Future<Output = Result<T, TenantError>>,
    {
        let attempts = self.patience.attempts;
        let (mut failures, mut refusals) = (0, 0);
        loop {
            self.tenant.opened().await;
            let error = match call().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let is_over = if let TenantError::RateLimited { .. } = error {
                refusals += 1;
                refusals >= attempts.saturating_mul(MORE_REFUSALS)
            } else {
                failures += 1;
                failures >= attempts || is_enough(&error)
            };
            if is_over || !can_repeat(&error) {
                return Err(error);
            }
            self.observer.retrying(failures + refusals, &error);
            if matches!(error, TenantError::Malformed) {
                self.tenant.failed_to_make_sense();
            }
        }
    }
}

/// Whether repeating can help, without anybody's doing anything.
pub(super) fn can_repeat(error: &TenantError) -> bool {
    !error.is_final() && !error.is_lasting() && !matches!(error, TenantError::TooLarge { .. })
}

/// `None` for what the tenant does not have.
pub(super) fn found<T>(result: Result<T, TenantError>) -> Result<Option<T>, TenantError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(TenantError::Status { status: StatusCode::NOT_FOUND, .. } | TenantError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Deserialize)]
struct Named {
    id: String,
    name: String,
}

/// All but what needs no encoding (RFC 3986 §2.3), and dots: two of them are another path.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// As a segment of a path, or a value in a query.
pub(super) fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, RESERVED)
}
