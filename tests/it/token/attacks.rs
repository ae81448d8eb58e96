//! The attacks of RFC 8725 §2, and the cross-checks between kinds of tokens of its §3.12.

use std::sync::LazyLock;

use jsonwebtoken::Algorithm;
use portcullis::token::{
    TokenFault,
    issuer::{IssuerSettings, KeySource, TokenProfile},
    verify::{Unverified, Verifier, VerifierOptions},
};
use serde_json::{Value, json};

use super::{NOW, Trusting};
use crate::support::keys::{AUDIENCE, SigningKey, TestIssuer, base64url};

const IDENTIFIER: &str = "https://issuer.example/";

/// RSA keys take a while to make.
static ISSUER: LazyLock<TestIssuer> = LazyLock::new(|| {
    TestIssuer::with_algorithms(IDENTIFIER, &[Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA])
});

fn claims() -> Value {
    ISSUER.claims(NOW)
}

/// The first key's header with these members added or replaced.
fn header_with(members: Value) -> String {
    let mut header = ISSUER.keys[0].header();
    header.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    header.to_string()
}

fn with_profile(profile: TokenProfile) -> impl FnOnce(KeySource) -> IssuerSettings {
    move |keys| IssuerSettings { profile, ..ISSUER.settings("main", keys) }
}

#[tokio::test]
async fn good_tokens_of_every_algorithm_verify() {
    let algorithms = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ];
    let issuer = TestIssuer::with_algorithms(IDENTIFIER, &algorithms);
    let trusting = Trusting::issuer(&issuer).await;
    for key in &issuer.keys {
        let verified = trusting.verify(&key.token(&issuer.claims(NOW))).unwrap();
        assert_eq!(verified.key.id(), Some(&*key.id));
        assert!(verified.key.is_current());
    }
}

#[tokio::test]
async fn rfc_9864_names_ed25519_for_eddsa() {
    let issuer = TestIssuer::with_algorithms(IDENTIFIER, &[Algorithm::EdDSA]);
    let trusting = Trusting::issuer(&issuer).await;
    let header = json!({"alg": "Ed25519", "kid": "key-1"}).to_string();
    assert!(trusting.verify(&issuer.keys[0].compact(header, claims().to_string())).is_ok());
}

#[tokio::test]
async fn hmac_tokens_verify_with_a_configured_secret_whatever_their_kid() {
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let issuer = TestIssuer::with_algorithms(IDENTIFIER, &[algorithm]);
        let settings = issuer.settings("main", KeySource::Secret(issuer.keys[0].secret().into()));
        let verifier = Verifier::new(vec![settings], VerifierOptions::default()).unwrap();
        assert!(verifier.is_ready());
        assert!(verifier.verify(&issuer.token(&issuer.claims(NOW))).is_ok());
        let bare = json!({"alg": format!("{algorithm:?}")}).to_string();
        assert!(verifier.verify(&issuer.keys[0].compact(bare, issuer.claims(NOW).to_string())).is_ok());
        let other = SigningKey::generate("key-1", algorithm).token(&issuer.claims(NOW));
        assert_eq!(verifier.verify(&other).err(), Some(TokenFault::Signature.into()));
    }
}

#[tokio::test]
async fn an_rsa_public_key_is_no_hmac_secret() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let jwk = ISSUER.keys[0].jwk();
    let secrets =
        [ISSUER.keys[0].public_octets(), jwk.to_string().into_bytes(), jwk["n"].as_str().unwrap().as_bytes().to_vec()];
    for secret in secrets {
        let forger = SigningKey::from_secret("key-1", Algorithm::HS256, &secret);
        trusting.assert_fault(&forger.token(&claims()), TokenFault::Algorithm);
    }
}

#[tokio::test]
async fn a_published_symmetric_key_is_no_key() {
    let leaked = SigningKey::generate("leaked", Algorithm::HS256);
    let mut jwks = ISSUER.jwks();
    jwks["keys"].as_array_mut().unwrap().push(leaked.jwk());
    let trusting = Trusting::in_keys(&jwks, |keys| ISSUER.settings("main", keys)).await;
    assert_eq!(trusting.verifier.status()[0].1.skipped, 1);
    trusting.assert_fault(&leaked.token(&claims()), TokenFault::Algorithm);
}

