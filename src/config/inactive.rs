//! `[inactive]`

use std::{collections::HashMap, path::Path, time::Duration};

use super::{
    issuer::Issuer,
    problem::{Fault, nearest},
    reader::Section,
    value::{DAY, HOUR, MINUTE, Raw, SECOND, Setting},
};
use crate::{
    activity::upkeep::UpkeepSettings,
    clock::Timestamp,
    inactive::{
        brakes::Brakes,
        exclusion::Exclusions,
        settings::{InactiveSettings, Schedule},
    },
    management::{listing::Way, tenant::TenantSettings},
    token::claims::IssuerName,
};

/// The Management API of issuers that have one.
type Tenants = HashMap<IssuerName, TenantSettings>;

/// More than any list of users that people keep by hand.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// What runs against inactive users rest on.
pub(super) struct Basis<'a> {
    pub(super) issuers: &'a [Issuer],
    pub(super) issuer_names: &'a [String],
    pub(super) upkeep: &'a UpkeepSettings,
}

pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> InactiveSettings {
    let years = 10 * 365 * DAY;
    let inactive_for = section.get::<Duration>("for").between(MINUTE, years).check(|inactive_for| {
        let retention = basis.upkeep.retention;
        if *inactive_for <= retention {
            return Ok(());
        }
        let message =
            format!("is more than `activity.retention`, {}: users would be forgotten before", retention.show());
        Err(Fault::new(message))
    });
    let inactive_for = inactive_for.option();
    let login_lifetime = section.get::<Duration>("login_lifetime").between(MINUTE, years).option();
    let last_active_lifetime = section.get::<Duration>("last_active_lifetime").between(MINUTE, years).option();
    let recorded_since = section.get::<Time>("recorded_since").option().map(|time| time.0);
    let connection = section.get::<String>("connection").option();
    let way = if section.get("search").or(false) { Way::Search } else { Way::Export };
    let exclusions = exclusions(section);
    let roles = section.list::<String>("exclude_roles").or(Vec::new());
    let revoke = section.get::<super::logout::Revoke>("revoke").or(super::logout::Revoke(None)).0;
    let defaults = Brakes::default();
    let brakes = Brakes {
        max: section.get::<usize>("max").or(usize::try_from(defaults.max).unwrap_or(usize::MAX)) as u64,
        max_share: section.get::<Percent>("max_share").or(Percent(defaults.max_share)).0,
    };
    let limit = section.get::<usize>("limit").option().map(|limit| limit as u64);
    let schedule = schedule(section, basis, inactive_for);
    section.finish();
    let tenants: Tenants = basis
        .issuers
        .iter()
        .filter_map(|issuer| Some((issuer.settings.name.clone(), issuer.ends.tenant.clone()?)))
        .collect();
    let needs =
        [("revoke", revoke.is_some()), ("exclude_roles", !roles.is_empty()), ("connection", connection.is_some())];
    check_needs(section, needs, &tenants, schedule.as_ref());
    InactiveSettings {
        inactive_for,
        login_lifetime,
        last_active_lifetime,
        recorded_since,
        exclusions,
        exclude_roles: roles.into_iter().map(|(role, _)| role.into()).collect(),
        connection: connection.map(Into::into),
        way,
        revoke,
        brakes,
        limit,
        tenants,
        schedule,
    }
}

fn exclusions(section: &Section<'_>) -> Exclusions {
    let mut exclusions = Exclusions::default();
    exclusions.machines = section.get("include_clients").or(false);
    for (user, _) in section.list::<String>("exclude").or(Vec::new()) {
        exclusions.add(&user);
    }
    if let Some((path, at)) = section.get::<String>("exclude_file").placed() {
        let path = section.reader().resolve(&at, &path);
        section.reader().note_file(&at, &path);
        match read_list(&path) {
            Ok(text) => exclusions.add_lines(&text),
            Err(error) => {
                let message = format!("{} cannot be read: {error}", path.display());
                section.reader().report(&at, Fault::new(message));
            }
        }
    }
    exclusions
}

fn read_list(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        return Err(std::io::Error::other("it is longer than 64MiB"));
    }
    std::fs::read_to_string(path)
}

