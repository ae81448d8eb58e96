//! The fields of a user by name, for exports, searches and sorting.

use std::{borrow::Cow, cmp::Ordering};

use serde_json::Value;

use super::{
    moment::{iso, parse, write_iso},
    user::User,
};

/// A field of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Field {
    Id,
    Email,
    EmailDomain,
    EmailVerified,
    Name,
    Nickname,
    CreatedAt,
    UpdatedAt,
    LastLogin,
    LoginsCount,
    Blocked,
    Identities,
    Connection,
    Provider,
    IdentityId,
    IsSocial,
    /// A path into it; empty: all of it.
    AppMetadata(Vec<String>),
    UserMetadata(Vec<String>),
    /// One that only some users have.
    More(String),
}

/// What a field holds.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Held<'u> {
    Text(Cow<'u, str>),
    Time(i64),
    Number(u64),
    Truth(bool),
    Other(Cow<'u, Value>),
}

/// Those of the user profile that no user here has unless somebody gives it to them.
const MORE: [&str; 9] = [
    "username",
    "phone_number",
    "phone_verified",
    "given_name",
    "family_name",
    "picture",
    "last_ip",
    "last_password_reset",
    "multifactor",
];

impl Field {
    /// As exports and `fields` name it, where identities have an index.
    pub(crate) fn exported(name: &str) -> Option<Self> {
        match name.strip_prefix("identities[0].") {
            Some(member) => Self::of_identity(member),
            None => Self::root(name).or_else(|| (name == "identities").then_some(Self::Identities)),
        }
    }

    /// As the search names it, where arrays have no level of their own.
    pub(crate) fn searched(name: &str) -> Option<Self> {
        match name.strip_prefix("identities.") {
            Some(member) => Self::of_identity(member),
            None if name == "email.domain" => Some(Self::EmailDomain),
            None => Self::root(name),
        }
    }

    fn of_identity(member: &str) -> Option<Self> {
        Some(match member {
            "connection" => Self::Connection,
            "provider" => Self::Provider,
            "user_id" => Self::IdentityId,
            "isSocial" => Self::IsSocial,
            _ => return None,
        })
    }

    fn root(name: &str) -> Option<Self> {
        let path = |rest: &str| -> Option<Vec<String>> {
            let Some(path) = rest.strip_prefix('.') else { return rest.is_empty().then(Vec::new) };
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            names.iter().all(|name| !name.is_empty()).then_some(names)
        };
        if let Some(rest) = name.strip_prefix("app_metadata") {
            return path(rest).map(Self::AppMetadata);
        }
        if let Some(rest) = name.strip_prefix("user_metadata") {
            return path(rest).map(Self::UserMetadata);
        }
        Some(match name {
            "user_id" => Self::Id,
            "email" => Self::Email,
            "email_verified" => Self::EmailVerified,
            "name" => Self::Name,
            "nickname" => Self::Nickname,
            "created_at" => Self::CreatedAt,
            "updated_at" => Self::UpdatedAt,
            "last_login" => Self::LastLogin,
            "logins_count" => Self::LoginsCount,
            "blocked" => Self::Blocked,
            name if MORE.contains(&name) => Self::More(name.to_owned()),
            _ => return None,
        })
    }

    /// The member of the user that it is or lies in, if it is one that [`User::more`] can replace.
    fn member(&self) -> Option<&str> {
        Some(match self {
            Self::Id => "user_id",
            Self::Email => "email",
            Self::EmailVerified => "email_verified",
            Self::Name => "name",
            Self::Nickname => "nickname",
            Self::CreatedAt => "created_at",
            Self::UpdatedAt => "updated_at",
            Self::LastLogin => "last_login",
            Self::LoginsCount => "logins_count",
            Self::Blocked => "blocked",
            Self::Identities => "identities",
            Self::More(name) => name,
            _ => return None,
        })
    }

    /// What it holds of this user.
    pub(crate) fn of<'u>(&self, user: &'u User) -> Option<Held<'u>> {
        if !user.more.is_empty()
            && let Some(value) = self.member().and_then(|name| user.more.get(name))
        {
            return (!value.is_null()).then_some(Held::Other(Cow::Borrowed(value)));
        }
        let text = |text: &'u str| Held::Text(Cow::Borrowed(text));
        match self {
            Self::Id => Some(text(&user.id)),
            Self::Email | Self::Name => user.email.as_deref().map(text),
            Self::EmailDomain => user.email.as_deref().and_then(|email| Some(text(email.split_once('@')?.1))),
            Self::EmailVerified => Some(Held::Truth(user.email_verified)),
            Self::Nickname => user.nickname().map(text),
            Self::CreatedAt => Some(Held::Time(user.created_at)),
            Self::UpdatedAt => Some(Held::Time(user.updated_at)),
            Self::LastLogin => user.last_login.map(Held::Time),
            Self::LoginsCount => user.logins_count.map(Held::Number),
            Self::Blocked => user.blocked.map(Held::Truth),
            Self::Identities => Some(Held::Other(Cow::Owned(user.identities()))),
            Self::Connection => Some(text(user.connection.name)),
            Self::Provider => Some(text(user.connection.strategy)),
            Self::IdentityId => Some(text(user.id_of_provider())),
            Self::IsSocial => Some(Held::Truth(user.connection.is_social)),
            Self::AppMetadata(path) => inside(&user.app_metadata, path),
            Self::UserMetadata(path) => inside(&user.user_metadata, path),
            Self::More(_) => None,
        }
    }

    pub(crate) fn is_whole_metadata(&self) -> bool {
        matches!(self, Self::AppMetadata(path) | Self::UserMetadata(path) if path.is_empty())
    }

    pub(crate) fn is_user_metadata(&self) -> bool {
        matches!(self, Self::UserMetadata(_))
    }

    /// Whether the search pays no heed to its case.
    pub(crate) fn is_normalized(&self) -> bool {
        matches!(self, Self::Email | Self::Name | Self::Nickname)
            || matches!(self, Self::More(name) if name == "given_name" || name == "family_name")
    }
}

