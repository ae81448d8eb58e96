//! Requests and changes that never pause: clients of every gateway, and writers that end sessions in every way there is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{Fleet, People, Place, SESSIONS, WRITE_PATIENCE, key, session_id, subject},
    recorder::{Answer, Ends, Outcome, Recorder, Token},
    support::{client::Reply, full::now},
};

/// Clients of each gateway.
const CLIENTS: usize = 3;

/// How long a client pauses between an answer and its next request.
const PAUSE: Duration = Duration::from_millis(12);

/// How often it is looked whether the machine lets anybody run, and what counts as a stall.
const TICK: Duration = Duration::from_millis(10);
const STALL: Duration = Duration::from_millis(30);

/// How long a writer pauses between two changes, and before it tries one again.
const WRITER_PAUSE: Duration = Duration::from_millis(60);

/// How often a writer tries the same change.
const ATTEMPTS: usize = 8;

/// After this, nobody waits any longer.
const GIVES_UP: Duration = Duration::from_secs(6);

/// How far back and ahead those are whom most requests are about.
const RECENT: usize = 60;
const SOON: usize = 20;

/// Writes a key past all gateways; whether that was acknowledged.
pub(crate) type RawWrite = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// Clients and writers that run.
pub(crate) struct Load {
    stop: CancellationToken,
    clients: JoinSet<()>,
    writers: JoinSet<()>,
}

impl Load {
    /// Clients of each gateway, and two writers that use these gateways in turn.
    pub(crate) fn start(fleet: &Fleet, raw: Option<&RawWrite>) -> Self {
        let all = fleet.places();
        Self::with_writers(fleet, &all, raw)
    }

    pub(crate) fn with_writers(fleet: &Fleet, through: &[Place], raw: Option<&RawWrite>) -> Self {
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for (gateway, place) in fleet.places().into_iter().enumerate() {
            for client in 0..CLIENTS {
                let client = Client {
                    gateway,
                    connection: Connection::to(place.clone()),
                    people: Arc::clone(&fleet.people),
                    recorder: Arc::clone(&fleet.recorder),
                    dice: Dice::new(gateway * CLIENTS + client),
                };
                clients.spawn(client.run(stop.clone()));
            }
        }
        clients.spawn(witness(Arc::clone(&fleet.recorder), stop.clone()));
        let mut writers = JoinSet::new();
        for number in 0..2 {
            let writer = Writer {
                number,
                connections: through.iter().cloned().map(Connection::to).collect(),
                people: Arc::clone(&fleet.people),
                recorder: Arc::clone(&fleet.recorder),
                raw: raw.cloned(),
            };
            writers.spawn(writer.run(stop.clone()));
        }
        Self { stop, clients, writers }
    }

    /// Ends it, in the middle of nothing.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.writers.join_all().await;
        self.clients.join_all().await;
    }
}

/// Takes note of when the machine is too busy to let anybody run.
async fn witness(recorder: Arc<Recorder>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let begun = Instant::now();
        tokio::time::sleep(TICK).await;
        let late = begun.elapsed().saturating_sub(TICK);
        if late > STALL {
            recorder.stalled(Instant::now(), late);
        }
    }
}

/// Pseudo-random numbers, the same in every run.
struct Dice(u64);

impl Dice {
    const fn new(seed: usize) -> Self {
        Self(seed as u64 * 2 + 1)
    }

    /// Below `below`.
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

struct Client {
    gateway: usize,
    connection: Connection,
    people: Arc<People>,
    recorder: Arc<Recorder>,
    dice: Dice,
}

impl Client {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let (gateway, token) = (self.gateway, self.pick());
            let sent = Instant::now();
            let outcome = self.connection.judge(self.people.token(token)).await;
            self.recorder.answered(Answer { gateway, token, sent, answered: Instant::now(), outcome });
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Mostly somebody whose session ended lately, or is about to.
    fn pick(&mut self) -> Token {
        let (count, taken) = (self.people.count(), self.people.taken());
        let person = match self.dice.roll(10) {
            0..7 => taken.saturating_sub(RECENT) + self.dice.roll(RECENT + SOON),
            7..9 => self.dice.roll(taken + SOON),
            _ => self.dice.roll(count),
        };
        Token { person: person.min(count - 1), session: self.dice.roll(SESSIONS) }
    }
}

/// The ways to end something.
#[derive(Clone, Copy, Debug)]
enum Way {
    LogOut,
    LogOutEverywhere,
    AdminLogOut,
    AdminBlock,
    AdminSessionEnd,
    Raw,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::LogOut, Self::AdminBlock, Self::Raw, Self::LogOutEverywhere, Self::AdminSessionEnd, Self::AdminLogOut];

