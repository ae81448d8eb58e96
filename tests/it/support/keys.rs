//! Keys made at run time, and an issuer that signs with them.

use std::time::Duration;

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use portcullis::token::{
    claims::IssuerName,
    issuer::{ClaimNames, IssuerSettings, KeySource, TokenProfile},
};
use serde_json::{Value, json};

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key that signs, of any algorithm.
pub(crate) struct SigningKey {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    signer: Signer,
}

enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Hmac(Vec<u8>),
}

impl SigningKey {
    /// A new key; 2048 bits for RSA, 64 bytes for HMAC.
    pub(crate) fn generate(id: &str, algorithm: Algorithm) -> Self {
        let ec = |curve| Signer::Ec(EcdsaKeyPair::generate(curve).unwrap());
        let signer = match algorithm {
            Algorithm::ES256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDSA => Signer::Ed(Ed25519KeyPair::generate().unwrap()),
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let mut secret = vec![0; 64];
                aws_lc_rs::rand::fill(&mut secret).unwrap();
                Signer::Hmac(secret)
            }
            _ => Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Self { id: id.to_owned(), algorithm, signer }
    }

    /// An HMAC key of these bytes.
    pub(crate) fn from_secret(id: &str, algorithm: Algorithm, secret: &[u8]) -> Self {
        Self { id: id.to_owned(), algorithm, signer: Signer::Hmac(secret.to_vec()) }
    }

    /// The bytes of an HMAC key.
    pub(crate) fn secret(&self) -> Vec<u8> {
        match &self.signer {
            Signer::Hmac(secret) => secret.clone(),
            _ => panic!("key `{}` is not a shared secret", self.id),
        }
    }

    /// The public key as its octets: PKCS#1 for RSA, a point for EC.
    pub(crate) fn public_octets(&self) -> Vec<u8> {
        match &self.signer {
            Signer::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Ed(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Hmac(_) => panic!("key `{}` is a shared secret", self.id),
        }
    }

    /// The public JWK, with `kid`, `use` and `alg`.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.signer {
            Signer::Rsa(pair) => {
                let key = pair.public_key();
                let modulus = base64url(key.modulus().big_endian_without_leading_zero());
                let exponent = base64url(key.exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "n": modulus, "e": exponent})
            }
            Signer::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Signer::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key())}),
            Signer::Hmac(secret) => json!({"kty": "oct", "k": base64url(secret)}),
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(format!("{:?}", self.algorithm));
        jwk
    }

    /// A signature over these octets, by this key's algorithm.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(rsa_encoding(self.algorithm), &random, message, &mut signature).unwrap();
                signature
            }
            Signer::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Signer::Hmac(secret) => {
                let hash = match self.algorithm {
                    Algorithm::HS256 => hmac::HMAC_SHA256,
                    Algorithm::HS384 => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec()
            }
        }
    }

    /// A JWS of this header and payload, whatever they are.
    pub(crate) fn compact(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        let input = format!("{}.{}", base64url(header), base64url(payload));
        let signature = base64url(self.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }

    /// A JWT with this key's `alg` and `kid` and no `typ`.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.compact(self.header().to_string(), claims.to_string())
    }

    /// `alg` and `kid` of this key.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": format!("{:?}", self.algorithm), "kid": self.id})
    }
}

fn rsa_encoding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_SHA512,
        other => panic!("{other:?} is not an RSA algorithm"),
    }
}

/// The audience of every token of a [`TestIssuer`].
pub(crate) const AUDIENCE: &str = "https://api.example";

/// An issuer with keys of its own.
pub(crate) struct TestIssuer {
    pub(crate) identifier: String,
    pub(crate) keys: Vec<SigningKey>,
}

impl TestIssuer {
    /// An issuer with one ES256 key, `key-1`.
    pub(crate) fn new(identifier: &str) -> Self {
        Self::with_algorithms(identifier, &[Algorithm::ES256])
    }

    /// An issuer with a key for each of these algorithms, `key-1`, `key-2` and so on.
    pub(crate) fn with_algorithms(identifier: &str, algorithms: &[Algorithm]) -> Self {
        let keys = algorithms.iter().zip(1..).map(|(alg, n)| SigningKey::generate(&format!("key-{n}"), *alg));
        Self { identifier: identifier.to_owned(), keys: keys.collect() }
    }

    /// Its key set.
    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(SigningKey::jwk).collect::<Vec<_>>()})
    }

    /// Good claims, issued at `iat` for an hour.
    pub(crate) fn claims(&self, iat: i64) -> Value {
        json!({
            "iss": self.identifier,
            "sub": "auth0|alice",
            "aud": AUDIENCE,
            "iat": iat,
            "exp": iat + 3600,
            "azp": "web-app",
            "scope": "openid read:orders",
        })
    }

    /// A token of these claims, signed with the first key.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.keys[0].token(claims)
    }

    /// Settings that trust it: all its algorithms, long intervals, a timeout of 5 s.
    pub(crate) fn settings(&self, name: &str, keys: KeySource) -> IssuerSettings {
        let mut algorithms: Vec<Algorithm> = self.keys.iter().map(|key| key.algorithm).collect();
        algorithms.dedup();
        IssuerSettings {
            name: IssuerName::try_from(name).unwrap(),
            identifiers: [self.identifier.as_str().into()].into(),
            audiences: [AUDIENCE.into()].into(),
            algorithms: algorithms.into(),
            keys,
            profile: TokenProfile::Jwt,
            claims: ClaimNames::default(),
            limits: portcullis::session::SessionLimits::default(),
            refresh_interval: Duration::from_secs(600),
            refetch_interval: Duration::from_secs(600),
            fetch_timeout: Duration::from_secs(5),
        }
    }
}
