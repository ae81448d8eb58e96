//! Every order of events around the cache: an exhaustive search, not a sample.
//!
//! The real cache, asked through the real ledger, before a server in a script: reads, writes by others and by this gateway,
//! heartbeats, flushes, lost connections, callers that give up. The search takes each step that is possible, begins anew for each
//! way to go on, and polls futures by hand, also later than it could: no clock and no scheduler is involved. A script
//! bounds how often each thing happens; within it, nothing is left out.
//!
//! Orders that differ only in steps that have nothing to do with each other come to the same. They are
//! recognised by what each step followed on at whatever it touched, and tried once.
//!
//! What must hold of every answer:
//!
//! - it knows of every write before the last heartbeat that counted was sent;
//! - it is no older than any change that the cache was told of before.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    pin::Pin,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::*;
use crate::{
    clock::{Clock, Timestamp},
    marker::{Block, Logout, MarkerClock, MarkerRecord, Retention, ledger::Ledger},
    store::{Merged, StoreReport},
    token::claims::Subject,
};

/// How often each thing happens.
#[derive(Clone, Copy, Default, Debug)]
struct Script {
    /// Keys that concern each token.
    keys: usize,
    /// Tokens; requests take turns with them.
    tokens: usize,
    /// Requests.
    asks: usize,
    /// Requests that are given up.
    cancels: usize,
    /// Writes by another program.
    writes: usize,
    /// Removals by another program.
    deletions: usize,
    /// Writes by this gateway, over its other connection.
    own_writes: usize,
    /// Removals of everything.
    flushes: usize,
    /// Heartbeats.
    pings: usize,
    /// Lost connections. Each is made anew.
    cuts: usize,
}

/// A mistake that the search must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    /// The epoch stays where it is.
    ResetLost,
    /// A change is not told while a read is under way, which will learn of it anyway, it seems.
    ChangeLostDuringRead,
    /// What was read is kept under the generation that stands when it comes.
    KeptTooLate,
    /// An answer to a heartbeat counts from when it came.
    HeardOnReceipt,
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    /// A request asks: what is known is answered at once, otherwise it begins to read.
    Ask,
    /// A request that was woken goes on.
    Continue(usize),
    /// A request is given up.
    Cancel(usize),
    Write(usize),
    Delete(usize),
    OwnWrite(usize),
    Flush,
    /// A heartbeat is sent.
    Ping,
    /// The server takes the next command.
    Execute,
    /// The gateway takes the next answer or push.
    Deliver,
    /// The gateway's other connection brings the answer to a write.
    DeliverOwn,
    /// The connection is lost, with everything on it.
    Cut,
    /// A new one is asked to track changes.
    Connect,
    /// The one who keeps the connection up finds that it tracks.
    Begin,
}

type Reply = oneshot::Sender<Reading<MarkerRecord>>;

/// A command on its way, or the answer.
#[derive(Debug)]
enum Message {
    Get(usize, Reply),
    Value(Reading<MarkerRecord>, Reply),
    Ping { sent: u64 },
    Pong { sent: u64 },
    Track { since: u64 },
    Tracks { since: u64, time: u64 },
    Changed { key: usize, time: u64 },
    Flushed { time: u64 },
}

/// What two steps can meet at.
#[derive(Clone, Copy)]
enum Place {
    Clock,
    Cache,
    CommandsIn,
    CommandsOut,
    AnswersIn,
    AnswersOut,
    OwnIn,
    OwnOut,
    Key(usize),
}

impl Place {
    const COUNT: usize = 8 + KEYS;

    fn index(self) -> usize {
        match self {
            Self::Clock => 0,
            Self::Cache => 1,
            Self::CommandsIn => 2,
            Self::CommandsOut => 3,
            Self::AnswersIn => 4,
            Self::AnswersOut => 5,
            Self::OwnIn => 6,
            Self::OwnOut => 7,
            Self::Key(key) => 8 + key,
        }
    }
}

const KEYS: usize = 2;
/// What the keys are of.
const KINDS: [Kind; KEYS] = [Kind::Logout, Kind::Block];
const SLOTS: usize = 64;

