//! Connections of HTTP/2 that ended for what their client sent (RFC 9113 §5.4.1).

use std::error::Error;

use h2::Reason;

use super::error::Http2Error;
use crate::server::{access, http1::Refusals};

/// The errors of a connection by which the gate ends it, as RFC 9113 §7 calls them. Others are its own fault, or nobody's.
const FAULTS: [(Reason, &str); 6] = [
    (Reason::PROTOCOL_ERROR, "protocol_error"),
    (Reason::FLOW_CONTROL_ERROR, "flow_control_error"),
    (Reason::STREAM_CLOSED, "stream_closed"),
    (Reason::FRAME_SIZE_ERROR, "frame_size_error"),
    (Reason::COMPRESSION_ERROR, "compression_error"),
    (Reason::ENHANCE_YOUR_CALM, "enhance_your_calm"),
];

/// What they are called.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FAULTS.iter().map(|(_, name)| *name)
}

impl Refusals {
    /// Counts and logs how a connection ended, if it did for a fault of its client.
    pub(in crate::server) fn note_end(&self, error: &(dyn Error + 'static)) {
        let Some(fault) = fault(error) else { return };
        self.metrics.count_http2_fault(fault);
        if self.is_logged {
            access::ended(&self.peer, fault);
        }
    }
}

/// Which fault of the client's it was. Connections that break are none.
fn fault(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let Http2Error::Connection(fault) = error.downcast_ref()? else { return None };
    FAULTS.iter().find(|(reason, _)| reason == fault).map(|(_, name)| *name)
}
