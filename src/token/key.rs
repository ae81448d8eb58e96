//! One verification key: what a JWK becomes once it has proven usable (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
//!
//! Keys are checked and parsed once, here; verifying a token parses no key. A key is bound to its algorithms by its
//! type (RFC 8725 §3.1): an RSA key never serves as an HMAC secret, nor a P-256 key for ES384.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::{
    hmac,
    signature::{
        self, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
        RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
        RsaPublicKeyComponents,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::Deserialize;

/// The shortest RSA modulus that is accepted, in bits (RFC 7518 §3.3).
const MIN_RSA_BITS: usize = 2048;
/// The longest, so that no key makes each verification slow.
const MAX_RSA_BITS: usize = 8192;

/// Why a key is not usable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum KeyFault {
    /// A member is absent, of the wrong type, or not what its name says.
    #[error("key is malformed")]
    Malformed,
    /// A `kty` or `crv` that no supported algorithm uses.
    #[error("key type or curve is not supported")]
    Kind,
    /// A symmetric key in a published set: whoever can read it can sign.
    #[error("key is symmetric, and a key set is public")]
    Symmetric,
    /// The private part is there too: whoever can read it can sign.
    #[error("key is published with its private part")]
    Private,
    /// `use` is not `sig`, or `key_ops` lacks `verify`.
    #[error("key is not for verifying signatures")]
    Purpose,
    /// `alg` does not fit the key, or none of its algorithms is allowed for the issuer.
    #[error("key is for an algorithm that is not allowed")]
    Algorithm,
    /// Shorter than its algorithm demands, or of a form that is known to be broken.
    #[error("key is weak")]
    Weak,
    /// Another key of the set has the same `kid` and algorithm, so that `kid` does not tell which is meant.
    #[error("`kid` is shared with another key")]
    Ambiguous,
}

/// A key that verifies signatures. `Debug` shows no key material.
pub struct Key {
    id: Option<Box<str>>,
    /// Type, curve and public parts, to tell whether a key changed. Empty for secrets.
    material: Box<[u8]>,
    verifiers: Box<[(Algorithm, Prepared)]>,
    current: AtomicBool,
}

enum Prepared {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

impl Key {
    /// The key of a JWK, for those of the `allowed` algorithms that fit it.
    ///
    /// # Errors
    /// Why it is not usable. Keys with private members are refused rather than read without them: what has been
    /// published no longer proves who signed.
    pub fn from_jwk(jwk: &serde_json::Value, allowed: &[Algorithm]) -> Result<Self, KeyFault> {
        let jwk = Jwk::deserialize(jwk).map_err(|_| KeyFault::Malformed)?;
        jwk.check_purpose()?;
        let public = PublicPart::new(&jwk)?;
        let algorithms = jwk.algorithms(public.algorithms(), allowed)?;
        let verifiers = algorithms.into_iter().map(|alg| Ok((alg, Prepared::Public(public.prepare(alg)?))));
        Ok(Self {
            verifiers: verifiers.collect::<Result<_, KeyFault>>()?,
            id: jwk.kid.map(Into::into),
            material: public.material(),
            current: AtomicBool::new(true),
        })
    }

    /// A shared secret, for HMAC algorithms. It fits every `kid`.
    ///
    /// # Errors
    /// [`KeyFault::Algorithm`] for an algorithm that is not HMAC, [`KeyFault::Weak`] for a secret that is shorter
    /// than the hash of one of the algorithms (RFC 7518 §3.2).
    pub fn from_secret(secret: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyFault> {
        let verifiers = algorithms.iter().map(|&algorithm| {
            let hash = hmac_algorithm(algorithm).ok_or(KeyFault::Algorithm)?;
            if secret.len() < hash.tag_len() {
                return Err(KeyFault::Weak);
            }
            Ok((algorithm, Prepared::Secret(Box::new(hmac::Key::new(hash, secret)))))
        });
        Ok(Self {
            verifiers: verifiers.collect::<Result<_, _>>()?,
            id: None,
            material: Box::default(),
            current: AtomicBool::new(true),
        })
    }

    /// Its `kid`.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What it may be used with; never empty for a key of a key set.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    /// Whether its issuer still vouches for it: false once it has left the key set.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire)
    }