fn inside<'u>(metadata: &'u serde_json::Map<String, Value>, path: &[String]) -> Option<Held<'u>> {
    let Some((first, rest)) = path.split_first() else {
        return (!metadata.is_empty()).then(|| Held::Other(Cow::Owned(Value::Object(metadata.clone()))));
    };
    let value = rest.iter().try_fold(metadata.get(first)?, |value, name| value.get(name))?;
    // What is null or empty is not indexed, and an export leaves it out.
    let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    (!is_empty).then_some(Held::Other(Cow::Borrowed(value)))
}

impl Held<'_> {
    /// As JSON.
    pub(crate) fn write_json(&self, text: &mut String) {
        match self {
            Self::Text(held) => text.push_str(&Value::from(held.as_ref()).to_string()),
            Self::Time(at) => {
                text.push('"');
                write_iso(*at, text);
                text.push('"');
            }
            Self::Number(number) => text.push_str(&number.to_string()),
            Self::Truth(truth) => text.push_str(if *truth { "true" } else { "false" }),
            Self::Other(value) => text.push_str(&value.to_string()),
        }
    }

    /// As a field of CSV: strings begin with `'`, so that no spreadsheet takes one for a formula; dates are bare.
    pub(crate) fn write_csv(&self, text: &mut String) {
        match self {
            Self::Text(held) => quote(held, text),
            Self::Time(at) => write_iso(*at, text),
            Self::Number(number) => text.push_str(&number.to_string()),
            Self::Truth(truth) => text.push_str(if *truth { "true" } else { "false" }),
            Self::Other(value) => match value.as_ref() {
                Value::String(held) => quote(held, text),
                Value::Array(_) | Value::Object(_) => quote(&value.to_string(), text),
                scalar => text.push_str(&scalar.to_string()),
            },
        }
    }

    /// As text, which terms of the search are compared with.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Time(at) => Cow::Owned(iso(*at)),
            Self::Number(number) => Cow::Owned(number.to_string()),
            Self::Truth(truth) => Cow::Borrowed(if *truth { "true" } else { "false" }),
            Self::Other(value) => match value.as_ref() {
                Value::String(text) => Cow::Borrowed(text),
                value => Cow::Owned(value.to_string()),
            },
        }
    }

    /// As a point in time, if it is one.
    pub(crate) fn time(&self) -> Option<i64> {
        match self {
            Self::Time(at) => Some(*at),
            Self::Text(text) => parse(text),
            Self::Other(value) => value.as_str().and_then(parse),
            Self::Number(_) | Self::Truth(_) => None,
        }
    }

    /// As a number, if it is one.
    #[expect(clippy::cast_precision_loss, reason = "counts and milliseconds are exact up to 53 bits")]
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number as f64),
            Self::Other(value) => value.as_f64(),
            Self::Text(_) | Self::Time(_) | Self::Truth(_) => None,
        }
    }

    /// Their order when results are sorted.
    pub(crate) fn order(&self, other: &Held<'_>) -> Ordering {
        if let (Some(one), Some(two)) = (self.number(), other.number()) {
            return one.total_cmp(&two);
        }
        if let (Some(one), Some(two)) = (self.time(), other.time()) {
            return one.cmp(&two);
        }
        self.text().cmp(&other.text())
    }
}

fn quote(held: &str, text: &mut String) {
    text.push_str("\"'");
    text.push_str(&held.replace('"', "\"\""));
    text.push('"');
}
