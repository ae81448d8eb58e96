//! What a route says of how much it takes.

use std::time::Duration;

use super::{
    problem::Fault,
    reader::Section,
    value::{ByteSize, DAY, HOUR, MILLISECOND, MINUTE, Raw, SECOND, Setting},
};
use crate::{
    gate::policy::Authentication,
    limit::{LimitSettings, concurrency::ConcurrencySettings, rate::Rate},
};

/// The most requests that any budget has at once.
const MAX_BURST: usize = 1_000_000;

/// The longest time that a spent budget takes to come back.
const MAX_RETURN: Duration = Duration::from_secs(30 * 86_400);

/// What each client address may ask of the gate's own endpoints unless something else is said: more than comes from an office, much less
/// than the gate could answer.
const OWN: PerTime = PerTime { count: 200, per: SECOND };
const OWN_BURST: u32 = 2000;

/// `[routes.limits]`
pub(super) fn read(section: &Section<'_>, authentication: Authentication) -> LimitSettings {
    let max_requests = section.get::<usize>("max_requests").between(1, 1_000_000).option();
    let concurrency = max_requests.map(|max_requests| ConcurrencySettings {
        max_requests,
        max_waiting: section.get("max_waiting").between(0, 1_000_000).or(0),
        max_wait: section.get("max_wait").between(MILLISECOND, MINUTE).or(SECOND),
    });
    if max_requests.is_none() {
        alone::<usize>(section, "max_waiting", "max_requests");
        alone::<Duration>(section, "max_wait", "max_requests");
    }
    let settings = LimitSettings {
        concurrency,
        per_subject: rate(section, "per_subject", "per_subject_burst"),
        per_address: rate(section, "per_address", "per_address_burst"),
        max_body_size: section
            .get("max_body_size")
            .between(ByteSize(0), ByteSize::mib(1 << 20))
            .option()
            .map(|size| size.0),
    };
    if authentication == Authentication::None && settings.per_subject.is_some() {
        let fault = Fault::new("means nothing here: with `auth = \"none\"` nobody is a subject");
        let at = section.get::<PerTime>("per_subject").at().clone();
        section.reader().report(&at, fault.hint("limit by `per_address`"));
    }
    section.finish();
    settings
}

/// Refuses what says more about a setting that is not there.
fn alone<T: Setting>(section: &Section<'_>, key: &str, other: &str) {
    let slot = section.get::<T>(key);
    if slot.is_given() && !section.has(other) {
        section.reader().report(slot.at(), Fault::new(format!("means nothing without `{other}`")));
    }
}

fn rate(section: &Section<'_>, key: &str, burst_key: &str) -> Option<Rate> {
    let Some(rate) = section.get(key).option() else {
        alone::<usize>(section, burst_key, key);
        return None;
    };
    Some(with_burst(section, burst_key, rate, rate.count))
}

/// What each client address may ask of the gate's own endpoints.
pub(super) fn own(section: &Section<'_>) -> Option<Rate> {
    const BURST: &str = "own_per_address_burst";
    let slot = section.get::<Sparing>("own_per_address");
    let is_given = slot.is_given();
    if let Some(rate) = slot.or(Sparing(Some(OWN))).0 {
        return Some(with_burst(section, BURST, rate, if is_given { rate.count } else { OWN_BURST }));
    }
    let burst = section.get::<usize>(BURST);
    if burst.is_given() {
        section.reader().report(burst.at(), Fault::new("means nothing with `own_per_address = \"off\"`"));
    }
    None
}

fn with_burst(section: &Section<'_>, key: &str, PerTime { count, per }: PerTime, default: u32) -> Rate {
    let burst = section.get::<usize>(key).between(1, MAX_BURST).check(|burst| {
        let returns = per.as_nanos() * *burst as u128 / u128::from(count);
        if returns <= MAX_RETURN.as_nanos() {
            return Ok(());
        }
        Err(Fault::new("would take more than 30d to come back once it is spent"))
    });
    let burst = burst.option().and_then(|burst| u32::try_from(burst).ok());
    Rate { count, per, burst: burst.unwrap_or(default) }
}

/// `"100/s"`
#[derive(Clone, Copy)]
struct PerTime {
    count: u32,
    per: Duration,
}

impl Setting for PerTime {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let fault = || {
            Fault::new("not a rate").hint(
                "so many requests in a second, minute, hour or day: \"100/s\", \"1000/m\", \"5000/h\", \"10000/d\"",
            )
        };
        let text = raw.text("a rate")?;
        let (count, unit) = text.split_once('/').ok_or_else(fault)?;
        let per = match unit.trim() {
            "s" => SECOND,
            "m" => MINUTE,
            "h" => HOUR,
            "d" => DAY,
            _ => return Err(fault()),
        };
        let count = count.trim().parse().map_err(|_| fault())?;
        if !(1..=1_000_000).contains(&count) {
            return Err(Fault::new("must be from 1 to 1000000 requests"));
        }
        Ok(Self { count, per })
    }
}

/// A rate, or `"off"`.
struct Sparing(Option<PerTime>);

impl Setting for Sparing {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        match raw.text("a rate")? {
            "off" => Ok(Self(None)),
            _ => PerTime::read(raw).map(|rate| Self(Some(rate))),
        }
    }
}
