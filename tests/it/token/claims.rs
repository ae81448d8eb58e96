//! What claims are demanded, and how they are read.

use jsonwebtoken::Algorithm;
use portcullis::{
    clock::{Moment, Timestamp},
    token::{
        TokenFault,
        claims::IssuerName,
        issuer::{ClaimNames, IssuerSettings, KeySource, TokenProfile},
        verify::{VerifiedToken, Verifier, VerifierError, VerifierOptions},
    },
};
use serde_json::{Value, json};

use super::NOW;
use crate::support::keys::{AUDIENCE, SigningKey, TestIssuer};

/// An issuer whose tokens are quick to make, and a verifier that trusts it.
struct Pair {
    issuer: TestIssuer,
    verifier: Verifier,
}

impl Pair {
    fn new() -> Self {
        Self::with(|settings| settings, VerifierOptions::default())
    }

    fn with(change: impl FnOnce(IssuerSettings) -> IssuerSettings, options: VerifierOptions) -> Self {
        let issuer = TestIssuer::with_algorithms("https://issuer.example/", &[Algorithm::HS256]);
        let settings = issuer.settings("main", KeySource::Secret(issuer.keys[0].secret().into()));
        Self { verifier: Verifier::new(vec![change(settings)], options).unwrap(), issuer }
    }

    /// The outcome for good claims with these changed; `null` takes one away.
    fn judge(&self, changes: Value) -> Result<VerifiedToken, TokenFault> {
        let mut claims = self.issuer.claims(NOW);
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        self.verifier.verify(&self.issuer.token(&claims)).map_err(|error| match error {
            portcullis::token::verify::Unverified::Fault(fault) => fault,
            other => panic!("{other}"),
        })
    }

    #[track_caller]
    fn assert_fault(&self, changes: Value, fault: TokenFault) {
        let what = changes.to_string();
        assert_eq!(self.judge(changes).err(), Some(fault), "{what}");
        assert!(fault.is_signed());
    }
}

#[test]
fn a_good_token_says_what_it_says() {
    let verified = Pair::new()
        .judge(json!({
            "sid": "session-1",
            "jti": "token-1",
            "nbf": NOW - 5,
            "auth_time": NOW - 100,
            "last_logout": (NOW - 200) * 1000 + 7,
            "permissions": ["write:orders"],
            "scp": ["offline"],
        }))
        .unwrap();
    let claims = verified.claims;
    assert_eq!(claims.subject.issuer, IssuerName::try_from("main").unwrap());
    assert_eq!(claims.subject.id.as_str(), "auth0|alice");
    assert_eq!(claims.session.unwrap().as_str(), "session-1");
    assert_eq!(claims.client.unwrap().as_str(), "web-app");
    assert_eq!(claims.token_id.unwrap().as_str(), "token-1");
    assert_eq!(claims.issued_at, Moment::whole_second(NOW));
    assert_eq!(claims.expires_at, Timestamp::from_secs(NOW + 3600));
    assert_eq!(claims.not_before, Some(Timestamp::from_secs(NOW - 5)));
    assert_eq!(claims.session_start, Some(Moment::whole_second(NOW - 100)));
    assert_eq!(claims.last_logout, Some(Moment::exact(Timestamp::from_millis((NOW - 200) * 1000 + 7))));
    assert_eq!(claims.scopes.iter().collect::<Vec<_>>(), ["openid", "read:orders", "offline", "write:orders"]);
}

#[test]
fn optional_claims_may_be_absent() {
    let claims = Pair::new().judge(json!({"azp": null, "scope": null})).unwrap().claims;
    assert!(claims.session.is_none() && claims.client.is_none() && claims.token_id.is_none());
    assert!(claims.not_before.is_none() && claims.session_start.is_none() && claims.last_logout.is_none());
    assert_eq!(claims.scopes.iter().count(), 0);
}

