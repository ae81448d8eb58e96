//! From a request's header to a decision: the effects around the pure verdict.

use std::{pin::Pin, sync::Arc};

use http::HeaderMap;
use prometheus_client::registry::Registry;

use super::{
    policy::{Authentication, Mode, Policy},
    tokens::{KnownToken, TokenCache},
    verdicts::VerdictMetrics,
};
use crate::{
    activity::Recorder,
    clock::{Clock, Timestamp},
    credential::Credential,
    marker::{Known, ledger::Ledger},
    session::Lifetime,
    token::{
        TokenFault,
        claims::IssuerName,
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
    /// Tells the time.
    pub clock: Clock,
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
    /// Whether markers may have been missed.
    pub stale: bool,
    /// Whether the request goes on.
    pub passes: bool,
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
    }

    /// Lets caches tidy up and brings gauges up to date. Called before metrics are read, and now and then.
    pub async fn maintain(&self) {
        self.0.tokens.maintain();
        self.0.ledger.cache().maintain().await;
        self.0.recorder.measure();
    }

    /// Judges a request by its header. An admitted subject is recorded as active.
    #[must_use]
    pub fn judge(&self, policy: &Arc<Policy>, fields: &HeaderMap) -> Judgement {
        if policy.authentication == Authentication::None {
            return Judgement::Decided(Decision::unasked());
        }
        match policy.sources.find(fields) {
            Credential::Absent if policy.authentication == Authentication::Optional => {
                Judgement::Decided(Decision::unasked())
            }
            Credential::Absent => Judgement::Decided(self.without_token(policy, Presented::Nothing)),
            Credential::Malformed => Judgement::Decided(self.without_token(policy, Presented::Malformed)),
            Credential::Bearer { token, only, .. } => self.judge_token(policy, token, only),
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
                let markers = self.0.ledger.learn(&known.marks).await;
                let stale = markers.is_none();
                let markers = match markers {
                    Some(markers) => markers,
                    None => self.0.ledger.cache().cached(&known.marks).await,
                };
                let knowledge = if stale { Knowledge::Stale(&markers) } else { Knowledge::Current(&markers) };
                let case = self.case(policy, Presented::Verified(&known.token.claims), knowledge);
                let decision = Decision::new(policy, verdict::decide(&case), true);
                let steps = verdict::explain(&case);
                (Decision { token: Some(known), stale, ..decision }, steps)
            }
            Err(unverified) => {
                let case = self.case(policy, unverified.presented(), Knowledge::Current(&NOTHING));
                let decision = Decision::new(policy, verdict::decide(&case), unverified.is_signed());
                (Decision { fault: unverified.fault(), ..decision }, verdict::explain(&case))
            }
        }
    }

    fn judge_token(&self, policy: &Arc<Policy>, token: &str, only: Option<&IssuerName>) -> Judgement {
        let known = match self.know(token) {
            Ok(known) => known,
            Err(Unverified::Fault(fault)) => {
                return Judgement::Decided(self.unverified(policy, &Unverified::Fault(fault)));
            }
            Err(_) => return self.judge_later(policy, token, only, None),
        };
        if let Err(unverified) = check_place(policy, only, &known) {
            return Judgement::Decided(self.unverified(policy, &unverified));
        }
        match self.0.ledger.recall(&known.marks) {
            Some(markers) => Judgement::Decided(self.decide(policy, token, known, Knowledge::Current(&markers))),
            None => self.judge_later(policy, token, only, Some(known)),
        }
    }

    fn judge_later(
        &self,
        policy: &Arc<Policy>,
        token: &str,
        only: Option<&IssuerName>,
        known: Option<Arc<KnownToken>>,
    ) -> Judgement {
        let (judge, policy, token, only) = (self.clone(), Arc::clone(policy), Box::<str>::from(token), only.cloned());
        Judgement::Pending(Box::pin(async move {
            let known = match known {
                Some(known) => known,
                None => match judge.fetch(&token).await {
                    Ok(known) => known,
                    Err(unverified) => return judge.unverified(&policy, &unverified),
                },
            };
            if let Err(unverified) = check_place(&policy, only.as_ref(), &known) {
                return judge.unverified(&policy, &unverified);
            }
            if let Some(markers) = judge.0.ledger.learn(&known.marks).await {
                judge.decide(&policy, &token, known, Knowledge::Current(&markers))
            } else {
                let markers = judge.0.ledger.cache().cached(&known.marks).await;
                judge.decide(&policy, &token, known, Knowledge::Stale(&markers))
            }
        }))
    }

    /// The verified token, from the cache or by verifying it with the keys at hand.
    fn know(&self, token: &str) -> Result<Arc<KnownToken>, Unverified> {
        if let Some(known) = self.0.tokens.get(token) {
            return Ok(known);
        }
        self.0.verifier.verify(token).map(|verified| self.keep(token, verified))
    }

    /// The verified token, after asking its issuer for keys.
    async fn fetch(&self, token: &str) -> Result<Arc<KnownToken>, Unverified> {
        self.0.verifier.verify_or_refetch(token).await.map(|verified| self.keep(token, verified))
    }

    fn keep(&self, token: &str, mut verified: VerifiedToken) -> Arc<KnownToken> {
        if let Some(observer) = &self.0.observer {
            observer.verified(&verified, self.0.clock.now());
            // They are of no more use, and there may be many tokens.
            (verified.email, verified.phone) = (None, None);
        }
        let marks = self.0.ledger.cache().marks(&verified.claims);
        let known = Arc::new(KnownToken { token: verified, marks, trace: crate::activity::Trace::default() });
        self.0.tokens.insert(token, &known);
        known
    }

    fn decide(&self, policy: &Policy, token: &str, known: Arc<KnownToken>, knowledge: Knowledge<'_>) -> Decision {
        let claims = &known.token.claims;
        let case = self.case(policy, Presented::Verified(claims), knowledge);
        let verdict = verdict::decide(&case);
        match verdict {
            Verdict::Admit => self.0.recorder.touch(&known.trace, &claims.subject, case.now),
            Verdict::Refuse(Reason::TokenExpired | Reason::TokenLifetime) => self.0.tokens.remove(token),
            Verdict::Refuse(_) => {}
        }
        let stale = matches!(knowledge, Knowledge::Stale(_));
        Decision { stale, token: Some(known), ..Decision::new(policy, verdict, true) }
    }

    fn unverified(&self, policy: &Policy, unverified: &Unverified) -> Decision {
        let signed = unverified.is_signed();
        let fault = unverified.fault();
        let case = self.case(policy, unverified.presented(), Knowledge::Current(&NOTHING));
        Decision { fault, ..Decision::new(policy, verdict::decide(&case), signed) }
    }

    fn without_token(&self, policy: &Policy, presented: Presented<'_>) -> Decision {
        let case = self.case(policy, presented, Knowledge::Current(&NOTHING));
        Decision::new(policy, verdict::decide(&case), false)
    }

    fn case<'a>(&self, policy: &'a Policy, presented: Presented<'a>, knowledge: Knowledge<'a>) -> Case<'a> {
        let now: Timestamp = self.0.clock.now();
        Case { presented, knowledge, lifetime: Lifetime::Unlimited, settings: &policy.settings, now }
    }
}

/// Nothing is known against a token that is not known itself.
static NOTHING: Known = Known::NOTHING;

/// Whether the route takes tokens of this issuer, from this place.
fn check_place(policy: &Policy, only: Option<&IssuerName>, known: &KnownToken) -> Result<(), Unverified> {
    let issuer = &known.token.claims.subject.issuer;
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
    const fn unasked() -> Self {
        Self { verdict: None, token: None, fault: None, stale: false, passes: true }
    }

    /// In `observe` mode everything with a valid signature passes.
    fn new(policy: &Policy, verdict: Verdict, signed: bool) -> Self {
        let passes = verdict == Verdict::Admit || (policy.mode == Mode::Observe && signed);
        Self { verdict: Some(verdict), token: None, fault: None, stale: false, passes }
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
