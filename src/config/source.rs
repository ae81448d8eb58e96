//! `[sources.<name>]`

mod auth0;
mod backchannel_logout;
mod shared_signals;
mod token_revocation;

pub(super) use self::auth0::base as tenant_base;

use super::{
    issuer::Issuer,
    problem::{Fault, nearest},
    reader::Section,
    value::{ByteSize, DAY, MINUTE, Raw, Setting, choose},
};
use crate::{
    event::{SourceName, SourceSettings, sources::SourceKind},
    marker::Source,
    token::claims::IssuerName,
};

/// What sources rest on.
pub(super) struct Basis<'a> {
    /// The names of all issuers, those with problems included.
    pub(super) issuer_names: &'a [String],
    /// Those without problems.
    pub(super) issuers: &'a [Issuer],
}

/// All sources.
pub(super) fn read_all(root: &Section<'_>, basis: &Basis<'_>) -> Vec<SourceSettings> {
    let mut sources = Vec::new();
    for (name, section) in root.named_sections("sources") {
        let source = read(&name, &section, basis);
        section.finish();
        sources.extend(source);
    }
    sources
}

fn read(name: &str, section: &Section<'_>, basis: &Basis<'_>) -> Option<SourceSettings> {
    let source_name = SourceName::try_from(name);
    if let Err(error) = &source_name {
        section.reader().report(section.at(), Fault::new(format!("the name {error}")));
    }
    let kind = section.get::<Type>("type").required("what the source is, such as \"auth0_log_stream\"").option();
    let expect_every = section.get("expect_every").between(MINUTE, 30 * DAY).option();
    let usual = kind.as_ref().map_or(ByteSize::mib(4), |kind| usual_body(kind.0));
    let is_called = kind.as_ref().is_none_or(|kind| !matches!(kind.0, Source::Auth0Logs | Source::Auth0Events));
    let max_body = if is_called {
        section.get("max_body").between(ByteSize::kib(1), ByteSize::mib(64)).or(usual).as_usize()
    } else {
        usual.as_usize()
    };
    let kind = match kind?.0 {
        Source::Auth0LogStream => SourceKind::Auth0LogStream(auth0::log_stream(section, basis)?),
        Source::Auth0Logs => SourceKind::Auth0Logs(auth0::logs(section, basis)?),
        Source::Auth0EventStream => SourceKind::Auth0EventStream(auth0::event_stream(section, basis)?),
        Source::Auth0Events => SourceKind::Auth0Events(auth0::events(section, basis)?),
        Source::BackchannelLogout => SourceKind::BackchannelLogout(backchannel_logout::read(section, basis)?),
        Source::SharedSignals => SourceKind::SharedSignals(Box::new(shared_signals::read(section, basis)?)),
        Source::TokenRevocation => SourceKind::TokenRevocation(token_revocation::read(section, basis)?),
        Source::Admin | Source::Logout | Source::Idle | Source::Inactive => return None,
    };
    Some(SourceSettings { name: source_name.ok()?, expect_every, max_body, kind })
}

/// The most that one delivery may hold, where nothing is set: less where a delivery is one event, and its sender not known before it is read.
const fn usual_body(kind: Source) -> ByteSize {
    match kind {
        Source::BackchannelLogout | Source::TokenRevocation => ByteSize::kib(64),
        _ => ByteSize::mib(4),
    }
}

/// The issuer whose users a source tells about: the one that is named, or the only one.
fn issuer(section: &Section<'_>, basis: &Basis<'_>) -> Option<IssuerName> {
    let reader = section.reader();
    let given = section.get::<String>("issuer");
    let (name, at) = match (given.is_given(), basis.issuer_names) {
        (true, _) => given.placed()?,
        (false, [only]) => (only.clone(), given.at().clone()),
        (false, names) => {
            let fault =
                Fault::new("is missing").hint(format!("whose users it tells about: one of {}", names.join(", ")));
            reader.report(given.at(), fault);
            return None;
        }
    };
    if !basis.issuer_names.contains(&name) {
        let fault = Fault::new(format!("there is no issuer \"{name}\""));
        reader.report(
            &at,
            match nearest(&name, basis.issuer_names.iter().map(String::as_str)) {
                Some(nearest) => fault.hint(format!("did you mean \"{nearest}\"?")),
                None => fault.hint(format!("there are: {}", basis.issuer_names.join(", "))),
            },
        );
        return None;
    }
    IssuerName::try_from(name.as_str()).ok()
}

/// The type of a source.
struct Type(Source);

impl Setting for Type {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let is_configured =
            |source: &Source| !matches!(source, Source::Admin | Source::Logout | Source::Idle | Source::Inactive);
        let kinds = Source::ALL.into_iter().filter(is_configured);
        let choices: Vec<_> = kinds.map(|source| (source.as_str(), source)).collect();
        choose(raw, &choices).map(Self)
    }
}
