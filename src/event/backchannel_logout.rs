//! OpenID Connect Back-Channel Logout 1.0.

use crate::{
    event::source::{Context, Running},
    token::claims::IssuerName,
};

/// Its settings.
#[derive(Clone, Debug)]
pub struct BackchannelLogoutSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
}

impl BackchannelLogoutSettings {
    pub(crate) fn start(self, context: Context) -> Result<Running, Box<dyn std::error::Error + Send + Sync>> {
        let _ = (self, context);
        Err("not built yet".into())
    }
}
