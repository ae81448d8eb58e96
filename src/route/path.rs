//! The one form of a path that is matched and forwarded.

/// A path in canonical form: it begins with `/`, has no dot segments, no empty segments but the last, and encodes
/// only what must be encoded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CanonicalPath(Box<str>);