/// A queue whose messages remember what led to them.
type Queue<T> = VecDeque<(T, u64)>;

/// The server and the connections to it.
#[derive(Default, Debug)]
struct Server {
    /// Counts what the promise puts in order: writes, and heartbeats being sent.
    time: u64,
    /// What each key held, and since when.
    histories: [Vec<(u64, Reading<i64>)>; KEYS],
    commands: Queue<Message>,
    answers: Queue<Message>,
    own_answers: Queue<(usize, u64)>,
    link: Link,
    /// What led to the state of each place.
    past: [u64; Place::COUNT],
    /// Where commands are put in the step under way.
    stamp: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Link {
    #[default]
    Down,
    Connecting,
    /// The server tracks, the gateway has not been told.
    Tracking,
    /// The gateway has been told.
    Told {
        since: u64,
        time: u64,
    },
    Up,
}

#[derive(Debug)]
struct ScriptedStore {
    keys: [MarkerKey; KEYS],
    server: Mutex<Server>,
    /// Where what was read is kept under the generation that stands afterwards.
    too_late: Option<Arc<MarkerCache>>,
}

impl ScriptedStore {
    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }
}

#[async_trait]
impl Store for ScriptedStore {
    async fn read(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
        let index = self.keys.iter().position(|each| each == key).unwrap();
        let value = {
            let mut server = self.server();
            if server.link != Link::Up {
                return Err(lost());
            }
            let (reply, value) = oneshot::channel();
            let stamp = server.stamp;
            server.commands.push_back((Message::Get(index, reply), stamp));
            value
        };
        let value = value.await.map_err(|_| lost())?;
        if let Some(cache) = &self.too_late {
            let mark = cache.mark(key.clone());
            cache.entries.insert(cache.entry_key(&mark), value.clone().into()).await;
        }
        Ok(value)
    }
    async fn merge(&self, _: &MarkerKey, _: &MarkerRecord, _: Option<Timestamp>) -> Result<Merged, StoreError> {
        Err(lost())
    }
    async fn record_activity(&self, _: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        Err(lost())
    }
    async fn last_activity(&self, _: &Subject) -> Result<Option<Timestamp>, StoreError> {
        Err(lost())
    }
    async fn forget_activity(&self, _: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn report(&self) -> Result<StoreReport, StoreError> {
        Err(lost())
    }
    async fn close(&self) {}
}

fn lost() -> StoreError {
    StoreError::timed_out(&"script".into())
}

impl Server {
    fn tracks(&self) -> bool {
        !matches!(self.link, Link::Down | Link::Connecting)
    }

    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    fn answer(&mut self, message: Message) {
        let stamp = self.stamp;
        self.answers.push_back((message, stamp));
    }

    fn push(&mut self, message: Message) {
        if self.tracks() {
            self.answer(message);
        }
    }

    fn set(&mut self, key: usize, present: bool) -> u64 {
        let time = self.tick();
        let value = if present { Reading::Present(at(time)) } else { Reading::Absent };
        self.histories[key].push((time, value));
        self.push(Message::Changed { key, time });
        time
    }

    fn flush(&mut self) {
        let time = self.tick();
        for history in &mut self.histories {
            history.push((time, Reading::Absent));
        }
        self.push(Message::Flushed { time });
    }

    fn execute(&mut self, command: Message) {
        match command {
            Message::Get(key, reply) => {
                let value = match self.histories[key].last() {
                    Some((_, Reading::Present(at))) => Reading::Present(record(key, *at)),
                    _ => Reading::Absent,
                };
                self.answer(Message::Value(value, reply));
            }
            Message::Ping { sent } => self.answer(Message::Pong { sent }),
            Message::Track { since } => {
                self.link = Link::Tracking;
                let time = self.time;
                self.answer(Message::Tracks { since, time });
            }
            answer => unreachable!("{answer:?} is no command"),
        }
    }

