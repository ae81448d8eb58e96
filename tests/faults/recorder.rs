//! What was acknowledged, what was answered, and whether both agree with the promise.
//!
//! It knows every marker from the moment its write was tried, and every answer with the moment its request was sent. A
//! request that was sent later than a marker's acknowledgement plus `max_staleness` must not be admitted, unless the gateway
//! says that it may be stale and its route allows that; a refusal needs a marker that covers the token; and in the end every
//! acknowledged marker is still stored, and refused by every gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// A token: of whom, and of which of their sessions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Token {
    pub(crate) person: usize,
    pub(crate) session: usize,
}

/// What a marker ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    Session(Token),
    Logout(usize),
    Block(usize),
}

impl Ends {
    pub(crate) fn covers(self, token: Token) -> bool {
        match self {
            Self::Session(ended) => ended == token,
            Self::Logout(person) | Self::Block(person) => person == token.person,
        }
    }

    /// A token that it covers.
    pub(crate) const fn example(self) -> Token {
        match self {
            Self::Session(token) => token,
            Self::Logout(person) | Self::Block(person) => Token { person, session: 0 },
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Session(_) => "session_ended",
            Self::Logout(_) => "logged_out",
            Self::Block(_) => "user_blocked",
        }
    }
}

/// What a request came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// 200; whether the gateway told the upstream that it may be stale.
    Admitted { flagged: bool },
    /// 401 with this code.
    Refused(String),
    /// 503 as the outage policy `reject` has it: `stale`, `Retry-After`, no challenge.
    Stale,
    /// No connection, or it broke, or nothing came for too long: what a gateway that does not run looks like.
    Unanswered,
    /// Anything else.
    Odd(String),
}

/// A request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) gateway: usize,
    pub(crate) token: Token,
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
    pub(crate) outcome: Outcome,
}

/// What is to hold.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) max_staleness: Duration,
    /// The longest that any answer may take.
    pub(crate) patience: Duration,
    /// How many gateways there are.
    pub(crate) gateways: usize,
    /// Those whose routes go on while they are stale.
    pub(crate) allowing: BTreeSet<usize>,
}

/// A broken promise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Violation {
    /// Admitted later than acknowledgement + `max_staleness`, not flagged.
    LateAdmit,
    /// Flagged on a route that is to reject.
    FlaggedAlthoughRejecting,
    /// 503 on a route that is to go on.
    StaleAlthoughAllowing,
    /// 401 without a marker that covers the token.
    FalseRefusal,
    /// An acknowledged marker is no longer stored, or no longer enforced.
    Lost,
    /// An acknowledged marker was not looked for in the end: the test is at fault.
    Unchecked,
    /// An answer took longer than anyone may wait.
    Slow,
    /// No answer from a gateway that ran.
    Unanswered,
    /// An answer that no gateway should give.
    Odd,
}

/// The log.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Log>);

#[derive(Default)]
struct Log {
    marks: Vec<Mark>,
    answers: Vec<Answer>,
    /// How often writes were answered 503 with each code, and how else writes were answered.
    unstored: BTreeMap<String, usize>,
    odd_writes: Vec<String>,
    downtimes: Vec<Downtime>,
    stalls: Vec<Stall>,
}

struct Mark {
    ends: Ends,
    key: String,
    begun: Instant,
    acknowledged: Option<Instant>,
    /// When its removal began and was done.
    removed: Option<(Instant, Instant)>,
    stored: Option<bool>,
    swept: BTreeMap<usize, Outcome>,
}

/// The machine let nobody run for so long, up to that moment.
struct Stall {
    until: Instant,
    lasted: Duration,
}

struct Downtime {
    gateway: usize,
    from: Instant,
    until: Option<Instant>,
}

impl Downtime {
    fn overlaps(&self, answer: &Answer) -> bool {
        self.gateway == answer.gateway
            && self.from <= answer.answered
            && self.until.is_none_or(|until| answer.sent <= until)
    }
}

