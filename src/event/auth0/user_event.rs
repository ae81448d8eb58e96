//! What an event of an event stream means.
