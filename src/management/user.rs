//! A user, as the Management API tells of them: what is needed to judge whether they have been inactive.
//!
//! 1. The same is read from `GET /users/{id}`, from results of a search, and from lines of an export, where the id has another name.
//! 2. What is missing, and what is there but cannot be read, are two things: the second makes a user [`doubtful`](User::doubtful).
//! 3. Without a usable `user_id` there is no user.

use std::time::Duration;

use jiff::{civil::Date, tz::TimeZone};
use serde::de::{DeserializeSeed as _, MapAccess};

use super::loose::{self, Loose, Members, Onto};
use crate::{clock::Timestamp, token::claims::SubjectId};

/// A user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// `user_id`, which is the `sub` of their tokens.
    pub id: SubjectId,
    /// Whether the tenant refuses their logins. Absent means no.
    pub blocked: bool,
    /// When the user was created.
    pub created_at: Option<Timestamp>,
    /// The last interactive login. Absent for those who never logged in; moved by attempts of blocked users too.
    pub last_login: Option<Timestamp>,
    /// `app_metadata.last_active`, which tenants that track activity themselves write. Of a mere day, its end everywhere on earth.
    pub last_active: Option<Timestamp>,
    /// `logins_count`. Absent, as a rule, for those who never logged in.
    pub logins: Option<u64>,
    /// Whether they cannot be judged: a date, the count or `blocked` is there and cannot be read; there were logins, and it is not
    /// told when; or there is no date at all.
    pub doubtful: bool,
}

/// Reads users.
#[derive(Clone, Debug)]
pub struct UserReader {
    last_active: Box<str>,
}

impl Default for UserReader {
    /// `last_active` is called so.
    fn default() -> Self {
        Self::new("last_active")
    }
}

impl UserReader {
    /// A reader for tenants that keep [`last_active`](User::last_active) in this member of `app_metadata`.
    #[must_use]
    pub fn new(last_active: &str) -> Self {
        Self { last_active: last_active.into() }
    }

    /// The member of `app_metadata`.
    pub(super) fn member(&self) -> &str {
        &self.last_active
    }

    /// Reads a user, in JSON. `None`: there is none that could be told from others.
    #[must_use]
    pub fn read(&self, json: &[u8]) -> Option<User> {
        let mut profile = self.profile();
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        Onto(&mut profile).deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        profile.into_user()
    }

    /// Reads a line of an export, which holds what it has to if the id is called [`ORDERED`].
    pub(super) fn read_exported(&self, line: &[u8]) -> Exported {
        let mut profile = self.profile();
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        if Onto(&mut profile).deserialize(&mut deserializer).and_then(|_| deserializer.end()).is_err() {
            return Exported::Unreadable;
        }
        if !profile.ordered.is_present() && profile.user_id.is_present() {
            return Exported::Foreign;
        }
        profile.user_id = std::mem::take(&mut profile.ordered);
        profile.into_user().map_or(Exported::Unreadable, Exported::User)
    }

    pub(super) fn profile(&self) -> Profile<'_> {
        Profile { member: &self.last_active, ..Profile::default() }
    }
}

/// What exports that are begun here call `user_id`. One that somebody else had written, say without logins, would make all users
/// look as if they had never logged in.
pub(super) const ORDERED: &str = "portcullis_user_id";

/// A line of an export.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Exported {
    User(User),
    /// It is nobody who could be told from others.
    Unreadable,
    /// It is a user, but of an export that was begun elsewhere.
    Foreign,
}

/// What is told of a user.
#[derive(Default)]
pub(super) struct Profile<'a> {
    /// The name of `last_active`.
    member: &'a str,
    user_id: Loose<'a>,
    /// The same in an export.
    ordered: Loose<'a>,
    blocked: Loose<'a>,
    created_at: Loose<'a>,
    last_login: Loose<'a>,
    logins_count: Loose<'a>,
    /// As exports call it.
    exported: Loose<'a>,
    app_metadata: Metadata<'a>,
}

impl<'a> Members<'a> for Profile<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        let member = match name {
            b"user_id" => &mut self.user_id,
            _ if name == ORDERED.as_bytes() => &mut self.ordered,
            b"blocked" => &mut self.blocked,
            b"created_at" => &mut self.created_at,
            b"last_login" => &mut self.last_login,
            b"logins_count" => &mut self.logins_count,
            b"last_active" => &mut self.exported,
            b"app_metadata" => {
                self.app_metadata = Metadata { member: self.member, ..Metadata::default() };
                return values.next_value_seed(Onto(&mut self.app_metadata)).map(drop);
            }
            _ => return loose::skip(values),
        };
        *member = values.next_value()?;
        Ok(())
    }
}