/// A marker in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MarkId(usize);

/// An acknowledged marker that nobody took back.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) id: MarkId,
    pub(crate) ends: Ends,
    pub(crate) key: String,
}

impl Recorder {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    /// The write of a marker begins: from now on it may be enforced.
    pub(crate) fn attempted(&self, ends: Ends, key: impl Into<String>, at: Instant) -> MarkId {
        let mut log = self.log();
        let (stored, swept) = (None, BTreeMap::new());
        log.marks.push(Mark { ends, key: key.into(), begun: at, acknowledged: None, removed: None, stored, swept });
        MarkId(log.marks.len() - 1)
    }

    pub(crate) fn acknowledged(&self, mark: MarkId, at: Instant) {
        self.log().marks[mark.0].acknowledged = Some(at);
    }

    /// A write was answered 503 with this code.
    pub(crate) fn not_stored(&self, code: String) {
        *self.log().unstored.entry(code).or_default() += 1;
    }

    /// A write was answered as none should be.
    pub(crate) fn odd_write(&self, answer: String) {
        self.log().odd_writes.push(answer);
    }

    /// All markers whose writes began before were removed on purpose.
    pub(crate) fn removed_all(&self, begun: Instant, done: Instant) {
        for mark in self.log().marks.iter_mut().filter(|mark| mark.removed.is_none() && mark.begun < done) {
            mark.removed = Some((begun, done));
            // A write under way may have come before or after.
            if mark.acknowledged.is_none_or(|at| at > begun) {
                mark.removed = Some((begun, done + Duration::from_secs(3600)));
            }
        }
    }

    /// A marker that was acknowledged is taken back between these moments.
    pub(crate) fn removed(&self, mark: MarkId, begun: Instant, done: Instant) {
        self.log().marks[mark.0].removed = Some((begun, done));
    }

    pub(crate) fn answered(&self, answer: Answer) {
        self.log().answers.push(answer);
    }

    /// This machine has just let nobody run for so long.
    pub(crate) fn stalled(&self, until: Instant, lasted: Duration) {
        self.log().stalls.push(Stall { until, lasted });
    }

    /// For how long, all in all, the machine let nobody run since then.
    pub(crate) fn stalled_since(&self, from: Instant) -> Duration {
        self.log().stalled(from, Instant::now())
    }

    /// The gateway is being ended on purpose.
    pub(crate) fn goes_down(&self, gateway: usize, from: Instant) {
        self.log().downtimes.push(Downtime { gateway, from, until: None });
    }

    /// It listens again.
    pub(crate) fn is_up(&self, gateway: usize, at: Instant) {
        let mut log = self.log();
        let last = log.downtimes.iter_mut().rev().find(|downtime| downtime.gateway == gateway);
        last.expect("it was down").until = Some(at);
    }

    /// The markers that must be enforced in the end.
    pub(crate) fn standing(&self) -> Vec<Standing> {
        let log = self.log();
        let marks = log.marks.iter().enumerate();
        let standing = marks.filter(|(_, mark)| mark.acknowledged.is_some() && mark.removed.is_none());
        standing.map(|(id, mark)| Standing { id: MarkId(id), ends: mark.ends, key: mark.key.clone() }).collect()
    }

    /// Whether the store holds the marker in the end.
    pub(crate) fn found(&self, mark: MarkId, stored: bool) {
        self.log().marks[mark.0].stored = Some(stored);
    }

    /// What a gateway says in the end to a token that the marker covers.
    pub(crate) fn swept(&self, mark: MarkId, gateway: usize, outcome: Outcome) {
        self.log().marks[mark.0].swept.insert(gateway, outcome);
    }

    /// How many markers were acknowledged so far.
    pub(crate) fn acknowledgements(&self) -> usize {
        self.log().marks.iter().filter(|mark| mark.acknowledged.is_some()).count()
    }