    /// Whether a key has held this at `floor` or later.
    fn held_since(&self, key: usize, floor: u64, value: Reading<i64>) -> bool {
        let history = &self.histories[key];
        let first = history.iter().rposition(|(time, _)| *time <= floor).unwrap_or(0);
        history[first..].iter().any(|(_, held)| *held == value)
    }

    /// A step that meets others at these places.
    fn touch(&mut self, step: Step, places: &[Place], led_by: u64) {
        let mut hasher = DefaultHasher::new();
        (step, led_by).hash(&mut hasher);
        for place in places {
            self.past[place.index()].hash(&mut hasher);
        }
        self.stamp = hasher.finish();
        for place in places {
            self.past[place.index()] = self.stamp;
        }
    }

    fn touch_all(&mut self, step: Step) {
        let mut hasher = DefaultHasher::new();
        (step, &self.past).hash(&mut hasher);
        self.stamp = hasher.finish();
        self.past = [self.stamp; Place::COUNT];
    }
}

const EPOCH: i64 = 1_700_000_000_000;

fn at(time: u64) -> i64 {
    EPOCH + i64::try_from(time).unwrap()
}

fn record(key: usize, at: i64) -> MarkerRecord {
    let at = Timestamp::from_millis(at);
    MarkerRecord::new(match key {
        0 => Marker::Logout(Logout { at, clock: MarkerClock::Gateway }),
        _ => Marker::Block(Block { blocked: true, at, until: None }),
    })
}

fn time<T>(reading: Reading<T>, at: impl FnOnce(T) -> Timestamp) -> Reading<i64> {
    match reading {
        Reading::Present(value) => Reading::Present(at(value).as_millis()),
        Reading::Absent => Reading::Absent,
        Reading::Unreadable => Reading::Unreadable,
    }
}

/// A request that waits.
struct Waiting {
    learning: BoxFuture<'static, Option<Known>>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One course of events.
struct World {
    script: Script,
    /// What of it is left.
    left: Script,
    mistake: Option<Mistake>,
    store: Arc<ScriptedStore>,
    cache: Arc<MarkerCache>,
    ledger: Ledger,
    tokens: Vec<Arc<Marks>>,
    waiting: Vec<Option<Waiting>>,
    /// The latest change of each key that the cache was told of.
    told: [u64; KEYS],
}

impl World {
    /// A gateway that is connected and knows nothing yet; every key holds something.
    fn new(script: Script, mistake: Option<Mistake>) -> Self {
        let claims = Claims::of_alice();
        let keys = KINDS.map(|kind| key_of(kind, &claims).unwrap());
        let settings = MarkerSettings { max_staleness: Duration::from_secs(3600), ..MarkerSettings::default() };
        // The same in each course, so that each can be taken again.
        let cache = MarkerCache { hash_key: [5; 16], ..MarkerCache::with_slots(settings, Clock::System, SLOTS) };
        let cache = Arc::new(cache);
        cache.reset();
        cache.heard(cache.origin);
        let tokens = (0..script.tokens).map(|_| Arc::new(cache.marks_of(&claims, &KINDS[..script.keys])));
        let server = Server {
            histories: std::array::from_fn(|_| vec![(0, Reading::Present(at(0)))]),
            link: Link::Up,
            ..Server::default()
        };
        let tokens = tokens.collect();
        let too_late = (mistake == Some(Mistake::KeptTooLate)).then(|| Arc::clone(&cache));
        let store = Arc::new(ScriptedStore { keys, server: Mutex::new(server), too_late });
        let ledger = Ledger::new(
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::clone(&cache),
            Retention::default(),
            Duration::from_secs(1),
            Clock::System,
        );
        let waiting = Vec::new();
        Self { script, left: script, mistake, store, cache, ledger, tokens, waiting, told: [0; KEYS] }
    }

