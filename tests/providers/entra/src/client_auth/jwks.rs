//! The keys of an issuer, as a JSON Web Key Set.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::jwt::Jwt;
use super::{Assertions, federated};
use crate::control::Control;
use crate::refusal::Refusal;
use crate::token::TokenRequest;

const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Where an issuer's keys are.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum Jwks {
    /// Here.
    Inline {
        /// The key set.
        jwks: Value,
    },
    /// At an address: fetched when an assertion names a key that is not known yet.
    Url {
        /// The address, as in `https://127.0.0.1:6443/openid/v1/jwks`.
        jwks_url: String,
        /// A bearer token to fetch them with.
        #[serde(default)]
        bearer: Option<String>,
        /// The only authority to trust for it, as PEM.
        #[serde(default)]
        ca_pem: Option<String>,
    },
}

/// A key set that was read.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone, Debug, Deserialize)]
struct Key {
    kid: Option<String>,
    #[serde(flatten)]
    public: Public,
}

/// Numbers are base64url.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kty")]
enum Public {
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "EC")]
    Ec { crv: String, x: String, y: String },
    #[serde(other)]
    Other,
}

/// Fetches the keys that the request's assertion needs and that are not here yet.
pub(crate) async fn fetch_keys(control: &Control, request: &TokenRequest) {
    let Some((source, url)) = control.read(|state| {
        let client = state.clients.get(request.param("client_id")?)?;
        let jwt = Jwt::parse(request.param("client_assertion")?).ok()?;
        let source = &federated::matching(client, &jwt).ok()?.keys;
        let Jwks::Url { jwks_url, .. } = source else { return None };
        let known = state.assertions.fetched.get(jwks_url).and_then(|keys| keys.as_ref().ok());
        let missing = known.is_none_or(|keys| keys.named(jwt.header.kid.as_deref()).next().is_none());
        missing.then(|| (source.clone(), jwks_url.clone()))
    }) else {
        return;
    };
    // The whole chain of causes: whoever reads it has a test to mend.
    let keys = fetch(&source).await.map_err(|error| format!("{error:?}"));
    control.with(|state| state.assertions.fetched.insert(url, keys));
}

async fn fetch(source: &Jwks) -> Result<KeySet, Box<dyn std::error::Error + Send + Sync>> {
    let Jwks::Url { jwks_url, bearer, ca_pem } = source else {
        return Err("they are here".into());
    };
    let mut builder = reqwest::Client::builder().no_proxy().timeout(FETCH_TIMEOUT);
    if let Some(pem) = ca_pem {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes())?);
    }
    let mut request = builder.build()?.get(jwks_url);
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    let body = request.send().await?.error_for_status()?.bytes().await?;
    Ok(serde_json::from_slice(&body)?)
}

/// The keys of a credential, or why there are none.
pub(super) fn keys(assertions: &Assertions, source: &Jwks) -> Result<KeySet, String> {
    match source {
        Jwks::Inline { jwks } => KeySet::deserialize(jwks).map_err(|error| error.to_string()),
        Jwks::Url { jwks_url, .. } => assertions
            .fetched
            .get(jwks_url)
            .cloned()
            .unwrap_or_else(|| Err("they were not fetched".to_owned())),
    }
}

impl KeySet {
    /// The keys of this id; all of them if there is none.
    fn named<'a>(&'a self, kid: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |key| kid.is_none() || key.kid.as_deref() == kid)
    }

    pub(super) fn verify(&self, jwt: &Jwt<'_>) -> Result<(), Refusal> {
        if !matches!(jwt.header.alg.as_str(), "RS256" | "ES256") {
            return Err(Refusal::assertion_algorithm("RS256, ES256"));
        }
        let mut keys = self.named(jwt.header.kid.as_deref()).peekable();
        keys.peek().ok_or_else(Refusal::assertion_key_unknown)?;
        if keys.any(|key| key.public.verifies(jwt)) { Ok(()) } else { Err(Refusal::assertion_signature()) }
    }
}

impl Public {
    fn verifies(&self, jwt: &Jwt<'_>) -> bool {
        self.try_verify(jwt).is_some()
    }

    /// A key of another kind than the algorithm's verifies nothing.
    fn try_verify(&self, jwt: &Jwt<'_>) -> Option<()> {
        let number = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        match (self, jwt.header.alg.as_str()) {
            (Self::Rsa { n, e }, "RS256") => RsaPublicKeyComponents { n: number(n)?, e: number(e)? }
                .verify(&RSA_PKCS1_2048_8192_SHA256, jwt.signed, &jwt.signature)
                .ok(),
            (Self::Ec { crv, x, y }, "ES256") if crv == "P-256" => {
                // An uncompressed point.
                let point = [vec![4], number(x)?, number(y)?].concat();
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                key.verify(jwt.signed, &jwt.signature).ok()
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline { .. } => f.write_str("Inline"),
            Self::Url { jwks_url, .. } => f.debug_tuple("Url").field(jwks_url).finish(),
        }
    }
}