    /// Marks it as withdrawn by its issuer, for good.
    pub(crate) fn retire(&self) {
        self.current.store(false, Ordering::Release);
    }

    /// Whether it may be used with `algorithm`.
    #[must_use]
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.verifiers.iter().any(|(each, _)| *each == algorithm)
    }

    /// Whether a token that names `kid` may mean it.
    fn answers_to(&self, kid: &str) -> bool {
        let is_secret = self.verifiers.iter().any(|(_, prepared)| matches!(prepared, Prepared::Secret(_)));
        is_secret || self.id() == Some(kid)
    }

    /// Whether `other` is the same key: `kid`, material and algorithms.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.material == other.material && self.algorithms().eq(other.algorithms())
    }

    /// Whether both would be meant by one `kid` and algorithm, and differ.
    fn clashes_with(&self, other: &Self) -> bool {
        self.id.is_some() && self.id == other.id && self.algorithms().any(|each| other.fits(each))
    }

    /// Whether `signature` is that of `message` under this key and algorithm. False for an algorithm that it may not
    /// be used with.
    #[must_use]
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.verifiers.iter().find(|(each, _)| *each == algorithm).is_some_and(|(_, prepared)| match prepared {
            Prepared::Public(key) => key.verify_sig(message, signature).is_ok(),
            Prepared::Secret(key) => hmac::verify(key, message, signature).is_ok(),
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms().collect::<Vec<_>>())
            .field("is_current", &self.is_current())
            .finish_non_exhaustive()
    }
}

/// What a set of keys says about a token's `kid` and `alg`.
#[derive(Debug)]
pub enum Lookup {
    /// The one key that fits.
    Found(Arc<Key>),
    /// None has this `kid` (or fits the algorithm, where the token names no `kid`): a newer set may have it.
    Unknown,
    /// There is such a `kid`, for other algorithms; or there is no `kid`, and several keys fit.
    Unfit,
}

/// The key of a set that a token's header means (RFC 7515 §4.1.4). A `kid` is an opaque name and nothing else.
#[must_use]
pub fn select(keys: &[Arc<Key>], kid: Option<&str>, algorithm: Algorithm) -> Lookup {
    let named = |key: &&Arc<Key>| kid.is_none_or(|kid| key.answers_to(kid));
    let mut fitting = keys.iter().filter(named).filter(|key| key.fits(algorithm));
    match (fitting.next(), fitting.next()) {
        (Some(key), None) => Lookup::Found(Arc::clone(key)),
        (Some(_), Some(_)) => Lookup::Unfit,
        (None, _) if kid.is_some() && keys.iter().any(|key| named(&key)) => Lookup::Unfit,
        (None, _) => Lookup::Unknown,
    }
}

/// Not a JWK Set (RFC 7517 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a JSON object with an array `keys`")]
pub struct NotAKeySet;

/// What a JWK Set holds for one issuer.
#[derive(Debug)]
pub struct ParsedKeys {
    /// The usable keys.
    pub keys: Vec<Key>,
    /// The `kid`s of the others, and what is wrong with them.
    pub skipped: Vec<(Option<Box<str>>, KeyFault)>,
}

/// Reads a JWK Set. One unusable key does not spoil the others.
///
/// A key that stands in it twice counts once. Of different keys with one `kid` that fit one algorithm none is used
/// (RFC 7517 §4.5 wants distinct `kid`s).
///
/// # Errors
/// [`NotAKeySet`].
pub fn parse_key_set(document: &[u8], allowed: &[Algorithm]) -> Result<ParsedKeys, NotAKeySet> {
    #[derive(Deserialize)]
    struct JwkSet {
        keys: Vec<serde_json::Value>,
    }

    let set: JwkSet = serde_json::from_slice(document).map_err(|_| NotAKeySet)?;
    let mut keys: Vec<Key> = Vec::new();
    let mut skipped = Vec::new();
    for jwk in &set.keys {
        match Key::from_jwk(jwk, allowed) {
            Ok(key) if keys.iter().any(|other| other.is_same(&key)) => {}
            Ok(key) => keys.push(key),
            Err(fault) => {
                skipped.push((jwk.get("kid").and_then(serde_json::Value::as_str).map(Into::into), fault));
            }
        }
    }
    let clashes = |key: &Key| keys.iter().any(|other| !std::ptr::eq(other, key) && key.clashes_with(other));
    let ambiguous: Vec<bool> = keys.iter().map(clashes).collect();
    let mut ambiguous = ambiguous.into_iter();
    keys.retain(|key| {
        let is_ambiguous = ambiguous.next() == Some(true);
        if is_ambiguous {
            skipped.push((key.id.clone(), KeyFault::Ambiguous));
        }
        !is_ambiguous
    });
    Ok(ParsedKeys { keys, skipped })
}