impl Profile<'_> {
    pub(super) fn into_user(self) -> Option<User> {
        let id = SubjectId::try_from(self.user_id.text()?).ok()?;
        let mut doubtful = false;
        let mut read = |value: &Loose<'_>| {
            let date = date(value);
            doubtful |= date.is_none() && value.is_present();
            date
        };
        let (created_at, last_login) = (read(&self.created_at), read(&self.last_login));
        let last_active = read(&self.exported).max(read(&self.app_metadata.last_active));
        let blocked = match &self.blocked {
            Loose::Absent => Some(false),
            Loose::Text(text) => text.parse().ok(),
            other => other.bool(),
        };
        let logins = self.logins_count.integer().and_then(|count| u64::try_from(count).ok());
        doubtful |= blocked.is_none() || (logins.is_none() && self.logins_count.is_present());
        doubtful |= last_login.is_none() && logins.is_some_and(|logins| logins > 0);
        doubtful |= created_at.or(last_login).or(last_active).is_none();
        Some(User { id, blocked: blocked.unwrap_or_default(), created_at, last_login, last_active, logins, doubtful })
    }
}

/// `app_metadata`
#[derive(Default)]
struct Metadata<'a> {
    member: &'a str,
    last_active: Loose<'a>,
}

impl<'a> Members<'a> for Metadata<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        if name != self.member.as_bytes() {
            return loose::skip(values);
        }
        self.last_active = values.next_value()?;
        Ok(())
    }

    /// It may hold what is looked for, in a form that is not known.
    fn take_scalar(&mut self, value: Loose<'a>) {
        self.last_active = if value.is_present() { Loose::Other } else { value };
    }
}

/// `users` of a page of search results.
#[derive(Default)]
pub(super) struct Page<'a> {
    reader: Option<&'a UserReader>,
    total: Loose<'a>,
    /// `None`: one that cannot be read.
    pub(super) users: Option<Vec<Option<User>>>,
}

impl<'a> Page<'a> {
    pub(super) fn read(reader: &'a UserReader, json: &'a [u8]) -> Option<Self> {
        let mut page = Self { reader: Some(reader), ..Self::default() };
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        Onto(&mut page).deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        Some(page)
    }

    /// How many there are on all pages together.
    pub(super) fn total(&self) -> Option<usize> {
        usize::try_from(self.total.integer()?).ok()
    }
}

impl<'a> Members<'a> for Page<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        match name {
            b"total" => self.total = values.next_value()?,
            b"users" => {
                let mut elements = Elements { reader: self.reader, users: None };
                values.next_value_seed(Onto(&mut elements))?;
                self.users = elements.users;
            }
            _ => loose::skip(values)?,
        }
        Ok(())
    }
}

#[derive(Default)]
struct Elements<'a> {
    reader: Option<&'a UserReader>,
    users: Option<Vec<Option<User>>>,
}

impl<'a> Members<'a> for Elements<'a> {
    fn take<A: MapAccess<'a>>(&mut self, _: &[u8], values: &mut A) -> Result<(), A::Error> {
        loose::skip(values)
    }

    fn take_elements<A: serde::de::SeqAccess<'a>>(&mut self, elements: &mut A) -> Result<(), A::Error> {
        let mut users = Vec::new();
        loop {
            let mut profile = self.reader.map(UserReader::profile).unwrap_or_default();
            if elements.next_element_seed(Onto(&mut profile))?.is_none() {
                break;
            }
            users.push(profile.into_user());
        }
        self.users = Some(users);
        Ok(())
    }
}

/// A date. `None`: none, or none that can be read.
fn date(value: &Loose<'_>) -> Option<Timestamp> {
    value.time().or_else(|| end_of_day(value.text()?.trim()))
}

/// The end of a day, where it is the last to end: an activity on that day was not later.
fn end_of_day(text: &str) -> Option<Timestamp> {
    // More would be a time of day that cannot be read.
    let day: Date = (text.len() == "2026-01-31".len()).then(|| text.parse().ok())??;
    let begins = TimeZone::UTC.to_timestamp(day.to_datetime(jiff::civil::Time::midnight())).ok()?;
    let end = Timestamp::from_millis(begins.as_millisecond()).plus(Duration::from_secs(36 * 3600));
    Some(end.minus(Duration::from_millis(1))).filter(|end| *end >= loose::EARLIEST)
}

#[cfg(test)]
mod tests;
