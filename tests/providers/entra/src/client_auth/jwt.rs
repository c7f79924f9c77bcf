//! A JWT in its compact form, read but not yet believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::refusal::Refusal;

/// How far a client's clock may be off, in seconds.
const SKEW: u64 = 300;

pub(super) struct Jwt<'a> {
    pub(super) header: Header,
    pub(super) claims: Claims,
    /// Header and claims as they were signed.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) typ: Option<String>,
    pub(super) kid: Option<String>,
    /// SHA-256 of the certificate, base64url.
    #[serde(rename = "x5t#S256")]
    pub(super) x5t_s256: Option<String>,
}

/// Times are in seconds since the epoch.
#[derive(Deserialize)]
pub(super) struct Claims {
    pub(super) iss: Option<String>,
    pub(super) sub: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    pub(super) aud: Vec<String>,
    pub(super) exp: Option<u64>,
    pub(super) nbf: Option<u64>,
    pub(super) jti: Option<String>,
}

impl<'a> Jwt<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Refusal> {
        let malformed = || Refusal::assertion_malformed("it cannot be read");
        let (signed, signature) = text.rsplit_once('.').ok_or_else(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or_else(malformed)?;
        Ok(Self {
            header: part(header).ok_or_else(malformed)?,
            claims: part(claims).ok_or_else(malformed)?,
            signed: signed.as_bytes(),
            signature: URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?,
        })
    }

    /// Refuses what is expired or from the future, and returns when it expires.
    pub(super) fn in_time(&self, now_s: u64) -> Result<u64, Refusal> {
        let exp = self.claims.exp.ok_or_else(|| Refusal::assertion_malformed("it has no 'exp'"))?;
        let begun = self.claims.nbf.is_none_or(|nbf| nbf <= now_s + SKEW);
        if begun && now_s < exp.saturating_add(SKEW) {
            Ok(exp)
        } else {
            Err(Refusal::assertion_out_of_time())
        }
    }
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(audience) => vec![audience],
        Audience::Many(audiences) => audiences,
    })
}