/// The algorithm of a JOSE `alg` value, if it is supported. `Ed25519` (RFC 9864 §2.2) names the only curve that
/// `EdDSA` is supported with.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    if name == "Ed25519" { Some(Algorithm::EdDSA) } else { name.parse().ok() }
}

/// Whether it works with a shared secret.
pub(super) fn is_symmetric(algorithm: Algorithm) -> bool {
    hmac_algorithm(algorithm).is_some()
}

fn hmac_algorithm(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// The members that matter here. The certificate members (`x5c`, `x5u`, `x5t`) are not looked at.
#[derive(Deserialize)]
struct Jwk<'a> {
    kty: &'a str,
    kid: Option<&'a str>,
    #[serde(rename = "use")]
    purpose: Option<&'a str>,
    key_ops: Option<Vec<&'a str>>,
    alg: Option<&'a str>,
    crv: Option<&'a str>,
    n: Option<&'a str>,
    e: Option<&'a str>,
    x: Option<&'a str>,
    y: Option<&'a str>,
    d: Option<serde::de::IgnoredAny>,
}

impl Jwk<'_> {
    fn check_purpose(&self) -> Result<(), KeyFault> {
        if self.kty == "oct" {
            return Err(KeyFault::Symmetric);
        }
        if self.purpose.is_some_and(|purpose| purpose != "sig")
            || self.key_ops.as_ref().is_some_and(|operations| !operations.contains(&"verify"))
        {
            return Err(KeyFault::Purpose);
        }
        // Every private RSA, EC and OKP key has `d` (RFC 7518 §6.2.2, §6.3.2, RFC 8037 §2).
        if self.d.is_some() { Err(KeyFault::Private) } else { Ok(()) }
    }

    /// Those of `fitting` that are allowed, and that `alg` names if it is there.
    fn algorithms(&self, fitting: &[Algorithm], allowed: &[Algorithm]) -> Result<Vec<Algorithm>, KeyFault> {
        let named = match self.alg {
            Some(name) => Some(algorithm(name).ok_or(KeyFault::Algorithm)?),
            None => None,
        };
        let usable = |each: &Algorithm| allowed.contains(each) && named.is_none_or(|named| named == *each);
        let algorithms: Vec<Algorithm> = fitting.iter().copied().filter(usable).collect();
        if algorithms.is_empty() { Err(KeyFault::Algorithm) } else { Ok(algorithms) }
    }
}

enum PublicPart {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl PublicPart {
    fn new(jwk: &Jwk<'_>) -> Result<Self, KeyFault> {
        match (jwk.kty, jwk.crv) {
            ("RSA", _) => Self::rsa(unsigned(jwk.n)?, unsigned(jwk.e)?),
            ("EC", Some("P-256")) => Ok(Self::P256(point(jwk, 32)?)),
            ("EC", Some("P-384")) => Ok(Self::P384(point(jwk, 48)?)),
            ("OKP", Some("Ed25519")) => Ok(Self::Ed25519(octets(jwk.x, 32)?)),
            ("EC" | "OKP", None) => Err(KeyFault::Malformed),
            _ => Err(KeyFault::Kind),
        }
    }

    fn rsa(n: Vec<u8>, e: Vec<u8>) -> Result<Self, KeyFault> {
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        // Exponents 1 and even ones are not RSA; beyond 33 bits verification becomes slow.
        if !is_odd(&n) || !is_odd(&e) || e == [1] || e.len() > 4 {
            return Err(KeyFault::Weak);
        }
        let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) || has_roca_fingerprint(&n) {
            return Err(KeyFault::Weak);
        }
        Ok(Self::Rsa { n, e })
    }

