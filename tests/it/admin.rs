//! The admin endpoints of the real program. The client holds every answer here to the OpenAPI document.

mod access;
mod audit;
mod changes;
mod document;
mod health;
mod inactive;
mod metrics;
