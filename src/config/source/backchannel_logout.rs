//! OpenID Connect Back-Channel Logout.

use super::{
    super::{
        problem::Fault,
        reader::Section,
        value::{DAY, SECOND},
    },
    Basis, issuer,
};
use crate::event::backchannel_logout::BackchannelLogoutSettings;

/// `type = "backchannel_logout"`
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Option<BackchannelLogoutSettings> {
    let issuer = issuer(section, basis);
    let audiences = section
        .list::<String>("audiences")
        .required("the client ids of the applications whose back-channel logout URL this is")
        .check(|audiences| {
            if audiences.is_empty() {
                return Err(Fault::new("names no client").hint("the client ids of the applications"));
            }
            Ok(())
        })
        .option();
    let strict_typ = section.get("strict_typ").or(false);
    let max_age = section.get("max_age").between(SECOND, DAY).option();
    Some(BackchannelLogoutSettings {
        issuer: issuer?,
        audiences: audiences?.into_iter().map(|(audience, _)| audience.into()).collect(),
        strict_typ,
        max_age,
    })
}
