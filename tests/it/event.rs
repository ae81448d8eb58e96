//! Sources of events, end to end: what a sender sends, and what becomes of the next request.

mod killed;
mod replay;
mod shared_signals;