    /// The share of answers of a gateway since a moment that were of this kind.
    pub(crate) fn since(&self, from: Instant, gateway: usize, kind: impl Fn(&Outcome) -> bool) -> usize {
        let log = self.log();
        let late = log.answers.iter().rev().take_while(|answer| answer.answered >= from);
        late.filter(|answer| answer.gateway == gateway && answer.sent >= from && kind(&answer.outcome)).count()
    }

    /// Compares answers with markers.
    pub(crate) fn check(&self, promise: &Promise) -> Report {
        let log = self.log();
        let mut report = Report::default();
        for answer in &log.answers {
            log.check_answer(promise, answer, &mut report);
        }
        for mark in &log.marks {
            mark.check(promise, &mut report);
        }
        for odd in &log.odd_writes {
            report.violated(Violation::Odd, format!("a write was answered {odd}"));
        }
        report.unstored.clone_from(&log.unstored);
        report.count(&log);
        report
    }
}

impl Log {
    fn stalled(&self, from: Instant, until: Instant) -> Duration {
        let within = self.stalls.iter().filter(|stall| stall.until >= from && stall.until <= until + stall.lasted);
        within.map(|stall| stall.lasted).sum()
    }

    fn check_answer(&self, promise: &Promise, answer: &Answer, report: &mut Report) {
        let bound = promise.max_staleness;
        let covering = self.marks.iter().filter(|mark| mark.ends.covers(answer.token));
        let allows = promise.allowing.contains(&answer.gateway);
        let took = answer.answered - answer.sent;
        let away = self.downtimes.iter().any(|downtime| downtime.overlaps(answer));
        // What is slow because of the machine is nobody's fault; a late admit is one all the same.
        if took > promise.patience && !away && took > promise.patience + 2 * self.stalled(answer.sent, answer.answered)
        {
            report.violated(Violation::Slow, format!("{answer} took {took:?}"));
        }
        match &answer.outcome {
            Outcome::Admitted { flagged: true } if allows => {}
            Outcome::Admitted { flagged } => {
                if *flagged {
                    report.violated(Violation::FlaggedAlthoughRejecting, format!("{answer}"));
                }
                for mark in covering {
                    // Whoever takes a marker back may see both.
                    let stands = mark.removed.is_none_or(|(begun, _)| begun > answer.answered);
                    let Some(at) = mark.acknowledged.filter(|_| stands) else { continue };
                    let late = answer.sent.saturating_duration_since(at);
                    report.latest_admit = report.latest_admit.max(late);
                    if late > bound {
                        let text = format!("{answer}, {late:?} after {:?} was acknowledged", mark.ends);
                        report.violated(Violation::LateAdmit, text);
                    }
                }
            }
            Outcome::Refused(code) => {
                let stands = |mark: &Mark| mark.removed.is_none_or(|(_, done)| answer.sent <= done + bound);
                let mut covering = covering.filter(|mark| mark.ends.code() == code && mark.begun <= answer.answered);
                if !covering.any(stands) {
                    report.violated(Violation::FalseRefusal, format!("{answer}: no marker says so"));
                }
            }
            Outcome::Stale if allows => report.violated(Violation::StaleAlthoughAllowing, format!("{answer}")),
            Outcome::Stale => {}
            Outcome::Unanswered if away => {}
            Outcome::Unanswered => report.violated(Violation::Unanswered, format!("{answer}")),
            Outcome::Odd(what) => report.violated(Violation::Odd, format!("{answer}: {what}")),
        }
    }
}

