//! From a request's header to a decision: the effects around the pure verdict.

use std::{pin::Pin, sync::Arc};

use http::HeaderMap;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, timeout_at};

use super::{
    policy::{Authentication, Mode, Policy},
    tokens::{KnownToken, TokenCache, TokenDigest},
    verdicts::VerdictMetrics,
};
use crate::{
    activity::Recorder,
    clock::{Clock, Timestamp},
    credential::Credential,
    marker::{Known, Marker, MarkerKey, MarkerRecord, Source, ledger::Ledger},
    session::{
        Deadlines, Lifetime, SessionKey,
        register::{Place, SessionRegister},
    },
    stream::Streams,
    telemetry::audit::{self, Actor},
    token::{
        TokenFault,
        claims::{Claims, IssuerName},
        verify::{Unverified, VerifiedToken, Verifier},
    },
    verdict::{self, Case, Knowledge, Presented, Reason, Step, Verdict},
};

/// Everything that is needed to judge. Clones share it.
#[derive(Clone, Debug)]
pub struct Judge(Arc<Parts>);

/// Is told of each token when it is verified, which is once as long as it is remembered.
pub trait TokenObserver: Send + Sync + std::fmt::Debug {
    /// A token was verified; it may have expired. A request waits for this to return.
    fn verified(&self, token: &VerifiedToken, now: Timestamp);
}

/// What a [`Judge`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Verifies tokens.
    pub verifier: Arc<Verifier>,
    /// Remembers verified ones.
    pub tokens: TokenCache,
    /// Knows the markers.
    pub ledger: Ledger,
    /// Records activity.
    pub recorder: Arc<Recorder>,
    /// Knows the sessions.
    pub sessions: Arc<SessionRegister>,
    /// Tells the time.
    pub clock: Clock,
    /// Knows the streams that are open.
    pub streams: Arc<Streams>,
    /// Counts verdicts.
    pub verdicts: VerdictMetrics,
    /// Wants to know of verified tokens.
    pub observer: Option<Arc<dyn TokenObserver>>,
}

/// What a request came to.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The verdict; `None`: the policy did not ask for one.
    pub verdict: Option<Verdict>,
    /// The verified token.
    pub token: Option<Arc<KnownToken>>,
    /// Why the token failed verification, for operators.
    pub fault: Option<TokenFault>,
    /// What is known of the session's time, this request counted.
    pub lifetime: Lifetime,
    /// When it was judged.
    pub at: Timestamp,
    /// Whether markers may have been missed, or the session's activity elsewhere.
    pub stale: bool,
    /// Whether the request goes on.
    pub passes: bool,
    /// Since when there may be something that was not taken into account; `None`: just now.
    pub since: Option<Instant>,
}

/// What an open stream came to.
#[derive(Clone, Copy, Debug)]
pub struct Again {
    /// The verdict.
    pub verdict: Verdict,
    /// Whether markers may have been missed, or the session's activity elsewhere.
    pub stale: bool,
    /// When its time is up as far as is known: before that, only a marker changes the verdict.
    pub look_at: Option<Timestamp>,
    /// The session is over because it was idle until then, which is still to be written down.
    pub idle_at: Option<Timestamp>,
}

/// A decision, now or later.
#[expect(missing_debug_implementations, reason = "a future")]
pub enum Judgement {
    /// Everything was known.
    Decided(Decision),
    /// A key or a marker has to be fetched.
    Pending(Pin<Box<dyn Future<Output = Decision> + Send>>),
}

impl Judge {
    /// A judge made of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// One that goes by another verifier, and shares everything else; verified tokens too, where both read them alike.
    #[must_use]
    pub fn succeed(&self, verifier: Arc<Verifier>) -> Self {
        let Parts { tokens, ledger, recorder, sessions, streams, clock, verdicts, observer, .. } = self.parts();
        let tokens = if verifier.reads_as(&self.0.verifier) { tokens.clone() } else { tokens.anew() };
        Self::new(Parts {
            verifier,
            tokens,
            ledger: ledger.clone(),
            recorder: Arc::clone(recorder),
            sessions: Arc::clone(sessions),
            streams: Arc::clone(streams),
            clock: clock.clone(),
            verdicts: verdicts.clone(),
            observer: observer.clone(),
        })
    }

