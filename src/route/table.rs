//! The routes.

/// A host name, or `*.` and a suffix of at least one label. Lower-case, without port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostPattern(Box<str>);
