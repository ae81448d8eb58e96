//! `/.portcullis/session`: how much time a session has left, and more of it.
//!
//! 1. `GET` tells, and does not count as activity unless the request says that a person is behind it (`Portcullis-Activity: user`).
//! 2. `POST /.portcullis/session/continue` counts as activity, and tells.
//! 3. A session that is over is refused here as on any route.
//! 4. The limits are those of the token's issuer. With `route`, everything is as on the route of that name: its limits, whom it takes,
//!    whether its requests are activity, whether it enforces. Without, something ends here if any route enforces anything.
//! 5. A browser sends a cookie whoever asks it to; only the site itself, or a trusted page, may go on with a session by one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{Method, Response, StatusCode, request::Parts};

use super::{
    cross_origin::TrustedOrigins,
    is_forged, json, method_not_allowed,
    parameters::{Parameters, Unreadable},
};
use crate::{
    clock::Timestamp,
    gate::{
        Decision, Judge, Judgement, Policy,
        policy::{ActivityRule, Authentication, Mode},
        problem,
        refusal::Refusals,
        time_left::TimeLeft,
    },
    session::Lifetime,
    upstream::Body,
    verdict::{OutagePolicy, Settings},
};

/// The endpoint.
#[derive(Debug)]
pub struct SessionEndpoint {
    judge: Judge,
    origins: TrustedOrigins,
    /// Without a route, and of each route.
    own: Policies,
    routes: HashMap<Arc<str>, Policies>,
}

/// How a session is judged.
#[derive(Debug)]
struct Policies {
    telling: Arc<Policy>,
    going_on: Arc<Policy>,
    refusals: Refusals,
}

impl Policies {
    /// `counts`: whether anything counts as activity.
    fn new(policy: &Policy, counts: bool) -> Self {
        let with = |rule| {
            let activity = if counts { rule } else { ActivityRule::Never };
            Arc::new(Policy { activity, ..policy.clone() })
        };
        let (telling, going_on) = (with(ActivityRule::WhenTold), with(ActivityRule::Counts));
        Self { telling, going_on, refusals: Refusals::new(policy) }
    }
}

impl SessionEndpoint {
    /// An endpoint that takes tokens from where `policy` says, for pages of its own site and these origins.
    #[must_use]
    pub fn new(judge: Judge, policy: &Policy, routes: &[&Policy], origins: TrustedOrigins) -> Self {
        // As on the route, so that nobody goes on here with a session who could not there.
        let of_route = |route: &Policy| {
            let policy = Policy { sources: policy.sources.clone(), ..route.clone() };
            let policy = Policy { authentication: Authentication::Required, ..policy };
            (Arc::clone(&route.name), Policies::new(&policy, route.activity != ActivityRule::Never))
        };
        // Where no route enforces anything yet, nothing ends here either.
        let enforces = routes.iter().any(|route| route.mode == Mode::Enforce);
        let outage = routes.first().map_or(OutagePolicy::Reject, |route| route.settings.outage);
        let own = Policy {
            mode: if enforces { Mode::Enforce } else { Mode::Observe },
            settings: Settings { outage, ..policy.settings.clone() },
            ..policy.clone()
        };
        Self {
            judge,
            origins,
            own: Policies::new(&own, true),
            routes: routes.iter().map(|route| of_route(route)).collect(),
        }
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
        let route = match Parameters::of_query(head.uri.query()).one(&["route"]) {
            Ok(None) => Some(&self.own),
            Ok(Some(route)) => self.routes.get(&*route),
            Err(Unreadable) => None,
        };
        // Only who has a session is told which routes there are.
        let policies = route.unwrap_or(&self.own);
        let policy = if route.is_some() { policy(policies) } else { &policies.telling };
        let decision = match self.judge.judge(policy, &head.headers) {
            Judgement::Decided(decision) => decision,
            Judgement::Pending(decision) => decision.await,
        };
        if let Some(reason) = decision.reason().filter(|_| !decision.passes) {
            return policies.refusals.answer(reason, &head.headers);
        }
        if route.is_none() {
            let detail = "`route` must be the name of a route, once.";
            return problem::response(StatusCode::BAD_REQUEST, "invalid_parameters", detail);
        }
        describe(&decision, policy)
    }
}

/// What an admitted session has left.
fn describe(decision: &Decision, policy: &Policy) -> Response<Body> {
    let left = TimeLeft::of(decision, policy);
    let limits = decision.lifetime.limits().unwrap_or_default();
    let record = if let Lifetime::Limited { record, .. } = decision.lifetime { Some(record) } else { None };
    let began = decision.token.as_ref().and_then(|known| known.claims.session_began());
    let active = record.and_then(|record| record.active_here.max(record.active_elsewhere));
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs());
    let mut response = json(&serde_json::json!({
        "idle": left.and_then(|left| left.idle),
        "absolute": left.and_then(|left| left.absolute),
        "idle_limit": seconds(limits.idle),
        "absolute_limit": seconds(limits.absolute),
        "started": time(began.or(record.map(|record| record.started))),
        "last_activity": time(active),
    }));
    if let Some(left) = left {
        left.add(response.headers_mut());
    }
    response
}
