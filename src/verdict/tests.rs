//! The rule book against a plain model, and its edges by name.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    clock::{Moment, Timestamp},
    marker::{Block, Logout, MarkerClock, Reading},
    session::{SessionLimits, SessionRecord},
    token::{
        TokenFault,
        claims::{Claims, Scopes, Subject},
    },
};

/// All times of a property lie within some seconds of this one, so that edges meet often.
const BASE: i64 = 1_700_000_000_000;

fn settings(outage: OutagePolicy, required_scopes: &[&str]) -> Settings {
    Settings {
        clock_skew: Duration::from_secs(1),
        max_token_lifetime: Duration::from_secs(10),
        outage,
        required_scopes: required_scopes.iter().map(|scope| Box::from(*scope)).collect(),
    }
}

fn claims() -> Claims {
    Claims {
        subject: Subject { issuer: "acme".try_into().unwrap(), id: "alice".try_into().unwrap() },
        session: Some("sid".try_into().unwrap()),
        client: Some("app".try_into().unwrap()),
        token_id: Some("jti".try_into().unwrap()),
        issued_at: Moment::whole_second(BASE / 1000),
        expires_at: Timestamp::from_millis(BASE + 9000),
        not_before: None,
        session_start: None,
        session_expiry: None,
        last_logout: None,
        scopes: Scopes::from_iter(["read"]),
    }
}

fn judge(claims: &Claims, known: &Known, now: Timestamp) -> Verdict {
    decide(&Case {
        presented: Presented::Verified(claims),
        knowledge: Knowledge::Current(known),
        lifetime: Lifetime::Unlimited,
        settings: &settings(OutagePolicy::Reject, &[]),
        now,
    })
}

fn logged_out(at: i64, clock: MarkerClock) -> Known {
    Known { logout: Reading::Present(Logout { at: Timestamp::from_millis(at), clock }), ..Known::default() }
}

/// What a moment is drawn as: whole seconds or milliseconds.
#[derive(Clone, Copy, Debug)]
enum Drawn {
    Second(i64),
    Exact(i64),
}

impl Drawn {
    fn moment(self) -> Moment {
        match self {
            Self::Second(second) => Moment::whole_second(second),
            Self::Exact(millis) => Moment::exact(Timestamp::from_millis(millis)),
        }
    }

    /// Every millisecond it may stand for.
    fn possible(self) -> std::ops::RangeInclusive<i64> {
        match self {
            Self::Second(second) => second * 1000..=second * 1000 + 999,
            Self::Exact(millis) => millis..=millis,
        }
    }
}

fn millis() -> impl Strategy<Value = i64> {
    (-6000..6000_i64).prop_map(|offset| BASE + offset)
}

fn drawn() -> impl Strategy<Value = Drawn> {
    prop_oneof![
        (-6..6_i64).prop_map(|second| Drawn::Second(BASE / 1000 + second)),
        millis().prop_map(Drawn::Exact),
        // On the edge of a second, where mistakes live.
        (-6..6_i64, -1..=1_i64).prop_map(|(second, off)| Drawn::Exact(BASE + second * 1000 + off)),
    ]
}

fn reading<T: Clone + std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Reading<T>> {
    prop_oneof![6 => Just(Reading::Absent), 3 => of.prop_map(Reading::Present), 1 => Just(Reading::Unreadable)]
}

#[derive(Clone, Debug)]
struct World {
    iat: Drawn,
    start: Option<Drawn>,
    claim: Option<Drawn>,
    exp: i64,
    nbf: Option<i64>,
    known: Known,
    stale: bool,
    outage: OutagePolicy,
    lacks_scope: bool,
    now: i64,
    lifetime: Option<DrawnLifetime>,
    expiry: Option<i64>,
}

#[derive(Clone, Debug)]
struct DrawnLifetime {
    idle: Option<i64>,
    absolute: Option<i64>,
    record: Option<DrawnRecord>,
}

#[derive(Clone, Copy, Debug)]
struct DrawnRecord {
    started: i64,
    here: Option<i64>,
    elsewhere: Option<i64>,
}

