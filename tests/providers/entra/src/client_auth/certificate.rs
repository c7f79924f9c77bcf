//! Assertions that a client signs with the key of a registered certificate.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use webpki::EndEntityCert;
use webpki::aws_lc_rs::{RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256_LEGACY_KEY};

use super::jwt::Jwt;
use crate::config::Client;
use crate::random::digest;
use crate::refusal::Refusal;
use crate::state::{State, is_multi_tenant};
use crate::token::TokenRequest;

/// Ten minutes, and five for clocks that differ.
const LONGEST_SECONDS: u64 = 15 * 60;

/// A certificate registered for a client. Whether it is still valid is not looked at.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Certificate {
    der: CertificateDer<'static>,
}

/// It is no X.509 certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCertificate;

impl Certificate {
    /// The first certificate in a PEM text.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidCertificate> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| InvalidCertificate)?;
        Self::from_der(der.as_ref())
    }

    /// A certificate as DER.
    pub fn from_der(der: &[u8]) -> Result<Self, InvalidCertificate> {
        let der = CertificateDer::from(der.to_vec());
        EndEntityCert::try_from(&der).map_err(|_| InvalidCertificate)?;
        Ok(Self { der })
    }

    /// Its SHA-256, base64url: the `x5t#S256` of an assertion.
    pub fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(&self.der))
    }
}

pub(super) fn verify(
    state: &mut State,
    request: &TokenRequest,
    client: &Client,
    jwt: &Jwt<'_>,
    now: u64,
) -> Result<(), Refusal> {
    let algorithm = match jwt.header.alg.as_str() {
        "PS256" => RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        "RS256" if state.settings.rs256_assertions => RSA_PKCS1_2048_8192_SHA256,
        _ => return Err(Refusal::assertion_algorithm("PS256")),
    };
    if jwt.header.typ.as_deref() != Some("JWT") {
        return Err(Refusal::assertion_malformed("its 'typ' is not 'JWT'"));
    }
    let thumbprint = jwt.header.x5t_s256.as_deref();
    let certificate = client.certificates.iter().find(|known| Some(&*known.thumbprint()) == thumbprint);
    let der = &certificate.ok_or_else(Refusal::assertion_key_unknown)?.der;
    let certificate = EndEntityCert::try_from(der).map_err(|_| Refusal::assertion_key_unknown())?;
    certificate
        .verify_signature(algorithm, jwt.signed, &jwt.signature)
        .map_err(|_| Refusal::assertion_signature())?;

    if jwt.claims.sub.as_deref() != Some(&*client.id) {
        return Err(Refusal::assertion_subject());
    }
    match &jwt.claims.aud[..] {
        [audience] if audiences(state, request).contains(audience) => {}
        _ => return Err(Refusal::assertion_audience()),
    }
    let now_s = now / 1_000;
    let exp = jwt.in_time(now_s)?;
    let nbf = jwt.claims.nbf.ok_or_else(|| Refusal::assertion_malformed("it has no 'nbf'"))?;
    if exp.saturating_sub(nbf) > LONGEST_SECONDS {
        return Err(Refusal::assertion_malformed("it lives longer than ten minutes"));
    }
    let jti = jwt.claims.jti.as_deref().filter(|jti| !jti.is_empty());
    let jti = jti.ok_or_else(|| Refusal::assertion_malformed("it has no 'jti'"))?;
    once(state, digest(&format!("{} {jti}", client.id)), exp, now_s)
}

/// What an assertion may be for: the token endpoint or the issuer, by the address that the client used.
fn audiences(state: &State, request: &TokenRequest) -> Vec<String> {
    let base = &request.base;
    let mut tenants = vec![request.tenant.as_str()];
    if !is_multi_tenant(&request.tenant) {
        tenants.extend([&*state.tenant.id, &*state.tenant.domain]);
    }
    let of = |tenant| [format!("{base}/{tenant}/oauth2/v2.0/token"), format!("{base}/{tenant}/v2.0")];
    tenants.into_iter().flat_map(of).collect()
}

/// Refuses what was accepted before and has not expired since.
fn once(state: &mut State, jti: String, exp: u64, now_s: u64) -> Result<(), Refusal> {
    let accepted = &mut state.assertions.accepted;
    if accepted.get(&jti).is_some_and(|&exp| now_s <= exp) {
        return Err(Refusal::assertion_replayed());
    }
    accepted.insert(jti, exp);
    Ok(())
}

impl TryFrom<String> for Certificate {
    type Error = InvalidCertificate;

    fn try_from(pem: String) -> Result<Self, InvalidCertificate> {
        Self::from_pem(&pem)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.thumbprint()).finish()
    }
}

impl fmt::Display for InvalidCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an X.509 certificate")
    }
}

impl std::error::Error for InvalidCertificate {}
