//! An Auth0 event stream, sent to the gate.

use crate::{
    event::source::{Context, Running},
    token::claims::IssuerName,
};

/// Its settings.
#[derive(Clone, Debug)]
pub struct EventStreamSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
}

impl EventStreamSettings {
    pub(crate) fn start(self, context: Context) -> Result<Running, Box<dyn std::error::Error + Send + Sync>> {
        let _ = (self, context);
        Err("not built yet".into())
    }
}