impl World {
    fn lifetime(&self) -> Lifetime {
        let Some(drawn) = &self.lifetime else { return Lifetime::Unlimited };
        let limit = |limit: Option<i64>| limit.map(|millis| Duration::from_millis(millis.unsigned_abs()));
        let limits = SessionLimits { idle: limit(drawn.idle), absolute: limit(drawn.absolute) };
        drawn.record.map_or(Lifetime::Unknown { limits }, |record| Lifetime::Limited {
            limits,
            record: SessionRecord {
                started: Timestamp::from_millis(record.started),
                active_here: record.here.map(Timestamp::from_millis),
                active_elsewhere: record.elsewhere.map(Timestamp::from_millis),
            },
        })
    }
}

fn lifetime() -> impl Strategy<Value = DrawnLifetime> {
    let limit = || prop::option::weighted(0.8, 1..6000_i64);
    let record = (millis(), prop::option::of(millis()), prop::option::of(millis()));
    let record = record.prop_map(|(started, here, elsewhere)| DrawnRecord { started, here, elsewhere });
    (limit(), limit(), prop::option::weighted(0.8, record)).prop_map(|(idle, absolute, record)| DrawnLifetime {
        idle,
        absolute,
        record,
    })
}

fn world() -> impl Strategy<Value = World> {
    let time = || millis().prop_map(Timestamp::from_millis);
    let clock = || prop_oneof![Just(MarkerClock::Issuer), Just(MarkerClock::Gateway)];
    let logout = reading((time(), clock()).prop_map(|(at, clock)| Logout { at, clock }));
    let block = reading((any::<bool>(), time(), prop::option::of(time())).prop_map(|(blocked, at, until)| Block {
        blocked,
        at,
        until,
    }));
    let known = (logout, block, reading(time()), reading(time()), reading(time()), reading(time())).prop_map(
        |(logout, block, session_end, token_revoked, client_not_before, issuer_not_before)| Known {
            logout,
            block,
            session_end,
            token_revoked,
            client_not_before,
            issuer_not_before,
        },
    );
    let token = (drawn(), prop::option::of(drawn()), prop::option::of(drawn()), millis(), prop::option::of(millis()));
    let rest = (
        prop::bool::weighted(0.2),
        prop_oneof![Just(OutagePolicy::Reject), Just(OutagePolicy::Allow)],
        prop::bool::weighted(0.2),
        millis(),
        (prop::option::of(lifetime()), prop::option::weighted(0.2, millis())),
    );
    (token, known, rest).prop_map(
        |((iat, start, claim, exp, nbf), known, (stale, outage, lacks_scope, now, (lifetime, expiry)))| World {
            lifetime,
            expiry,
            iat,
            start,
            claim,
            exp: exp + 6000,
            nbf,
            known,
            stale,
            outage,
            lacks_scope,
            now,
        },
    )
}

