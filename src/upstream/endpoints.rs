//! All endpoints of an upstream: who they are, which of them are available, whose turn it is.
//!
//! What a request needs is one value that is exchanged as a whole when anything changes: a choice costs a load of it, and an addition
//! to the count of whoever is chosen. Changes are rare, and made one at a time.

use std::{
    cell::Cell,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::{
    UpstreamSettings,
    balance::{Balance, Schedule},
    ejection::Change,
    endpoint::{Endpoint, InFlight, OriginSettings},
    health,
    metrics::{OriginMetrics, RouteUpstreamMetrics},
    resolve::{Resolver, resolve},
    retry::Budget,
    transport::{ConnectError, Target},
};

/// The least time between two times that names are resolved, however many connections fail.
const PAUSE: Duration = Duration::from_secs(1);

/// Which part of its share an endpoint on trial gets: one of so many.
const TRIAL_SHARE: u64 = 4;

/// All endpoints of an upstream.
#[derive(Debug)]
pub(super) struct Endpoints {
    settings: UpstreamSettings,
    pub(super) metrics: RouteUpstreamMetrics,
    pub(super) budget: Budget,
    choice: ArcSwap<Choice>,
    origins: Mutex<Vec<Origin>>,
    turn: AtomicUsize,
    /// Requests of endpoints that are gone.
    departed: AtomicU64,
    /// Whether nobody is available, and everybody is asked for that reason.
    is_desperate: AtomicBool,
    /// Somebody wants the names to be resolved again.
    wanted: Notify,
    /// How often names were resolved so far.
    resolved: watch::Sender<u64>,
}

/// What a request chooses from.
#[derive(Default, Debug)]
struct Choice {
    endpoints: Vec<Arc<Endpoint>>,
    schedule: Schedule,
}

/// One origin and the endpoints that it stands for now.
#[derive(Debug)]
struct Origin {
    settings: OriginSettings,
    metrics: Arc<OriginMetrics>,
    endpoints: Vec<Arc<Endpoint>>,
    /// Why its name could not be resolved, the last time.
    fault: Option<Arc<io::Error>>,
}

impl Endpoints {
    /// All that need not be resolved are there at once.
    pub(super) fn new(settings: UpstreamSettings, metrics: RouteUpstreamMetrics, now: Instant) -> Arc<Self> {
        let origin = |settings: &OriginSettings| Origin {
            metrics: metrics.origin(&settings.transport.to_string()),
            settings: settings.clone(),
            endpoints: Vec::new(),
            fault: None,
        };
        let origins = settings.origins.iter().map(origin).collect();
        let endpoints = Arc::new(Self {
            budget: Budget::new(settings.retries, now),
            choice: ArcSwap::default(),
            origins: Mutex::new(origins),
            // Gateways that start together do not all begin with the same one.
            turn: AtomicUsize::new((random() >> 48) as usize),
            departed: AtomicU64::new(0),
            is_desperate: AtomicBool::new(false),
            wanted: Notify::new(),
            resolved: watch::Sender::new(0),
            settings,
            metrics,
        });
        endpoints.metrics.watch(&endpoints);
        let mut origins = endpoints.origins();
        for origin in origins.iter_mut().filter(|origin| !matches!(origin.settings.transport.target, Target::Name(..)))
        {
            origin.endpoints.push(endpoints.add(origin, origin.settings.transport.clone(), now));
        }
        endpoints.rebuild(&origins);
        drop(origins);
        endpoints
    }

    pub(super) const fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    pub(super) const fn route(&self) -> &Arc<str> {
        &self.metrics.route
    }

    /// Whose turn it is. `None`: no name was resolved yet.
    pub(super) fn pick(&self) -> Option<InFlight> {
        let choice = self.choice.load();
        let endpoints = &choice.endpoints;
        let index = match (&endpoints[..], self.settings.balance) {
            ([_], _) => Some(0),
            (_, Balance::RoundRobin) => choice.schedule.turn(self.turn.fetch_add(1, Ordering::Relaxed)),
            (_, Balance::LeastLoaded) => choice.schedule.less_loaded(random(), |index| endpoints[index].in_flight()),
        };
        Some(InFlight::new(endpoints.get(index?)?))
    }

    /// Another than those that were tried, if there is one; otherwise any.
    pub(super) fn pick_another(&self, tried: &[Arc<Endpoint>]) -> Option<InFlight> {
        self.pick_untried(tried).or_else(|| self.pick())
    }

    /// Another than those that were tried.
    pub(super) fn pick_untried(&self, tried: &[Arc<Endpoint>]) -> Option<InFlight> {
        let choice = self.choice.load();
        let was_tried = |index: usize| tried.iter().any(|tried| Arc::ptr_eq(tried, &choice.endpoints[index]));
        let index = choice.schedule.turn_of_another((random() >> 32) as usize, was_tried);
        Some(InFlight::new(&choice.endpoints[index?]))
    }

    /// Waits for names to be resolved.
    ///
    /// # Errors
    /// [`ConnectError`]: none is known, or not within the time for connecting.
    pub(super) async fn wait(&self) -> Result<InFlight, ConnectError> {
        let mut resolved = self.resolved.subscribe();
        // It may have been resolved just before that, and the next time may be too late.
        if let Some(in_flight) = self.pick() {
            return Ok(in_flight);
        }
        self.wanted.notify_one();
        let limit = self.settings.connect_timeout;
        let upstream = || self.settings.origins.first().map(|origin| origin.transport.to_string()).unwrap_or_default();
        // Only the sender's end ends the channel, and it is here.
        let _ = timeout(limit, resolved.changed())
            .await
            .map_err(|source| ConnectError::TimedOut { upstream: upstream(), source: Arc::new(source) })?;
        self.pick().ok_or_else(|| {
            let fault = self.origins().iter().find_map(|origin| origin.fault.clone());
            let kind = fault.as_ref().map_or(io::ErrorKind::NotFound, |fault| fault.kind());
            let source = fault.map_or(kind.into(), |fault| io::Error::new(kind, fault));
            ConnectError::Resolve { upstream: upstream(), source: Arc::new(source) }
        })
    }

    /// How many requests there were so far.
    pub(super) fn requests(&self) -> u64 {
        let known = self.choice.load().endpoints.iter().map(|endpoint| endpoint.requests()).sum::<u64>();
        known + self.departed.load(Ordering::Relaxed)
    }

    /// An endpoint answered as one that is well.
    pub(super) fn succeeded(&self, endpoint: &Endpoint) {
        if let Some(change) = endpoint.standing.succeeded() {
            self.changed(endpoint, change);
        }
    }

    /// An endpoint did not answer, or as one that is not well.
    pub(super) fn failed(&self, endpoint: &Endpoint) {
        if let Some(change) = endpoint.standing.failed(&self.settings.ejection, Instant::now()) {
            self.changed(endpoint, change);
        }
    }

    /// It could not be connected to. Its name may have other addresses by now.
    pub(super) fn unreachable(&self, endpoint: &Endpoint) {
        endpoint.metrics.connect_failures.inc();
        self.wanted.notify_one();
        self.failed(endpoint);
    }

    /// Health checks have changed their mind.
    pub(super) fn checked(&self, endpoint: &Endpoint, is_well: bool, why: Option<&(dyn std::error::Error + 'static)>) {
        endpoint.set_well(is_well);
        let route = &**self.route();
        if is_well {
            tracing::info!(route, endpoint = %endpoint, "endpoint is well again, its health checks say");
        } else {
            tracing::warn!(route, endpoint = %endpoint, error = why, "endpoint is not well, its health checks say");
        }
        self.rebuild(&self.origins());
    }

    /// Brings back whose time is up, and lets go of what was unused for too long.
    pub(super) fn maintain(&self) {
        let now = Instant::now();
        self.budget.note(self.requests(), now);
        let choice = self.choice.load_full();
        for endpoint in &choice.endpoints {
            endpoint.maintain();
            if let Some(change) = endpoint.standing.review(now) {
                self.changed(endpoint, change);
            }
        }
    }

    /// Shows each origin, once for each of its endpoints; without one, once.
    pub(super) fn each(&self, mut show: impl FnMut(&OriginMetrics, Option<&Endpoint>)) {
        for origin in self.origins().iter() {
            if origin.endpoints.is_empty() {
                show(&origin.metrics, None);
            }
            origin.endpoints.iter().for_each(|endpoint| show(&origin.metrics, Some(endpoint)));
        }
    }

    fn changed(&self, endpoint: &Endpoint, change: Change) {
        let route = &**self.route();
        match change {
            Change::Ejected(time) => {
                endpoint.metrics.ejections.inc();
                let seconds = time.as_secs_f64();
                if self.choice.load().endpoints.len() > 1 {
                    tracing::warn!(route, endpoint = %endpoint, seconds, "endpoint fails, and is left alone");
                } else {
                    tracing::warn!(route, endpoint = %endpoint, "endpoint fails, and is asked all the same: there is no other");
                }
            }
            Change::OnTrial => tracing::debug!(route, endpoint = %endpoint, "endpoint is tried again"),
            Change::Good => tracing::info!(route, endpoint = %endpoint, "endpoint is back"),
        }
        self.rebuild(&self.origins());
    }

    fn add(self: &Arc<Self>, origin: &Origin, transport: super::transport::Transport, now: Instant) -> Arc<Endpoint> {
        let endpoint = Endpoint::new(&origin.settings, transport, &self.settings, Arc::clone(&origin.metrics), now);
        if let Some(settings) = &self.settings.health {
            endpoint.check_by(health::watch(self, &endpoint, settings));
        }
        endpoint
    }

    /// Makes a choice of what there is now.
    fn rebuild(&self, origins: &[Origin]) {
        let endpoints: Vec<_> = origins.iter().flat_map(|origin| &origin.endpoints).cloned().collect();
        // A name shares its weight among its addresses.
        let measure = origins.iter().map(|origin| origin.endpoints.len().max(1) as u64).fold(1, common_multiple);
        let weights = |of_those: &dyn Fn(&Endpoint) -> u64| -> Vec<u64> {
            let weights = origins.iter().flat_map(|origin| {
                let each = u64::from(origin.settings.weight) * measure / origin.endpoints.len().max(1) as u64;
                origin.endpoints.iter().map(move |endpoint| of_those(endpoint) * each)
            });
            weights.collect()
        };
        let available = weights(&|endpoint| match endpoint.is_available() {
            true if endpoint.standing.is_on_trial() => 1,
            is_available => TRIAL_SHARE * u64::from(is_available),
        });
        let is_desperate = !endpoints.is_empty() && available.iter().all(|&weight| weight == 0);
        if is_desperate != self.is_desperate.swap(is_desperate, Ordering::Relaxed) && endpoints.len() > 1 {
            let route = &**self.route();
            if is_desperate {
                tracing::error!(route, "no endpoint is available: all are asked, for want of a better one");
            } else {
                tracing::info!(route, "an endpoint is available again");
            }
        }
        // Asking one that may be well by now is better than asking nobody.
        let schedule = Schedule::new(&if is_desperate { weights(&|_| 1) } else { available });
        self.choice.store(Arc::new(Choice { endpoints, schedule }));
    }

    /// The addresses of a name, as they are now.
    fn replace(self: &Arc<Self>, index: usize, addresses: io::Result<Vec<SocketAddr>>) {
        let mut origins = self.origins();
        let Some(origin) = origins.get_mut(index) else { return };
        let name = Arc::clone(&origin.metrics.name);
        let route = &**self.route();
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                if origin.fault.is_none() {
                    let known = origin.endpoints.len();
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(route, endpoint = &*name, error, known, "name cannot be resolved");
                }
                origin.fault = Some(Arc::new(error));
                return;
            }
        };
        if origin.fault.take().is_some() {
            tracing::info!(route, endpoint = &*name, "name can be resolved again");
        }
        let is_at = |endpoint: &Endpoint, address: SocketAddr| endpoint.transport.target == Target::Tcp(address);
        let mut gone = std::mem::take(&mut origin.endpoints);
        let mut endpoints = Vec::with_capacity(addresses.len());
        let mut is_changed = false;
        for address in addresses {
            if let Some(place) = gone.iter().position(|endpoint| is_at(endpoint, address)) {
                endpoints.push(gone.swap_remove(place));
            } else {
                is_changed = true;
                tracing::debug!(route, endpoint = &*name, %address, "address is new");
                endpoints.push(self.add(origin, origin.settings.transport.at(address), Instant::now()));
            }
        }
        origin.endpoints = endpoints;
        if is_changed || !gone.is_empty() {
            self.rebuild(&origins);
        }
        drop(origins);
        for endpoint in gone {
            tracing::debug!(route, endpoint = &*name, address = %endpoint, "address is gone");
            self.departed.fetch_add(endpoint.requests(), Ordering::Relaxed);
            endpoint.retire();
        }
    }

    fn origins(&self) -> MutexGuard<'_, Vec<Origin>> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves names, and again and again. Ends at once if there are none.
pub(super) async fn keep_resolved(endpoints: Arc<Endpoints>, resolver: Arc<dyn Resolver>) {
    let name = |(index, origin): (usize, &OriginSettings)| match &origin.transport.target {
        Target::Name(host, port) => Some((index, Arc::clone(host), *port)),
        Target::Tcp(_) | Target::Unix(_) => None,
    };
    let names: Vec<_> = endpoints.settings.origins.iter().enumerate().filter_map(name).collect();
    if names.is_empty() {
        return;
    }
    loop {
        let resolver = &*resolver;
        let resolving = names.iter().map(async |(index, host, port)| (*index, resolve(resolver, host, *port).await));
        for (index, addresses) in join_all(resolving).await {
            endpoints.replace(index, addresses);
        }
        endpoints.resolved.send_modify(|times| *times += 1);
        sleep(PAUSE.min(endpoints.settings.resolve_interval)).await;
        // Whoever wants it does not wait for the rest of the interval.
        let rest = jittered(endpoints.settings.resolve_interval).saturating_sub(PAUSE);
        let _ = timeout(rest, endpoints.wanted.notified()).await;
    }
}

/// A time within a tenth of this one, so that gateways that started together do not stay together.
pub(super) fn jittered(time: Duration) -> Duration {
    let tenth = time / 10;
    time.saturating_sub(tenth) + fraction(2 * tenth)
}

/// Some part of this time.
#[expect(clippy::cast_precision_loss, reason = "a part of a time")]
pub(super) fn fraction(time: Duration) -> Duration {
    time.mul_f64((random() >> 11) as f64 / (1_u64 << 53) as f64)
}

fn common_multiple(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    // Beyond that shares are rounded.
    a.checked_mul(b / x.max(1)).filter(|&multiple| multiple < 1 << 24).unwrap_or(1 << 24)
}

/// A random number, of this thread alone: whoever shares nothing waits for nobody. Not for secrets.
pub(super) fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
    }
    // SplitMix64, by Steele, Lea and Flood.
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, upstream::metrics::UpstreamMetrics};

    #[tokio::test]
    async fn a_name_that_was_resolved_just_before_is_not_waited_for() {
        let text = "[store]\nurl = \"embedded:data\"\n[issuers.main]\nissuer = \"https://issuer.example/\"\naudiences = [\"a\"]\n\
                    [[routes]]\nupstream = \"http://api.example:80\"\n";
        let config = Config::parse(text, "gate.toml", []).unwrap();
        let settings = config.routes.first().unwrap().upstream.clone();
        let metrics = UpstreamMetrics::default().route(&Arc::from("route"));
        let endpoints = Endpoints::new(settings, metrics, Instant::now());
        assert!(endpoints.pick().is_none());
        // Between the two, the name is resolved.
        endpoints.replace(0, Ok(vec![([127, 0, 0, 1], 80).into()]));
        endpoints.resolved.send_modify(|times| *times += 1);
        let waited = timeout(Duration::from_millis(500), endpoints.wait()).await;
        assert!(waited.is_ok_and(|found| found.is_ok()));
    }
}