#[tokio::test]
async fn a_key_is_used_for_its_own_algorithm_only() {
    let trusting = Trusting::issuer(&ISSUER).await;
    // Signed as the header says, allowed for the issuer, but not what the key's `alg` says.
    let rs256 = ISSUER.keys[0].token(&claims());
    assert!(trusting.verify(&rs256).is_ok());
    for algorithm in ["PS256", "ES256", "EdDSA"] {
        let token = ISSUER.keys[0].compact(header_with(json!({"alg": algorithm})), claims().to_string());
        trusting.assert_fault(&token, TokenFault::UnknownKey);
    }
    // Not allowed for the issuer, though the key itself could.
    let token = ISSUER.keys[0].compact(header_with(json!({"alg": "RS512"})), claims().to_string());
    trusting.assert_fault(&token, TokenFault::Algorithm);
}

#[tokio::test]
async fn unsigned_tokens_are_refused() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let payload = base64url(claims().to_string());
    for alg in ["none", "None", "NONE", "nOnE", "none ", ""] {
        let header = base64url(header_with(json!({ "alg": alg })));
        trusting.assert_fault(&format!("{header}.{payload}."), TokenFault::Algorithm);
        trusting.assert_fault(&format!("{header}.{payload}.AAAA"), TokenFault::Algorithm);
    }
    let header = base64url(header_with(json!({})));
    trusting.assert_fault(&format!("{header}.{payload}."), TokenFault::Signature);
}

#[tokio::test]
async fn keys_that_a_token_brings_along_are_not_used() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let forger = SigningKey::generate("key-1", Algorithm::RS256);
    for members in [
        json!({"jwk": forger.jwk()}),
        json!({"jku": "https://evil.example/jwks.json"}),
        json!({"x5u": "https://evil.example/cert.pem"}),
        json!({"x5c": ["MIIB"]}),
    ] {
        let header = header_with(members);
        trusting.assert_fault(&forger.compact(&header, claims().to_string()), TokenFault::Signature);
        // Nor do they do harm.
        assert!(trusting.verify(&ISSUER.keys[0].compact(&header, claims().to_string())).is_ok());
    }
}

#[tokio::test]
async fn a_kid_is_a_name_and_nothing_else() {
    let trusting = Trusting::issuer(&ISSUER).await;
    for kid in ["../../../../dev/null", "key-1' OR '1'='1", "KEY-1", "key-1 ", "key-1\u{0}", "", "https://evil.example"]
    {
        let token = ISSUER.keys[0].compact(header_with(json!({ "kid": kid })), claims().to_string());
        assert!(matches!(trusting.verify(&token), Err(Unverified::UnknownKey { .. })), "{kid:?}");
    }
}

#[tokio::test]
async fn without_kid_the_key_must_be_the_only_one_that_fits() {
    let bare = |key: &SigningKey| {
        let header = json!({"alg": format!("{:?}", key.algorithm)}).to_string();
        key.compact(header, claims().to_string())
    };
    let trusting = Trusting::issuer(&ISSUER).await;
    assert!(trusting.verify(&bare(&ISSUER.keys[0])).is_ok());

    let two = TestIssuer::with_algorithms(IDENTIFIER, &[Algorithm::ES256, Algorithm::ES256]);
    let trusting = Trusting::issuer(&two).await;
    trusting.assert_fault(&bare(&two.keys[0]), TokenFault::UnknownKey);
}

#[tokio::test]
async fn one_kid_with_two_types_is_told_apart_by_the_algorithm() {
    let mut issuer = TestIssuer::with_algorithms(IDENTIFIER, &[Algorithm::ES256, Algorithm::EdDSA]);
    issuer.keys[1].id = issuer.keys[0].id.clone();
    let trusting = Trusting::issuer(&issuer).await;
    for key in &issuer.keys {
        assert!(trusting.verify(&key.token(&issuer.claims(NOW))).is_ok());
    }
}

