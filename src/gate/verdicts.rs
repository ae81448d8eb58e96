//! How often each verdict was reached.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::Decision;
use crate::verdict::Reason;

/// Verdicts by route.
#[derive(Clone, Default, Debug)]
pub struct VerdictMetrics(Family<Labels, Counter>);

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Labels {
    route: String,
    verdict: &'static str,
}

/// Verdicts of one route. Counters of its own, because looking them up by label takes a lock.
#[derive(Debug)]
pub(super) struct Verdicts {
    refused: Vec<(&'static str, Counter)>,
    admitted: Counter,
    anonymous: Counter,
    stale: Counter,
}

impl VerdictMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "verdicts",
            "Verdicts by route; `stale_admitted` counts those admitted although markers may have been missed",
            self.0.clone(),
        );
    }

    pub(super) fn of_route(&self, route: &Arc<str>) -> Verdicts {
        let counter = |verdict| self.0.get_or_create_owned(&Labels { route: route.to_string(), verdict });
        Verdicts {
            refused: Reason::ALL.iter().map(|reason| (reason.code(), counter(reason.code()))).collect(),
            admitted: counter("admit"),
            anonymous: counter("anonymous"),
            stale: counter("stale_admitted"),
        }
    }
}

impl Verdicts {
    pub(super) fn count(&self, decision: &Decision) {
        let counter = match (decision.reason(), decision.verdict) {
            (Some(reason), _) => {
                self.refused.iter().find(|(code, _)| *code == reason.code()).map(|(_, counter)| counter)
            }
            (None, Some(_)) => Some(&self.admitted),
            (None, None) => Some(&self.anonymous),
        };
        if let Some(counter) = counter {
            counter.inc();
        }
        if decision.stale && decision.passes {
            self.stale.inc();
        }
    }
}
