//! Who is the primary, by what sentinels say.
//!
//! Each is asked at every heartbeat. The answer with the latest configuration epoch counts: a failover gives a new one. And
//! it counts only as long as most sentinels are heard, for a failover takes most of them: among
//! those that are heard is then one that took part in it, or learns of it within seconds from one that did.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ::redis::{RedisError, RedisResult, aio::MultiplexedConnection};
use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    connect::Connector,
    fault::outage,
    hearing::Hearing,
    lane::{Endpoint, Lane, Purpose},
    settings::Address,
};
use crate::{store::StoreError, telemetry::with_causes};

/// The connections to the sentinels.
#[derive(Debug)]
pub(super) struct Sentinels {
    lanes: Vec<(Lane, watch::Sender<Option<Address>>)>,
    poll: Arc<Poll>,
}

/// What they said.
#[derive(Debug)]
struct Poll {
    service: String,
    answers: Mutex<Vec<Option<Answer>>>,
    primary: watch::Sender<Option<Address>>,
    hearing: Arc<Hearing>,
}

#[derive(Clone, Debug)]
struct Answer {
    epoch: u64,
    primary: Address,
    /// How many other sentinels it knows.
    others: usize,
    /// When it was asked.
    at: Instant,
}

/// One of them.
struct Sentinel {
    number: usize,
    poll: Arc<Poll>,
}

impl Sentinels {
    pub(super) fn follow(
        addresses: &[Address],
        service: &str,
        connector: &Connector,
        heartbeat: Duration,
        hearing: Arc<Hearing>,
    ) -> Self {
        hearing.follow_sentinels();
        let poll = Arc::new(Poll {
            service: service.to_owned(),
            answers: Mutex::new(vec![None; addresses.len()]),
            primary: watch::Sender::new(None),
            hearing,
        });
        let lane = |(number, address): (usize, &Address)| {
            let (sender, receiver) = watch::channel(Some(address.clone()));
            let name = format!("sentinel {address}").into();
            let endpoint = Endpoint { name, connector: connector.clone(), address: receiver, heartbeat };
            (Lane::keep(endpoint, Arc::new(Sentinel { number, poll: Arc::clone(&poll) })), sender)
        };
        Self { lanes: addresses.iter().enumerate().map(lane).collect(), poll }
    }

    /// Where the primary is, as it changes.
    pub(super) fn primary(&self) -> watch::Receiver<Option<Address>> {
        self.poll.primary.subscribe()
    }

    /// What they are, and what should be mended.
    ///
    /// # Errors
    /// Why none of them names a primary.
    pub(super) fn describe(&self) -> Result<(String, Vec<String>), StoreError> {
        let errors: Vec<_> = self.lanes.iter().filter_map(|(lane, _)| lane.connection().err()).collect();
        let Some(primary) = self.poll.primary.borrow().clone() else {
            // What somebody has to mend tells more than what may pass.
            let error = errors.into_iter().max_by_key(|error| matches!(error, StoreError::Refused { .. }));
            return Err(
                error.unwrap_or_else(|| outage(&self.poll.service.as_str().into(), "no sentinel has answered yet"))
            );
        };
        let (all, up) = (self.lanes.len(), self.lanes.len() - errors.len());
        let mut warnings: Vec<_> =
            errors.iter().map(|error| format!("{}; start it, or take it out of the url", with_causes(error))).collect();
        let known =
            self.poll.lock().iter().flatten().map(|answer| answer.others.saturating_add(1)).max().unwrap_or_default();
        if known > all {
            warnings.push(format!(
                "there are {known} sentinels for `{}`, and the url names {all}; name them all, for what counts is what most of them say",
                self.poll.service
            ));
        }
        Ok((format!(", now {primary}, primary of `{}` by {up} of {all} sentinels", self.poll.service), warnings))
    }

    pub(super) fn close(&self) {
        self.lanes.iter().for_each(|(lane, _)| lane.close());
    }
}

impl Poll {
    /// All under one lock, so that answers that come at once are taken in one after the other.
    fn take(&self, number: usize, answer: Answer) {
        let mut answers = self.lock();
        answers[number] = Some(answer);
        let Some(latest) = answers.iter().flatten().max_by_key(|answer| (answer.epoch, answer.at)) else { return };
        self.primary.send_if_modified(|primary| {
            let moved = primary.as_ref() != Some(&latest.primary);
            if moved {
                tracing::info!(service = self.service, store.address = %latest.primary, "sentinels name the primary");
                // What another one says has no weight any more.
                self.hearing.follow([latest.primary.clone()]);
                *primary = Some(latest.primary.clone());
            }
            moved
        });
        let mut times: Vec<_> = answers.iter().flatten().map(|answer| answer.at).collect();
        times.sort_unstable_by(|one, other| other.cmp(one));
        if let Some(at) = times.get(answers.len() / 2) {
            self.hearing.sentinels_heard(*at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Answer>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sentinel {
    async fn ask(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let at = Instant::now();
        let service = &self.poll.service;
        let mut question = ::redis::pipe();
        // The first tells of a failover as soon as the new primary is one; the second, with the epoch, when all is done.
        question.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        question.cmd("SENTINEL").arg("MASTER").arg(service);
        let (place, fields): (Option<(String, u16)>, HashMap<String, String>) =
            question.query_async(connection).await?;
        let answer = place.and_then(|place| Answer::read(place, &fields, at)).ok_or_else(|| {
            RedisError::from((::redis::ErrorKind::UnexpectedReturnType, "the sentinel's answer is of another form"))
        })?;
        self.poll.take(self.number, answer);
        Ok(())
    }
}

impl Answer {
    fn read((host, port): (String, u16), fields: &HashMap<String, String>, at: Instant) -> Option<Self> {
        let number = |name: &str| fields.get(name)?.parse::<u64>().ok();
        Some(Self {
            epoch: number("config-epoch")?,
            primary: Address::Tcp(host.into(), port),
            others: usize::try_from(number("num-other-sentinels")?).unwrap_or(usize::MAX),
            at,
        })
    }
}

#[async_trait]
impl Purpose for Sentinel {
    async fn prepare(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.ask(connection).await
    }

    async fn beat(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        self.ask(connection).await.map(|()| true)
    }
}