    /// What it is made of.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.0
    }

    /// Registers the metrics of everything that judging involves.
    pub fn register(&self, registry: &mut Registry) {
        self.0.verdicts.register(registry);
        self.0.tokens.register(registry);
        self.0.ledger.cache().register(registry);
        self.0.ledger.store().register(registry);
        self.0.recorder.register(registry);
        self.0.sessions.register(registry);
        self.0.streams.register(registry);
    }

    /// Lets caches tidy up and brings gauges up to date. Called before metrics are read, and now and then.
    pub async fn maintain(&self) {
        self.0.tokens.maintain();
        self.0.ledger.cache().maintain().await;
        self.0.recorder.measure();
        self.0.sessions.measure();
    }

    /// Judges a request by its header. An admitted subject, and its session, is recorded as active if the request counts as activity.
    #[must_use]
    pub fn judge(&self, policy: &Arc<Policy>, fields: &HeaderMap) -> Judgement {
        if policy.authentication == Authentication::None {
            return Judgement::Decided(self.pass());
        }
        let mut known = None;
        let credential = policy.sources.find_or_recognise(fields, |token| {
            known = self.0.tokens.get(token);
            known.is_some()
        });
        match credential {
            Credential::Absent if policy.authentication == Authentication::Optional => Judgement::Decided(self.pass()),
            Credential::Absent => Judgement::Decided(self.without_token(policy, Presented::Nothing)),
            Credential::Malformed => Judgement::Decided(self.without_token(policy, Presented::Malformed)),
            Credential::Bearer { token, only, .. } => {
                self.judge_token(policy, token, known, only, policy.activity.counts(fields))
            }
        }
    }

    /// Judges a token by itself, and says what each rule says. Records nothing.
    pub async fn explain(&self, policy: &Policy, token: &str) -> (Decision, Vec<Step>) {
        let known = match self.know(token) {
            Ok(known) => Ok(known),
            Err(Unverified::Fault(fault)) => Err(Unverified::Fault(fault)),
            Err(_) => self.fetch(token).await,
        };
        match known.and_then(|known| check_place(policy, None, &known).map(|()| known)) {
            Ok(known) => {
                let markers = self.0.ledger.learn(&known.marks, &known.claims).await;
                let stale = markers.is_none();
                let markers = match markers {
                    Some(markers) => markers,
                    None => self.0.ledger.cache().cached(&known.claims).await,
                };
                let knowledge = if stale { Knowledge::Stale(&markers) } else { Knowledge::Current(&markers) };
                let claims = &known.claims;
                let lifetime = self.0.sessions.look_at(&known.session, claims, &place(policy)).await;
                let case = Case { lifetime, ..self.case(policy, Presented::Verified(claims), knowledge) };
                let decision = Decision::new(policy, &case, true);
                let steps = verdict::explain(&case);
                (Decision { token: Some(Arc::clone(&known)), stale, ..decision }, steps)
            }
            Err(unverified) => {
                let case = self.case(policy, unverified.presented(), Knowledge::Current(&NOTHING));
                let decision = Decision::new(policy, &case, unverified.is_signed());
                (Decision { fault: unverified.fault(), ..decision }, verdict::explain(&case))
            }
        }
    }

    /// Judges an open stream by the token that opened it. It counts as no activity. The store is asked where it has to be, until `deadline`.
    pub async fn judge_again(&self, policy: &Policy, known: &KnownToken, deadline: Instant) -> Again {
        let claims = &known.claims;
        let markers = match self.0.ledger.recall(&known.marks, &known.claims) {
            Some(markers) => Some(markers),
            None => timeout_at(deadline, self.0.ledger.learn(&known.marks, &known.claims)).await.ok().flatten(),
        };
        let (markers, stale) = match markers {
            Some(markers) => (markers, false),
            None => (self.0.ledger.cache().cached(&known.claims).await, true),
        };
        let knowledge = if stale { Knowledge::Stale(&markers) } else { Knowledge::Current(&markers) };
        let case = self.case(policy, Presented::Verified(claims), knowledge);
        let lifetime = if let Some(lifetime) = self.recall_lifetime(policy, known, &case) {
            lifetime
        } else {
            let place = place(policy);
            let learned = self.0.sessions.learn(&known.session, claims, &place);
            timeout_at(deadline, learned).await.unwrap_or_else(|_| SessionRegister::unknown(&known.session, &place))
        };
        let case = Case { lifetime, ..self.case(policy, Presented::Verified(claims), knowledge) };
        let verdict = verdict::decide(&case);
        let is_idle = verdict == Verdict::Refuse(Reason::IdleTimeout) && policy.mode == Mode::Enforce;
        let skew = policy.settings.clock_skew;
        let Deadlines { idle, absolute } = lifetime.deadlines(claims, skew);
        Again {
            verdict,
            stale: stale || matches!(lifetime, Lifetime::Unknown { .. }),
            look_at: idle.into_iter().chain(absolute).chain([claims.expires_at.plus(skew)]).min(),
            idle_at: is_idle.then_some(case.now),
        }
    }

    fn judge_token(
        &self,
        policy: &Arc<Policy>,
        token: &[u8],
        known: Option<Arc<KnownToken>>,
        only: Option<&IssuerName>,
        counts: bool,
    ) -> Judgement {
        let known = if let Some(known) = known {
            known
        } else {
            let Ok(token) = str::from_utf8(token) else {
                return Judgement::Decided(self.without_token(policy, Presented::Malformed));
            };
            match self.verify(token) {
                Ok(known) => known,
                Err(Unverified::Fault(fault)) => {
                    return Judgement::Decided(self.unverified(policy, &Unverified::Fault(fault)));
                }
                Err(_) => return self.judge_later(policy, Err(token), only, counts),
            }
        };
        if let Err(unverified) = check_place(policy, only, &known) {
            return Judgement::Decided(self.unverified(policy, &unverified));
        }
        let Some(markers) = self.0.ledger.recall(&known.marks, &known.claims) else {
            return self.judge_later(policy, Ok(known), only, counts);
        };
        let case = self.case(policy, Presented::Verified(&known.claims), Knowledge::Current(&markers));
        match self.recall_lifetime(policy, &known, &case) {
            Some(lifetime) if !(counts && self.0.sessions.lags(&known.session, case.now)) => {
                Judgement::Decided(self.decide(policy, &known, &Case { lifetime, ..case }, counts))
            }
            _ => self.judge_later(policy, Ok(known), only, counts),
        }
    }

    /// `token`: its text, if its issuer has to be asked for keys.
    fn judge_later(
        &self,
        policy: &Arc<Policy>,
        token: Result<Arc<KnownToken>, &str>,
        only: Option<&IssuerName>,
        counts: bool,
    ) -> Judgement {
        let (judge, policy, only) = (self.clone(), Arc::clone(policy), only.cloned());
        let token = token.map_err(Box::<str>::from);
        Judgement::Pending(Box::pin(async move {
            let known = match token {
                Ok(known) => known,
                Err(token) => match judge.fetch(&token).await {
                    Ok(known) => known,
                    Err(unverified) => return judge.unverified(&policy, &unverified),
                },
            };
            if let Err(unverified) = check_place(&policy, only.as_ref(), &known) {
                return judge.unverified(&policy, &unverified);
            }
            let since = Instant::now();
            let (markers, stale) = match judge.0.ledger.learn(&known.marks, &known.claims).await {
                Some(markers) => (markers, false),
                None => (judge.0.ledger.cache().cached(&known.claims).await, true),
            };
            let knowledge = if stale { Knowledge::Stale(&markers) } else { Knowledge::Current(&markers) };
            let claims = &known.claims;
            let case = judge.case(&policy, Presented::Verified(claims), knowledge);
            let recalled = judge.recall_lifetime(&policy, &known, &case);
            let lifetime = match recalled {
                Some(lifetime) => lifetime,
                None => judge.0.sessions.learn(&known.session, claims, &place(&policy)).await,
            };
            let case = Case { lifetime, ..judge.case(&policy, Presented::Verified(claims), knowledge) };
            let lags = counts && judge.0.sessions.lags(&known.session, case.now);
            let decision = judge.decide(&policy, &known, &case, counts);
            let mut decision = Decision { since: Some(since), ..decision };
            if decision.verdict == Some(Verdict::Admit) && (lags || recalled.is_none()) {
                if lags {
                    judge.0.sessions.record(&known.session).await;
                }
                // The store took its time, and a marker may have come meanwhile. Where it told nothing, it is not asked again.
                if !decision.stale {
                    judge.reconsider(&policy, &known, &mut decision).await;
                }
            }
            if decision.reason() == Some(Reason::IdleTimeout) && policy.mode == Mode::Enforce {
                judge.end(claims, case.now).await;
            }
            decision
        }))
    }

    /// Judges again what was admitted a while ago.
    async fn reconsider(&self, policy: &Policy, known: &KnownToken, decision: &mut Decision) {
        let since = Instant::now();
        let again = self.judge_again(policy, known, since + self.0.streams.grace()).await;
        decision.since = Some(since);
        decision.verdict = Some(again.verdict);
        decision.stale |= again.stale;
        decision.passes = again.verdict == Verdict::Admit || policy.mode == Mode::Observe;
    }

    /// What is known of the session's time, unless the store has to be asked. Of a token that is refused anyway nobody wants to know.
    fn recall_lifetime(&self, policy: &Policy, known: &KnownToken, case: &Case<'_>) -> Option<Lifetime> {
        let recalled = self.0.sessions.recall(&known.session, &known.claims, &place(policy), case.now);
        recalled.or_else(|| match verdict::decide(case) {
            Verdict::Admit | Verdict::Refuse(Reason::InsufficientScope) => None,
            Verdict::Refuse(_) => Some(Lifetime::Unlimited),
        })
    }

    /// A session that was idle for too long is over for good, with every gateway and for every token of it.
    pub(crate) async fn end(&self, claims: &Claims, now: Timestamp) {
        let key = MarkerKey::session(&claims.subject.issuer, &SessionKey::of(claims).id);
        let marker = Marker::SessionEnd(now);
        let reason = Some(Reason::IdleTimeout.code().to_owned());
        let record = MarkerRecord { reason, ..MarkerRecord::new(marker).written_by(Source::Idle) };
        let result = self.0.ledger.write(&key, &record).await;
        let actor = Actor { who: Source::Idle.as_str().to_owned(), from: None, event: None };
        audit::record(&actor, "session_end", &key, &marker, &result);
        // Until it can be written, the session stays idle: what is refused is no activity.
        if let Err(error) = result {
            tracing::error!(error = &error as &dyn std::error::Error, "the end of an idle session could not be stored");
        }
    }

    /// The verified token, from the cache or by verifying it with the keys at hand.
    fn know(&self, token: &str) -> Result<Arc<KnownToken>, Unverified> {
        self.0.tokens.get(token.as_bytes()).map_or_else(|| self.verify(token), Ok)
    }

    /// The verified token, with the keys at hand.
    fn verify(&self, token: &str) -> Result<Arc<KnownToken>, Unverified> {
        self.0.tokens.miss();
        self.0.verifier.verify(token).map(|verified| self.keep(token, verified))
    }

    /// The verified token, after asking its issuer for keys.
    async fn fetch(&self, token: &str) -> Result<Arc<KnownToken>, Unverified> {
        self.0.verifier.verify_or_refetch(token).await.map(|verified| self.keep(token, verified))
    }

    fn keep(&self, token: &str, verified: VerifiedToken) -> Arc<KnownToken> {
        if let Some(observer) = &self.0.observer {
            observer.verified(&verified, self.0.clock.now());
        }
        let marks = self.0.ledger.cache().marks(&verified.claims);
        let session = self.0.sessions.enter(&verified.claims);
        let digest = TokenDigest::of(token.as_bytes());
        let known = Arc::new(KnownToken::new(digest, verified, marks, session));
        self.0.tokens.insert(&known);
        known
    }

    fn decide(&self, policy: &Policy, known: &Arc<KnownToken>, case: &Case<'_>, counts: bool) -> Decision {
        let claims = &known.claims;
        let mut decision = Decision::new(policy, case, true);
        match decision.verdict {
            Some(Verdict::Admit) if counts => {
                self.0.recorder.touch(&known.trace, &claims.subject, case.now);
                self.0.sessions.touch(&known.session, claims, case.now);
                decision.lifetime.touch(case.now);
            }
            Some(Verdict::Refuse(Reason::TokenExpired | Reason::TokenLifetime)) => self.0.tokens.remove(known),
            _ => {}
        }
        decision.stale =
            matches!(case.knowledge, Knowledge::Stale(_)) || matches!(case.lifetime, Lifetime::Unknown { .. });
        decision.token = Some(Arc::clone(known));
        decision
    }

    fn unverified(&self, policy: &Policy, unverified: &Unverified) -> Decision {
        let case = self.case(policy, unverified.presented(), Knowledge::Current(&NOTHING));
        Decision { fault: unverified.fault(), ..Decision::new(policy, &case, unverified.is_signed()) }
    }

    fn without_token(&self, policy: &Policy, presented: Presented<'_>) -> Decision {
        Decision::new(policy, &self.case(policy, presented, Knowledge::Current(&NOTHING)), false)
    }

    /// The decision about a request that is not asked for a token.
    pub(super) fn pass(&self) -> Decision {
        Decision {
            verdict: None,
            token: None,
            fault: None,
            lifetime: Lifetime::Unlimited,
            at: self.0.clock.now(),
            stale: false,
            passes: true,
            since: None,
        }
    }

    fn case<'a>(&self, policy: &'a Policy, presented: Presented<'a>, knowledge: Knowledge<'a>) -> Case<'a> {
        let now = self.0.clock.now();
        Case { presented, knowledge, lifetime: Lifetime::Unlimited, settings: &policy.settings, now }
    }
}

