//! What a log record means.
