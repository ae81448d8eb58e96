//! What the path of a request names: a configured issuer, and an id within it.

use axum::{
    extract::{FromRef as _, FromRequestParts, Path},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{Admin, CurrentAdmin, Inner, answer::Refusal};
use crate::token::claims::{ClientId, InvalidId, IssuerName, SessionId, Subject, SubjectId, TokenId};

/// An id and the issuer within which it means something.
pub(super) struct Named<T> {
    pub(super) issuer: IssuerName,
    pub(super) id: T,
}

/// An issuer that is configured.
pub(super) struct NamedIssuer(pub(super) IssuerName);

/// An id that can stand in a path.
pub(super) trait Id: for<'a> TryFrom<&'a str, Error = InvalidId> {
    /// What people call it.
    const WHAT: &'static str;

    /// Reads one.
    fn read(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text)
    }
}

impl Id for SubjectId {
    const WHAT: &'static str = "subject";
}

impl Id for SessionId {
    const WHAT: &'static str = "session id";

    fn read(text: &str) -> Result<Self, InvalidId> {
        Self::kept(text)
    }
}

impl Id for TokenId {
    const WHAT: &'static str = "token id";
}

impl Id for ClientId {
    const WHAT: &'static str = "client id";
}

impl From<Named<SubjectId>> for Subject {
    fn from(Named { issuer, id }: Named<SubjectId>) -> Self {
        Self { issuer, id }
    }
}

impl<T: Id> FromRequestParts<CurrentAdmin> for Named<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, admin: &CurrentAdmin) -> Result<Self, Refusal> {
        let Admin(admin) = Admin::from_ref(admin);
        let (issuer, id): (String, String) = decode(parts).await?;
        let issuer = admin.issuer(&issuer)?;
        let id = T::read(&id).map_err(|error| Refusal::invalid(format!("the {} {error}", T::WHAT)))?;
        Ok(Self { issuer, id })
    }
}

impl FromRequestParts<CurrentAdmin> for NamedIssuer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, admin: &CurrentAdmin) -> Result<Self, Refusal> {
        let Admin(admin) = Admin::from_ref(admin);
        let issuer: String = decode(parts).await?;
        admin.issuer(&issuer).map(Self)
    }
}

impl Inner {
    fn issuer(&self, name: &str) -> Result<IssuerName, Refusal> {
        self.issuers.iter().find(|issuer| issuer.as_str() == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = self.issuers.iter().map(IssuerName::as_str).collect();
            let detail = match names[..] {
                [] => "there is no such issuer; none is configured".to_owned(),
                _ => format!("there is no such issuer; configured are: {}", names.join(", ")),
            };
            Refusal::new(StatusCode::NOT_FOUND, "no_issuer", detail)
        })
    }
}

/// The parameters of the path, decoded. What is not percent-encoded UTF-8 may not be what the caller means.
async fn decode<T: DeserializeOwned + Send>(parts: &mut Parts) -> Result<T, Refusal> {
    let refusal = || {
        let detail = "the path must be percent-encoded UTF-8: write `/` as %2F and `%` as %25";
        Refusal::new(StatusCode::BAD_REQUEST, "invalid_path", detail)
    };
    if !is_percent_encoded(parts.uri.path()) {
        return Err(refusal());
    }
    let Path(names) = Path::from_request_parts(parts, &()).await.map_err(|_| refusal())?;
    Ok(names)
}

/// Whether two hexadecimal digits follow each `%`.
fn is_percent_encoded(path: &str) -> bool {
    path.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percent_sign_stands_for_a_byte() {
        for (path, good) in
            [("/a", true), ("/a%2Fb%20", true), ("/100%", false), ("/%2", false), ("/%zz", false), ("/%%20", false)]
        {
            assert_eq!(is_percent_encoded(path), good, "{path}");
        }
    }
}
