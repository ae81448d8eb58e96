//! The Auth0 Events API: the events of an event stream over server-sent events, asked for by the gate.

use tokio_util::sync::CancellationToken;

use crate::{
    event::source::{Context, Running},
    token::claims::IssuerName,
};

/// Its settings.
#[derive(Clone, Debug)]
pub struct EventsSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
}

impl EventsSettings {
    pub(crate) fn start(
        self,
        context: Context,
        stop: CancellationToken,
    ) -> Result<Running, Box<dyn std::error::Error + Send + Sync>> {
        let _ = (self, context, stop);
        Err("not built yet".into())
    }
}