#[test]
fn an_audience_must_be_ours() {
    let pair = Pair::new();
    for fine in [json!(AUDIENCE), json!([AUDIENCE]), json!(["https://issuer.example/userinfo", AUDIENCE])] {
        assert!(pair.judge(json!({"aud": fine.clone()})).is_ok(), "{fine}");
    }
    for not in [
        json!(null),
        json!(""),
        json!([]),
        json!("https://api.example/"),
        json!("https://API.example"),
        json!([""]),
        json!([AUDIENCE, ""]),
        json!([AUDIENCE, 1]),
        json!([AUDIENCE, null]),
        json!([[AUDIENCE]]),
        json!({"aud": AUDIENCE}),
        json!(true),
    ] {
        pair.assert_fault(json!({"aud": not}), TokenFault::Audience);
    }
}

#[test]
fn required_claims_must_be_there_and_well_formed() {
    let pair = Pair::new();
    for changes in [
        json!({"exp": null}),
        json!({"iat": null}),
        json!({"sub": null}),
        json!({"exp": "1763703600"}),
        json!({"exp": [NOW]}),
        json!({"exp": 1e300}),
        json!({"iat": NOW.to_string()}),
        json!({"iat": true}),
        json!({"sub": ""}),
        json!({"sub": 7}),
        json!({"sub": "x".repeat(256)}),
        json!({"sub": "a\nb"}),
        json!({"nbf": "soon"}),
        json!({"jti": 5}),
        json!({"sid": ["a"]}),
        json!({"azp": ""}),
        json!({"client_id": {}}),
        json!({"auth_time": "yesterday"}),
        json!({"auth_time": true}),
    ] {
        pair.assert_fault(changes, TokenFault::Claim);
    }
}

#[test]
fn dates_may_have_fractions() {
    let claims = Pair::new().judge(json!({"exp": 1_763_703_600.25, "iat": 1_763_700_000.125})).unwrap().claims;
    assert_eq!(claims.expires_at, Timestamp::from_millis(1_763_703_600_250));
    assert_eq!(claims.issued_at, Moment::exact(Timestamp::from_millis(1_763_700_000_125)));
}

#[test]
fn an_unreadable_last_logout_does_not_help_and_does_not_harm() {
    for odd in [json!("never"), json!(true), json!({}), json!(1e300)] {
        assert_eq!(Pair::new().judge(json!({"last_logout": odd})).unwrap().claims.last_logout, None);
    }
}

#[test]
fn claims_are_read_under_their_configured_names() {
    let names = ClaimNames {
        session: "https://api.example/sid".into(),
        session_start: "https://api.example/auth_time".into(),
        last_logout: "https://api.example/last_logout".into(),
        ..ClaimNames::default()
    };
    let pair = Pair::with(|settings| IssuerSettings { claims: names, ..settings }, VerifierOptions::default());
    let claims = pair
        .judge(json!({
            "sid": "not this one",
            "auth_time": 1,
            "last_logout": 1,
            "https://api.example/sid": "session-1",
            "https://api.example/auth_time": "2025-11-21T04:40:00Z",
            "https://api.example/last_logout": "2025-11-21T04:30:00.500Z",
        }))
        .unwrap()
        .claims;
    assert_eq!(claims.session.unwrap().as_str(), "session-1");
    assert_eq!(claims.session_start, Some(Moment::whole_second(1_763_700_000)));
    assert_eq!(claims.last_logout, Some(Moment::exact(Timestamp::from_millis(1_763_699_400_500))));
}

#[test]
fn the_rfc_9068_profile_demands_client_and_id() {
    let rfc9068 = |settings| IssuerSettings { profile: TokenProfile::Rfc9068, ..settings };
    let pair = Pair::with(rfc9068, VerifierOptions::default());
    let header = json!({"alg": "HS256", "typ": "at+jwt"}).to_string();
    for (client, id, is_fine) in [(true, true, true), (true, false, false), (false, true, false)] {
        let mut claims = pair.issuer.claims(NOW);
        if client {
            claims["client_id"] = json!("web-app");
        }
        if id {
            claims["jti"] = json!("token-1");
        }
        let token = pair.issuer.keys[0].compact(&header, claims.to_string());
        let fault = (!is_fine).then_some(TokenFault::Claim.into());
        assert_eq!(pair.verifier.verify(&token).err(), fault, "client {client}, id {id}");
    }
}

#[test]
fn client_id_goes_before_azp() {
    let claims = Pair::new().judge(json!({"client_id": "service"})).unwrap().claims;
    assert_eq!(claims.client.unwrap().as_str(), "service");
}

