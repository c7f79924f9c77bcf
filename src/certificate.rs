//! A client's certificate and key, as a Secret of type `kubernetes.io/tls` holds them → what signs assertions. Everything
//! that is wrong with them is found here, before anything is sent. No error quotes what it found.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PSS_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use pem::Pem;
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use x509_cert::Certificate as X509;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode as _, Reader as _, SliceReader};
use x509_cert::time::Time;

/// Key of the certificate in the Secret.
pub const KEY_CERTIFICATE: &str = "tls.crt";
/// Key of the private key in the Secret.
pub const KEY_PRIVATE_KEY: &str = "tls.key";

/// `rsaEncryption` (RFC 8017, appendix A.1).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// `id-ecPublicKey` (RFC 5480 section 2.1.1).
const ELLIPTIC_CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// RFC 7518 section 3.5 forbids shorter ones with PS256.
const MIN_BITS: usize = 2048;

/// What is wrong with a certificate or its key, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// No certificate.
    #[error("tls.crt holds no certificate; put it there in PEM, which begins with BEGIN CERTIFICATE")]
    NoCertificate,
    /// Not X.509.
    #[error("the first certificate in tls.crt cannot be read; export it anew and put it there in PEM")]
    MalformedCertificate,
    /// No key.
    #[error("tls.key holds no private key; put the certificate's there in PEM, unencrypted")]
    NoKey,
    /// A passphrase would be needed.
    #[error("the private key in tls.key is encrypted; put it there decrypted, as openssl pkey writes it")]
    EncryptedKey,
    /// Neither PKCS#8 nor PKCS#1, or damaged.
    #[error(
        "the private key in tls.key cannot be read; export it anew and put it there in PEM, as PKCS#8 or PKCS#1"
    )]
    MalformedKey,
    /// A key that cannot make the signature that providers take.
    #[error(
        "it is for {kind}, and a client's assertion is signed with an RSA key; make a certificate with an RSA key of 2048 bits \
         or more"
    )]
    NotRsa {
        /// What it is instead.
        kind: &'static str,
    },
    /// A key that is easily broken.
    #[error("its RSA key has only {bits} bits; make a certificate with one of 2048 bits or more")]
    ShortKey {
        /// How long it is.
        bits: usize,
    },
    /// The key is another certificate's.
    #[error(
        "tls.key is not the private key of the certificate in tls.crt; put a pair there that belongs together"
    )]
    Mismatch,
    /// The chain stands upside down.
    #[error(
        "tls.key belongs to a later certificate in tls.crt than the first; put that one first, then its issuers"
    )]
    LeafNotFirst,
    /// Not valid any more.
    #[error(
        "the certificate expired at {0}; make a new one, register it with the app, and put it there with its key"
    )]
    Expired(Timestamp),
    /// Not valid yet.
    #[error("the certificate is not valid before {0}; wait until then, or put one there that is valid now")]
    NotYetValid(Timestamp),
}

/// A client's certificate with its key: what signs assertions. `Debug` does not show the key.
pub struct ClientCertificate {
    key: KeyPair,
    thumbprint: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl ClientCertificate {
    /// Reads a certificate, or a chain of them with the client's first, and its private key, both in PEM.
    pub fn parse(certificates: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain: Vec<Pem> = pem::parse_many(certificates).unwrap_or_default();
        let chain: Vec<&[u8]> =
            chain.iter().filter(|pem| pem.tag() == "CERTIFICATE").map(Pem::contents).collect();
        let (leaf, issuers) = chain.split_first().ok_or(CertificateError::NoCertificate)?;
        let x509 = X509::from_der(leaf).map_err(|_| CertificateError::MalformedCertificate)?;
        let public_key = public_key(&x509)?;
        let key = private_key(key)?;
        let private = key.public_key().as_ref();
        if private != public_key {
            let belongs = |der: &&[u8]| X509::from_der(der).is_ok_and(|x509| raw_key(&x509) == private);
            let misplaced = issuers.iter().any(belongs);
            return Err(if misplaced { CertificateError::LeafNotFirst } else { CertificateError::Mismatch });
        }
        let validity = x509.tbs_certificate().validity();
        let (Some(not_before), Some(not_after)) = (time(&validity.not_before), time(&validity.not_after))
        else {
            return Err(CertificateError::MalformedCertificate);
        };
        let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(leaf));
        Ok(Self { key, thumbprint, not_before, not_after })
    }

    /// What forbids its use now.
    pub fn problem(&self, now: Timestamp) -> Option<CertificateError> {
        if now > self.not_after {
            Some(CertificateError::Expired(self.not_after))
        } else if now < self.not_before {
            Some(CertificateError::NotYetValid(self.not_before))
        } else {
            None
        }
    }

    /// From when it is valid.
    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Until when it is valid.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// `x5t#S256` (RFC 7515 section 4.1.8): by this a provider finds the certificate it was given.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// A signature by RSASSA-PSS with SHA-256 (`PS256`, RFC 7518 section 3.5). `None`: the system gives no random numbers.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), message, &mut signature).ok()?;
        Some(signature)
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

/// The certificate's key, in the DER of PKCS#1.
fn public_key(x509: &X509) -> Result<&[u8], CertificateError> {
    let kind = x509.tbs_certificate().subject_public_key_info().algorithm.oid;
    if kind != RSA {
        let kind = if kind == ELLIPTIC_CURVE { "an elliptic-curve key" } else { "another kind of key" };
        return Err(CertificateError::NotRsa { kind });
    }
    let key = raw_key(x509);
    let bits = modulus_bits(key).ok_or(CertificateError::MalformedCertificate)?;
    if bits < MIN_BITS { Err(CertificateError::ShortKey { bits }) } else { Ok(key) }
}

fn raw_key(x509: &X509) -> &[u8] {
    x509.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes()
}

fn modulus_bits(key: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(key).ok()?;
    let bytes = reader.sequence(|key| {
        let modulus = UintRef::decode(key)?;
        UintRef::decode(key)?;
        Ok::<_, x509_cert::der::Error>(modulus.as_bytes())
    });
    let bytes = bytes.ok()?;
    let unused = bytes.first()?.leading_zeros();
    Some(bytes.len() * 8 - usize::try_from(unused).ok()?)
}

fn private_key(key: &[u8]) -> Result<KeyPair, CertificateError> {
    let found = pem::parse_many(key).unwrap_or_default();
    let found = found.into_iter().find(|pem| pem.tag().ends_with("PRIVATE KEY"));
    let found = found.ok_or(CertificateError::NoKey)?;
    let encrypted = found.tag() == "ENCRYPTED PRIVATE KEY" || found.headers().get("Proc-Type").is_some();
    if encrypted {
        return Err(CertificateError::EncryptedKey);
    }
    let tag = found.tag().to_owned();
    let der: SecretSlice<u8> = found.into_contents().into();
    let pair = match tag.as_str() {
        "PRIVATE KEY" => KeyPair::from_pkcs8(der.expose_secret()),
        "RSA PRIVATE KEY" => KeyPair::from_der(der.expose_secret()),
        // The certificate's is an RSA key.
        _ => return Err(CertificateError::Mismatch),
    };
    pair.map_err(|_| CertificateError::MalformedKey)
}

fn time(time: &Time) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(time.to_unix_duration().as_secs()).ok()?).ok()
}

#[cfg(test)]
mod tests;
