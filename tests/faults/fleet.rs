//! Several gateways on one store, and the people whose tokens they judge.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    load::{Connection, Load, RawWrite},
    recorder::{Ends, Outcome, Promise, Recorder, Report, Token},
    support::{
        eventually,
        full::{self, World},
        http::{Answer, try_send},
        program::{Running, program},
        redis::RedisServer,
        upstream::text,
    },
};

/// The bound of every fleet.
pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(1);

/// How long a gateway may take to answer, on a busy machine: it reads for 400 ms at most.
pub(crate) const PATIENCE: Duration = Duration::from_millis(2500);

/// How long a gateway may take to answer to a change: it writes for 1 s at most.
pub(crate) const WRITE_PATIENCE: Duration = Duration::from_millis(3500);

/// How long requests run before, between and after.
pub(crate) const WHILE: Duration = Duration::from_millis(1200);

/// Sessions of each person.
pub(crate) const SESSIONS: usize = 2;

/// The settings of every gateway: everything is quick.
const SETTINGS: &[(&str, &str)] = &[
    ("MARKERS_MAX_STALENESS", "1s"),
    ("MARKERS_READ_TIMEOUT", "400ms"),
    ("MARKERS_WRITE_TIMEOUT", "1s"),
    ("STORE_HEARTBEAT", "100ms"),
    ("STORE_RESPONSE_TIMEOUT", "300ms"),
    ("STORE_CONNECT_TIMEOUT", "500ms"),
    ("ACTIVITY_RESOLUTION", "1s"),
    ("ACTIVITY_FLUSH_INTERVAL", "100ms"),
];

/// A gateway that is to be started.
#[derive(Default)]
pub(crate) struct Plan {
    process: bool,
    allows: bool,
    variables: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl Plan {
    /// One in this process.
    pub(crate) fn here() -> Self {
        Self::default()
    }

    /// One in a process of its own.
    pub(crate) fn process() -> Self {
        Self { process: true, ..Self::default() }
    }

    /// Its route goes on while it is stale.
    pub(crate) fn allowing(mut self) -> Self {
        self.allows = true;
        self
    }

    /// Sets what the variable `PORTCULLIS_<name>` sets.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a variable of its process.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn route(&self) -> &'static str {
        if self.allows { "outage = \"allow\"" } else { "" }
    }
}

/// A gateway that runs.
pub(crate) struct Gateway {
    addresses: Arc<Mutex<(SocketAddr, SocketAddr)>>,
    allows: bool,
    run: Run,
}

enum Run {
    Here { _gate: Box<full::Gate> },
    Process { running: Running, directory: TempDir, variables: Vec<(String, String)> },
}

/// Where a gateway listens at present: it changes when it is started anew.
#[derive(Clone)]
pub(crate) struct Place(Arc<Mutex<(SocketAddr, SocketAddr)>>);

impl Place {
    pub(crate) fn public(&self) -> SocketAddr {
        self.0.lock().unwrap().0
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.0.lock().unwrap().1
    }
}

impl Gateway {
    async fn start(world: &World, plan: Plan) -> Self {
        let (run, addresses) = if plan.process {
            let (directory, variables) = (tempfile::tempdir().unwrap(), variables_of(world, &plan));
            fs::write(directory.path().join("gate.toml"), world.configuration(plan.route()).0).unwrap();
            let running = Running::start_as(program(), &directory.path().join("gate.toml"), &variables);
            let addresses = (running.address, running.admin);
            (Run::Process { running, directory, variables }, addresses)
        } else {
            let mut setup = world.gate().route(plan.route());
            let own = plan.variables.iter().map(|(name, value)| (&**name, &**value));
            for (name, value) in SETTINGS.iter().copied().chain(own) {
                setup = setup.with(name, value);
            }
            let gate = setup.launch().await;
            let addresses = (gate.address, gate.admin);
            (Run::Here { _gate: Box::new(gate) }, addresses)
        };
        Self { addresses: Arc::new(Mutex::new(addresses)), allows: plan.allows, run }
    }

