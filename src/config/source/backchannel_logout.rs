//! OpenID Connect Back-Channel Logout.

use super::{super::reader::Section, Basis, issuer};
use crate::event::backchannel_logout::BackchannelLogoutSettings;

/// `type = "backchannel_logout"`
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Option<BackchannelLogoutSettings> {
    Some(BackchannelLogoutSettings { issuer: issuer(section, basis)? })
}