#[tokio::test]
async fn critical_extensions_are_refused() {
    let trusting = Trusting::issuer(&ISSUER).await;
    for members in [
        json!({"crit": ["exp"], "exp": NOW + 60}),
        json!({"crit": []}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"b64": true}),
    ] {
        let token = ISSUER.keys[0].compact(header_with(members), claims().to_string());
        trusting.assert_fault(&token, TokenFault::Critical);
    }
}

#[tokio::test]
async fn nested_and_compressed_content_is_refused() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let inner = ISSUER.token(&claims());
    for members in [json!({"cty": "JWT"}), json!({"cty": "application/json"}), json!({"zip": "DEF"})] {
        trusting.assert_fault(&ISSUER.keys[0].compact(header_with(members), &inner), TokenFault::Content);
    }
    trusting.assert_fault(&ISSUER.keys[0].compact(header_with(json!({})), &inner), TokenFault::Payload);
}

#[tokio::test]
async fn doubled_members_are_refused() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let key = &ISSUER.keys[0];
    let doubled = r#"{"alg":"RS256","kid":"key-1","alg":"RS256"}"#;
    trusting.assert_fault(&key.compact(doubled, claims().to_string()), TokenFault::Header);

    let text = claims().to_string();
    let body = text.trim_end_matches('}');
    for extra in [r#","sub":"auth0|bob"}"#, r#","\u0073ub":"auth0|alice"}"#, r#","act":{"sub":"a","sub":"b"}}"#] {
        trusting.assert_fault(&key.compact(header_with(json!({})), format!("{body}{extra}")), TokenFault::Payload);
    }
}

#[tokio::test]
async fn headers_and_payloads_that_are_no_objects_are_refused() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let key = &ISSUER.keys[0];
    for text in ["", "[]", "null", "\"a\"", "1", "{} {}", "\u{feff}{}"] {
        if !text.is_empty() {
            trusting.assert_fault(&key.compact(text, claims().to_string()), TokenFault::Header);
        }
        trusting.assert_fault(&key.compact(header_with(json!({})), text), TokenFault::Payload);
    }
    let latin1 = claims().to_string().replace("alice", "al\u{e9}").chars().map(|c| c as u8).collect::<Vec<u8>>();
    trusting.assert_fault(&key.compact(header_with(json!({})), latin1), TokenFault::Payload);
    // White space around an object is JSON.
    let spaced = format!("\r\n {}\t", claims());
    assert!(trusting.verify(&key.compact(header_with(json!({})), spaced)).is_ok());
}

#[tokio::test]
async fn another_text_of_a_token_is_not_that_token() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let token = ISSUER.keys[2].token(&claims());
    assert!(trusting.verify(&token).is_ok());
    let segments: Vec<&str> = token.split('.').collect();
    for text in [
        format!("{token}="),
        format!("{token}=="),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}."),
        token.replace('.', ".."),
        format!("{}.{}", segments[0], segments[1]),
        format!("{token}.{}", segments[2]),
        format!("{}.{}.{}.{}.{}", segments[0], segments[1], segments[2], segments[0], segments[1]),
        token.replace('-', "+").replace('_', "/") + "=",
    ] {
        trusting.assert_fault(&text, TokenFault::NotCompact);
    }
    // A set bit after the end: the same octets, another text.
    let mut last = token.clone();
    let replaced = match last.pop().unwrap() {
        'A' => 'B',
        'Q' => 'R',
        'g' => 'h',
        _ => 'x',
    };
    trusting.assert_fault(&format!("{last}{replaced}"), TokenFault::NotCompact);
}

#[tokio::test]
async fn too_long_tokens_are_refused_unread() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let mut claims = claims();
    claims["pad"] = json!("x".repeat(16 * 1024));
    trusting.assert_fault(&ISSUER.token(&claims), TokenFault::TooLong);
    trusting.assert_fault(&"!".repeat(16 * 1024 + 1), TokenFault::TooLong);
    trusting.assert_fault(&"!".repeat(16 * 1024), TokenFault::NotCompact);
}