    pub(crate) fn place(&self) -> Place {
        Place(Arc::clone(&self.addresses))
    }

    /// SIGSTOP: it keeps its connections and says nothing.
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let Run::Process { running, .. } = &self.run else { panic!("this gateway has no process of its own") };
        let status = Command::new("kill").arg(signal).arg(running.id().to_string()).status().unwrap();
        assert!(status.success(), "kill {signal} failed");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        match &mut self.run {
            Run::Process { running, .. } => running.kill(),
            Run::Here { .. } => panic!("this gateway has no process of its own"),
        }
    }

    /// Starts it again after [`kill`](Self::kill), at other addresses.
    pub(crate) fn restart(&mut self) {
        let Run::Process { running, directory, variables } = &mut self.run else {
            panic!("this gateway has no process of its own")
        };
        *running = Running::start_as(program(), &directory.path().join("gate.toml"), variables);
        *self.addresses.lock().unwrap() = (running.address, running.admin);
    }

    /// Asks the admin listener.
    pub(crate) async fn admin(&self, method: Method, path: &str) -> Answer {
        let fields = [("host", "localhost")];
        try_send(self.place().admin(), method, path, &fields, "").await.unwrap()
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.admin(Method::GET, "/readyz").await.status == 200
    }

    /// A sample, by its name and labels as `/metrics` writes them; 0: there is none.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let answer = self.admin(Method::GET, "/metrics").await;
        let mut samples = answer.text().lines().filter_map(|line| line.rsplit_once(' '));
        samples.find(|(name, _)| *name == sample).map_or(0.0, |(_, value)| value.parse().unwrap())
    }
}

fn variables_of(world: &World, plan: &Plan) -> Vec<(String, String)> {
    let own = plan.variables.iter().map(|(name, value)| (&**name, &**value));
    let named = SETTINGS.iter().copied().chain([("LOG_FORMAT", "json")]).chain(own);
    let named = named.map(|(name, value)| (format!("PORTCULLIS_{name}"), value.to_owned()));
    world.configuration(plan.route()).1.into_iter().chain(named).chain(plan.environment.iter().cloned()).collect()
}

/// Those whose sessions are ended, one after the other.
pub(crate) struct People {
    tokens: Vec<[String; SESSIONS]>,
    next: AtomicUsize,
}

impl People {
    fn new(world: &World, count: usize) -> Self {
        let token = |person, session| {
            let token = Token { person, session };
            world.token(&subject(person), json!({ "sid": session_id(token) }))
        };
        let tokens = (0..count).map(|person| std::array::from_fn(|session| token(person, session)));
        Self { tokens: tokens.collect(), next: AtomicUsize::new(0) }
    }

    pub(crate) fn count(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn token(&self, token: Token) -> &str {
        &self.tokens[token.person][token.session]
    }

    /// The next one whose session is to end, if anybody is left.
    pub(crate) fn next(&self) -> Option<usize> {
        let next = self.next.fetch_add(1, Ordering::SeqCst);
        (next < self.count()).then_some(next)
    }

    /// How many were taken by [`next`](Self::next).
    pub(crate) fn taken(&self) -> usize {
        self.next.load(Ordering::SeqCst).min(self.count())
    }
}

pub(crate) fn subject(person: usize) -> String {
    format!("auth0|{person}")
}

pub(crate) fn session_id(token: Token) -> String {
    format!("s{}-{}", token.person, token.session)
}

/// The key that a marker has in Redis.
pub(crate) fn key(ends: Ends) -> String {
    match ends {
        Ends::Session(token) => format!("portcullis:m:session:acme:{}", session_id(token)),
        Ends::Logout(person) => format!("portcullis:m:logout:acme:{}", subject(person)),
        Ends::Block(person) => format!("portcullis:m:block:acme:{}", subject(person)),
    }
}

/// Whether the store holds this key now; `None`: nobody answers.
pub(crate) type Look = Box<dyn Fn(&str) -> Option<bool> + Send + Sync>;

/// Several gateways on one store.
pub(crate) struct Fleet {
    pub(crate) world: World,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) people: Arc<People>,
    pub(crate) recorder: Arc<Recorder>,
    look: Option<Look>,
}

