//! `[session]`, of the gateway, an issuer or a route.

use std::time::Duration;

use super::{
    logout::Origin,
    problem::Fault,
    reader::{At, Section},
    value::{DAY, MILLISECOND, Setting as _},
};
use crate::{
    activity::ActivitySettings,
    marker::Retention,
    session::{SessionLimits, register::SessionSettings},
};

/// What limits rest on.
#[derive(Clone, Copy)]
pub(super) struct Basis<'a> {
    pub(super) activity: &'a ActivitySettings,
    pub(super) retention: &'a Retention,
}

/// Session limits, and where each stands.
#[derive(Clone, Default, Debug)]
pub(super) struct Limits {
    pub(super) idle: Option<(Duration, At)>,
    pub(super) absolute: Option<(Duration, At)>,
}

/// `[session]` of the gateway.
pub(super) struct Session {
    /// Of issuers and routes that say nothing else.
    pub(super) limits: Limits,
    /// What no issuer and no route goes over.
    pub(super) caps: Limits,
    pub(super) settings: SessionSettings,
    /// Pages elsewhere whose scripts may ask.
    pub(super) origins: Box<[Box<str>]>,
}

impl Limits {
    /// These, and the `wider` ones where there is none.
    pub(super) fn or(&self, wider: &Self) -> Self {
        Self {
            idle: self.idle.clone().or_else(|| wider.idle.clone()),
            absolute: self.absolute.clone().or_else(|| wider.absolute.clone()),
        }
    }

    pub(super) fn settings(&self) -> SessionLimits {
        let duration = |limit: &Option<(Duration, At)>| limit.as_ref().map(|(duration, _)| *duration);
        SessionLimits { idle: duration(&self.idle), absolute: duration(&self.absolute) }
    }

    /// These, and no more than `caps`, which is told.
    fn capped(self, section: &Section<'_>, caps: &Self) -> Self {
        let capped = |limit: Option<(Duration, At)>, cap: &Option<(Duration, At)>| match (limit, cap) {
            (Some((limit, at)), Some((cap, other))) if limit > *cap => {
                let message =
                    format!("{} is more than `{}`, {}, which applies instead", limit.show(), other.key, cap.show());
                section.reader().warn(&at, Fault::new(message));
                Some((*cap, at))
            }
            (limit, _) => limit,
        };
        Self { idle: capped(self.idle, &caps.idle), absolute: capped(self.absolute, &caps.absolute) }
    }
}

/// `[session]` of the gateway. Where there is a cap and no limit, the cap is the limit.
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Session {
    let caps = pair(section, basis, "idle_cap", "absolute_cap");
    let limits = pair(section, basis, "idle_limit", "absolute_limit").capped(section, &caps).or(&caps);
    let gateway = section.get::<String>("gateway").check(|gateway| {
        if gateway.is_empty() || gateway.len() > 64 || !gateway.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Fault::new("must be 1 to 64 visible ASCII characters, without spaces"));
        }
        Ok(())
    });
    let settings = SessionSettings {
        gateway: gateway.option().unwrap_or_else(host_name).into(),
        record_all: section.get("record").or(false),
    };
    let origins = section.list::<Origin>("origins").or(Vec::new());
    section.finish();
    check(section, &limits);
    Session { limits, caps, settings, origins: origins.into_iter().map(|(origin, _)| origin.0).collect() }
}

/// `[session]` of an issuer or a route.
pub(super) fn limits(section: &Section<'_>, basis: &Basis<'_>, caps: &Limits) -> Limits {
    let limits = pair(section, basis, "idle_limit", "absolute_limit").capped(section, caps);
    section.finish();
    limits
}

/// Refuses an idle limit that the absolute limit makes pointless.
pub(super) fn check(section: &Section<'_>, limits: &Limits) {
    if let (Some((idle, at)), Some((absolute, other))) = (&limits.idle, &limits.absolute)
        && idle > absolute
    {
        let message =
            format!("{} is longer than `{}`, {}, and would never apply", idle.show(), other.key, absolute.show());
        section.reader().report(at, Fault::new(message));
    }
}

/// Two limits. One that the rest of the configuration cannot keep is refused.
fn pair(section: &Section<'_>, basis: &Basis<'_>, idle: &'static str, absolute: &'static str) -> Limits {
    let Basis { activity, retention } = basis;
    let delay = 2 * (activity.resolution + activity.flush_interval);
    let idle = section.get::<Duration>(idle).between(MILLISECOND, 400 * DAY).check(|idle| {
        if *idle > retention.session {
            let message = format!(
                "is more than `markers.session_retention`, {}: a session would be forgotten before it was idle for so long",
                retention.session.show()
            );
            return Err(Fault::new(message));
        }
        if *idle > delay {
            return Ok(());
        }
        let message = format!(
            "must be more than {}, twice the sum of `activity.resolution` and `activity.flush_interval`: activity is known no sooner",
            delay.show()
        );
        Err(Fault::new(message).hint("raise the limit, or lower `activity.resolution`"))
    });
    let absolute = section.get::<Duration>(absolute).between(MILLISECOND, 400 * DAY).check(|absolute| {
        if *absolute <= retention.session {
            return Ok(());
        }
        let message = format!(
            "is more than `markers.session_retention`, {}: an ended session would be forgotten while it could still go on",
            retention.session.show()
        );
        Err(Fault::new(message))
    });
    Limits { idle: idle.placed(), absolute: absolute.placed() }
}

/// What the machine is called, as far as it is a name of the form that is asked for.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(64).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}