    const fn ends(self, person: usize) -> Ends {
        match self {
            Self::LogOut => Ends::Session(Token { person, session: 0 }),
            Self::AdminSessionEnd => Ends::Session(Token { person, session: 1 }),
            Self::LogOutEverywhere | Self::AdminLogOut | Self::Raw => Ends::Logout(person),
            Self::AdminBlock => Ends::Block(person),
        }
    }
}

/// What became of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    Acknowledged,
    /// 503 with this code: it may yet take effect.
    NotStored(String),
    Unanswered,
    Odd(String),
}

struct Writer {
    number: usize,
    connections: Vec<Connection>,
    people: Arc<People>,
    recorder: Arc<Recorder>,
    raw: Option<RawWrite>,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        for turn in self.number.. {
            if stop.is_cancelled() {
                return;
            }
            let mut way = Way::ALL[turn % Way::ALL.len()];
            if self.raw.is_none() && matches!(way, Way::Raw) {
                way = Way::AdminLogOut;
            }
            let Some(person) = self.people.next() else { return stop.cancelled().await };
            self.end(way, person, &stop).await;
            tokio::time::sleep(WRITER_PAUSE).await;
        }
    }

    /// Tries until it is acknowledged, at another gateway each time, or until it is given up.
    async fn end(&mut self, way: Way, person: usize, stop: &CancellationToken) {
        let ends = way.ends(person);
        let mark = self.recorder.attempted(ends, key(ends), Instant::now());
        for attempt in (self.number + person..).take(ATTEMPTS) {
            let sent = Instant::now();
            let written = self.write(way, person, attempt).await;
            let took = sent.elapsed();
            if took > WRITE_PATIENCE + 2 * self.recorder.stalled_since(sent) {
                self.recorder.odd_write(format!("{way:?} took {took:?} to be answered {written:?}"));
            }
            match written {
                Written::Acknowledged => return self.recorder.acknowledged(mark, Instant::now()),
                Written::NotStored(code) => self.recorder.not_stored(code),
                Written::Unanswered => {}
                Written::Odd(answer) => return self.recorder.odd_write(format!("{way:?}: {answer}")),
            }
            if stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(WRITER_PAUSE).await;
        }
    }

    async fn write(&mut self, way: Way, person: usize, attempt: usize) -> Written {
        if let (Way::Raw, Some(raw)) = (way, &self.raw) {
            let (raw, name, at) = (Arc::clone(raw), key(way.ends(person)), now().as_millis().to_string());
            let written = tokio::task::spawn_blocking(move || raw(&name, &at)).await.unwrap();
            return if written { Written::Acknowledged } else { Written::Unanswered };
        }
        let place = attempt % self.connections.len();
        let connection = &mut self.connections[place];
        let token = self.people.token(way.ends(person).example());
        let name = subject(person).replace('|', "%7C");
        match way {
            Way::LogOut => connection.log_out(token, "").await,
            Way::LogOutEverywhere => connection.log_out(token, "?everywhere").await,
            Way::AdminLogOut | Way::Raw => {
                connection.change(Method::POST, &format!("/v1/subjects/acme/{name}/logout")).await
            }
            Way::AdminBlock => connection.change(Method::PUT, &format!("/v1/subjects/acme/{name}/block")).await,
            Way::AdminSessionEnd => {
                let id = session_id(way.ends(person).example());
                connection.change(Method::POST, &format!("/v1/sessions/acme/{id}/end")).await
            }
        }
    }
}

