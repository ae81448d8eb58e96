//! The Management API of a tenant: tokens, rate limits, errors.