    /// What can happen next.
    fn possible(&self) -> Vec<Step> {
        let (left, server) = (&self.left, self.store.server());
        let mut steps = Vec::new();
        let mut add = |possible: bool, step: Step| {
            if possible {
                steps.push(step);
            }
        };
        add(left.asks > 0, Step::Ask);
        for (request, waiting) in self.waiting.iter().enumerate() {
            if let Some(waiting) = waiting {
                add(waiting.woken.0.load(Ordering::SeqCst), Step::Continue(request));
                add(left.cancels > 0, Step::Cancel(request));
            }
        }
        for key in 0..self.script.keys {
            add(left.writes > 0, Step::Write(key));
            add(left.deletions > 0, Step::Delete(key));
            add(left.own_writes > 0, Step::OwnWrite(key));
        }
        add(left.flushes > 0, Step::Flush);
        let unanswered = |queue: &Queue<Message>| {
            queue.iter().any(|(message, _)| matches!(message, Message::Ping { .. } | Message::Pong { .. }))
        };
        let beating = unanswered(&server.commands) || unanswered(&server.answers);
        add(left.pings > 0 && server.link == Link::Up && !beating, Step::Ping);
        add(!server.commands.is_empty(), Step::Execute);
        add(!server.answers.is_empty(), Step::Deliver);
        add(!server.own_answers.is_empty(), Step::DeliverOwn);
        add(left.cuts > 0 && server.link == Link::Up, Step::Cut);
        add(server.link == Link::Down, Step::Connect);
        add(matches!(server.link, Link::Told { .. }), Step::Begin);
        steps
    }