impl Mark {
    /// Whether it is there in the end, if it is to be.
    fn check(&self, promise: &Promise, report: &mut Report) {
        if self.acknowledged.is_none() || self.removed.is_some() {
            return;
        }
        match self.stored {
            None => report.violated(Violation::Unchecked, format!("{:?} was not looked for", self.ends)),
            Some(false) => report.violated(Violation::Lost, format!("{:?} is no longer stored", self.ends)),
            Some(true) => {}
        }
        for gateway in 0..promise.gateways {
            match self.swept.get(&gateway) {
                Some(Outcome::Refused(code)) if code == self.ends.code() => {}
                None => report.violated(Violation::Unchecked, format!("{:?} at gateway {gateway}", self.ends)),
                Some(other) => {
                    report.violated(Violation::Lost, format!("{:?}: gateway {gateway} says {other:?}", self.ends));
                }
            }
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Token { person, session } = self.token;
        write!(f, "gateway {} to session {session} of {person}: {:?}", self.gateway, self.outcome)
    }
}

/// What a log comes to.
#[derive(Default, Debug)]
pub(crate) struct Report {
    pub(crate) violations: Vec<(Violation, String)>,
    pub(crate) requests: usize,
    pub(crate) admitted: usize,
    pub(crate) flagged: usize,
    pub(crate) refused: usize,
    pub(crate) stale: usize,
    pub(crate) unanswered: usize,
    /// Markers whose writes were tried, and those acknowledged.
    pub(crate) attempted: usize,
    pub(crate) acknowledged: usize,
    /// Writes that were answered 503.
    pub(crate) unstored: BTreeMap<String, usize>,
    /// The latest that a request was sent after an acknowledgement and yet admitted.
    pub(crate) latest_admit: Duration,
    /// The slowest answer, and the longest time without any.
    pub(crate) slowest: Duration,
    pub(crate) longest_gap: Duration,
    /// For how long, all in all, the machine let nobody run.
    pub(crate) stalled: Duration,
}

impl Report {
    fn violated(&mut self, violation: Violation, text: String) {
        self.violations.push((violation, text));
    }

    /// The kinds of violations, each once.
    pub(crate) fn kinds(&self) -> BTreeSet<Violation> {
        self.violations.iter().map(|(violation, _)| *violation).collect()
    }

