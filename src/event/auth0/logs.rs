//! The log of an Auth0 tenant, asked for by checkpoint.

use tokio_util::sync::CancellationToken;

use crate::{
    event::source::{Context, Running},
    token::claims::IssuerName,
};

/// Its settings.
#[derive(Clone, Debug)]
pub struct LogsSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
}

impl LogsSettings {
    pub(crate) fn start(
        self,
        context: Context,
        stop: CancellationToken,
    ) -> Result<Running, Box<dyn std::error::Error + Send + Sync>> {
        let _ = (self, context, stop);
        Err("not built yet".into())
    }
}
