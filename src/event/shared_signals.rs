//! Shared Signals: security event tokens (RFC 8417) of CAEP 1.0 and RISC 1.0, pushed (RFC 8935) or polled (RFC 8936).

use tokio_util::sync::CancellationToken;

use crate::{
    event::source::{Context, Running},
    token::claims::IssuerName,
};

/// Its settings.
#[derive(Clone, Debug)]
pub struct SharedSignalsSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
}

impl SharedSignalsSettings {
    pub(crate) fn start(
        self,
        context: Context,
        stop: CancellationToken,
    ) -> Result<Running, Box<dyn std::error::Error + Send + Sync>> {
        let _ = (self, context, stop);
        Err("not built yet".into())
    }
}
