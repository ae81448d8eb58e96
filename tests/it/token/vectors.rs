//! Published test vectors: Wycheproof, the JOSE cookbook, and key sets as they are found in the wild.

use std::{fmt::Write, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use portcullis::token::{
    TokenFault,
    compact::Compact,
    key::{Key, Lookup, parse_key_set, select},
};
use serde_json::{Value, json};

const SIGNATURE: &str = include_str!("../../fixtures/vectors/wycheproof_json_web_signature_test.json");
const KEY: &str = include_str!("../../fixtures/vectors/wycheproof_json_web_key_test.json");
const CRYPTO: &str = include_str!("../../fixtures/vectors/wycheproof_json_web_crypto_test.json");
const COOKBOOK: &str = include_str!("../../fixtures/vectors/jose_cookbook.json");
const CORPUS: &str = include_str!("../../fixtures/vectors/jwks_corpus.json");

const ALL: [Algorithm; 9] = [
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

/// The steps that the verifier takes from the text to the signature.
fn open(jws: &str, keys: &[Arc<Key>]) -> Result<Vec<u8>, TokenFault> {
    let compact = Compact::parse(jws)?;
    let header = compact.header()?;
    let Lookup::Found(key) = select(keys, header.kid.as_deref(), header.algorithm) else {
        return Err(TokenFault::UnknownKey);
    };
    if compact.is_signed_by(&key, header.algorithm) {
        Ok(compact.payload().to_vec())
    } else {
        Err(TokenFault::Signature)
    }
}

/// The usable keys of a JWK or JWK Set, by the rules for published sets.
fn published(document: &Value) -> Vec<Arc<Key>> {
    let set = if document.get("keys").is_some() { document.clone() } else { json!({"keys": [document]}) };
    parse_key_set(set.to_string().as_bytes(), &ALL).unwrap().keys.into_iter().map(Arc::new).collect()
}

/// The secret of an `oct` JWK, as the settings of an issuer would give it: its bytes and its one algorithm.
fn secret(jwk: &Value) -> Option<Arc<Key>> {
    let algorithm: Algorithm = jwk["alg"].as_str()?.parse().ok()?;
    let bytes = URL_SAFE_NO_PAD.decode(jwk["k"].as_str()?).ok()?;
    Key::from_secret(&bytes, &[algorithm]).ok().map(Arc::new)
}

/// The public part of a group's key where there is one; symmetric keys stand in the private part.
fn document_of(group: &Value) -> &Value {
    if group["public"].is_object() { &group["public"] } else { &group["private"] }
}

/// A key or key set as an issuer would publish it; a lone symmetric key as the settings would give it.
fn keys_of(group: &Value) -> Vec<Arc<Key>> {
    let document = document_of(group);
    if document["kty"] == "oct" { secret(document).into_iter().collect() } else { published(document) }
}

/// Where we refuse what the vectors call valid, and why.
fn known_deviation(group: &Value, test: &Value) -> Option<&'static str> {
    let id = test["tcId"].as_u64().unwrap();
    let comment = group["comment"].as_str().unwrap();
    match (comment, id) {
        _ if document_of(group)["alg"] == "ES521" => Some("P-521 is not supported (and the key's `alg` is misspelt)"),
        ("rfc7520" | "rfc7520WithKeyOps", 346 | 350) => Some("the key says PS256, the token PS384"),
        ("base64", 372 | 373) => Some("characters outside of the base64url alphabet"),
        ("jws_keyset" | "HS256" | "HS384" | "HS512", _) => Some("symmetric keys in a published set"),
        _ => None,
    }
}

/// Vectors that are said to be invalid, and are letter by letter the valid vector 357: the padding that their names
/// speak of is not in the published text.
fn is_mislabelled(group: &Value, test: &Value) -> bool {
    let valid = |other: &&Value| other["tcId"] == 357;
    matches!(test["tcId"].as_u64(), Some(367 | 370))
        && group["comment"] == "base64"
        && group["tests"].as_array().unwrap().iter().find(valid).unwrap()["jws"] == test["jws"]
}

fn assert_as_expected(name: &str, text: &str, expected_deviations: usize) {
    let file: Value = serde_json::from_str(text).unwrap();
    let (mut accepted, mut refused, mut deviations) = (0, 0, 0);
    for group in file["testGroups"].as_array().unwrap() {
        let keys = keys_of(group);
        for test in group["tests"].as_array().unwrap() {
            // JWE vectors; and JWS in JSON form are not text in compact form.
            let Some(jws) = test.get("jws") else { continue };
            let opened = jws.as_str().map_or(Err(TokenFault::NotCompact), |jws| open(jws, &keys));
            let what = format!("{name}, {}, {}: {}", group["comment"], test["tcId"], test["comment"]);
            match (test["result"].as_str().unwrap(), known_deviation(group, test)) {
                ("valid", Some(reason)) => {
                    assert!(opened.is_err(), "{what}: no longer refused for: {reason}");
                    deviations += 1;
                }
                ("valid", None) => {
                    assert!(opened.is_ok(), "{what}: {opened:?}");
                    accepted += 1;
                }
                _ if is_mislabelled(group, test) => assert!(opened.is_ok(), "{what}"),
                _ => {
                    assert!(opened.is_err(), "{what}: must be refused");
                    refused += 1;
                }
            }
        }
    }
    assert!(accepted > 0 && refused > 0);
    assert_eq!(deviations, expected_deviations, "{name}");
}

#[test]
fn wycheproof_signatures() {
    assert_as_expected("signature", SIGNATURE, 6);
}

#[test]
fn wycheproof_keys() {
    assert_as_expected("key", KEY, 4);
}

#[test]
fn wycheproof_crypto() {
    assert_as_expected("crypto", CRYPTO, 1);
}

/// Symmetric keys of a published set are refused above; the same vectors with the key as a configured secret.
#[test]
fn wycheproof_secrets() {
    let file: Value = serde_json::from_str(KEY).unwrap();
    let mut accepted = 0;
    for group in file["testGroups"].as_array().unwrap() {
        let Some([jwk]) = group["private"]["keys"].as_array().map(Vec::as_slice) else { continue };
        if jwk["kty"] != "oct" {
            continue;
        }
        let keys: Vec<_> = secret(jwk).into_iter().collect();
        for test in group["tests"].as_array().unwrap() {
            let opened = open(test["jws"].as_str().unwrap(), &keys);
            assert_eq!(opened.is_ok(), test["result"] == "valid", "{}: {}", test["tcId"], test["comment"]);
            accepted += usize::from(opened.is_ok());
        }
    }
    assert_eq!(accepted, 3);
}

#[test]
fn jose_cookbook() {
    let files: Vec<Value> = serde_json::from_str(COOKBOOK).unwrap();
    let mut outcomes = String::new();
    for file in &files {
        let data = &file["data"];
        let Some(jws) = data["output"]["compact"].as_str() else { continue };
        let mut key = data["input"]["key"].clone();
        // The cookbook signs with them, so its keys are private ones.
        for private in ["d", "p", "q", "dp", "dq", "qi"] {
            key.as_object_mut().unwrap().remove(private);
        }
        key["alg"] = data["input"]["alg"].clone();
        let keys = if key["kty"] == "oct" { secret(&key).into_iter().collect() } else { published(&key) };
        let outcome = match open(jws, &keys) {
            Ok(payload) => {
                assert_eq!(payload, data["input"]["payload"].as_str().unwrap().as_bytes());
                "accepted".to_owned()
            }
            Err(fault) => format!("refused: {fault}"),
        };
        writeln!(outcomes, "{}: {outcome}", file["path"].as_str().unwrap()).unwrap();
    }
    insta::assert_snapshot!(outcomes);
}

/// Keys whose private part is published with them prove nothing.
#[test]
fn private_keys_are_not_used() {
    let files: Vec<Value> = serde_json::from_str(COOKBOOK).unwrap();
    let key = &files.iter().find(|file| file["path"] == "jwk/3_4.rsa_private_key.json").unwrap()["data"];
    assert!(published(key).is_empty());
}

/// For each key set of the corpus: how many keys are usable, and why the others are not.
#[test]
fn key_sets_of_the_wild() {
    let corpus: Vec<Value> = serde_json::from_str(CORPUS).unwrap();
    assert_eq!(corpus.len(), 96);
    let mut table = String::new();
    for entry in &corpus {
        let parsed = parse_key_set(entry["jwks"].to_string().as_bytes(), &ALL);
        let source = format!("{} {}", entry["source"].as_str().unwrap(), entry["path"].as_str().unwrap());
        let Ok(parsed) = parsed else {
            writeln!(table, "{source}: not a key set").unwrap();
            continue;
        };
        write!(table, "{source}: {} of {}", parsed.keys.len(), parsed.keys.len() + parsed.skipped.len()).unwrap();
        for (_, fault) in &parsed.skipped {
            write!(table, "; {fault}").unwrap();
        }
        table.push('\n');
    }
    insta::assert_snapshot!(table);
}