/// A kept connection to a gateway, made anew when it breaks.
pub(crate) struct Connection {
    place: Place,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(crate) const fn to(place: Place) -> Self {
        Self { place, sender: None }
    }

    /// What a request with this token comes to.
    pub(crate) async fn judge(&mut self, token: &str) -> Outcome {
        match self.ask(Method::GET, "/", token).await {
            Ok(Some(reply)) => outcome(&reply),
            Ok(None) | Err(GaveUp) => Outcome::Unanswered,
        }
    }

    /// The same once the gateway knows: on a busy machine it may just have missed a heartbeat.
    pub(crate) async fn judge_in_the_end(&mut self, token: &str) -> Outcome {
        let begun = Instant::now();
        loop {
            let outcome = self.judge(token).await;
            if begun.elapsed() > GIVES_UP || !matches!(outcome, Outcome::Stale | Outcome::Admitted { flagged: true }) {
                return outcome;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// `POST /.portcullis/logout`
    pub(crate) async fn log_out(&mut self, token: &str, query: &str) -> Written {
        written(self.ask(Method::POST, &format!("/.portcullis/logout{query}"), token).await, StatusCode::NO_CONTENT)
    }

    /// A change at the admin listener.
    pub(crate) async fn change(&mut self, method: Method, path: &str) -> Written {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        let request = request.body(Full::default()).unwrap();
        let mut sender = None;
        let address = self.place.admin();
        let exchange =
            async { Reply::read(connected(&mut sender, address).await?.send_request(request).await.ok()?).await.ok() };
        written(timeout(GIVES_UP, exchange).await.map_err(|_| GaveUp), StatusCode::OK)
    }

    async fn ask(&mut self, method: Method, path: &str, token: &str) -> Result<Option<Reply>, GaveUp> {
        let request = crate::support::full::request(method, path, token);
        let address = self.place.public();
        let exchange = async {
            let response = connected(&mut self.sender, address).await?.send_request(request).await.ok()?;
            Reply::read(response).await.ok()
        };
        let reply = timeout(GIVES_UP, exchange).await.map_err(|_| GaveUp);
        if !matches!(reply, Ok(Some(_))) {
            self.sender = None;
        }
        reply
    }
}

/// Nothing came for too long.
struct GaveUp;

async fn connected(
    sender: &mut Option<SendRequest<Full<Bytes>>>,
    address: std::net::SocketAddr,
) -> Option<&mut SendRequest<Full<Bytes>>> {
    let broken = match sender {
        Some(kept) => kept.ready().await.is_err(),
        None => true,
    };
    if broken {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (new, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        *sender = Some(new);
    }
    sender.as_mut()
}

fn outcome(reply: &Reply) -> Outcome {
    let code = reply.code();
    let challenged = reply.headers.contains_key(header::WWW_AUTHENTICATE);
    match reply.status {
        StatusCode::OK if reply.body == "current" => Outcome::Admitted { flagged: false },
        StatusCode::OK if reply.body == "stale" => Outcome::Admitted { flagged: true },
        StatusCode::UNAUTHORIZED if challenged => Outcome::Refused(code),
        StatusCode::SERVICE_UNAVAILABLE
            if code == "stale" && !challenged && reply.headers.contains_key(header::RETRY_AFTER) =>
        {
            Outcome::Stale
        }
        status => Outcome::Odd(format!("{status} {code}")),
    }
}

fn written(reply: Result<Option<Reply>, GaveUp>, good: StatusCode) -> Written {
    let Ok(reply) = reply else { return Written::Odd(format!("no answer within {GIVES_UP:?}")) };
    let Some(reply) = reply else { return Written::Unanswered };
    let code = reply.code();
    match reply.status {
        status if status == good => Written::Acknowledged,
        StatusCode::SERVICE_UNAVAILABLE
            if ["stale", "not_stored", "not_replicated", "store_unavailable", "store_refused"].contains(&&*code) =>
        {
            Written::NotStored(code)
        }
        status => Written::Odd(format!("{status} {code}")),
    }
}