impl Fleet {
    /// Starts these gateways, and waits until they are ready.
    pub(crate) async fn start(world: World, plans: Vec<Plan>) -> Self {
        let fleet = Self::launch(world, plans).await;
        fleet.becomes_ready().await;
        fleet
    }

    /// Starts these gateways, and does not wait.
    pub(crate) async fn launch(world: World, plans: Vec<Plan>) -> Self {
        world.upstream.handle(|request| async move {
            text(if request.headers().contains_key("portcullis-stale") { "stale" } else { "current" })
        });
        let people = Arc::new(People::new(&world, 1200));
        let mut gateways = Vec::new();
        for plan in plans {
            gateways.push(Gateway::start(&world, plan).await);
        }
        Self { world, gateways, people, recorder: Arc::default(), look: None }
    }

    /// Requests have been answered by each of these gateways, and never by a 503, since then.
    #[track_caller]
    pub(crate) fn assert_never_stale(&self, from: Instant, gateways: &[usize]) {
        for &gateway in gateways {
            let stale = self.recorder.since(from, gateway, |outcome| matches!(outcome, Outcome::Stale));
            let all = self.recorder.since(from, gateway, |_| true);
            let stalled = self.recorder.stalled_since(from);
            if stalled > MAX_STALENESS / 5 {
                println!("SKIPPED: {}: the machine stalled for {stalled:?}, so nobody is blamed for 503", test_name());
                return;
            }
            assert!(stale == 0 && all > 10, "gateway {gateway}: {stale} of {all} requests were answered 503");
        }
    }

    /// How to find out in the end whether the store holds a key.
    pub(crate) fn look_by(mut self, look: impl Fn(&str) -> Option<bool> + Send + Sync + 'static) -> Self {
        self.look = Some(Box::new(look));
        self
    }

    pub(crate) async fn becomes_ready(&self) {
        for gateway in &self.gateways {
            eventually("the gateway is ready", async || gateway.is_ready().await).await;
        }
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.gateways.iter().map(Gateway::place).collect()
    }

