//! Global Token Revocation.

use jsonwebtoken::Algorithm;

use super::{
    super::{
        issuer::{check_discovery, is_shared},
        problem::Fault,
        reader::Section,
        secret, web,
    },
    Basis, issuer,
};
use crate::{
    event::token_revocation::{Assertions, Signer, TokenRevocationSettings},
    token::issuer::KeySource,
};

/// `type = "token_revocation"`
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Option<TokenRevocationSettings> {
    let reader = section.reader();
    let issuer = issuer(section, basis);
    let has_token = section.has("token") || section.has("token_file");
    let token = secret::read_text(section, "token").map(|(token, _)| token);
    let audiences = section.list::<String>("audiences").check(|audiences| {
        if audiences.is_empty() {
            return Err(Fault::new("names no audience").hint("the URL of this source, as the sender has it"));
        }
        Ok(())
    });
    let signs = audiences.is_given();
    if !signs {
        if !has_token {
            let fault = Fault::new("does not tell how the sender is known: anyone could log users out");
            let hint = "set `audiences` to the URL of this source for a sender that signs (Okta does), `token_file` for others";
            reader.report(section.at(), fault.hint(hint));
        }
        for key in ["clients", "signer", "jwks_url", "algorithms"] {
            if section.has(key) {
                let fault = Fault::new(format!("`{key}` is about a sender that signs, and needs `audiences`"));
                reader.report(section.at(), fault);
            }
        }
    }
    let clients = texts(section, "clients");
    let signer = signer(section);
    let subject_issuers = texts(section, "subject_issuers");
    let assertions = match audiences.option() {
        Some(audiences) => {
            let audiences = audiences.into_iter().map(|(audience, _)| audience.into()).collect();
            Some(Assertions { audiences, clients, signer })
        }
        None => None,
    };
    if token.is_none() && assertions.is_none() {
        return None;
    }
    Some(TokenRevocationSettings { issuer: issuer?, token, assertions, subject_issuers })
}

/// `None`: there is none, or what is wrong with it was reported.
fn signer(section: &Section<'_>) -> Option<Signer> {
    let identifier = section.get::<String>("signer");
    let url = section.get::<String>("jwks_url").and_then(|text| web::trusted_url(&text));
    let algorithms = section.list::<Algorithm>("algorithms").check(|algorithms| {
        if algorithms.is_empty() || algorithms.iter().any(|(algorithm, _)| is_shared(*algorithm)) {
            let fault = Fault::new("must be algorithms with public keys");
            return Err(fault.hint("[\"RS256\"] is what most sign with"));
        }
        Ok(())
    });
    if !identifier.is_given() {
        for (is_given, at) in [(url.is_given(), url.at()), (algorithms.is_given(), algorithms.at())] {
            if is_given {
                let fault = Fault::new("is about a signer of its own, and there is none");
                section.reader().report(at, fault.hint("name it: `signer = \"https://…\"`"));
            }
        }
    }
    let (identifier, at) = identifier.placed()?;
    let keys = if url.is_given() {
        KeySource::Url(url.option()?)
    } else {
        check_discovery(section, &identifier, &at);
        KeySource::Discovery
    };
    let algorithms = algorithms.option().map_or_else(
        || [Algorithm::RS256].into(),
        |algorithms| algorithms.into_iter().map(|(algorithm, _)| algorithm).collect(),
    );
    Some(Signer { identifier: identifier.into(), keys, algorithms })
}

fn texts(section: &Section<'_>, key: &str) -> Box<[Box<str>]> {
    section.list::<String>(key).or(Vec::new()).into_iter().map(|(text, _)| text.into()).collect()
}
