//! Keys, and signatures made with them.
//!
//! Owns: reading keys (secrets, PEM, JWK: RFC 7517, 7518, 8037) and verifying. Must not know:
//! claims. A key has one algorithm, given by its kind: what a token says about its algorithm only
//! chooses among keys, so a public key is never taken for a secret, and `none` has no key.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use rsa::BoxedUint;
use rsa::pkcs8::DecodePublicKey;
use rsa::signature::Verifier;
use rsa::traits::PublicKeyParts;
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;

/// Shortest secret, in bytes (RFC 7518, section 3.2).
const SECRET_MIN: usize = 32;
/// Shortest and longest modulus, in bytes (RFC 7518, section 3.3).
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
/// Most keys of a set.
pub(crate) const KEYS_MAX: usize = 64;

/// An algorithm of RFC 7518 or 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// By its name, which is case-sensitive (RFC 7515, section 4.1.1).
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A key that tokens are verified with.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) id: Option<String>,
    /// Whose it is; without one, it signs for all.
    pub(crate) issuer: Option<String>,
    material: Material,
}

enum Material {
    Secret(Hmac<Sha256>),
    Rsa(rsa::pkcs1v15::VerifyingKey<Sha256>),
    P256(p256::ecdsa::VerifyingKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret",
            Self::Rsa(_) => "Rsa",
            Self::P256(_) => "P256",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

/// A key as it is configured.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct KeyConfig {
    id: Option<String>,
    pub(crate) issuer: Option<String>,
    secret: Option<String>,
    secret_base64: Option<String>,
    pem: Option<String>,
    jwk: Option<Value>,
}

impl std::fmt::Debug for KeyConfig {
    /// Secrets are not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyConfig").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Key {
    /// Reads a key of the configuration.
    pub(crate) fn read(config: KeyConfig) -> Result<Self, String> {
        let KeyConfig { id, issuer, secret, secret_base64, pem, jwk } = config;
        let key = match (secret, secret_base64, pem, jwk) {
            (Some(secret), None, None, None) => Self::secret(id, secret.as_bytes()),
            (None, Some(text), None, None) => {
                let secret = STANDARD.decode(text.trim());
                let secret = secret.map_err(|error| format!("secret-base64: {error}"))?;
                Self::secret(id, &secret)
            }
            (None, None, Some(pem), None) => Self::pem(id, &pem),
            (None, None, None, Some(jwk)) => match Self::jwk(&jwk)? {
                Some(key) => Ok(Self { id: id.or(key.id), ..key }),
                None => Err("jwk: it is not for verifying with an algorithm known here".into()),
            },
            _ => Err("a key is one of secret, secret-base64, pem, jwk".into()),
        };
        Ok(Self { issuer, ..key? })
    }

    fn new(id: Option<String>, material: Material) -> Self {
        Self { id, issuer: None, material }
    }

    fn secret(id: Option<String>, secret: &[u8]) -> Result<Self, String> {
        if secret.len() < SECRET_MIN {
            return Err(format!(
                "a secret of {} bytes is too short for HS256: at least {SECRET_MIN} (RFC 7518, section 3.2)",
                secret.len()
            ));
        }
        let mac = Hmac::new_from_slice(secret).map_err(|error| format!("secret: {error}"))?;
        Ok(Self::new(id, Material::Secret(mac)))
    }

    /// A public key as `BEGIN PUBLIC KEY` (RFC 7468, section 13).
    fn pem(id: Option<String>, pem: &str) -> Result<Self, String> {
        let wrong = || "pem: this is no `-----BEGIN PUBLIC KEY-----` block".to_owned();
        let (_, rest) = pem.split_once("-----BEGIN PUBLIC KEY-----").ok_or_else(wrong)?;
        let (text, _) = rest.split_once("-----END PUBLIC KEY-----").ok_or_else(wrong)?;
        let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = STANDARD.decode(text).map_err(|error| format!("pem: {error}"))?;
        if let Ok(key) = rsa::PublicKey::from_public_key_der(&der) {
            return Ok(Self::new(id, rsa_key(key)?));
        }
        if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_der(&der) {
            return Ok(Self::new(id, Material::P256(key)));
        }
        match ed25519_dalek::VerifyingKey::from_public_key_der(&der) {
            Ok(key) => Ok(Self::new(id, Material::Ed25519(key))),
            Err(_) => Err("pem: the key is none of RSA, P-256 and Ed25519".into()),
        }
    }