#[tokio::test]
async fn a_changed_token_does_not_verify() {
    let trusting = Trusting::issuer(&ISSUER).await;
    for key in &ISSUER.keys {
        let token = key.token(&claims());
        let (head, signature) = token.rsplit_once('.').unwrap();
        let mut forged = claims();
        forged["sub"] = json!("auth0|mallory");
        let header = head.split_once('.').unwrap().0;
        let forged = format!("{header}.{}.{signature}", base64url(forged.to_string()));
        trusting.assert_fault(&forged, TokenFault::Signature);
        let half = &signature[..signature.len() / 8 * 4];
        trusting.assert_fault(&format!("{head}.{half}"), TokenFault::Signature);
    }
}

#[tokio::test]
async fn the_key_of_one_issuer_does_not_sign_for_another() {
    let (ours, theirs) = (TestIssuer::new("https://ours.example/"), TestIssuer::new("https://theirs.example/"));
    let files: Vec<tempfile::NamedTempFile> = [&ours, &theirs].map(|_| tempfile::NamedTempFile::new().unwrap()).into();
    let settings = [("ours", &ours), ("theirs", &theirs)].into_iter().zip(&files).map(|((name, issuer), file)| {
        std::fs::write(file.path(), issuer.jwks().to_string()).unwrap();
        issuer.settings(name, KeySource::File(file.path().to_owned()))
    });
    let verifier = Verifier::new(settings.collect(), VerifierOptions::default()).unwrap();
    verifier.load().await;
    assert_eq!(verifier.verify(&ours.token(&ours.claims(NOW))).unwrap().claims.subject.issuer.as_str(), "ours");
    assert_eq!(verifier.verify(&theirs.token(&theirs.claims(NOW))).unwrap().claims.subject.issuer.as_str(), "theirs");
    let forged = theirs.token(&ours.claims(NOW));
    assert_eq!(verifier.verify(&forged).err(), Some(TokenFault::Signature.into()));
}

#[tokio::test]
async fn the_issuer_is_compared_to_the_letter() {
    let trusting = Trusting::issuer(&ISSUER).await;
    for iss in [
        json!("https://issuer.example"),
        json!("https://ISSUER.example/"),
        json!("https://issuer.example//"),
        json!(" https://issuer.example/"),
        json!(""),
        json!(null),
        json!(["https://issuer.example/"]),
        json!({"iss": "https://issuer.example/"}),
    ] {
        let mut claims = claims();
        claims["iss"] = iss;
        trusting.assert_fault(&ISSUER.token(&claims), TokenFault::Issuer);
    }
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove("iss");
    trusting.assert_fault(&ISSUER.token(&claims), TokenFault::Issuer);
}

/// Which `typ` each profile takes, for otherwise good access tokens.
#[tokio::test]
async fn types_are_those_of_access_tokens() {
    let mut claims = claims();
    claims["client_id"] = json!("web-app");
    claims["jti"] = json!("token-1");
    for (profile, typ, is_fine) in [
        (TokenProfile::Jwt, None, true),
        (TokenProfile::Jwt, Some("JWT"), true),
        (TokenProfile::Jwt, Some("jwt"), true),
        (TokenProfile::Jwt, Some("at+jwt"), true),
        (TokenProfile::Jwt, Some("application/at+jwt"), true),
        (TokenProfile::Jwt, Some("application/AT+JWT"), true),
        (TokenProfile::Jwt, Some("logout+jwt"), false),
        (TokenProfile::Jwt, Some("application/logout+jwt"), false),
        (TokenProfile::Jwt, Some("secevent+jwt"), false),
        (TokenProfile::Jwt, Some("dpop+jwt"), false),
        (TokenProfile::Jwt, Some("JWS"), false),
        (TokenProfile::Jwt, Some(""), false),
        (TokenProfile::Rfc9068, None, false),
        (TokenProfile::Rfc9068, Some("JWT"), false),
        (TokenProfile::Rfc9068, Some("at+jwt"), true),
        (TokenProfile::Rfc9068, Some("Application/At+Jwt"), true),
        (TokenProfile::Rfc9068, Some("logout+jwt"), false),
        (TokenProfile::Rfc9068, Some("text/at+jwt"), false),
    ] {
        let trusting = Trusting::in_keys(&ISSUER.jwks(), with_profile(profile)).await;
        let header = typ.map_or_else(|| header_with(json!({})), |typ| header_with(json!({ "typ": typ })));
        let token = ISSUER.keys[0].compact(header, claims.to_string());
        let found = trusting.verify(&token).map(|_| ()).map_err(|_| ());
        assert_eq!(found.is_ok(), is_fine, "{profile:?} {typ:?}");
        if !is_fine {
            trusting.assert_fault(&token, TokenFault::Type);
        }
    }
}

