//! The stream of an Auth0 tenant's log

use crate::{
    event::source::{Context, Running},
    token::claims::IssuerName,
};

/// Its settings.
#[derive(Clone, Debug)]
pub struct LogStreamSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
}

impl LogStreamSettings {
    pub(crate) fn start(self, context: Context) -> Result<Running, Box<dyn std::error::Error + Send + Sync>> {
        let _ = (self, context);
        Err("not built yet".into())
    }
}
