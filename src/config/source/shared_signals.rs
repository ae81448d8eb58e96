//! Shared Signals.

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use secrecy::SecretString;

use super::{
    super::{
        problem::{Fault, nearest},
        reader::{At, Section},
        secret,
        value::{DAY, HOUR, MINUTE, Raw, SECOND, Setting, choose},
        web,
    },
    Basis, issuer,
};
use crate::event::{
    shared_signals::{
        Actions, Credential, Delivery, SharedSignalsSettings,
        mapping::{Action, EVENTS},
    },
    subject::Opaque,
};

/// `type = "shared_signals"`
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Option<SharedSignalsSettings> {
    let issuer = issuer(section, basis);
    let transmitter = section
        .get::<String>("transmitter")
        .required("the `iss` of its events: the URL that its configuration is found by")
        .check(|url| web::trusted_url(url).map(drop));
    let audiences = section
        .list::<String>("audiences")
        .required("the `aud` of events for this gateway: the transmitter's administrator knows it")
        .check(|audiences| if audiences.is_empty() { Err(Fault::new("names no audience")) } else { Ok(()) });
    let subject_issuers = section.list::<String>("subject_issuers").or(Vec::new());
    let algorithms = section.list::<Algorithm>("algorithms").check(|algorithms| check_algorithms(algorithms));
    let algorithms = if algorithms.is_given() {
        algorithms.option().map(|all| all.into_iter().map(|(algorithm, _)| algorithm).collect())
    } else {
        Some([Algorithm::RS256].into())
    };
    let keys = section.get::<String>("jwks_url").and_then(|url| web::trusted_url(&url)).option();
    let opaque = section.get("opaque").or(Opaque::Refuse);
    let actions = actions(section);
    let ignored_members = section.list::<String>("ignored_members").or(Vec::new());
    let managed = section.get("manage").or(false);
    let verify_every = section.get("verify_every").between(MINUTE, 7 * DAY).or(HOUR);
    let delivery = delivery(section, managed);
    let credential = credential(section);
    Some(SharedSignalsSettings {
        issuer: issuer?,
        subject_issuers: subject_issuers.into_iter().map(|(identifier, _)| identifier.into()).collect(),
        transmitter: transmitter.option()?.into(),
        audiences: audiences.option()?.into_iter().map(|(audience, _)| audience.into()).collect(),
        algorithms: algorithms?,
        keys,
        opaque,
        actions,
        ignored_members: ignored_members.into_iter().map(|(name, _)| name.into()).collect(),
        delivery: delivery?,
        credential,
        verify_every: managed.then_some(verify_every),
    })
}

fn check_algorithms(algorithms: &[(Algorithm, At)]) -> Result<(), Fault> {
    if algorithms.is_empty() {
        return Err(Fault::new("names no algorithm").hint("[\"RS256\"] is what transmitters sign with"));
    }
    let is_shared = |(algorithm, _): &(Algorithm, At)| AlgorithmFamily::Hmac.algorithms().contains(algorithm);
    if algorithms.iter().any(is_shared) {
        return Err(Fault::new("a transmitter's keys are published, and HMAC keys are secret"));
    }
    Ok(())
}

fn delivery(section: &Section<'_>, managed: bool) -> Option<Delivery> {
    let reader = section.reader();
    let by = section.get("delivery").or(By::Push);
    let authorization = secret::read_text(section, "authorization");
    let endpoint = section.get::<String>("endpoint_url").and_then(|url| web::url(&url));
    let url = section.get::<String>("poll_url").and_then(|url| web::trusted_url(&url));
    let every = section.get("poll_every").between(SECOND, HOUR).or(5 * SECOND);
    let timeout = section.get("poll_timeout").between(SECOND, HOUR).or(2 * MINUTE);
    let max_events = section.get("max_events").between(1, 1000).or(100);
    match by {
        By::Push => {
            if managed && !endpoint.is_given() {
                let fault = Fault::new("is missing");
                let hint = "where the transmitter reaches this source: \"https://<gateway>/.portcullis/events/<name>\"";
                reader.report(endpoint.at(), fault.hint(hint));
                return None;
            }
            let authorization: Option<SecretString> = authorization.map(|(authorization, _)| authorization);
            Some(Delivery::Push { authorization, endpoint: endpoint.option() })
        }
        By::Poll => {
            if let Some((_, at)) = &authorization {
                reader.report(
                    at,
                    Fault::new("is for events that are pushed").hint("set `token_file` for those that are polled"),
                );
            }
            if !managed && !url.is_given() {
                let fault = Fault::new("is missing").hint("where to poll; with `manage = true` the stream tells");
                reader.report(url.at(), fault);
                return None;
            }
            Some(Delivery::Poll { url: url.option(), every, timeout, max_events })
        }
    }
}

fn credential(section: &Section<'_>) -> Credential {
    let reader = section.reader();
    let token = secret::read_text(section, "token");
    let token_url = section.get::<String>("token_url").and_then(|url| web::trusted_url(&url));
    let id = section.get::<String>("client_id");
    let secret = secret::read_text(section, "client_secret");
    let scope = section.get::<String>("scope").option();
    if let Some((token, at)) = token {
        if token_url.is_given() {
            reader.report(&at, Fault::new("is a second credential besides that of `token_url`; one is needed"));
        }
        return Credential::Token(token);
    }
    if !token_url.is_given() {
        return Credential::None;
    }
    let id = id.required("the client that `token_url` gives access tokens to").option();
    if secret.is_none() && !section.has("client_secret_file") {
        let fault = Fault::new("`token_url` needs the secret of the client");
        reader.report(section.at(), fault.hint("set `client_secret_file`"));
    }
    match (token_url.option(), id, secret) {
        (Some(token_url), Some(id), Some((secret, _))) => {
            Credential::Client { token_url, id: id.into(), secret, scope: scope.map(Into::into) }
        }
        _ => Credential::None,
    }
}

fn actions(section: &Section<'_>) -> Actions {
    let given = section.map::<Action>("events").or(Vec::new());
    for (name, _, at) in &given {
        if name.contains(':') || EVENTS.iter().any(|(_, known, _)| known == name) {
            continue;
        }
        let fault = Fault::new(format!("there is no event \"{name}\""));
        let hint = match nearest(name, EVENTS.iter().map(|(_, known, _)| *known)) {
            Some(nearest) => format!("did you mean \"{nearest}\"?"),
            None => "events of others are named by their whole URI".to_owned(),
        };
        section.reader().report(at, fault.hint(hint));
    }
    Actions::new(given.into_iter().map(|(name, action, _)| (name.into(), action)))
}

/// How events come.
#[derive(Clone, Copy)]
enum By {
    Push,
    Poll,
}

impl Setting for By {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("push", Self::Push), ("poll", Self::Poll)])
    }
}

impl Setting for Opaque {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("session", Self::Session), ("subject", Self::Subject), ("refuse", Self::Refuse)])
    }
}

impl Setting for Action {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let choices = [
            ("logout", Self::Logout),
            ("block", Self::Block),
            ("unblock", Self::Unblock),
            ("delete", Self::Delete),
            ("active", Self::Active),
            ("ignore", Self::Ignore),
        ];
        choose(raw, &choices)
    }
}
