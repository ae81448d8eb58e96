//! What ends a stream, or a connection.

use h2::Reason;

/// What ended a stream, or its connection (RFC 9113 §5.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Http2Error {
    /// The client has reset the stream.
    #[error("the client reset the stream: {0}")]
    ResetByClient(Reason),
    /// The gate has.
    #[error("the stream was reset: {0}")]
    Reset(Reason),
    /// The client has broken the protocol.
    #[error("the client broke the protocol: {0}")]
    Connection(Reason),
    /// The connection is gone.
    #[error("the connection is gone")]
    Gone,
}

/// What is wrong with something that a client sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// With one stream.
    Stream(u32, Reason),
    /// With everything: nothing of it can be understood any more.
    Connection(Reason),
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::Connection(reason)
    }
}
