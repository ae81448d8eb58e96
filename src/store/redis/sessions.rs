//! Sessions: a format of the gateways' own, see `docs/markers.md`.
//!
//! The sessions of a subject are a hash with two fields each, so that no value is longer than what Redis keeps packed in the usual case
//! (`hash-max-listpack-value`). When they were last active is elsewhere, in sorted sets: those are written often, and are the index of
//! who has been idle.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::{try_join, try_join_all};

use super::{
    ACTIVITY_CHUNK, RedisStore,
    keys::{Note, score, time_of},
    node::{Failure, Use},
    script, understood,
};
use crate::{
    clock::Timestamp,
    session::SessionKey,
    store::{
        StoreError,
        notes::check_value,
        sessions::{MAX_SESSIONS, Opening, PROLONGED_BY, Sessions, StoredSession},
    },
    token::claims::{ClientId, IssuerName, SessionId, Subject},
};

/// What the name of the field with the origin of a session begins with, before its id: no id has a control character.
const ORIGIN: char = '\u{1}';

/// How many times an opening starts over because what it finds cannot be read.
const ATTEMPTS: usize = 4;

/// KEYS: the sessions of a subject. ARGV: an id; when it started; `1` if a token says so; when it is opened; until when it is kept; now;
/// its limits; its origin; how many there may be; how much longer is worth a write; what counts as absent: a session and its origin.
/// Answers the session and its origin. Those whose time is over are looked for at every eighth new one.
const OPEN: &str = "\
local id, told = ARGV[1], ARGV[3] == '1'
local from, now, worth = '\\1' .. id, tonumber(ARGV[6]), tonumber(ARGV[10])
local started, opened, till = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local function read(value)
  local started, since, lasts, limits = string.match(value, '^(%d+) (%-?%d+) (%-?%d+) (.*)$')
  if not started then return end
  started = tonumber(started)
  local opened = started + tonumber(since)
  return started, opened, opened + tonumber(lasts), limits
end
local held = redis.call('HMGET', KEYS[1], id, from)
local value, origin = held[1], held[2]
local began, first, kept, limits
if value and origin and not (value == ARGV[11] and origin == ARGV[12]) then began, first, kept, limits = read(value) end
local anew = not began or kept <= now or told and started > began
if not anew and till <= kept + worth then return {value, origin} end
local function line(started, opened, till, limits)
  return string.format('%.0f %.0f %.0f %s', started, opened - started, till - opened, limits)
end
local function forget(id) redis.call('HDEL', KEYS[1], id, '\\1' .. id) end
local function make_room(most)
  local count = math.floor(redis.call('HLEN', KEYS[1]) / 2)
  if count == 0 or count < most and count % 8 ~= 0 then return end
  local all, first, earliest, room = redis.call('HGETALL', KEYS[1]), nil, nil, false
  for at = 1, #all, 2 do
    local id = all[at]
    if string.byte(id) ~= 1 then
      local _, opened, till = read(all[at + 1])
      if not opened or till <= now then
        forget(id)
        room = true
      elseif not first or opened < earliest or opened == earliest and id < first then
        first, earliest = id, opened
      end
    end
  end
  if count >= most and not room then forget(first or string.sub(all[1], 2)) end
end
if anew then
  if not value then make_room(tonumber(ARGV[9])) end
  if began and kept > till then till = kept end
  value, origin = line(started, opened, till, ARGV[7]), ARGV[8]
  redis.call('HSET', KEYS[1], id, value, from, origin)
else
  value = line(began, first, till, limits)
  redis.call('HSET', KEYS[1], id, value)
end
if redis.call('PEXPIRETIME', KEYS[1]) < till then redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.max(till, 1))) end
return {value, origin}";