    /// Takes a step. An answer that breaks a promise is the error.
    fn take(&mut self, step: Step) -> Result<(), String> {
        use Place::{AnswersIn, AnswersOut, Cache, Clock, CommandsIn, CommandsOut, Key, OwnIn, OwnOut};
        let store = Arc::clone(&self.store);
        match step {
            Step::Ask => {
                self.left.asks -= 1;
                store.server().touch(step, &[Cache, CommandsIn], 0);
                return self.ask();
            }
            Step::Continue(request) => {
                store.server().touch(step, &[Cache, CommandsIn], 0);
                return self.go_on(request);
            }
            Step::Cancel(request) => {
                self.left.cancels -= 1;
                store.server().touch(step, &[Cache, CommandsIn], 0);
                self.waiting[request] = None;
            }
            Step::Write(key) | Step::Delete(key) => {
                let is_write = matches!(step, Step::Write(_));
                *(if is_write { &mut self.left.writes } else { &mut self.left.deletions }) -= 1;
                let mut server = store.server();
                server.touch(step, &[Clock, Key(key), AnswersIn], 0);
                server.set(key, is_write);
            }
            Step::OwnWrite(key) => {
                self.left.own_writes -= 1;
                let mut server = store.server();
                server.touch(step, &[Clock, Key(key), AnswersIn, OwnIn], 0);
                let time = server.set(key, true);
                let stamp = server.stamp;
                server.own_answers.push_back(((key, time), stamp));
            }
            Step::DeliverOwn => {
                let ((key, time), stamp) = store.server().own_answers.pop_front().unwrap();
                store.server().touch(step, &[OwnOut, Cache], stamp);
                self.change(key, time);
            }
            Step::Flush => {
                self.left.flushes -= 1;
                let mut server = store.server();
                server.touch(step, &[Clock, Key(0), Key(1), AnswersIn], 0);
                server.flush();
            }
            Step::Ping => {
                self.left.pings -= 1;
                let mut server = store.server();
                server.touch(step, &[Clock, CommandsIn], 0);
                let (sent, stamp) = (server.tick(), server.stamp);
                server.commands.push_back((Message::Ping { sent }, stamp));
            }
            Step::Execute => {
                let mut server = store.server();
                let (command, stamp) = server.commands.pop_front().unwrap();
                match &command {
                    Message::Get(key, _) => server.touch(step, &[CommandsOut, Key(*key), AnswersIn], stamp),
                    Message::Track { .. } => server.touch_all(step),
                    _ => server.touch(step, &[CommandsOut, AnswersIn], stamp),
                }
                server.execute(command);
            }
            Step::Deliver => {
                let (answer, stamp) = store.server().answers.pop_front().unwrap();
                store.server().touch(step, &[AnswersOut, Cache], stamp);
                self.deliver(answer);
            }
            Step::Cut => {
                self.left.cuts -= 1;
                let mut server = store.server();
                server.touch_all(step);
                server.link = Link::Down;
                let gone = (mem::take(&mut server.commands), mem::take(&mut server.answers));
                drop(server);
                drop(gone);
            }
            Step::Connect => {
                let mut server = store.server();
                server.touch_all(step);
                server.link = Link::Connecting;
                let (since, stamp) = (server.tick(), server.stamp);
                server.commands.push_back((Message::Track { since }, stamp));
            }
            Step::Begin => {
                let mut server = store.server();
                server.touch_all(step);
                let Link::Told { since, time } = mem::replace(&mut server.link, Link::Up) else { unreachable!() };
                drop(server);
                self.reset(time);
                self.hear(since);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, answer: Message) {
        match answer {
            // Nobody may be waiting for it any more.
            Message::Value(value, reply) => drop(reply.send(value)),
            Message::Pong { sent } if self.mistake == Some(Mistake::HeardOnReceipt) => {
                let mut server = self.store.server();
                server.touch(Step::Deliver, &[Place::Clock, Place::Cache], 0);
                let now = server.time + 1;
                drop(server);
                self.hear(now.max(sent));
            }
            Message::Pong { sent } => self.hear(sent),
            Message::Tracks { since, time } => self.store.server().link = Link::Told { since, time },
            Message::Changed { key, time } => {
                let reading = self.waiting.iter().any(Option::is_some);
                if reading && self.mistake == Some(Mistake::ChangeLostDuringRead) {
                    self.told[key] = self.told[key].max(time);
                } else {
                    self.change(key, time);
                }
            }
            Message::Flushed { time } => self.reset(time),
            command => unreachable!("{command:?} is no answer"),
        }
    }

    fn change(&mut self, key: usize, time: u64) {
        self.told[key] = self.told[key].max(time);
        self.cache.changed(self.store.keys[key].as_str());
    }

    fn reset(&mut self, time: u64) {
        self.told = self.told.map(|told| told.max(time));
        if self.mistake != Some(Mistake::ResetLost) {
            self.cache.reset();
        }
    }

    fn hear(&self, time: u64) {
        self.cache.heard(self.cache.origin + Duration::from_millis(time));
    }

    fn ask(&mut self) -> Result<(), String> {
        let marks = Arc::clone(&self.tokens[self.left.asks % self.tokens.len()]);
        if let Some(known) = self.ledger.recall(&marks, &Claims::of_alice()) {
            self.waiting.push(None);
            return self.judge(&known);
        }
        let ledger = self.ledger.clone();
        let learning: BoxFuture<'static, _> = Box::pin(async move { ledger.learn(&marks, &Claims::of_alice()).await });
        self.waiting.push(Some(Waiting { learning, woken: Arc::new(Woken(AtomicBool::new(true))) }));
        self.go_on(self.waiting.len() - 1)
    }

    fn go_on(&mut self, request: usize) -> Result<(), String> {
        let Some(waiting) = &mut self.waiting[request] else { unreachable!("request {request} is over") };
        waiting.woken.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&waiting.woken));
        let polled = Pin::new(&mut waiting.learning).poll(&mut Context::from_waker(&waker));
        let Poll::Ready(learned) = polled else { return Ok(()) };
        self.waiting[request] = None;
        learned.map_or(Ok(()), |known| self.judge(&known))
    }

    /// Whether an answer keeps what is promised.
    fn judge(&self, known: &Known) -> Result<(), String> {
        let server = self.store.server();
        let heard = self.cache.generations.heard().unwrap();
        let times = [time(known.logout, |logout| logout.at), time(known.block, |block| block.at)];
        for (key, value) in times.into_iter().enumerate().take(self.script.keys) {
            let history = &server.histories[key];
            if !server.held_since(key, heard, value) {
                return Err(format!("{value:?} is older than what was heard at {heard}: {history:?}"));
            }
            let told = self.told[key];
            if !server.held_since(key, told, value) {
                return Err(format!("{value:?} is older than the change at {told}: {history:?}"));
            }
        }
        Ok(())
    }

