//! Notes: a public format, see `docs/markers.md`, though other programs have no business with them.
//!
//! Each command touches one key, so that a Cluster takes them all. Nothing of it is under the markers' prefix, so no change of it is
//! pushed.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures_util::future::{try_join, try_join_all};

use super::{
    RedisStore,
    keys::Note,
    node::{Reply, Use},
    script, understood,
};
use crate::store::{
    Notes, StoreError,
    notes::{MAX_MEMBERS, NoteDigest, check_name, check_value},
};

/// How many events, jobs or members go into one command.
const CHUNK: usize = 500;

/// The longest expiry: a hundred years. A server refuses some of the longer ones.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// KEYS: a sorted set. ARGV: how many members it may have; members. Each new one is placed behind the last.
const REMEMBER: &str = "\
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
local place, added = tonumber(last or '0'), {}
for at = 2, #ARGV do
  place = place + 1
  added[#added + 1] = place
  added[#added + 1] = ARGV[at]
end
redis.call('ZADD', KEYS[1], 'NX', unpack(added))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[1])
return 1";

/// KEYS: a string. ARGV: `1` if it is expected to hold the next argument, `0` if nothing; that value; `1` if it is to hold the next
/// argument, `0` if nothing; that value. Answers whether it held what was expected.
const SWAP: &str = "\
local held = redis.call('GET', KEYS[1])
local expected = ARGV[1] == '1' and ARGV[2] or false
if held ~= expected then return 0 end
if ARGV[3] == '1' then redis.call('SET', KEYS[1], ARGV[4]) else redis.call('DEL', KEYS[1]) end
return 1";

/// KEYS: a string. ARGV: who wants it to be theirs; for how many ms. Answers whether it is.
const LEASE: &str = "\
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// KEYS: a set. ARGV: how many ms it is kept; how many members it may have; members.
const ADD: &str = "\
for at = 3, #ARGV do
  if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then break end
  redis.call('SADD', KEYS[1], ARGV[at])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1";

impl RedisStore {
    /// The key of a note, if it may have this name.
    pub(super) fn key(&self, note: Note, name: &str) -> Result<String, StoreError> {
        check_name(&self.name, name)?;
        Ok(self.keys.note(note, name))
    }

    pub(super) async fn text(&self, note: Note, name: &str) -> Result<Option<String>, StoreError> {
        let key = self.key(note, name)?;
        Ok(self.ask(Use::Rest, &key, ::redis::cmd("GET").arg(&key)).await?)
    }

    async fn swap_text(
        &self,
        note: Note,
        name: &str,
        expected: Option<&str>,
        value: Option<&str>,
    ) -> Result<bool, StoreError> {
        let key = self.key(note, name)?;
        let call = script::call(SWAP, &key, |call| {
            for text in [expected, value] {
                call.arg(i32::from(text.is_some())).arg(text.unwrap_or_default());
            }
        });
        Ok(understood(self.call(Use::Rest, &key, &call).await?)?)
    }
}

#[async_trait]
impl Notes for RedisStore {
    async fn seen(&self, source: &str, events: &[NoteDigest]) -> Result<Vec<bool>, StoreError> {
        let key = self.key(Note::Seen, source)?;
        let questions = events.chunks(CHUNK).map(async |chunk| {
            let mut scores = ::redis::cmd("ZMSCORE");
            scores.arg(&key);
            for event in chunk {
                scores.arg(&event[..]);
            }
            self.ask::<Vec<Option<f64>>>(Use::Rest, &key, &scores).await
        });
        let scores = try_join_all(questions).await?;
        Ok(scores.into_iter().flatten().map(|score| score.is_some()).collect())
    }

    async fn remember(&self, source: &str, events: &[NoteDigest], capacity: usize) -> Result<(), StoreError> {
        let key = self.key(Note::Seen, source)?;
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        // One after the other: they are forgotten in the same order.
        for chunk in events.chunks(CHUNK) {
            let call = script::call(REMEMBER, &key, |call| {
                call.arg(capacity);
                for event in chunk {
                    call.arg(&event[..]);
                }
            });
            self.call(Use::Rest, &key, &call).await?;
        }
        Ok(())
    }

    async fn note(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.text(Note::Value, name).await
    }

    async fn swap_note(&self, name: &str, expected: Option<&str>, value: Option<&str>) -> Result<bool, StoreError> {
        value.map_or(Ok(()), |value| check_value(&self.name, value))?;
        self.swap_text(Note::Value, name, expected, value).await
    }

    async fn lease(&self, name: &str, owner: &str, term: Duration) -> Result<bool, StoreError> {
        let key = self.key(Note::Lease, name)?;
        check_value(&self.name, owner)?;
        let call = script::call(LEASE, &key, |call| {
            call.arg(owner).arg(millis(term));
        });
        Ok(understood(self.call(Use::Rest, &key, &call).await?)?)
    }

    async fn release(&self, name: &str, owner: &str) -> Result<(), StoreError> {
        self.swap_text(Note::Lease, name, Some(owner), None).await.map(drop)
    }

    async fn leader(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.text(Note::Lease, name).await
    }

    async fn put_jobs(&self, queue: &str, jobs: &[(String, String)]) -> Result<(), StoreError> {
        let key = self.key(Note::Jobs, queue)?;
        for (id, value) in jobs {
            check_name(&self.name, id)?;
            check_value(&self.name, value)?;
        }
        for chunk in jobs.chunks(CHUNK) {
            let mut set = ::redis::cmd("HSET");
            set.arg(&key);
            for (id, value) in chunk {
                set.arg(id).arg(value);
            }
            let Reply { node, live, .. } = self.topology.execute(Use::Write, &key, &set).await?;
            node.replicated(live).await?;
        }
        Ok(())
    }

    async fn jobs(&self, queue: &str, limit: usize) -> Result<(Vec<(String, String)>, usize), StoreError> {
        let key = self.key(Note::Jobs, queue)?;
        let mut some = ::redis::cmd("HRANDFIELD");
        some.arg(&key).arg(u32::try_from(limit).unwrap_or(u32::MAX)).arg("WITHVALUES");
        let mut count = ::redis::cmd("HLEN");
        count.arg(&key);
        Ok(try_join(self.ask(Use::Rest, &key, &some), self.ask(Use::Rest, &key, &count)).await?)
    }

    async fn remove_jobs(&self, queue: &str, ids: &[String]) -> Result<(), StoreError> {
        let key = self.key(Note::Jobs, queue)?;
        let removals = ids.chunks(CHUNK).map(async |chunk| {
            let mut delete = ::redis::cmd("HDEL");
            delete.arg(&key).arg(chunk);
            self.topology.execute(Use::Rest, &key, &delete).await
        });
        try_join_all(removals).await?;
        Ok(())
    }

    async fn add_members(&self, sets: &[(String, String)], keep: Duration) -> Result<(), StoreError> {
        let mut calls = BTreeMap::<String, Vec<&str>>::new();
        for (set, member) in sets {
            check_value(&self.name, member)?;
            calls.entry(self.key(Note::Set, set)?).or_default().push(member);
        }
        let calls: Vec<_> = calls.iter().collect();
        for chunk in calls.chunks(CHUNK) {
            let calls = chunk.iter().map(async |(key, members)| {
                let call = script::call(ADD, key, |call| {
                    call.arg(millis(keep)).arg(MAX_MEMBERS).arg(&members[..]);
                });
                self.call(Use::Rest, key, &call).await
            });
            try_join_all(calls).await?;
        }
        Ok(())
    }

    async fn members(&self, set: &str) -> Result<Vec<String>, StoreError> {
        let key = self.key(Note::Set, set)?;
        Ok(self.ask(Use::Rest, &key, ::redis::cmd("SMEMBERS").arg(&key)).await?)
    }

    async fn remove_set(&self, set: &str) -> Result<(), StoreError> {
        let key = self.key(Note::Set, set)?;
        self.topology.execute(Use::Rest, &key, ::redis::cmd("DEL").arg(&key)).await?;
        Ok(())
    }
}

/// As a server takes it: it refuses an expiry that is not positive.
fn millis(expiry: Duration) -> u64 {
    u64::try_from(expiry.min(LONGEST).as_millis()).unwrap_or(u64::MAX).max(1)
}