    /// A JWK; none if it is for something else.
    pub(crate) fn jwk(jwk: &Value) -> Result<Option<Self>, String> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|for_what| for_what != "sig") {
            return Ok(None);
        }
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Ok(None);
        }
        let bytes = |name: &str| {
            let text = text(name).ok_or_else(|| format!("jwk: `{name}` is missing"))?;
            URL_SAFE_NO_PAD.decode(text).map_err(|error| format!("jwk: {name}: {error}"))
        };
        let id = text("kid").map(String::from);
        let key = match (text("kty"), text("crv")) {
            (Some("oct"), _) => Self::secret(id, &bytes("k")?)?,
            (Some("RSA"), _) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                if n.len() > *MODULUS.end() || e.len() > 8 {
                    return Err("jwk: the modulus or the exponent is too long".into());
                }
                let n = BoxedUint::from_be_slice_vartime(&n);
                let e = BoxedUint::from_be_slice_vartime(&e);
                let key = rsa::PublicKey::new(n, e).map_err(|error| format!("jwk: {error}"))?;
                Self::new(id, rsa_key(key)?)
            }
            (Some("EC"), Some("P-256")) => {
                let point = [&[4][..], &bytes("x")?, &bytes("y")?].concat();
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point);
                let key = key.map_err(|_| "jwk: x and y are no point of P-256".to_owned())?;
                Self::new(id, Material::P256(key))
            }
            (Some("OKP"), Some("Ed25519")) => {
                let x: [u8; 32] =
                    bytes("x")?.try_into().map_err(|_| "jwk: x has to have 32 bytes".to_owned())?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(&x);
                let key = key.map_err(|_| "jwk: x is no point of Ed25519".to_owned())?;
                Self::new(id, Material::Ed25519(key))
            }
            (Some(_), _) => return Ok(None),
            (None, _) => return Err("jwk: `kty` is missing".into()),
        };
        let named = text("alg").map(Algorithm::named);
        Ok(match named {
            Some(algorithm) if algorithm != Some(key.algorithm()) => None,
            _ => Some(key),
        })
    }

    /// The keys of a set that are of use here (RFC 7517, section 5: others are left out). Secrets
    /// are not taken from a set, which is public.
    pub(crate) fn jwks(set: &Value, issuer: Option<&String>) -> Result<Vec<Self>, String> {
        let keys = set.get("keys").and_then(Value::as_array).ok_or("there is no list `keys`")?;
        if keys.len() > KEYS_MAX {
            return Err(format!("{} keys are too many, {KEYS_MAX} at most", keys.len()));
        }
        let keys = keys.iter().filter(|key| key.get("kty").is_none_or(|kind| kind != "oct"));
        let keys = keys.filter_map(|key| Self::jwk(key).ok().flatten());
        Ok(keys.map(|key| Self { issuer: issuer.cloned(), ..key }).collect())
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Secret(_) => Algorithm::Hs256,
            Material::Rsa(_) => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Whether the signature is this key's.
    pub(crate) fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(mac) => {
                mac.clone().chain_update(signed).verify_slice(signature).is_ok()
            }
            Material::Rsa(key) => rsa::pkcs1v15::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify(signed, &signature).is_ok()),
            Material::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(signed, &signature).is_ok()),
            Material::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(signed, &signature).is_ok()),
        }
    }
}

fn rsa_key(key: rsa::PublicKey) -> Result<Material, String> {
    if !MODULUS.contains(&key.size()) {
        return Err(format!(
            "an RSA key of {} bits cannot be used: 2048 to 8192 (RFC 7518, section 3.3)",
            key.size() * 8
        ));
    }
    Ok(Material::Rsa(rsa::pkcs1v15::VerifyingKey::new(key)))
}