/// KEYS: a sorted set. ARGV: by how much clocks may differ; members and scores in turn. Records each (see
/// [`recorded`](crate::store::sessions::recorded)), and answers what scores they had.
const RECORD: &str = "\
local skew, members, changes, latest = tonumber(ARGV[1]), {}, {}, {}
for at = 2, #ARGV, 2 do members[at / 2] = ARGV[at] end
local before = redis.call('ZMSCORE', KEYS[1], unpack(members))
for number, member in ipairs(members) do
  local active, kept = ARGV[2 * number + 1], nil
  local held = latest[member] or before[number]
  before[number] = held
  local score, time = held and tonumber(held), tonumber(active)
  if not score or score < time then kept = active
  elseif score < time + skew then kept = string.format('%.0f', score + 1) end
  if kept then
    latest[member] = kept
    table.insert(changes, kept)
    table.insert(changes, member)
  end
end
if #changes > 0 then redis.call('ZADD', KEYS[1], unpack(changes)) end
return before";

/// A session without when it was last active, as it is kept: `<started> <opened, after that> <until, after that> <limits>` in
/// milliseconds, and `<client>`, a line feed, `<gateway>`.
fn read(session: &[u8], origin: &[u8]) -> Option<StoredSession> {
    let mut words = str::from_utf8(session).ok()?.splitn(4, ' ');
    let mut number = || words.next().filter(|word| word.len() <= 17)?.parse::<i64>().ok();
    let started = number().filter(|started| *started >= 0)?;
    let opened = started + number()?;
    let until = opened + number()?;
    let limits = words.next()?.into();
    let (client, gateway) = str::from_utf8(origin).ok()?.split_once('\n')?;
    let client = if client.is_empty() { None } else { Some(ClientId::try_from(client).ok()?) };
    let [started, opened, until] = [started, opened, until].map(Timestamp::from_millis);
    Some(StoredSession { started, opened, active: opened, until, limits, client, gateway: gateway.into() })
}

fn origin(client: Option<&ClientId>, gateway: &str) -> String {
    format!("{}\n{gateway}", client.map_or("", ClientId::as_str))
}

impl RedisStore {
    /// When a session was last active, if it was.
    async fn session_activity(&self, key: &SessionKey) -> Result<Option<Timestamp>, StoreError> {
        let set = self.keys.session_activity(&key.subject.issuer, &key.id);
        let score: Option<f64> =
            self.ask(Use::Rest, &set, ::redis::cmd("ZSCORE").arg(&set).arg(key.id.as_str())).await?;
        score.map(|score| self.time_of(score)).transpose()
    }

    /// What is kept of it once somebody has come upon a session, without when it was last active.
    async fn come_upon(&self, opening: &Opening) -> Result<StoredSession, StoreError> {
        let key = self.keys.sessions(&opening.key.subject);
        let origin = origin(opening.client.as_ref(), &opening.gateway);
        let mut unreadable = (Vec::new(), Vec::new());
        for _ in 0..ATTEMPTS {
            let call = script::call(OPEN, &key, |call| {
                call.arg(opening.key.id.as_str()).arg(score(opening.started)).arg(i32::from(opening.told));
                call.arg(score(opening.at)).arg(score(opening.until)).arg(score(self.clock.now()));
                call.arg(&*opening.limits).arg(&origin).arg(MAX_SESSIONS).arg(millis(PROLONGED_BY));
                call.arg(&unreadable.0).arg(&unreadable.1);
            });
            let (session, origin): (Vec<u8>, Vec<u8>) = understood(self.call(Use::Rest, &key, &call).await?)?;
            if let Some(session) = read(&session, &origin) {
                return Ok(session);
            }
            unreadable = (session, origin);
        }
        Err(self.refused("a session cannot be read, whatever is written"))
    }

    fn is_kept(&self, session: &StoredSession) -> bool {
        session.until > self.clock.now()
    }
}

/// A key of another type holds no sessions.
fn or_nothing<T: Default>(answer: Result<T, Failure>) -> Result<T, StoreError> {
    match answer {
        Err(Failure::WrongType(_)) => Ok(T::default()),
        answer => Ok(answer?),
    }
}

