//! Connections, and what goes wrong on them on demand.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

use super::{
    Auth0, Shared,
    answer::{Body, error, full},
    limits::Group,
    population::mix,
    record::Call,
    token::revoke_refresh_token,
    user::User,
};

/// How a request fails.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// With this status, and the error body that goes with it.
    Status(u16),
    /// It is answered as it should be, but so much later.
    Delay(Duration),
    /// It is never answered, and nothing comes of it.
    Hang,
    /// The connection ends in the middle of the body. What was asked for is done.
    CutBody,
    /// The body ends in the middle, as if it were whole. What was asked for is done.
    Truncate,
    /// The body is something else. What was asked for is done.
    Garbage(&'static str),
    /// Never answered, but what was asked for is done.
    DoneThenHang,
    /// As if the limit were used up: a 429 that names a time.
    TooMany,
}

/// Faults by chance. The shares are of all calls to the Management API; of downloads, that of `cut`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Chaos {
    pub(crate) seed: u64,
    /// 429, which names a time.
    pub(crate) too_many: f64,
    /// 500 and 503 by turns; nothing was done.
    pub(crate) server_error: f64,
    /// No answer for so long, then the connection ends; half of the time what was asked for is done.
    pub(crate) hang: f64,
    pub(crate) hang_for: Duration,
    /// The connection ends in the middle of the answer; what was asked for is done.
    pub(crate) cut: f64,
}

impl Chaos {
    /// Each fault with this share.
    pub(crate) fn of_each(seed: u64, share: f64) -> Self {
        let hang_for = Duration::from_secs(60);
        Self { seed, too_many: share, server_error: share, hang: share, hang_for, cut: share }
    }
}

/// A change that is made just before a request that begins so, and of whom.
pub(crate) type Coincidence = (String, String, Box<dyn FnOnce(&mut User) + Send>);

pub(crate) struct Dice {
    chaos: Chaos,
    thrown: u64,
}

impl Dice {
    fn throw(&mut self) -> (f64, bool) {
        let thrown = mix(self.chaos.seed ^ mix(self.thrown));
        self.thrown += 1;
        #[expect(clippy::cast_precision_loss, reason = "53 bits")]
        let share = (thrown >> 11) as f64 / (1_u64 << 53) as f64;
        (share, thrown & 1 == 1)
    }

    fn fault(&mut self) -> Option<Fault> {
        let (mut share, coin) = self.throw();
        let Chaos { too_many, server_error, hang, cut, .. } = self.chaos;
        let faults = [
            (too_many, Fault::TooMany),
            (server_error, Fault::Status(if coin { 500 } else { 503 })),
            (hang, if coin { Fault::DoneThenHang } else { Fault::Hang }),
            (cut, Fault::CutBody),
        ];
        for (of_it, fault) in faults {
            if share < of_it {
                return Some(fault);
            }
            share -= of_it;
        }
        None
    }

    fn cuts_download(&mut self) -> bool {
        self.throw().0 < self.chaos.cut
    }
}

pub(crate) async fn accept<F>(
    listener: TcpListener,
    shared: Arc<Shared>,
    answer: impl Fn(Arc<Shared>, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
) where
    F: Future<Output = Result<Response<Body>, io::Error>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Those that ended are let go of.
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else { break };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let at = Instant::now();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let (fault, hang_for) = shared.next_fault(&head.method, &target);
    let hang = async || -> Result<Response<Body>, io::Error> {
        match hang_for {
            Some(time) => sleep(time).await,
            None => std::future::pending().await,
        }
        Err(io::Error::other("the connection ends without an answer"))
    };
    match fault {
        Some(Fault::Delay(delay)) => sleep(delay).await,
        Some(Fault::Hang) => return hang().await,
        _ => {}
    }
    let response = match (&fault, head.uri.path()) {
        (Some(Fault::Status(status)), _) => error(*status, "made_to_fail", "An error on demand."),
        (Some(Fault::TooMany), path) => {
            let group = Group::of(head.method.as_str(), path.trim_start_matches("/api/v2/"));
            shared.state().limits.bucket(group).refuse()
        }
        (_, "/oauth/token") => shared.grant_token(&head, &body),
        (_, "/oauth/revoke") => revoke_refresh_token(&body),
        _ => {
            shared.state().coincide(&head.method, &target);
            shared.manage(&head, &body).await
        }
    };
    shared.state().record.call(Call {
        at,
        method: head.method,
        target,
        fields: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        status: response.status(),
    });
    match fault {
        Some(Fault::DoneThenHang) => hang().await,
        fault => damaged(response, fault.as_ref()).await,
    }
}

