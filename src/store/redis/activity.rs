//! The index of activity: sorted sets, each of which holds some of an issuer's subjects, in the order of (time, id).
//!
//! A page is merged from all of them. Every question is short for the server, however many subjects there are: a place is found by counting
//! and halving, and what stands there is read by rank.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use futures_util::future::{try_join, try_join_all};

use super::{
    ACTIVITY_CHUNK, RedisStore,
    keys::{self, SHARDS, score},
    node::Use,
    script, understood,
};
use crate::{
    clock::Timestamp,
    store::{ActivityCount, Seen, StoreError},
    token::claims::{IssuerName, SubjectId},
};

/// How many members are removed, or read, at once: the server serves nobody else meanwhile.
const BITE: usize = 500;

/// How many sets are asked about at once: the server answers what comes together before it turns to others.
const AT_ONCE: usize = 4;

/// KEYS: a sorted set. ARGV: a score and a member: a place; a score; how many. Answers members behind the place whose score is below the
/// second one, and their scores. Of those with the score of the place, which may be all, the first behind it is found by halving. Bytes are
/// compared one by one: `<` goes by the server's locale.
const PAGE: &str = "\
local function behind(member)
  local place = ARGV[2]
  for at = 1, math.min(#member, #place) do
    local one, other = string.byte(member, at), string.byte(place, at)
    if one ~= other then return one > other end
  end
  return #member > #place
end
local from = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[1])
local to = redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[1])
while from < to do
  local middle = math.floor((from + to) / 2)
  if behind(redis.call('ZRANGE', KEYS[1], middle, middle)[1]) then to = middle else from = middle + 1 end
end
local past = math.min(redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[3]), from + tonumber(ARGV[4]))
if past <= from then return {} end
return redis.call('ZRANGE', KEYS[1], from, past - 1, 'WITHSCORES')";

/// KEYS: a sorted set. ARGV: a score; how many to remove. Removes those with the lowest scores below it, and answers how many.
const FORGET: &str = "\
local some = math.min(redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[1]), tonumber(ARGV[2]))
if some > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], 0, some - 1) end
return some";

/// A member and its score, in the order of the set, as Redis has them. Neither need be what a gateway would write.
#[derive(Clone, Debug)]
struct Place {
    score: f64,
    /// As Redis spells it.
    spelt: Vec<u8>,
    member: Vec<u8>,
}

impl Place {
    fn of(at: Timestamp, id: &str) -> Self {
        let score = score(at);
        #[expect(clippy::cast_precision_loss, reason = "scores are exact")]
        let (number, spelt) = (score as f64, score.to_string());
        Self { score: number, spelt: spelt.into_bytes(), member: id.as_bytes().to_vec() }
    }

    /// `None`: the score is no number, which Redis keeps nobody from thinking.
    fn read(member: Vec<u8>, spelt: Vec<u8>) -> Option<Self> {
        let score: f64 = str::from_utf8(&spelt).ok()?.parse().ok()?;
        // There is one zero only.
        Some(Self { score: score + 0.0, spelt, member })
    }

    /// Who stands there: nobody if it is no id, or the score no whole millisecond.
    fn seen(&self) -> Option<Seen> {
        let at = keys::time_of(self.score).filter(|_| self.score.fract() == 0.0)?;
        Some(Seen { at, subject: SubjectId::try_from(str::from_utf8(&self.member).ok()?).ok()? })
    }

    fn order(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| self.member.cmp(&other.member))
    }

    /// Whether a subject stands behind it.
    fn is_before(&self, seen: &Seen) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "scores are exact")]
        let score = score(seen.at) as f64;
        self.score.total_cmp(&score).then_with(|| (*self.member).cmp(seen.subject.as_str().as_bytes())).is_lt()
    }
}

/// How far a set was read.
struct Reading {
    set: String,
    place: Place,
    more: bool,
}

impl Reading {
    /// What was found behind the place; of fewer than `asked`, these are the last.
    fn go_on(&mut self, found: Vec<Place>, asked: usize) -> impl Iterator<Item = Seen> {
        self.more = found.len() >= asked;
        if let Some(last) = found.last() {
            self.place = last.clone();
        }
        found.into_iter().filter_map(|place| place.seen())
    }
}

/// How many to read of each set for a page: as many as it will have of them, since ids are spread evenly, and some more.
fn share(limit: usize) -> usize {
    let even = limit / usize::from(SHARDS);
    (even + 4 * even.isqrt() + 8).min(limit).clamp(1, BITE)
}

impl RedisStore {
    /// The scores of members, as times, in their order.
    pub(super) async fn times<'a>(
        &self,
        members: impl Iterator<Item = (String, &'a str)>,
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let mut sets = BTreeMap::<String, Vec<(usize, &str)>>::new();
        let mut count = 0;
        for (set, member) in members {
            sets.entry(set).or_default().push((count, member));
            count += 1;
        }
        let questions = sets.iter().map(async |(set, members)| {
            let mut scores = ::redis::cmd("ZMSCORE");
            scores.arg(set);
            for (_, member) in members {
                scores.arg(member);
            }
            self.ask::<Vec<Option<f64>>>(Use::Rest, set, &scores).await
        });
        let mut times = vec![None; count];
        for (members, scores) in sets.values().zip(try_join_all(questions).await?) {
            for ((at, _), score) in members.iter().zip(scores) {
                times[*at] = score.map(|score| self.time_of(score)).transpose()?;
            }
        }
        Ok(times)
    }

