//! A user, as the Management API tells of them: what is needed to judge whether they have been inactive.

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
    /// `app_metadata.last_active`, which tenants that track activity themselves write.
    pub last_active: Option<Timestamp>,
}
