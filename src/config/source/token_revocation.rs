//! Global Token Revocation.

use super::{super::reader::Section, Basis, issuer};
use crate::event::token_revocation::TokenRevocationSettings;

/// `type = "token_revocation"`
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Option<TokenRevocationSettings> {
    Some(TokenRevocationSettings { issuer: issuer(section, basis)? })
}
