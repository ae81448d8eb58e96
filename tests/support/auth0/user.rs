//! A user, as the tenant keeps them.

use serde_json::{Map, Value, json};

use super::moment::{iso, now};

/// Where users come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Connection {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) strategy: &'static str,
    pub(crate) is_social: bool,
}

/// All connections of the tenant.
pub(crate) const CONNECTIONS: [Connection; 4] = [
    Connection {
        id: "con_BvGURiLLdngYaT0D",
        name: "Username-Password-Authentication",
        strategy: "auth0",
        is_social: false,
    },
    Connection { id: "con_Qx8kP2mWvTz1Lr5J", name: "google-oauth2", strategy: "google-oauth2", is_social: true },
    Connection { id: "con_Em7nB4cXsRa9Hd3K", name: "email", strategy: "email", is_social: false },
    Connection { id: "con_Sa2wY6uGoFe0Np8M", name: "acme-saml", strategy: "samlp", is_social: false },
];

/// A user. Times are milliseconds since 1970.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) connection: &'static Connection,
    pub(crate) email: Option<String>,
    pub(crate) email_verified: bool,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    /// Absent for those who never logged in.
    pub(crate) last_login: Option<i64>,
    /// Absent for some of those who never logged in.
    pub(crate) logins_count: Option<u64>,
    /// Absent for those who were never blocked.
    pub(crate) blocked: Option<bool>,
    pub(crate) app_metadata: Map<String, Value>,
    #[expect(clippy::struct_field_names, reason = "Auth0's name")]
    pub(crate) user_metadata: Map<String, Value>,
    /// Members that replace or join the others: what is patched beyond the above, and whatever a test wants to be odd. `null` leaves
    /// a member out.
    pub(crate) more: Map<String, Value>,
}

impl User {
    /// Created now, and never logged in.
    pub(crate) fn new(id: impl Into<String>) -> Self {
        let id = id.into();
        let provider = id.split('|').next().unwrap_or_default();
        let connection = CONNECTIONS.iter().find(|connection| connection.strategy == provider);
        Self {
            connection: connection.unwrap_or(&CONNECTIONS[0]),
            id,
            email: None,
            email_verified: false,
            created_at: now(),
            updated_at: now(),
            last_login: None,
            logins_count: None,
            blocked: None,
            app_metadata: Map::new(),
            user_metadata: Map::new(),
            more: Map::new(),
        }
    }

    pub(crate) fn created_at(mut self, at: i64) -> Self {
        (self.created_at, self.updated_at) = (at, at);
        self
    }

    /// The last login; the first one, if nothing is said of how many.
    pub(crate) fn last_login(mut self, at: i64) -> Self {
        self.last_login = Some(at);
        self.logins_count = self.logins_count.or(Some(1));
        self
    }

    pub(crate) fn logins_count(mut self, count: u64) -> Self {
        self.logins_count = Some(count);
        self
    }

    pub(crate) fn blocked(mut self, blocked: bool) -> Self {
        self.blocked = Some(blocked);
        self
    }

    /// `app_metadata.last_active` as a date.
    pub(crate) fn last_active(self, at: i64) -> Self {
        self.app_metadata("last_active", json!(iso(at)))
    }

    /// `app_metadata.last_active` as a number of milliseconds.
    pub(crate) fn last_active_millis(self, at: i64) -> Self {
        self.app_metadata("last_active", json!(at))
    }

    pub(crate) fn app_metadata(mut self, name: &str, value: Value) -> Self {
        self.app_metadata.insert(name.to_owned(), value);
        self
    }

    pub(crate) fn user_metadata(mut self, name: &str, value: Value) -> Self {
        self.user_metadata.insert(name.to_owned(), value);
        self
    }

    pub(crate) fn email(mut self, email: &str) -> Self {
        self.email = Some(email.to_owned());
        self
    }

    pub(crate) fn connection(mut self, connection: &'static Connection) -> Self {
        self.connection = connection;
        self
    }

    /// A member that replaces or joins the others in all answers and exports; `null` leaves it out.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked == Some(true)
    }

    /// The part of the id that the provider gave.
    pub(crate) fn id_of_provider(&self) -> &str {
        self.id.split_once('|').map_or("", |(_, rest)| rest)
    }

    /// The user as the Management API tells of them.
    pub(crate) fn json(&self) -> Value {
        let mut user = json!({
            "user_id": self.id,
            "email_verified": self.email_verified,
            "created_at": iso(self.created_at),
            "updated_at": iso(self.updated_at),
            "identities": self.identities(),
        });
        let optional = [
            ("email", self.email.as_ref().map(|email| json!(email))),
            ("name", self.email.as_ref().map(|email| json!(email))),
            ("nickname", self.nickname().map(|nickname| json!(nickname))),
            ("last_login", self.last_login.map(|at| json!(iso(at)))),
            ("logins_count", self.logins_count.map(|count| json!(count))),
            ("blocked", self.blocked.map(|blocked| json!(blocked))),
            ("app_metadata", (!self.app_metadata.is_empty()).then(|| json!(self.app_metadata))),
            ("user_metadata", (!self.user_metadata.is_empty()).then(|| json!(self.user_metadata))),
        ];
        if let Some(members) = user.as_object_mut() {
            let present = optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            members.extend(present);
            members.extend(self.more.clone());
            members.retain(|_, value| !value.is_null());
        }
        user
    }

    pub(crate) fn nickname(&self) -> Option<&str> {
        self.email.as_ref()?.split('@').next()
    }

    pub(crate) fn identities(&self) -> Value {
        json!([{
            "connection": self.connection.name,
            "provider": self.connection.strategy,
            "user_id": self.id_of_provider(),
            "isSocial": self.connection.is_social,
        }])
    }
}