/// The contract once more, in plain words: sets of possible milliseconds instead of earliest and latest.
fn model(world: &World) -> &'static str {
    const SKEW: i64 = 1000;
    let World { now, .. } = *world;
    if now >= world.exp + SKEW {
        return "token_expired";
    }
    if world.nbf.is_some_and(|nbf| now < nbf - SKEW) || world.iat.possible().all(|iat| iat > now + SKEW) {
        return "invalid_token";
    }
    if world.iat.possible().any(|iat| world.exp - iat > 10_000) {
        return "token_lifetime";
    }
    if world.stale && world.outage == OutagePolicy::Reject {
        return "stale";
    }
    let covered = |reading: Reading<Timestamp>| match reading {
        Reading::Absent => false,
        Reading::Unreadable => true,
        Reading::Present(at) => world.iat.possible().any(|iat| iat <= at.as_millis()),
    };
    if covered(world.known.issuer_not_before) || covered(world.known.client_not_before) {
        return "revoked";
    }
    let blocked = match world.known.block {
        Reading::Absent => false,
        Reading::Unreadable => true,
        Reading::Present(block) => block.blocked && block.until.is_none_or(|until| now < until.as_millis()),
    };
    if blocked {
        return "user_blocked";
    }
    let over = match world.known.logout {
        Reading::Absent => false,
        Reading::Unreadable => true,
        Reading::Present(Logout { at, clock }) => {
            let at = at.as_millis();
            let skew = if clock == MarkerClock::Issuer { 0 } else { SKEW };
            let provably_before = world.start.is_some_and(|start| start.possible().all(|start| start <= at));
            let knew = world.claim.is_some_and(|claim| claim.possible().all(|claim| claim >= at));
            let may_be_before = world.start.unwrap_or(world.iat).possible().any(|time| time <= at + skew);
            provably_before || (!knew && may_be_before)
        }
    };
    if over {
        return "logged_out";
    }
    if world.known.session_end != Reading::Absent {
        return "session_ended";
    }
    if world.known.token_revoked != Reading::Absent {
        return "revoked";
    }
    if let Some(drawn) = &world.lifetime {
        if drawn.record.is_none() && world.outage == OutagePolicy::Reject {
            return "stale";
        }
        let seen = drawn.record.map(|record| record.started);
        let start = world.start.map(|start| *start.possible().start()).or(seen);
        let ended = start.zip(drawn.absolute).is_some_and(|(start, absolute)| now - start >= absolute);
        if ended || world.expiry.is_some_and(|expiry| now >= expiry) {
            return "reauthentication_required";
        }
        if let (Some(record), Some(idle)) = (drawn.record, drawn.idle) {
            let here = record.here.is_none_or(|here| now - here >= idle);
            let elsewhere = record.elsewhere.is_none_or(|elsewhere| now - elsewhere >= idle + SKEW);
            if here && elsewhere && (record.here.is_some() || record.elsewhere.is_some()) {
                return "idle_timeout";
            }
        }
    } else if world.expiry.is_some_and(|expiry| now >= expiry) {
        return "reauthentication_required";
    }
    if world.lacks_scope { "insufficient_scope" } else { "admit" }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_rule_book_is_the_contract(world in world()) {
        let claims = Claims {
            issued_at: world.iat.moment(),
            expires_at: Timestamp::from_millis(world.exp),
            not_before: world.nbf.map(Timestamp::from_millis),
            session_start: world.start.map(Drawn::moment),
            last_logout: world.claim.map(Drawn::moment),
            session_expiry: world.expiry.map(Timestamp::from_millis),
            ..claims()
        };
        let settings = settings(world.outage, if world.lacks_scope { &["read", "write"] } else { &["read"] });
        let case = Case {
            presented: Presented::Verified(&claims),
            knowledge: if world.stale { Knowledge::Stale(&world.known) } else { Knowledge::Current(&world.known) },
            lifetime: world.lifetime(),
            settings: &settings,
            now: Timestamp::from_millis(world.now),
        };
        let verdict = match decide(&case) {
            Verdict::Admit => "admit",
            Verdict::Refuse(reason) => reason.code(),
        };
        prop_assert_eq!(verdict, model(&world));
        let last = explain(&case).pop().and_then(|step| step.refuses);
        prop_assert_eq!(last.unwrap_or("admit"), verdict, "an explanation ends where the verdict does");
    }

    #[test]
    fn a_block_refuses_whatever_the_token_says(iat in drawn(), start in prop::option::of(drawn()), claim in prop::option::of(drawn())) {
        let block = Block { blocked: true, at: Timestamp::from_millis(BASE), until: None };
        let known = Known { block: Reading::Present(block), ..Known::default() };
        let claims = Claims {
            issued_at: iat.moment(),
            expires_at: Timestamp::from_millis(*iat.possible().start() + 10_000),
            session_start: start.map(Drawn::moment),
            last_logout: claim.map(Drawn::moment),
            ..claims()
        };
        let now = Timestamp::from_millis(*iat.possible().end());
        prop_assert_eq!(judge(&claims, &known, now), Verdict::Refuse(Reason::UserBlocked));
    }
}

#[test]
fn what_is_no_verified_token_is_refused_by_what_it_is() {
    let settings = settings(OutagePolicy::Allow, &[]);
    let known = Known::default();
    for (presented, reason) in [
        (Presented::Nothing, Reason::MissingToken),
        (Presented::Malformed, Reason::InvalidRequest),
        (Presented::Unverified(TokenFault::Signature), Reason::InvalidToken),
        (Presented::KeysUnavailable, Reason::KeysUnavailable),
    ] {
        for knowledge in [Knowledge::Current(&known), Knowledge::Stale(&known)] {
            let case = Case {
                presented,
                knowledge,
                lifetime: Lifetime::Unlimited,
                settings: &settings,
                now: Timestamp::from_millis(BASE),
            };
            assert_eq!(decide(&case), Verdict::Refuse(reason), "{presented:?}");
        }
    }
}