    pub(super) async fn last_seen(
        &self,
        issuer: &IssuerName,
        subjects: &[SubjectId],
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let mut times = Vec::with_capacity(subjects.len());
        for chunk in subjects.chunks(ACTIVITY_CHUNK) {
            let members = chunk.iter().map(|id| (self.keys.activity(issuer, id), id.as_str()));
            times.extend(self.times(members).await?);
        }
        Ok(times)
    }

    pub(super) async fn inactive_page(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        after: Option<&Seen>,
        limit: usize,
    ) -> Result<Vec<Seen>, StoreError> {
        // No id is empty, and no time is before the first one.
        let place = after
            .map_or_else(|| Place::of(Timestamp::from_millis(0), ""), |seen| Place::of(seen.at, seen.subject.as_str()));
        let mut sets: Vec<_> =
            self.keys.activity_shards(issuer).map(|set| Reading { set, place: place.clone(), more: true }).collect();
        let share = share(limit);
        // What was read and is not yet on the page: bounded by what is read at once of each set.
        let (mut page, mut waiting) = (Vec::new(), BTreeSet::<Seen>::new());
        loop {
            // Up to where all sets are read, what was read is in order.
            let horizon = sets.iter().filter(|set| set.more).map(|set| &set.place).min_by(|a, b| a.order(b));
            while page.len() < limit
                && let Some(next) = waiting.first()
                && horizon.is_none_or(|horizon| !horizon.is_before(next))
            {
                page.extend(waiting.pop_first());
            }
            if page.len() >= limit || horizon.is_none() {
                return Ok(page);
            }
            let next = waiting.first();
            let is_behind = |set: &Reading| next.is_none_or(|next| set.place.is_before(next));
            let mut behind: Vec<_> = sets.iter_mut().filter(|set| set.more && is_behind(set)).collect();
            for some in behind.chunks_mut(AT_ONCE) {
                let questions = some.iter().map(|set| self.read_on(set, before, share));
                let found = try_join_all(questions).await?;
                for (set, found) in some.iter_mut().zip(found) {
                    waiting.extend(set.go_on(found, share));
                }
            }
        }
    }

    async fn read_on(&self, set: &Reading, before: Timestamp, count: usize) -> Result<Vec<Place>, StoreError> {
        let Reading { set, place, .. } = set;
        let call = script::call(PAGE, set, |call| {
            call.arg(&place.spelt).arg(&place.member).arg(score(before)).arg(count);
        });
        let found: Vec<(Vec<u8>, Vec<u8>)> = understood(self.call(Use::Rest, set, &call).await?)?;
        let places = found.into_iter().map(|(member, score)| Place::read(member, score));
        places.collect::<Option<_>>().ok_or_else(|| self.refused("an activity score is no number"))
    }

    pub(super) async fn count_seen(&self, issuer: &IssuerName, before: Timestamp) -> Result<ActivityCount, StoreError> {
        let mut count = ActivityCount::default();
        let sets: Vec<_> = self.keys.activity_shards(issuer).collect();
        for some in sets.chunks(AT_ONCE) {
            let questions = some.iter().map(async |set| {
                let (mut all, mut early) = (::redis::cmd("ZCARD"), ::redis::cmd("ZCOUNT"));
                all.arg(set);
                early.arg(set).arg("-inf").arg(format!("({}", score(before)));
                try_join(self.ask::<u64>(Use::Rest, set, &all), self.ask::<u64>(Use::Rest, set, &early)).await
            });
            for (known, inactive) in try_join_all(questions).await? {
                count.known += known;
                count.inactive += inactive;
            }
        }
        Ok(count)
    }

    /// Removes the members of these sets whose scores are below a time. One bite after the other: others have their turn in between.
    pub(super) async fn forget_before(
        &self,
        sets: impl Iterator<Item = String>,
        before: Timestamp,
    ) -> Result<(), StoreError> {
        for set in sets {
            let call = script::call(FORGET, &set, |call| {
                call.arg(score(before)).arg(BITE);
            });
            while understood::<usize>(self.call(Use::Rest, &set, &call).await?)? >= BITE {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(score: &str, member: &[u8]) -> Place {
        Place::read(member.to_vec(), score.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn what_is_no_subject_or_no_time_is_nobody() {
        let seen = place("1763700000123", b"auth0|1").seen().unwrap();
        assert_eq!((seen.at.as_millis(), seen.subject.as_str()), (1_763_700_000_123, "auth0|1"));
        let long = [b'x'; 256];
        for (score, member) in [
            ("1", &b""[..]),
            ("1", b"\xff\xfe"),
            ("1", b"a\nb"),
            ("1", &long),
            ("1.5", b"a"),
            ("-1", b"a"),
            ("inf", b"a"),
            ("-inf", b"a"),
            ("1e300", b"a"),
        ] {
            assert_eq!(place(score, member).seen(), None, "{score} {member:?}");
        }
    }

    #[test]
    fn places_are_in_the_order_of_the_set() {
        let b = Seen { at: Timestamp::from_millis(2), subject: "b".try_into().unwrap() };
        for (score, member) in [("1", "c"), ("1.5", "z"), ("-inf", "b"), ("2", "a"), ("2", "")] {
            assert!(place(score, member.as_bytes()).is_before(&b), "{score} {member}");
        }
        for (score, member) in [("2", "b"), ("2", "ba"), ("2", "ü"), ("2.5", "a"), ("inf", "a")] {
            assert!(!place(score, member.as_bytes()).is_before(&b), "{score} {member}");
        }
    }

    #[test]
    fn shares_are_bounded() {
        assert_eq!([0, 1, 5, 64, 1000, 10_000, usize::MAX].map(share), [1, 1, 5, 13, 35, 212, BITE]);
    }
}