/// `every` and what goes with it; `None`: nothing is done by itself.
fn schedule(section: &Section<'_>, basis: &Basis<'_>, inactive_for: Option<Duration>) -> Option<Schedule> {
    let every = section.get::<Duration>("every").between(SECOND, 400 * DAY);
    let jitter = section.get::<Duration>("jitter").between(Duration::ZERO, DAY);
    let block = section.get::<bool>("block");
    let reports = section.get::<String>("reports");
    let names = section.list::<String>("issuers");
    if !every.is_given() {
        for (given, at) in [
            (jitter.is_given(), jitter.at()),
            (block.is_given(), block.at()),
            (reports.is_given(), reports.at()),
            (names.is_given(), names.at()),
        ] {
            if given {
                section.reader().warn(at, Fault::new("nothing is done by itself").hint("set `every`, such as \"1d\""));
            }
        }
        return None;
    }
    if inactive_for.is_none() && !section.has("for") {
        let fault = Fault::new("is missing").hint("how long users may be inactive, such as \"90d\"");
        section.reader().report(&section.at().under("for"), fault);
    }
    let reports = reports.required("the directory for reports, such as \"/var/lib/portcullis/reports\"").placed();
    let reports = reports.and_then(|(path, at)| {
        let path = section.reader().resolve(&at, &path);
        // Whoever may not look at it runs no schedule.
        let is_fine = std::fs::metadata(&path)
            .map_or_else(|error| error.kind() == std::io::ErrorKind::PermissionDenied, |metadata| metadata.is_dir());
        if is_fine {
            return Some(path);
        }
        let fault = Fault::new(format!("{} is not a directory", path.display())).hint("create it");
        section.reader().report(&at, fault);
        None
    });
    let mut issuers = Vec::new();
    if names.is_given() {
        for (name, at) in names.or(Vec::new()) {
            if basis.issuer_names.contains(&name) {
                issuers.extend(IssuerName::try_from(name.as_str()).ok());
                continue;
            }
            let fault = Fault::new(format!("there is no issuer \"{name}\""));
            let hint = match nearest(&name, basis.issuer_names.iter().map(String::as_str)) {
                Some(nearest) => format!("did you mean \"{nearest}\"?"),
                None => format!("there are: {}", basis.issuer_names.join(", ")),
            };
            section.reader().report(&at, fault.hint(hint));
        }
    } else {
        issuers = basis.issuers.iter().map(|issuer| issuer.settings.name.clone()).collect();
    }
    let every = every.option()?;
    Some(Schedule {
        issuers,
        every,
        jitter: jitter.or(HOUR.min(every / 10)),
        block: block.or(false),
        reports: reports?,
    })
}

/// What only the Management API can do needs one: at each issuer that is looked at by itself, or at any.
fn check_needs(section: &Section<'_>, needs: [(&str, bool); 3], tenants: &Tenants, schedule: Option<&Schedule>) {
    let lacking = match schedule {
        Some(schedule) => {
            let lacking = schedule.issuers.iter().find(|issuer| !tenants.contains_key(issuer));
            lacking.map(|issuer| format!("\"{issuer}\" has none"))
        }
        None => tenants.is_empty().then(|| "no issuer has one".to_owned()),
    };
    let Some(lacking) = lacking else { return };
    for (key, needed) in needs {
        if needed {
            let fault = Fault::new(format!("needs the Management API, and {lacking}"));
            let hint = "set `management.client_id` and its secret at the issuer";
            section.reader().report(&section.at().under(key), fault.hint(hint));
        }
    }
}

/// A time with an offset.
struct Time(Timestamp);

impl Setting for Time {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let wanted = || Fault::new("not a time").hint("such as \"2026-01-31T12:00:00Z\", or a day: \"2026-01-31\"");
        time(raw.text("a time")?.trim()).map(Self).ok_or_else(wanted)
    }
}

/// A time with an offset, or a day, which stands for its beginning in UTC.
pub(crate) fn time(text: &str) -> Option<Timestamp> {
    text.parse().or_else(|_| format!("{text}T00:00:00Z").parse()).ok()
}

/// `"5%"`
pub(super) struct Percent(pub(super) f64);

impl Setting for Percent {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("a share")?.trim();
        percent(text).map(Self).ok_or_else(|| Fault::new("not a share").hint("from \"0%\" to \"100%\""))
    }
}

/// A share in percent, 0 to 100.
pub(crate) fn percent(text: &str) -> Option<f64> {
    let number: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
    (0.0..=100.0).contains(&number).then_some(number)
}