    fn algorithms(&self) -> &'static [Algorithm] {
        match self {
            Self::Rsa { .. } => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            Self::P256(_) => &[Algorithm::ES256],
            Self::P384(_) => &[Algorithm::ES384],
            Self::Ed25519(_) => &[Algorithm::EdDSA],
        }
    }

    fn prepare(&self, algorithm: Algorithm) -> Result<ParsedPublicKey, KeyFault> {
        match self {
            Self::Rsa { n, e } => {
                let parameters = rsa_parameters(algorithm).ok_or(KeyFault::Algorithm)?;
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(parameters)
            }
            Self::P256(point) => ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point),
            Self::P384(point) => ParsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point),
            Self::Ed25519(x) => ParsedPublicKey::new(&signature::ED25519, x),
        }
        .map_err(|_| KeyFault::Malformed)
    }

    fn material(&self) -> Box<[u8]> {
        let (tag, first, second): (u8, &[u8], &[u8]) = match self {
            Self::Rsa { n, e } => (0, n, e),
            Self::P256(point) => (1, point, &[]),
            Self::P384(point) => (2, point, &[]),
            Self::Ed25519(x) => (3, x, &[]),
        };
        // The exponent's length tells where it begins: no two keys share a text.
        [&[tag, second.len().to_le_bytes()[0]], first, second].concat().into()
    }
}

/// Some issuers write padding, or the alphabet of plain base64, which no other reading of the text contradicts.
fn decoded(member: Option<&str>) -> Result<Vec<u8>, KeyFault> {
    let text = member.ok_or(KeyFault::Malformed)?.trim_end_matches('=').replace('+', "-").replace('/', "_");
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyFault::Malformed)
}

/// A member of fixed length.
fn octets(member: Option<&str>, length: usize) -> Result<Vec<u8>, KeyFault> {
    let octets = decoded(member)?;
    if octets.len() == length { Ok(octets) } else { Err(KeyFault::Malformed) }
}

/// A `Base64urlUInt` (RFC 7518 §2). Leading zeros, which some issuers write, are dropped.
fn unsigned(member: Option<&str>) -> Result<Vec<u8>, KeyFault> {
    let mut number = decoded(member)?;
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    if number.is_empty() { Err(KeyFault::Malformed) } else { Ok(number) }
}

/// An uncompressed point (SEC 1 §2.3.3); whether it is on the curve is checked where it is parsed.
fn point(jwk: &Jwk<'_>, length: usize) -> Result<Vec<u8>, KeyFault> {
    Ok([&[4], &*octets(jwk.x, length)?, &*octets(jwk.y, length)?].concat())
}

