//! Shared Signals.

use super::{super::reader::Section, Basis, issuer};
use crate::event::shared_signals::SharedSignalsSettings;

/// `type = "shared_signals"`
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Option<SharedSignalsSettings> {
    Some(SharedSignalsSettings { issuer: issuer(section, basis)? })
}