/// The answer, and what a fault makes of it.
async fn damaged(mut response: Response<Body>, fault: Option<&Fault>) -> Result<Response<Body>, io::Error> {
    match fault {
        Some(Fault::CutBody) => {
            let whole = response.into_body().collect().await?.to_bytes();
            let half = Frame::data(whole.slice(..whole.len() / 2));
            let broken = stream::iter([Ok(half), Err(io::Error::other("cut"))]);
            response = Response::new(StreamBody::new(broken).boxed());
        }
        Some(Fault::Truncate) => {
            let (head, body) = response.into_parts();
            let whole: Bytes = body.collect().await?.to_bytes();
            response = Response::from_parts(head, full(whole.slice(..whole.len() / 2)));
        }
        Some(Fault::Garbage(text)) => *response.body_mut() = full(*text),
        _ => {}
    }
    Ok(response)
}

impl Shared {
    /// The fault that was asked for on this path, or one by chance; and how long one by chance hangs.
    fn next_fault(&self, method: &Method, target: &str) -> (Option<Fault>, Option<Duration>) {
        let mut state = self.state();
        if let Some(fault) = state.named_fault(method, target) {
            return (Some(fault), None);
        }
        let dice = state.chaos.as_mut().filter(|_| target.starts_with("/api/v2/"));
        dice.map_or((None, None), |dice| (dice.fault(), Some(dice.chaos.hang_for)))
    }
}

/// Whether a request begins with a path, or with a method, a space, and a path.
fn begins(method: &Method, target: &str, with: &str) -> bool {
    match with.split_once(' ') {
        Some((wanted, path)) => wanted == method && target.starts_with(path),
        None => target.starts_with(with),
    }
}

impl super::State {
    pub(crate) fn named_fault(&mut self, method: &Method, target: &str) -> Option<Fault> {
        let hit = self.faults.iter().position(|(path, _)| begins(method, target, path));
        hit.and_then(|index| self.faults.remove(index)).map(|(_, fault)| fault)
    }

    fn coincide(&mut self, method: &Method, target: &str) {
        let hit = self.coincidences.iter().position(|(path, ..)| begins(method, target, path));
        if let Some((_, id, change)) = hit.map(|index| self.coincidences.remove(index)) {
            self.directory.change(&id, true, change);
        }
    }

    pub(crate) fn download_fault(&mut self, method: &Method, target: &str) -> Option<Fault> {
        let by_chance = |dice: &mut Dice| dice.cuts_download().then_some(Fault::CutBody);
        self.named_fault(method, target).or_else(|| self.chaos.as_mut().and_then(by_chance))
    }
}

impl Auth0 {
    /// The next request whose path begins so fails like this; `PATCH /api/v2/users/` says with which method, too. Faults are used up
    /// in their order. Downloads of exports are at `/exports/`.
    pub(crate) fn fail(&self, path: impl Into<String>, fault: Fault) {
        self.state().faults.push_back((path.into(), fault));
    }

    /// Somebody else changes this user just before the next request that begins so, as in [`Auth0::fail`], is decided.
    pub(crate) fn change_before(
        &self,
        path: impl Into<String>,
        id: &str,
        change: impl FnOnce(&mut User) + Send + 'static,
    ) {
        self.state().coincidences.push((path.into(), id.to_owned(), Box::new(change)));
    }

    /// How many faults are not used up yet.
    pub(crate) fn faults_left(&self) -> usize {
        self.state().faults.len()
    }

    /// From now on faults come by chance, or no longer do.
    pub(crate) fn set_chaos(&self, chaos: Option<Chaos>) {
        self.state().chaos = chaos.map(|chaos| Dice { chaos, thrown: 0 });
    }
}