/// Whether a modulus looks made by the library of CVE-2017-15361 ("ROCA"): its keys are powers of 65537 modulo each of
/// these primes, which a random modulus is with a chance below 2^-27.
fn has_roca_fingerprint(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 39] = [
        2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107,
        109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    PRIMES.iter().all(|prime| {
        let remainder = modulus.iter().fold(0, |remainder, byte| (remainder * 256 + u32::from(*byte)) % prime);
        let mut power = 1 % prime;
        (0..*prime).any(|_| {
            let found = power == remainder;
            power = power * 65537 % prime;
            found
        })
    })
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    const RSA: [Algorithm; 2] = [Algorithm::RS256, Algorithm::PS256];

    #[test]
    fn a_modulus_may_have_leading_zeros_and_plain_base64() {
        let modulus = [&[0][..], &[0xff; 256]].concat();
        let key = |modulus: String| Key::from_jwk(&json!({"kty": "RSA", "n": modulus, "e": "AQAB"}), &RSA).unwrap();
        let (bare, plain) = (key(URL_SAFE_NO_PAD.encode(&modulus[1..])), key(STANDARD.encode(&modulus)));
        assert!(bare.algorithms().eq(RSA) && bare.is_same(&plain));
    }

    #[test]
    fn unusable_keys_are_told_apart() {
        let n = URL_SAFE_NO_PAD.encode([0xff; 256]);
        let short = URL_SAFE_NO_PAD.encode([0xff; 255]);
        let x = URL_SAFE_NO_PAD.encode([1; 32]);
        for (jwk, fault) in [
            (json!("key"), KeyFault::Malformed),
            (json!({"n": n, "e": "AQAB"}), KeyFault::Malformed),
            (json!({"kty": "RSA", "n": n}), KeyFault::Malformed),
            (json!({"kty": "RSA", "n": format!("{n}."), "e": "AQAB"}), KeyFault::Malformed),
            (json!({"kty": "RSA", "n": n, "e": "AQAB", "kid": 1}), KeyFault::Malformed),
            (json!({"kty": "RSA", "n": short, "e": "AQAB"}), KeyFault::Weak),
            (json!({"kty": "RSA", "n": n, "e": "AQ"}), KeyFault::Weak),
            (json!({"kty": "RSA", "n": n, "e": "Ag"}), KeyFault::Weak),
            (json!({"kty": "RSA", "n": n, "e": "AQAB", "d": "AQ"}), KeyFault::Private),
            (json!({"kty": "RSA", "n": n, "e": "AQAB", "use": "enc"}), KeyFault::Purpose),
            (json!({"kty": "RSA", "n": n, "e": "AQAB", "key_ops": ["sign"]}), KeyFault::Purpose),
            (json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS384"}), KeyFault::Algorithm),
            (json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "HS256"}), KeyFault::Algorithm),
            (json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RSA-OAEP"}), KeyFault::Algorithm),
            (json!({"kty": "oct", "k": "AAAA"}), KeyFault::Symmetric),
            (json!({"kty": "EC", "crv": "P-521", "x": x, "y": x}), KeyFault::Kind),
            (json!({"kty": "EC", "crv": "secp256k1", "x": x, "y": x}), KeyFault::Kind),
            (json!({"kty": "EC", "x": x, "y": x}), KeyFault::Malformed),
            (json!({"kty": "OKP", "crv": "X25519", "x": x}), KeyFault::Kind),
            (json!({"kty": "quantum"}), KeyFault::Kind),
        ] {
            assert_eq!(Key::from_jwk(&jwk, &RSA).err(), Some(fault), "{jwk}");
        }
        let off_curve = json!({"kty": "EC", "crv": "P-256", "x": x, "y": x});
        assert_eq!(Key::from_jwk(&off_curve, &[Algorithm::ES256]).err(), Some(KeyFault::Malformed));
    }

    #[test]
    fn secrets_are_as_long_as_the_hash() {
        assert!(Key::from_secret(&[1; 32], &[Algorithm::HS256]).is_ok());
        assert_eq!(Key::from_secret(&[1; 31], &[Algorithm::HS256]).err(), Some(KeyFault::Weak));
        assert_eq!(Key::from_secret(&[1; 32], &[Algorithm::HS256, Algorithm::HS384]).err(), Some(KeyFault::Weak));
        assert_eq!(Key::from_secret(&[1; 64], &[Algorithm::RS256]).err(), Some(KeyFault::Algorithm));
    }

    #[test]
    fn a_set_needs_its_array_of_keys() {
        for document in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, "<html>"] {
            assert_eq!(parse_key_set(document.as_bytes(), &RSA).err(), Some(NotAKeySet), "{document}");
        }
        assert!(parse_key_set(br#"{"keys":[]}"#, &RSA).unwrap().keys.is_empty());
    }

    #[test]
    fn a_shared_kid_is_ambiguous_only_for_different_keys_of_one_algorithm() {
        let n = |byte: u8| URL_SAFE_NO_PAD.encode([byte; 256]);
        let key = |modulus: &str, alg: &str| json!({"kty": "RSA", "kid": "k", "n": modulus, "e": "AQAB", "alg": alg});
        let usable = |keys: &[serde_json::Value]| {
            let parsed = parse_key_set(json!({ "keys": keys }).to_string().as_bytes(), &RSA).unwrap();
            (parsed.keys.len(), parsed.skipped.len())
        };
        assert_eq!(usable(&[key(&n(0xff), "RS256"), key(&n(0xff), "RS256")]), (1, 0));
        assert_eq!(usable(&[key(&n(0xff), "RS256"), key(&n(0xfd), "PS256")]), (2, 0));
        assert_eq!(usable(&[key(&n(0xff), "RS256"), key(&n(0xfd), "RS256")]), (0, 2));
    }

    #[test]
    fn debug_shows_no_key_material() {
        let key = Key::from_secret(b"a secret that must never be seen", &[Algorithm::HS256]).unwrap();
        assert!(!format!("{key:?}").contains("secret that"));
    }
}
