//! `[issuers.<name>]`

use std::{collections::HashMap, time::Duration};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use secrecy::ExposeSecret as _;

use super::{
    logout::{self, AtIssuer},
    problem::Fault,
    reader::{At, Section},
    secret,
    session::{self, Limits, Session},
    value::{DAY, MILLISECOND, MINUTE, Raw, SECOND, Setting, choose},
    web::{self, CookieName, FieldName},
};
use crate::token::{
    claims::IssuerName,
    issuer::{ClaimNames, IssuerSettings, KeySource, TokenProfile},
};

/// An issuer and what routes take from it.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) settings: IssuerSettings,
    pub(super) limits: Limits,
    pub(super) ends: AtIssuer,
    pub(super) cookie: Option<(CookieName, At)>,
    pub(super) header: Option<(FieldName, At)>,
}

/// What issuers rest on.
pub(super) struct Basis<'a> {
    pub(super) limits: session::Basis<'a>,
    pub(super) session: &'a Session,
}

/// All issuers. Whoever is read with problems is left out: nothing is built from it then.
pub(super) fn read_all(root: &Section<'_>, basis: &Basis<'_>) -> Vec<Issuer> {
    let mut identifiers: HashMap<String, String> = HashMap::new();
    let mut issuers = Vec::new();
    for (name, section) in root.named_sections("issuers") {
        let issuer = read(&name, &section, basis, &mut identifiers);
        section.finish();
        issuers.extend(issuer);
    }
    issuers
}

fn read(
    name: &str,
    section: &Section<'_>,
    basis: &Basis<'_>,
    identifiers: &mut HashMap<String, String>,
) -> Option<Issuer> {
    let reader = section.reader();
    let short_name = IssuerName::try_from(name);
    if let Err(error) = &short_name {
        reader.report(section.at(), Fault::new(format!("the name {error}")));
    }
    let issuer = section.get::<String>("issuer").required("the `iss` of its tokens, exactly as they carry it").placed();
    let aliases = section.list::<String>("aliases").or(Vec::new());
    let own: Vec<(String, At)> = issuer.iter().cloned().chain(aliases).collect();
    for (identifier, at) in &own {
        if let Some(other) = identifiers.insert(identifier.clone(), at.key.clone()) {
            reader.report(at, Fault::new(format!("is the identifier of `{other}` already")));
        }
        check_identifier(section, identifier, at);
    }
    let audiences = section
        .list::<String>("audiences")
        .required("the `aud` of tokens for these APIs: without one, tokens for any other API would be good here too")
        .check(|audiences| {
            if audiences.is_empty() {
                return Err(Fault::new("names no audience").hint("the `aud` of tokens for these APIs"));
            }
            Ok(())
        })
        .option();
    let algorithms = algorithms(section);
    let keys = keys(section, algorithms.as_deref());
    if let (Some(KeySource::Discovery), Some((identifier, at))) = (&keys, &issuer) {
        check_discovery(section, identifier, at);
    }
    let (refresh_interval, refetch_interval) = intervals(section);
    let profile = section.get("profile").or(TokenProfile::Jwt);
    let claims = claims(&section.section("claims"));
    let fetch_timeout = section.get("fetch_timeout").between(MILLISECOND, MINUTE).or(5 * SECOND);
    let session = section.section("session");
    let limits = session::limits(&session, &basis.limits, &basis.session.caps).or(&basis.session.limits);
    session::check(&session, &limits);
    let cookie = section.get("cookie").placed();
    let header = section.get("header").placed();
    let basis = logout::Basis {
        name: short_name.as_ref().ok(),
        identifier: issuer.as_ref().map(|(identifier, _)| identifier.as_str()),
        refresh_interval,
        fetch_timeout,
    };
    let ends = logout::read(&section.section("logout"), &section.section("management"), &basis);
    let settings = IssuerSettings {
        name: short_name.ok()?,
        identifiers: own.into_iter().map(|(identifier, _)| identifier.into()).collect(),
        audiences: audiences?.into_iter().map(|(audience, _)| audience.into()).collect(),
        algorithms: algorithms?.into(),
        keys: keys?,
        profile,
        claims,
        limits: limits.settings(),
        refresh_interval,
        refetch_interval,
        fetch_timeout,
    };
    Some(Issuer { settings, limits, ends, cookie, header })
}

/// Auth0 puts a slash at the end of `iss`; without it no token would ever match.
fn check_identifier(section: &Section<'_>, identifier: &str, at: &At) {
    if let Some(host) = identifier.strip_prefix("https://")
        && host.ends_with(".auth0.com")
    {
        let fault = Fault::new("Auth0's `iss` ends with a slash, and is compared letter by letter");
        section.reader().report(at, fault.hint(format!("write \"{identifier}/\"")));
    }
}

/// The keys are fetched from there, so it must be a place that can be trusted.
pub(super) fn check_discovery(section: &Section<'_>, identifier: &str, at: &At) {
    let checked = web::trusted_url(identifier).and_then(|url| match url.query() {
        Some(_) => Err(Fault::new("has a query")),
        None => Ok(()),
    });
    if let Err(fault) = checked {
        let hint = fault.hint.clone().unwrap_or_else(|| {
            "the keys are found by discovery from this URL; otherwise set `jwks_url` or `jwks_file`".to_owned()
        });
        section.reader().report(at, fault.hint(hint));
    }
}