    /// Requests run for this long.
    pub(crate) async fn run_for(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Kills the process of a gateway, lets this pass, and starts it again.
    pub(crate) async fn restart(&mut self, gateway: usize, meanwhile: Duration) {
        self.recorder.goes_down(gateway, Instant::now());
        self.gateways[gateway].kill();
        tokio::time::sleep(meanwhile).await;
        self.gateways[gateway].restart();
        self.recorder.is_up(gateway, Instant::now());
    }

    /// Each gateway answers from what it knows again, and a marker is acknowledged again.
    pub(crate) async fn recovers(&self) -> Duration {
        let (begun, acknowledged) = (Instant::now(), self.recorder.acknowledgements());
        let is_acknowledged = async || self.recorder.acknowledgements() > acknowledged;
        eventually("markers are acknowledged again", is_acknowledged).await;
        self.admit(0..self.gateways.len()).await;
        begun.elapsed()
    }

    /// These gateways admit, and say that they know.
    pub(crate) async fn admit(&self, gateways: impl IntoIterator<Item = usize>) {
        let begun = Instant::now();
        for gateway in gateways {
            let judged = |outcome: &Outcome| matches!(outcome, Outcome::Admitted { flagged: false });
            let admits = async || self.recorder.since(begun, gateway, judged) > 3;
            eventually(&format!("gateway {gateway} admits again"), admits).await;
        }
    }

    /// Each of these gateways knows that it is stale, and acts on its policy.
    pub(crate) async fn are_stale(&self, gateways: &[usize]) {
        let begun = Instant::now();
        for &gateway in gateways {
            let stale = |outcome: &Outcome| matches!(outcome, Outcome::Stale | Outcome::Admitted { flagged: true });
            let is_stale = async || self.recorder.since(begun, gateway, stale) > 3;
            eventually(&format!("gateway {gateway} says that it is stale"), is_stale).await;
        }
    }

    /// Ends the load, asks every gateway and the store about every acknowledged marker, and finds no violation.
    pub(crate) async fn finish(&self, load: Load) -> Report {
        load.stop().await;
        self.becomes_ready().await;
        // From here on, what was acknowledged last must be enforced, too.
        tokio::time::sleep(MAX_STALENESS).await;
        let mut connections: Vec<_> = self.places().into_iter().map(Connection::to).collect();
        for mark in self.recorder.standing() {
            self.recorder.found(mark.id, self.holds(&mark.key).await);
            for (number, connection) in connections.iter_mut().enumerate() {
                let outcome = connection.judge_in_the_end(self.people.token(mark.ends.example())).await;
                self.recorder.swept(mark.id, number, outcome);
            }
        }
        let report = self.recorder.check(&self.promise());
        println!("{}: {report}", test_name());
        let first: Vec<_> = report.violations.iter().take(10).collect();
        assert!(first.is_empty(), "{} violations, {:?}; first {first:#?}", report.violations.len(), report.kinds());
        assert!(report.requests > 100 && report.admitted > 0, "requests ran: {report}");
        assert!(report.acknowledged > 5, "markers were written: {report}");
        report
    }

    async fn holds(&self, key: &str) -> bool {
        if let Some(look) = &self.look {
            let found = Cell::new(None);
            eventually("the store tells what it holds", async || {
                found.set(look(key));
                found.get().is_some()
            })
            .await;
            return found.get() == Some(true);
        }
        match &self.world.store {
            full::Backing::Redis(_) => self.world.command(&["EXISTS", key]),
            full::Backing::Embedded(_) => self.holds_embedded(key).await,
            full::Backing::Url(_) => panic!("say how to look keys up"),
        }
    }

    async fn holds_embedded(&self, key: &str) -> bool {
        let (kind, id) = key.trim_start_matches("portcullis:m:").split_once(":acme:").unwrap();
        let (of, field) = if kind == "session" { ("sessions", "end") } else { ("subjects", kind) };
        let path = format!("/v1/{of}/acme/{}", id.replace('|', "%7C"));
        self.gateways[0].admin(Method::GET, &path).await.json()[field]["at"].is_string()
    }

    fn promise(&self) -> Promise {
        let allowing = self.gateways.iter().enumerate().filter(|(_, gateway)| gateway.allows).map(|(number, _)| number);
        Promise {
            max_staleness: MAX_STALENESS,
            patience: PATIENCE,
            gateways: self.gateways.len(),
            allowing: allowing.collect::<BTreeSet<_>>(),
        }
    }
}

/// A Redis that has on its disk what it acknowledged. `None`: to be skipped.
pub(crate) async fn durable_world() -> Option<World> {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"])?;
    Some(World::with(server).await)
}

/// Clients and writers of all gateways, and another program that writes to the one Redis.
pub(crate) fn load_on_redis(fleet: &Fleet) -> Load {
    Load::start(fleet, Some(&set_at(fleet.world.server().url())))
}

/// `SET` at this URL, over a connection of its own.
pub(crate) fn set_at(url: String) -> RawWrite {
    Arc::new(move |key, value| {
        let set = || {
            let patience = Duration::from_millis(300);
            let mut connection = redis::Client::open(&*url)?.get_connection_with_timeout(patience)?;
            connection.set_read_timeout(Some(patience))?;
            redis::cmd("SET").arg(key).arg(value).exec(&mut connection)
        };
        set().is_ok()
    })
}

fn test_name() -> String {
    std::thread::current().name().unwrap_or("a scenario").to_owned()
}