#[test]
fn sender_constrained_tokens_are_refused() {
    let pair = Pair::new();
    for cnf in
        [json!({"jkt": "0ZcOCORZNYy"}), json!({"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}), json!({})]
    {
        pair.assert_fault(json!({ "cnf": cnf }), TokenFault::SenderConstrained);
    }
}

#[test]
fn an_issuer_may_have_several_identifiers() {
    let identifiers = ["https://issuer.example/".into(), "https://login.example/".into()];
    let pair = Pair::with(
        |settings| IssuerSettings { identifiers: identifiers.into(), ..settings },
        VerifierOptions::default(),
    );
    for identifier in ["https://issuer.example/", "https://login.example/"] {
        let verified = pair.judge(json!({"iss": identifier})).unwrap();
        assert_eq!(verified.claims.subject.issuer.as_str(), "main");
    }
}

#[test]
fn claims_are_forwarded_by_name() {
    let names = ["sub", "scope", "org_id", "roles", "https://api.example/plan", "iss"];
    let options = VerifierOptions { forwarded_claims: names.map(Into::into).into(), ..VerifierOptions::default() };
    let verified = Pair::with(|settings| settings, options)
        .judge(json!({"roles": ["admin", "a,b"], "https://api.example/plan": "größer"}))
        .unwrap();
    let values: Vec<_> = verified.forwarded.iter().collect();
    let values: Vec<Option<&str>> =
        values.iter().map(|value| value.as_ref().map(|value| value.to_str().unwrap())).collect();
    assert_eq!(
        values,
        [
            Some("auth0|alice"),
            Some("openid read:orders"),
            None,
            Some("admin,a%2Cb"),
            Some("gr%C3%B6%C3%9Fer"),
            Some("https://issuer.example/"),
        ]
    );
}

#[test]
fn contradictory_settings_are_refused() {
    type Change = fn(&mut IssuerSettings);
    let refused = |change: Change| {
        let issuer = TestIssuer::with_algorithms("https://issuer.example/", &[Algorithm::HS256]);
        let mut settings = issuer.settings("main", KeySource::Secret(issuer.keys[0].secret().into()));
        change(&mut settings);
        Verifier::new(vec![settings], VerifierOptions::default()).err().map(|error| error.to_string())
    };
    assert_eq!(refused(|_| ()), None);
    let cases: [(Change, &str); 8] = [
        (|it| it.identifiers = Box::default(), "issuer `main` has no identifier"),
        (|it| it.audiences = Box::default(), "issuer `main` has no audience"),
        (|it| it.audiences = ["".into()].into(), "issuer `main` has no audience"),
        (|it| it.algorithms = Box::default(), "issuer `main` has no algorithm"),
        (
            |it| it.algorithms = [Algorithm::RS256].into(),
            "issuer `main` has an algorithm that does not go with where its keys come from",
        ),
        (
            |it| it.keys = KeySource::Discovery,
            "issuer `main` has an algorithm that does not go with where its keys come from",
        ),
        (|it| it.keys = KeySource::Secret(vec![0; 31].into()), "secret of issuer `main` is not usable"),
        (
            |it| {
                it.algorithms = [Algorithm::RS256].into();
                it.keys = KeySource::Url("ftp://issuer.example/".parse().unwrap());
            },
            "key set URL of issuer `main` is neither http nor https",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(refused(change).as_deref(), Some(expected));
    }
}

#[test]
fn issuers_must_differ() {
    let key = SigningKey::generate("key-1", Algorithm::HS256);
    let settings = |name: &str, identifier: &str| {
        let issuer = TestIssuer::with_algorithms(identifier, &[Algorithm::HS256]);
        issuer.settings(name, KeySource::Secret(key.secret().into()))
    };
    let build = |first, second| Verifier::new(vec![first, second], VerifierOptions::default()).err();
    assert!(build(settings("a", "https://a/"), settings("b", "https://b/")).is_none());
    let same_name = build(settings("a", "https://a/"), settings("a", "https://b/"));
    assert!(matches!(same_name, Some(VerifierError::DoubledName { .. })));
    let same_identifier = build(settings("a", "https://a/"), settings("b", "https://a/"));
    assert!(matches!(same_identifier, Some(VerifierError::DoubledIdentifier { .. })));
}