fn place(policy: &Policy) -> Place<'_> {
    Place { route: &policy.name, limits: policy.limits, clock_skew: policy.settings.clock_skew }
}

/// Nothing is known against a token that is not known itself.
static NOTHING: Known = Known::NOTHING;

/// Whether the route takes tokens of this issuer, from this place.
fn check_place(policy: &Policy, only: Option<&IssuerName>, known: &KnownToken) -> Result<(), Unverified> {
    let issuer = &known.claims.subject.issuer;
    if policy.issuers.as_ref().is_some_and(|issuers| !issuers.contains(issuer)) {
        return Err(Unverified::Fault(TokenFault::Issuer));
    }
    if only.is_some_and(|only| only != issuer) {
        return Err(Unverified::Fault(TokenFault::Source));
    }
    Ok(())
}

impl Unverified {
    const fn fault(&self) -> Option<TokenFault> {
        match self {
            Self::Fault(fault) => Some(*fault),
            Self::UnknownKey { .. } => Some(TokenFault::UnknownKey),
            Self::KeysUnavailable => None,
        }
    }

    fn presented(&self) -> Presented<'static> {
        self.fault().map_or(Presented::KeysUnavailable, Presented::Unverified)
    }

    fn is_signed(&self) -> bool {
        self.fault().is_some_and(TokenFault::is_signed)
    }
}

impl Decision {
    /// In `observe` mode everything with a valid signature passes.
    fn new(policy: &Policy, case: &Case<'_>, signed: bool) -> Self {
        let verdict = verdict::decide(case);
        let passes = verdict == Verdict::Admit || (policy.mode == Mode::Observe && signed);
        Self {
            verdict: Some(verdict),
            token: None,
            fault: None,
            lifetime: case.lifetime,
            at: case.now,
            stale: false,
            passes,
            since: None,
        }
    }

    /// Why it is refused, if it is: whether it passes or not.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        match self.verdict {
            Some(Verdict::Refuse(reason)) => Some(reason),
            Some(Verdict::Admit) | None => None,
        }
    }

    /// What it is called in logs and metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self.verdict {
            Some(Verdict::Refuse(reason)) => reason.code(),
            Some(Verdict::Admit) => "admit",
            None => "anonymous",
        }
    }
}
