//! Who has been inactive for too long.