#[test]
fn expiry_is_at_its_edge_and_not_before() {
    let claims = claims();
    let edge = BASE + 9000 + 1000;
    assert_eq!(judge(&claims, &Known::default(), Timestamp::from_millis(edge - 1)), Verdict::Admit);
    assert_eq!(judge(&claims, &Known::default(), Timestamp::from_millis(edge)), Verdict::Refuse(Reason::TokenExpired));
}

/// The logout is at 10.300 s after the base; `iat` is in whole seconds unless it has a fraction.
#[test]
fn second_boundaries_of_iat_claim_start_and_skew() {
    type Edge = (&'static str, MarkerClock, Drawn, Option<Drawn>, Option<Drawn>, bool);
    use MarkerClock::{Gateway, Issuer};
    let second = |n: i64| Drawn::Second(BASE / 1000 + n);
    let exact = |millis: i64| Drawn::Exact(BASE + millis);
    let cases: &[Edge] = &[
        // name, clock, iat, session start, claim, admitted
        ("the second before", Issuer, second(9), None, None, false),
        ("the same second is doubted", Issuer, second(10), None, None, false),
        ("the next second", Issuer, second(11), None, None, true),
        ("one millisecond after, exactly", Issuer, exact(10_301), None, None, true),
        ("the very millisecond", Issuer, exact(10_300), None, None, false),
        ("within the skew of a gateway's clock", Gateway, second(11), None, None, false),
        ("after the skew of a gateway's clock", Gateway, second(12), None, None, true),
        ("at the skew, exactly", Gateway, exact(11_300), None, None, false),
        ("past the skew, exactly", Gateway, exact(11_301), None, None, true),
        ("the same second, and the issuer knew", Gateway, second(10), None, Some(exact(10_300)), true),
        ("an older claim does not refuse by itself", Gateway, second(12), None, Some(exact(10_299)), true),
        ("an older claim does not help", Gateway, second(11), None, Some(exact(10_299)), false),
        ("a claim in whole seconds may be older", Gateway, second(10), None, Some(second(10)), false),
        ("a claim of the next second is not", Gateway, second(10), None, Some(second(11)), true),
        ("a claim older than the token's own second", Gateway, second(9), None, Some(exact(10_300)), true),
        (
            "a refresh after the logout of an older session",
            Gateway,
            second(15),
            Some(second(9)),
            Some(exact(10_300)),
            false,
        ),
        ("a start in the same second is no proof", Gateway, second(15), Some(second(10)), Some(exact(10_300)), true),
        ("a start in the same second is doubted", Gateway, second(15), Some(second(10)), None, false),
        (
            "a start at the very millisecond is proof",
            Gateway,
            second(15),
            Some(exact(10_300)),
            Some(exact(10_300)),
            false,
        ),
        ("a start one millisecond later is none", Gateway, second(15), Some(exact(10_301)), Some(exact(10_300)), true),
        ("a start after the skew", Gateway, second(15), Some(second(12)), None, true),
        ("a start counts, not `iat`", Issuer, second(9), Some(second(11)), None, true),
    ];
    for (name, clock, iat, start, claim, admitted) in cases {
        let claims = Claims {
            issued_at: iat.moment(),
            expires_at: Timestamp::from_millis(iat.possible().start() + 9000),
            session_start: start.map(Drawn::moment),
            last_logout: claim.map(Drawn::moment),
            ..claims()
        };
        let verdict = judge(&claims, &logged_out(BASE + 10_300, *clock), Timestamp::from_millis(BASE + 16_000));
        let expected = if *admitted { Verdict::Admit } else { Verdict::Refuse(Reason::LoggedOut) };
        assert_eq!(verdict, expected, "{name}");
    }
}

#[test]
fn every_reason_is_listed_once() {
    let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), Reason::ALL.len());
}