fn with_activity(session: StoredSession, active: Option<Timestamp>) -> StoredSession {
    StoredSession { active: session.opened.max(active.unwrap_or(session.opened)), ..session }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Sessions for RedisStore {
    async fn open_session(&self, opening: &Opening) -> Result<StoredSession, StoreError> {
        let (session, active) = try_join(self.come_upon(opening), self.session_activity(&opening.key)).await?;
        Ok(with_activity(session, active))
    }

    async fn session(&self, key: &SessionKey) -> Result<Option<StoredSession>, StoreError> {
        let (name, id) = (self.keys.sessions(&key.subject), key.id.as_str());
        let mut fields = ::redis::cmd("HMGET");
        fields.arg(&name).arg(id).arg(format!("{ORIGIN}{id}"));
        let held = async {
            let held = self.ask::<(Option<Vec<u8>>, Option<Vec<u8>>)>(Use::Rest, &name, &fields).await;
            or_nothing(held)
        };
        let ((session, origin), active) = try_join(held, self.session_activity(key)).await?;
        let session = session.zip(origin).and_then(|(session, origin)| read(&session, &origin));
        Ok(session.filter(|session| self.is_kept(session)).map(|session| with_activity(session, active)))
    }

    async fn sessions_of(
        &self,
        subject: &Subject,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, StoredSession)>, StoreError> {
        let name = self.keys.sessions(subject);
        let all = self.ask::<HashMap<Vec<u8>, Vec<u8>>>(Use::Rest, &name, ::redis::cmd("HGETALL").arg(&name)).await;
        let all = or_nothing(all)?;
        let mut sessions: Vec<_> = all
            .iter()
            .filter_map(|(id, session)| {
                let id = SessionId::kept(str::from_utf8(id).ok()?).ok()?;
                let origin = all.get(format!("{ORIGIN}{}", id.as_str()).as_bytes())?;
                Some((id, read(session, origin)?))
            })
            .filter(|(id, session)| after.is_none_or(|after| id > after) && self.is_kept(session))
            .collect();
        sessions.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        sessions.truncate(limit);
        let members = sessions.iter().map(|(id, _)| (self.keys.session_activity(&subject.issuer, id), id.as_str()));
        let times = self.times(members).await?;
        let with_times = sessions.into_iter().zip(times);
        Ok(with_times.map(|((id, session), active)| (id, with_activity(session, active))).collect())
    }

    async fn record_session_activity(
        &self,
        batch: &[(SessionKey, Timestamp)],
        clock_skew: Duration,
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let mut before = Vec::with_capacity(batch.len());
        for chunk in batch.chunks(ACTIVITY_CHUNK) {
            let mut sets = BTreeMap::<String, Vec<usize>>::new();
            for (at, (SessionKey { subject, id }, _)) in chunk.iter().enumerate() {
                sets.entry(self.keys.session_activity(&subject.issuer, id)).or_default().push(at);
            }
            // Sent at once, they go out together.
            let writes = sets.iter().map(async |(set, entries)| {
                let call = script::call(RECORD, set, |call| {
                    call.arg(millis(clock_skew));
                    for at in entries {
                        let (key, active) = &chunk[*at];
                        call.arg(key.id.as_str()).arg(score(*active));
                    }
                });
                understood::<Vec<Option<f64>>>(self.call(Use::Rest, set, &call).await?)
            });
            let (answers, begin) = (try_join_all(writes).await?, before.len());
            before.resize(begin + chunk.len(), None);
            for (entries, scores) in sets.values().zip(answers) {
                for (at, score) in entries.iter().zip(scores) {
                    before[begin + at] = score.and_then(time_of);
                }
            }
        }
        Ok(before)
    }

    async fn forget_idle_sessions(&self, issuer: &IssuerName, before: Timestamp) -> Result<(), StoreError> {
        self.forget_before(self.keys.session_shards(issuer), before).await
    }

    async fn keep_limits(&self, name: &str, table: &str) -> Result<(), StoreError> {
        let key = self.key(Note::Limits, name)?;
        check_value(&self.name, table)?;
        let mut set = ::redis::cmd("SET");
        set.arg(&key).arg(table).arg("NX");
        // Not held up by replicas: no session could be opened while one is away.
        self.topology.execute(Use::Rest, &key, &set).await?;
        Ok(())
    }

    async fn limits(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.text(Note::Limits, name).await
    }
}
