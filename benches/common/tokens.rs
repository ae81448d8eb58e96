//! An issuer's key, and many tokens signed with it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::interval};

pub(crate) const ISSUER: &str = "https://tenant.example/";
pub(crate) const AUDIENCE: &str = "https://api.example";
const KEY_ID: &str = "NzQ1RDI0QkM4RDVBODk1";
const LIFETIME: u64 = 6 * 3600;

/// An issuer of access tokens.
pub(crate) struct Issuer {
    key: Key,
    issued_at: u64,
}

enum Key {
    /// 2048 bits, as most issuers have.
    Rsa(KeyPair),
    /// On the curve P-256.
    Ec(EcdsaKeyPair),
}

impl Issuer {
    /// Signs with RS256.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::with(Key::Rsa(KeyPair::generate(KeySize::Rsa2048).context("no RSA key can be made")?))
    }

    /// Signs with ES256.
    #[allow(dead_code, reason = "of one bench only")]
    pub(crate) fn es256() -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).context("no EC key can be made")?;
        Self::with(Key::Ec(key))
    }

    #[expect(clippy::disallowed_methods, reason = "a generator of tokens, nothing that judges")]
    fn with(key: Key) -> anyhow::Result<Self> {
        Ok(Self { key, issued_at: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() })
    }

    pub(crate) fn jwks(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut key = match &self.key {
            Key::Rsa(key) => json!({
                "kty": "RSA",
                "n": encode(key.public_key().modulus().big_endian_without_leading_zero()),
                "e": encode(key.public_key().exponent().big_endian_without_leading_zero()),
            }),
            Key::Ec(key) => {
                // 4, and the coordinates (SEC 1 §2.3.3).
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) })
            }
        };
        key["use"] = "sig".into();
        key["alg"] = self.algorithm().into();
        key["kid"] = KEY_ID.into();
        json!({ "keys": [key] })
    }

    const fn algorithm(&self) -> &'static str {
        match self.key {
            Key::Rsa(_) => "RS256",
            Key::Ec(_) => "ES256",
        }
    }

    /// The public key in the form that OpenSSL reads.
    pub(crate) fn pem(&self) -> anyhow::Result<String> {
        let der: PublicKeyX509Der<'_> = match &self.key {
            Key::Rsa(key) => key.public_key().as_der(),
            Key::Ec(key) => key.public_key().as_der(),
        }
        .context("the public key has no DER form")?;
        let text = STANDARD.encode(der.as_ref());
        let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
        for line in text.as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line)?);
            pem.push('\n');
        }
        Ok(pem + "-----END PUBLIC KEY-----\n")
    }

    /// `Authorization` fields with that many tokens, of as many subjects and sessions. Uses every core, and shows how far it is.
    pub(crate) async fn sign(self: &Arc<Self>, count: usize) -> anyhow::Result<Vec<HeaderValue>> {
        let progress = Arc::new(Progress::default());
        let _stop = StopOnDrop(Arc::clone(&progress));
        let mut threads = JoinSet::new();
        for _ in 0..thread::available_parallelism()?.get() {
            let (issuer, progress) = (Arc::clone(self), Arc::clone(&progress));
            threads.spawn_blocking(move || issuer.sign_some(&progress, count));
        }
        let mut fields = vec![None; count];
        let mut ticks = interval(Duration::from_secs(2));
        loop {
            tokio::select! {
                ended = threads.join_next() => match ended {
                    Some(signed) => signed??.into_iter().for_each(|(n, field)| fields[n] = Some(field)),
                    None => break,
                },
                _ = ticks.tick() => {
                    eprintln!("signed {} of {count} tokens", progress.next.load(Ordering::Relaxed).min(count));
                }
            }
        }
        fields.into_iter().collect::<Option<Vec<_>>>().context("a token is missing")
    }

    fn sign_some(&self, progress: &Progress, count: usize) -> anyhow::Result<Vec<(usize, HeaderValue)>> {
        let mut signed = Vec::new();
        while !progress.stop.load(Ordering::Relaxed) {
            let n = progress.next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                break;
            }
            signed.push((n, self.field(n)?));
        }
        Ok(signed)
    }

    /// `Bearer` and a token like those of an Auth0 tenant, about 940 bytes long.
    fn field(&self, n: usize) -> anyhow::Result<HeaderValue> {
        let header = json!({ "alg": self.algorithm(), "typ": "at+jwt", "kid": KEY_ID });
        let claims = json!({
            "iss": ISSUER,
            "sub": subject(n),
            "aud": [AUDIENCE, "https://tenant.example/userinfo"],
            "iat": self.issued_at,
            "exp": self.issued_at + LIFETIME,
            "azp": "my5Ke2dqQ0Gx8cTzWv1LbNpRhYs7JfUa",
            "scope": "openid profile email read:orders write:orders",
            "permissions": ["read:orders", "write:orders"],
            "sid": format!("Vq8sT3kLw2ZrXy0mBnD4{n:012}"),
            "jti": format!("c0NkR7vQpLxS{n:012}"),
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
                    .context("a token cannot be signed")?;
                signature
            }
            Key::Ec(key) => {
                let signature = key.sign(&SystemRandom::new(), message.as_bytes());
                signature.context("a token cannot be signed")?.as_ref().to_vec()
            }
        };
        Ok(HeaderValue::try_from(format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(signature)))?)
    }
}

/// The `sub` of a token.
pub(crate) fn subject(n: usize) -> String {
    format!("auth0|6553da60a54a{n:012}")
}

/// The same token with another signature, of the right form and length.
///
/// Only its second half is another, so that as a number it stays below the modulus: one above would be told without any
/// arithmetic.
pub(crate) fn with_bad_signature(field: &HeaderValue) -> anyhow::Result<HeaderValue> {
    let text = field.to_str()?;
    let signature = text.rfind('.').context("a token has no signature")?;
    let (kept, turned) = text.split_at(signature + (text.len() - signature) / 2);
    // The last character carries padding bits, so it keeps its place.
    let (turned, last) = turned.split_at(turned.len() - 1);
    let (front, back) = turned.split_at(turned.len() / 2);
    Ok(HeaderValue::try_from(format!("{kept}{back}{front}{last}"))?)
}

#[derive(Default)]
struct Progress {
    next: AtomicUsize,
    stop: AtomicBool,
}

/// Threads that sign cannot be aborted, only told to stop.
struct StopOnDrop(Arc<Progress>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}
