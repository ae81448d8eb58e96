//! Configuration.
#![allow(missing_docs)]
use crate::{activity::ActivitySettings, admin::AdminSettings, marker::{Retention, cache::MarkerSettings}, route::RouteSettings, server::ListenerSettings, store::{embedded::EmbeddedSettings, redis::RedisSettings}, telemetry::log::LogSettings, token::issuer::IssuerSettings};
#[derive(Clone, Debug)]
pub struct Config {
    pub listener: ListenerSettings,
    pub admin: AdminSettings,
    pub store: StoreSettings,
    pub markers: MarkerSettings,
    pub retention: Retention,
    pub tokens: TokenSettings,
    pub activity: ActivitySettings,
    pub issuers: Vec<IssuerSettings>,
    pub routes: Vec<RouteSettings>,
    pub forwarded_claims: Box<[Box<str>]>,
    pub log: LogSettings,
}
#[derive(Clone, Debug)]
pub enum StoreSettings { Embedded(EmbeddedSettings), Redis(RedisSettings) }
#[derive(Clone, Copy, Debug)]
pub struct TokenSettings { pub cache_size: u64, pub max_length: usize }
