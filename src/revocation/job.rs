//! One thing that is to be revoked, as it is kept in the store.

use serde::{Deserialize, Serialize};

use super::Extent;
use crate::{
    clock::Timestamp,
    management::access::Revocation,
    marker::MarkerKey,
    token::claims::{IssuerName, SessionId, Subject, SubjectId},
};

/// A session, or all of a user's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Job {
    pub(super) subject: Subject,
    pub(super) session: Option<SessionId>,
    /// When it was asked for.
    pub(super) asked: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Form {
    issuer: String,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    asked: i64,
}

impl Job {
    /// An id that no other job has: one that is under way is not mistaken for one that was asked for since.
    pub(super) fn new_id(&self) -> String {
        let mut random = [0; 12];
        // Without randomness the time tells them apart.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let random = random.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        format!("{:015}-{random}", self.asked.as_millis())
    }

    pub(super) fn encode(&self) -> String {
        let form = Form {
            issuer: self.subject.issuer.to_string(),
            sub: self.subject.id.as_str().to_owned(),
            sid: self.session.as_ref().map(|session| session.as_str().to_owned()),
            asked: self.asked.as_millis(),
        };
        // A struct of strings and numbers always serialises.
        serde_json::to_string(&form).unwrap_or_default()
    }

    /// `None`: nothing that this program wrote.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let form: Form = serde_json::from_str(text).ok()?;
        Some(Self {
            subject: Subject {
                issuer: IssuerName::try_from(form.issuer.as_str()).ok()?,
                id: SubjectId::try_from(form.sub.as_str()).ok()?,
            },
            session: form.sid.as_deref().map(SessionId::try_from).transpose().ok()?,
            asked: Timestamp::from_millis(form.asked),
        })
    }

    /// The marker of what ended here.
    pub(super) fn key(&self) -> MarkerKey {
        match &self.session {
            Some(session) => MarkerKey::session(&self.subject.issuer, session),
            None => MarkerKey::logout(&self.subject),
        }
    }

    pub(super) fn revocation(&self, extent: Extent) -> Revocation {
        match &self.session {
            Some(session) => Revocation::of_session(session, extent),
            None => Revocation::of_user(&self.subject.id, extent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(session: Option<&str>) -> Job {
        let (issuer, id) = (IssuerName::try_from("acme").unwrap(), SubjectId::try_from("auth0|a/b").unwrap());
        let session = session.map(|session| SessionId::try_from(session).unwrap());
        Job { subject: Subject { issuer, id }, session, asked: Timestamp::from_millis(1_763_700_000_123) }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        for job in [job(None), job(Some("s:1"))] {
            assert_eq!(Job::decode(&job.encode()), Some(job));
        }
        for text in ["", "{}", r#"{"issuer":"A","sub":"b","asked":1}"#, r#"{"issuer":"a","sub":"","asked":1}"#] {
            assert_eq!(Job::decode(text), None, "{text}");
        }
        assert_ne!(job(None).new_id(), job(None).new_id());
    }

    #[test]
    fn each_extent_has_its_call() {
        let path = |session, extent| {
            let revocation = job(session).revocation(extent);
            format!("{} {}", revocation.method, revocation.path)
        };
        assert_eq!(path(Some("s:1"), Extent::Session), "DELETE /api/v2/sessions/s%3A1");
        assert_eq!(path(Some("s:1"), Extent::RefreshTokens), "POST /api/v2/sessions/s%3A1/revoke");
        assert_eq!(path(Some("s:1"), Extent::All), "POST /api/v2/sessions/s%3A1/revoke");
        assert_eq!(path(None, Extent::Session), "DELETE /api/v2/users/auth0%7Ca%2Fb/sessions");
        assert_eq!(path(None, Extent::RefreshTokens), "DELETE /api/v2/users/auth0%7Ca%2Fb/refresh-tokens");
        assert_eq!(path(None, Extent::All), "POST /api/v2/users/auth0%7Ca%2Fb/revoke-access");
    }
}