/// Other tokens of the same issuer, in the forms that leave `typ` at `JWT`, some with our audience.
#[tokio::test]
async fn other_kinds_of_tokens_are_no_access_tokens() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let sign = |claims: &Value| ISSUER.keys[0].compact(header_with(json!({"typ": "JWT"})), claims.to_string());

    let mut id_token = claims();
    id_token["aud"] = json!("web-app");
    id_token["nonce"] = json!("n-1");
    trusting.assert_fault(&sign(&id_token), TokenFault::Audience);

    let mut logout_token = claims();
    logout_token["events"] = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    trusting.assert_fault(&sign(&logout_token), TokenFault::Type);

    let mut security_event = claims();
    security_event["events"] = json!({"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}});
    security_event["aud"] = json!([AUDIENCE]);
    trusting.assert_fault(&sign(&security_event), TokenFault::Type);

    let proof = json!({"jti": "1", "htm": "GET", "htu": AUDIENCE, "iat": NOW});
    let header = json!({"typ": "dpop+jwt", "alg": "RS256", "jwk": ISSUER.keys[0].jwk()}).to_string();
    trusting.assert_fault(&ISSUER.keys[0].compact(header, proof.to_string()), TokenFault::Issuer);
}

/// The other way round: what reads logout tokens is not given access tokens.
#[tokio::test]
async fn other_kinds_are_verified_by_their_own_rules() {
    let trusting = Trusting::issuer(&ISSUER).await;
    let read = |token: &str| {
        trusting.verifier.verify_signed(
            token,
            |header| header.is_typ("logout+jwt"),
            |settings, claims| {
                assert_eq!(settings.name.as_str(), "main");
                claims.get("sub").and_then(|sub| sub.as_str()).map(str::to_owned).ok_or(TokenFault::Claim)
            },
        )
    };
    let token = ISSUER.keys[0].compact(header_with(json!({"typ": "logout+jwt"})), claims().to_string());
    assert_eq!(read(&token), Ok("auth0|alice".to_owned()));
    assert_eq!(read(&ISSUER.token(&claims())), Err(TokenFault::Type.into()));
    let forger = SigningKey::generate("key-1", Algorithm::RS256);
    let other = forger.compact(header_with(json!({"typ": "logout+jwt"})), claims().to_string());
    assert_eq!(read(&other), Err(TokenFault::Signature.into()));
}

#[tokio::test]
async fn nothing_of_a_token_is_in_debug_output() {
    let options =
        VerifierOptions { forwarded_claims: ["sub".into(), "email".into()].into(), ..VerifierOptions::default() };
    let issuer = TestIssuer::with_algorithms(IDENTIFIER, &[Algorithm::HS256]);
    let settings = issuer.settings("main", KeySource::Secret(issuer.keys[0].secret().into()));
    let verifier = Verifier::new(vec![settings], options).unwrap();
    let mut claims = issuer.claims(NOW);
    claims["email"] = json!("alice@secret.example");
    let shown = verifier.verify(&issuer.token(&claims)).unwrap();
    let text = format!("{shown:?} {verifier:?}");
    assert!(!text.contains("alice"), "{text}");
}