    /// Nothing can happen any more.
    fn end(&self) -> Result<(), String> {
        match self.waiting.iter().position(Option::is_some) {
            Some(request) => Err(format!("request {request} waits for ever")),
            None => Ok(()),
        }
    }
}

/// Takes every course that the script allows, and tells how many states there are.
///
/// # Errors
/// The first course found that breaks a promise.
fn search(script: Script, mistake: Option<Mistake>) -> Result<usize, String> {
    // Timeouts want a runtime; nobody drives it, so none passes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let mut states = HashSet::new();
    // At each step: which of the possible ones, of how many.
    let mut course: Vec<(usize, usize)> = Vec::new();
    loop {
        let mut world = World::new(script, mistake);
        let mut steps = Vec::new();
        for depth in 0.. {
            let possible = world.possible();
            if depth == course.len() && !possible.is_empty() {
                course.push((0, possible.len()));
            }
            let Some((choice, _)) = course.get(depth) else {
                world.end().map_err(|problem| format!("{problem}, after {steps:?}"))?;
                break;
            };
            steps.push(possible[*choice]);
            world.take(possible[*choice]).map_err(|problem| format!("{problem}, after {steps:?}"))?;
            if depth + 1 == course.len() && !states.insert(world.store.server().past) {
                break;
            }
        }
        while course.pop_if(|(choice, of)| *choice + 1 == *of).is_some() {}
        let Some((choice, _)) = course.last_mut() else { return Ok(states.len()) };
        *choice += 1;
    }
}

macro_rules! holds {
    ($($name:ident: $script:expr),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                let begun = Instant::now();
                let states = search($script, None).unwrap_or_else(|problem| panic!("{problem}"));
                println!("{states} states in {:?}", begun.elapsed());
                assert!(states > 1000, "{states} states: hardly anything happened");
            }
        )*
    };
}

/// Two requests and a write.
const PLAIN: Script = Script {
    keys: 1,
    tokens: 1,
    asks: 2,
    writes: 1,
    cancels: 0,
    deletions: 0,
    own_writes: 0,
    flushes: 0,
    pings: 0,
    cuts: 0,
};

holds! {
    writes: Script { writes: 2, ..PLAIN },
    one_request_after_the_other: Script { asks: 3, ..PLAIN },
    writes_and_heartbeats: Script { pings: 1, ..PLAIN },
    removals: Script { deletions: 1, ..PLAIN },
    writes_of_its_own: Script { own_writes: 1, writes: 0, ..PLAIN },
    a_write_of_its_own_and_one_by_another: Script { asks: 1, own_writes: 1, ..PLAIN },
    flushes: Script { flushes: 1, ..PLAIN },
    requests_that_are_given_up: Script { asks: 3, cancels: 1, ..PLAIN },
    a_lost_connection: Script { cuts: 1, ..PLAIN },
    a_lost_connection_and_a_heartbeat: Script { asks: 1, cuts: 1, pings: 1, ..PLAIN },
    connections_lost_again_and_again: Script { asks: 1, cuts: 2, ..PLAIN },
    two_keys: Script { keys: 2, ..PLAIN },
    two_keys_of_two_tokens: Script { keys: 2, tokens: 2, ..PLAIN },
    two_keys_and_a_lost_connection: Script { keys: 2, asks: 1, cuts: 1, ..PLAIN },
}

/// The search is no better than its eyes.
#[test]
fn mistakes_are_found() {
    let script = Script { pings: 1, flushes: 1, ..PLAIN };
    for mistake in [Mistake::ResetLost, Mistake::ChangeLostDuringRead, Mistake::KeptTooLate, Mistake::HeardOnReceipt] {
        let problem = search(script, Some(mistake)).expect_err("an old answer");
        println!("{mistake:?}: {problem}");
        assert!(problem.contains("is older than"), "{mistake:?}: {problem}");
    }
}