    fn count(&mut self, log: &Log) {
        self.stalled = log.stalls.iter().map(|stall| stall.lasted).sum();
        self.requests = log.answers.len();
        self.attempted = log.marks.len();
        self.acknowledged = log.marks.iter().filter(|mark| mark.acknowledged.is_some()).count();
        let mut last: Option<Instant> = None;
        for answer in &log.answers {
            *match answer.outcome {
                Outcome::Admitted { flagged: true } => &mut self.flagged,
                Outcome::Admitted { flagged: false } => &mut self.admitted,
                Outcome::Refused(_) => &mut self.refused,
                Outcome::Stale => &mut self.stale,
                Outcome::Unanswered => &mut self.unanswered,
                Outcome::Odd(_) => continue,
            } += 1;
            self.slowest = self.slowest.max(answer.answered - answer.sent);
            let gap = last.map_or(Duration::ZERO, |last| answer.answered.saturating_duration_since(last));
            self.longest_gap = self.longest_gap.max(gap);
            last = Some(last.map_or(answer.answered, |last| last.max(answer.answered)));
        }
    }
}

/// One line for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, admitted, flagged, refused, stale, unanswered, attempted, acknowledged, .. } = self;
        write!(f, "{requests} requests: {admitted} admitted, {flagged} admitted and flagged, {refused} refused, ")?;
        write!(f, "{stale} stale (503), {unanswered} unanswered; markers: {attempted} tried, {acknowledged} ")?;
        write!(
            f,
            "acknowledged, writes answered 503: {:?}; latest admit {:?} after ",
            self.unstored, self.latest_admit
        )?;
        write!(f, "an acknowledgement, slowest answer {:?}, longest gap {:?}, ", self.slowest, self.longest_gap)?;
        write!(f, "machine stalled {:?}; ", self.stalled)?;
        write!(f, "{} violations", self.violations.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Token = Token { person: 1, session: 0 };
    const ELSEWHERE: Token = Token { person: 1, session: 1 };
    const BOB: Token = Token { person: 2, session: 0 };
    const ADMITTED: Outcome = Outcome::Admitted { flagged: false };
    const FLAGGED: Outcome = Outcome::Admitted { flagged: true };

    /// A log that is written by hand; times are in ms.
    struct Story {
        recorder: Recorder,
        start: Instant,
        promise: Promise,
    }

    impl Story {
        fn new() -> Self {
            let (second, allowing) = (Duration::from_secs(1), BTreeSet::from([1]));
            let promise = Promise { max_staleness: second, patience: 2 * second, gateways: 2, allowing };
            Self { recorder: Recorder::default(), start: Instant::now(), promise }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        /// A marker that is tried at 100 ms and acknowledged at 200.
        fn marker(self, ends: Ends) -> Self {
            let mark = self.recorder.attempted(ends, "key", self.at(100));
            self.recorder.acknowledged(mark, self.at(200));
            self
        }

        fn request(self, gateway: usize, token: Token, sent: u64, outcome: Outcome) -> Self {
            let (sent, answered) = (self.at(sent), self.at(sent + 5));
            self.recorder.answered(Answer { gateway, token, sent, answered, outcome });
            self
        }

        /// All is well in the end.
        fn swept(self) -> Self {
            for mark in self.recorder.standing() {
                self.recorder.found(mark.id, true);
                for gateway in 0..2 {
                    self.recorder.swept(mark.id, gateway, refused(mark.ends.code()));
                }
            }
            self
        }

        #[track_caller]
        fn shows(self, expected: &[Violation]) {
            let report = self.recorder.check(&self.promise);
            assert_eq!(report.kinds(), expected.iter().copied().collect(), "{report:#?}");
        }
    }

    fn refused(code: &str) -> Outcome {
        Outcome::Refused(code.to_owned())
    }

    #[test]
    fn a_clean_history_passes() {
        Story::new()
            .request(0, ALICE, 0, ADMITTED)
            .marker(Ends::Session(ALICE))
            // From the attempt on it may be enforced, and until the bound it need not be.
            .request(0, ALICE, 120, refused("session_ended"))
            .request(1, ALICE, 1200, ADMITTED)
            .request(0, ALICE, 1300, refused("session_ended"))
            .request(0, ALICE, 1400, Outcome::Stale)
            .request(1, ALICE, 1500, FLAGGED)
            .request(0, ELSEWHERE, 1500, ADMITTED)
            .request(1, BOB, 1500, ADMITTED)
            .swept()
            .shows(&[]);
    }

    #[test]
    fn a_late_admit_is_caught() {
        for ends in [Ends::Session(ALICE), Ends::Logout(1), Ends::Block(1)] {
            Story::new().marker(ends).request(0, ALICE, 1201, ADMITTED).swept().shows(&[Violation::LateAdmit]);
        }
    }

    #[test]
    fn a_stale_admit_that_is_not_flagged_is_caught() {
        Story::new().marker(Ends::Logout(1)).request(1, ALICE, 1201, ADMITTED).swept().shows(&[Violation::LateAdmit]);
    }

    #[test]
    fn an_outage_policy_that_is_not_kept_is_caught() {
        Story::new().request(0, ALICE, 10, FLAGGED).shows(&[Violation::FlaggedAlthoughRejecting]);
        Story::new().request(1, ALICE, 10, Outcome::Stale).shows(&[Violation::StaleAlthoughAllowing]);
        let late = Story::new().marker(Ends::Logout(1)).request(0, ALICE, 1201, FLAGGED).swept();
        late.shows(&[Violation::LateAdmit, Violation::FlaggedAlthoughRejecting]);
    }

    #[test]
    fn a_false_refusal_is_caught() {
        let story = || Story::new().marker(Ends::Session(ALICE));
        story().request(0, BOB, 300, refused("session_ended")).swept().shows(&[Violation::FalseRefusal]);
        story().request(0, ELSEWHERE, 300, refused("session_ended")).swept().shows(&[Violation::FalseRefusal]);
        story().request(0, ALICE, 300, refused("logged_out")).swept().shows(&[Violation::FalseRefusal]);
        story().request(0, ALICE, 90, refused("session_ended")).swept().shows(&[Violation::FalseRefusal]);
        story().request(0, ALICE, 300, refused("invalid_token")).swept().shows(&[Violation::FalseRefusal]);
    }

    #[test]
    fn a_lost_marker_is_caught() {
        let story = Story::new().marker(Ends::Logout(1)).swept();
        let mark = story.recorder.standing()[0].id;
        story.recorder.found(mark, false);
        story.shows(&[Violation::Lost]);
        for outcome in [ADMITTED, Outcome::Stale, refused("session_ended"), Outcome::Unanswered] {
            let story = Story::new().marker(Ends::Logout(1)).swept();
            let mark = story.recorder.standing()[0].id;
            story.recorder.swept(mark, 1, outcome);
            story.shows(&[Violation::Lost]);
        }
    }

    #[test]
    fn a_marker_that_nobody_looked_for_is_caught() {
        Story::new().marker(Ends::Logout(1)).shows(&[Violation::Unchecked]);
        let mut story = Story::new().marker(Ends::Logout(1)).swept();
        story.promise.gateways = 3;
        story.shows(&[Violation::Unchecked]);
    }

    #[test]
    fn what_was_not_acknowledged_may_or_may_not_be_enforced() {
        let story = Story::new();
        story.recorder.attempted(Ends::Logout(1), "key", story.at(100));
        story.request(0, ALICE, 5000, ADMITTED).request(1, ALICE, 5000, refused("logged_out")).shows(&[]);
    }

    #[test]
    fn what_was_taken_back_is_forgotten_within_the_bound() {
        let story = || {
            let story = Story::new().marker(Ends::Logout(1));
            story.recorder.removed_all(story.at(2000), story.at(2010));
            story
        };
        story().request(0, ALICE, 1900, ADMITTED).shows(&[Violation::LateAdmit]);
        story().request(0, ALICE, 2005, ADMITTED).shows(&[]);
        story().request(0, ALICE, 3010, refused("logged_out")).shows(&[]);
        story().request(0, ALICE, 3011, refused("logged_out")).shows(&[Violation::FalseRefusal]);
    }

    #[test]
    fn silence_slowness_and_oddities_are_caught() {
        Story::new().request(0, ALICE, 10, Outcome::Odd("500".to_owned())).shows(&[Violation::Odd]);
        Story::new().request(0, ALICE, 10, Outcome::Unanswered).shows(&[Violation::Unanswered]);
        let story = Story::new();
        let (sent, answered) = (story.at(0), story.at(2001));
        story.recorder.answered(Answer { gateway: 0, token: ALICE, sent, answered, outcome: ADMITTED });
        assert_eq!(story.recorder.check(&story.promise).kinds(), BTreeSet::from([Violation::Slow]));
        story.recorder.stalled(story.at(1500), Duration::from_millis(1));
        story.shows(&[]);
        let story = Story::new();
        story.recorder.odd_write("500".to_owned());
        story.shows(&[Violation::Odd]);
    }

    #[test]
    fn a_gateway_that_was_ended_need_not_answer_until_it_is_back() {
        let story = || {
            let story = Story::new();
            story.recorder.goes_down(0, story.at(100));
            story.recorder.is_up(0, story.at(200));
            story
        };
        story().request(0, ALICE, 98, Outcome::Unanswered).request(0, ALICE, 200, Outcome::Unanswered).shows(&[]);
        story().request(0, ALICE, 201, Outcome::Unanswered).shows(&[Violation::Unanswered]);
        story().request(1, ALICE, 150, Outcome::Unanswered).shows(&[Violation::Unanswered]);
        // One that slept answers late; what it says is held to the promise all the same.
        let slept = story().marker(Ends::Logout(1));
        let (sent, answered) = (slept.at(150), slept.at(5000));
        slept.recorder.answered(Answer { gateway: 0, token: ALICE, sent, answered, outcome: ADMITTED });
        slept.request(0, ALICE, 5000, ADMITTED).swept().shows(&[Violation::LateAdmit]);
    }
}
