//! Whatever comes in: no panic, and nothing verifies that its issuer did not sign.

use std::sync::LazyLock;

use jsonwebtoken::Algorithm;
use portcullis::token::{
    compact::Compact,
    issuer::KeySource,
    key::parse_key_set,
    verify::{Verifier, VerifierOptions},
};
use proptest::{prelude::*, sample::Index};
use serde_json::json;

use super::NOW;
use crate::support::keys::{TestIssuer, base64url};

static PAIR: LazyLock<(TestIssuer, Verifier)> = LazyLock::new(|| {
    let issuer = TestIssuer::with_algorithms("https://issuer.example/", &[Algorithm::HS256]);
    let settings = issuer.settings("main", KeySource::Secret(issuer.keys[0].secret().into()));
    let options =
        VerifierOptions { forwarded_claims: ["sub", "extra"].map(Into::into).into(), ..VerifierOptions::default() };
    let verifier = Verifier::new(vec![settings], options).unwrap();
    (issuer, verifier)
});

fn claim() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
        Just(json!(NOW)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Into::into))
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "iss",
        "sub",
        "aud",
        "exp",
        "iat",
        "nbf",
        "jti",
        "sid",
        "azp",
        "client_id",
        "scope",
        "scp",
        "permissions",
        "auth_time",
        "last_logout",
        "cnf",
        "extra",
    ])
}

proptest! {
    #[test]
    fn arbitrary_text_never_verifies(text in any::<String>()) {
        prop_assert!(PAIR.1.verify(&text).is_err());
    }

    #[test]
    fn arbitrary_segments_never_verify(segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..48), 0..6)) {
        let text = segments.iter().map(base64url).collect::<Vec<_>>().join(".");
        prop_assert!(PAIR.1.verify(&text).is_err());
    }

    /// With one octet of its text changed, a token is refused: there is no second text of a token.
    #[test]
    fn a_mutated_token_never_verifies(at in any::<Index>(), with in any::<char>()) {
        let (issuer, verifier) = &*PAIR;
        let token = issuer.token(&issuer.claims(NOW));
        let at = at.index(token.len());
        let mut mutated = token.clone();
        mutated.replace_range(at..=at, with.encode_utf8(&mut [0; 4]));
        prop_assume!(mutated != token);
        prop_assert!(verifier.verify(&mutated).is_err());
    }

    #[test]
    fn a_shortened_or_lengthened_token_never_verifies(at in any::<Index>(), more in "[A-Za-z0-9_.=-]{1,8}") {
        let (issuer, verifier) = &*PAIR;
        let token = issuer.token(&issuer.claims(NOW));
        prop_assert!(verifier.verify(&token[..at.index(token.len())]).is_err());
        let longer = format!("{token}{more}");
        prop_assert!(verifier.verify(&longer).is_err());
    }

    /// Signed tokens may say anything: they never panic, and what is read from them is what they say.
    #[test]
    fn odd_claims_are_judged(name in name(), value in claim()) {
        let (issuer, verifier) = &*PAIR;
        let mut claims = issuer.claims(NOW);
        claims[name] = value.clone();
        if let Ok(verified) = verifier.verify(&issuer.token(&claims)) {
            prop_assert_eq!(verified.claims.subject.id.as_str(), claims["sub"].as_str().unwrap());
            prop_assert_eq!(verified.forwarded.get(1).is_some(), !claims["extra"].is_null());
            prop_assert!(name != "cnf");
        }
    }

    #[test]
    fn signed_garbage_is_refused(header in prop::collection::vec(any::<u8>(), 0..64), payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let (issuer, verifier) = &*PAIR;
        prop_assert!(verifier.verify(&issuer.keys[0].compact(&header, &payload)).is_err());
    }

    /// What is decoded encodes to the same text again.
    #[test]
    fn a_token_has_one_text(text in "[A-Za-z0-9_-]{1,6}\\.[A-Za-z0-9_-]{0,6}\\.") {
        if let Ok(compact) = Compact::parse(&text) {
            let payload = text.split('.').nth(1).unwrap();
            prop_assert_eq!(base64url(compact.payload()), payload);
        }
    }

    #[test]
    fn arbitrary_key_sets_never_panic(kty in "RSA|EC|OKP|oct", members in prop::collection::hash_map("kid|use|alg|crv|n|e|x|y|d|key_ops", "P-256|P-384|Ed25519|RS256|ES256|sig|AQAB|[A-Za-z0-9_-]{0,90}", 0..8)) {
        let mut jwk = json!(members);
        jwk["kty"] = json!(kty);
        let document = json!({"keys": [jwk]}).to_string();
        let parsed = parse_key_set(document.as_bytes(), &[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]).unwrap();
        prop_assert_eq!(parsed.keys.len() + parsed.skipped.len(), 1);
    }
}