fn algorithms(section: &Section<'_>) -> Option<Vec<Algorithm>> {
    let algorithms = section.list::<Algorithm>("algorithms").check(|algorithms| {
        if algorithms.is_empty() {
            return Err(Fault::new("names no algorithm").hint("[\"RS256\"] is what most issuers sign with"));
        }
        let shared = algorithms.iter().filter(|(algorithm, _)| is_shared(*algorithm)).count();
        if shared > 0 && shared < algorithms.len() {
            let fault =
                Fault::new("HMAC and public-key algorithms are mixed: a public key could be taken for the secret");
            return Err(fault.hint("make two issuers of it, or drop one kind"));
        }
        Ok(())
    });
    if algorithms.is_given() {
        algorithms.option().map(|algorithms| algorithms.into_iter().map(|(algorithm, _)| algorithm).collect())
    } else {
        Some(vec![Algorithm::RS256])
    }
}

pub(super) fn is_shared(algorithm: Algorithm) -> bool {
    AlgorithmFamily::Hmac.algorithms().contains(&algorithm)
}

/// RFC 7518 §3.2: a key at least as long as the hash.
const fn hash_length(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 32,
    }
}

/// `None`: reported.
fn keys(section: &Section<'_>, algorithms: Option<&[Algorithm]>) -> Option<KeySource> {
    let reader = section.reader();
    let has_secret = section.has("secret") || section.has("secret_file");
    let secret = secret::read(section, "secret");
    let url = section.get::<String>("jwks_url").and_then(|text| web::trusted_url(&text));
    let file = section.get::<String>("jwks_file");
    let given = [
        has_secret.then_some("secret_file"),
        url.is_given().then_some("jwks_url"),
        file.is_given().then_some("jwks_file"),
    ];
    let given: Vec<_> = given.into_iter().flatten().collect();
    if let [one, other, ..] = given[..] {
        reader
            .report(section.at(), Fault::new(format!("`{one}` and `{other}` are two sources of keys; one is needed")));
        return None;
    }
    let is_shared = algorithms.is_some_and(|algorithms| algorithms.iter().any(|algorithm| is_shared(*algorithm)));
    if algorithms.is_some() && is_shared != has_secret {
        let fault = if is_shared {
            Fault::new("HMAC algorithms need a secret").hint("set `secret_file`; keys from a URL are never secret")
        } else {
            Fault::new("a secret is for HMAC algorithms").hint("write `algorithms = [\"HS256\"]`, or drop the secret")
        };
        reader.report(section.at(), fault);
        return None;
    }
    if has_secret {
        let (secret, at) = secret?;
        let least = algorithms?.iter().map(|algorithm| hash_length(*algorithm)).max().unwrap_or(32);
        if secret.expose_secret().len() < least {
            let fault = Fault::new(format!("the secret is shorter than {least} bytes, the length of the hash"));
            reader.report(&at, fault.hint(format!("make one with `openssl rand -hex {least}`")));
            return None;
        }
        return Some(KeySource::Secret(secret));
    }
    if url.is_given() {
        return url.option().map(KeySource::Url);
    }
    if file.is_given() {
        return file.placed().map(|(path, at)| KeySource::File(reader.resolve(&at, &path)));
    }
    Some(KeySource::Discovery)
}

fn intervals(section: &Section<'_>) -> (Duration, Duration) {
    let refresh = section.get("refresh_interval").between(SECOND, DAY).or(10 * MINUTE);
    let refetch = section.get::<Duration>("refetch_interval").between(SECOND, DAY);
    let refetch = refetch.check(|refetch| {
        if *refetch > refresh {
            let message = format!("is longer than `refresh_interval`, {}, and would never apply", refresh.show());
            return Err(Fault::new(message));
        }
        Ok(())
    });
    (refresh, refetch.or((30 * SECOND).min(refresh)))
}

fn claims(section: &Section<'_>) -> ClaimNames {
    let defaults = ClaimNames::default();
    let name = |key, default| section.get::<String>(key).option().map_or(default, Into::into);
    let claims = ClaimNames {
        session: name("session", defaults.session),
        session_start: name("session_start", defaults.session_start),
        session_expiry: section.get::<String>("session_expiry").option().map(Into::into),
        last_logout: name("last_logout", defaults.last_logout),
        email: section.get::<String>("email").option().map(Into::into),
        phone: section.get::<String>("phone").option().map(Into::into),
    };
    section.finish();
    claims
}

impl Setting for Algorithm {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(
            raw,
            &[
                ("RS256", Self::RS256),
                ("RS384", Self::RS384),
                ("RS512", Self::RS512),
                ("PS256", Self::PS256),
                ("PS384", Self::PS384),
                ("PS512", Self::PS512),
                ("ES256", Self::ES256),
                ("ES384", Self::ES384),
                ("EdDSA", Self::EdDSA),
                ("HS256", Self::HS256),
                ("HS384", Self::HS384),
                ("HS512", Self::HS512),
            ],
        )
    }
}

impl Setting for TokenProfile {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("jwt", Self::Jwt), ("rfc9068", Self::Rfc9068)])
    }
}
