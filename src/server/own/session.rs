//! `/.portcullis/session`: how much time a session has left, and more of it.
//!
//! 1. `GET` tells, and does not count as activity unless the request says that a person is behind it (`Portcullis-Activity: user`).
//! 2. `POST /.portcullis/session/continue` counts as activity, and tells.
//! 3. A session that is over is refused here as on any route.
//! 4. The limits are those of the token's issuer, or of the route that `route` names.
//! 5. A browser sends a cookie whoever asks it to; only the site itself, or a trusted page, may go on with a session by one.

use std::{collections::HashMap, sync::Arc};

use http::{Method, Response, StatusCode, request::Parts};

use super::{cross_origin::TrustedOrigins, is_forged, json, method_not_allowed, parameters::Parameters};
use crate::{
    clock::Timestamp,
    gate::{Decision, Judge, Judgement, Policy, policy::ActivityRule, problem, refusal::Refusals, time_left::TimeLeft},
    session::{Lifetime, SessionLimits},
    upstream::Body,
};

/// The endpoint.
#[derive(Debug)]
pub struct SessionEndpoint {
    judge: Judge,
    origins: TrustedOrigins,
    refusals: Refusals,
    /// Without a route, and of each route.
    own: Policies,
    routes: HashMap<Arc<str>, Policies>,
}

/// How a session is judged.
#[derive(Debug)]
struct Policies {
    telling: Arc<Policy>,
    going_on: Arc<Policy>,
}

impl Policies {
    fn new(policy: Policy) -> Self {
        Self {
            telling: Arc::new(Policy { activity: ActivityRule::WhenTold, ..policy.clone() }),
            going_on: Arc::new(Policy { activity: ActivityRule::Counts, ..policy }),
        }
    }
}

impl SessionEndpoint {
    /// An endpoint that takes tokens by `policy`, for pages of its own site and these origins.
    #[must_use]
    pub fn new<'a>(
        judge: Judge,
        policy: &Policy,
        routes: impl IntoIterator<Item = &'a Policy>,
        origins: TrustedOrigins,
    ) -> Self {
        let limited = |name: &Arc<str>, limits, outage| {
            let settings = crate::verdict::Settings { outage, ..policy.settings.clone() };
            Policies::new(Policy { name: Arc::clone(name), limits, settings, ..policy.clone() })
        };
        let mut outage = None;
        let routes = routes.into_iter().map(|route| {
            outage.get_or_insert(route.settings.outage);
            (Arc::clone(&route.name), limited(&route.name, route.limits, route.settings.outage))
        });
        let routes = routes.collect();
        let own = limited(&policy.name, SessionLimits::NONE, outage.unwrap_or_default());
        Self { judge, origins, refusals: Refusals::new(policy), own, routes }
    }

    /// `GET /.portcullis/session`
    pub(super) async fn tell(&self, head: &Parts) -> Response<Body> {
        match head.method {
            Method::GET | Method::HEAD => self.answer(head, |policies| &policies.telling).await,
            _ => method_not_allowed("GET, HEAD"),
        }
    }

    /// `POST /.portcullis/session/continue`
    pub(super) async fn go_on(&self, head: &Parts) -> Response<Body> {
        if head.method != Method::POST {
            return method_not_allowed("POST");
        }
        if self.origins.of(&head.headers).is_none() && is_forged(&self.own.going_on.sources, &head.headers) {
            let detail = "With a cookie, a session goes on only at the request of the site itself.";
            return problem::response(StatusCode::FORBIDDEN, "cross_site", detail);
        }
        self.answer(head, |policies| &policies.going_on).await
    }

    async fn answer(&self, head: &Parts, policy: impl Fn(&Policies) -> &Arc<Policy>) -> Response<Body> {
        let policies = match Parameters::of_query(head.uri.query()).one(&["route"]) {
            Ok(None) => Some(&self.own),
            Ok(Some(route)) => self.routes.get(&*route),
            Err(_) => None,
        };
        let Some(policies) = policies else {
            let detail = "`route` must be the name of a route, once.";
            return problem::response(StatusCode::BAD_REQUEST, "invalid_parameters", detail);
        };
        let decision = match self.judge.judge(policy(policies), &head.headers) {
            Judgement::Decided(decision) => decision,
            Judgement::Pending(decision) => decision.await,
        };
        match decision.reason() {
            Some(reason) => self.refusals.answer(reason, &head.headers),
            None => told(&decision),
        }
    }
}

/// What an admitted session has left.
fn told(decision: &Decision) -> Response<Body> {
    let left = TimeLeft::of(decision);
    let limits = decision.lifetime.limits().unwrap_or_default();
    let record = if let Lifetime::Limited { record, .. } = decision.lifetime { Some(record) } else { None };
    let claims = decision.token.as_ref().map(|known| &known.token.claims);
    let started = claims.and_then(|claims| claims.session_start).map(crate::clock::Moment::earliest);
    let started = started.or(record.map(|record| record.started));
    let active = record.and_then(|record| record.active_here.max(record.active_elsewhere));
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let seconds = |limit: Option<std::time::Duration>| limit.map(|limit| limit.as_secs());
    let mut response = json(&serde_json::json!({
        "idle": left.and_then(|left| left.idle),
        "absolute": left.and_then(|left| left.absolute),
        "idle_limit": seconds(limits.idle),
        "absolute_limit": seconds(limits.absolute),
        "started": time(started),
        "last_activity": time(active),
    }));
    if let Some(left) = left {
        left.add(response.headers_mut());
    }
    response
}
