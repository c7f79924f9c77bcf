//! Keys, certificates and assertions, as a client or an issuer has them.

use std::process::Command;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_simulator::Certificate;
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

/// An RSA key and a certificate that it signed itself.
pub(crate) struct Rsa {
    /// Both of them, as PEM.
    pub(crate) pem: String,
    key: RsaKeyPair,
}

/// An issuer's key.
pub(crate) struct Ec(EcdsaKeyPair);

impl Rsa {
    /// For `127.0.0.1`, so that it serves HTTPS too.
    pub(crate) fn new() -> Self {
        let args = "req -x509 -newkey rsa:2048 -nodes -subj /CN=etl -days 2 -keyout /dev/stdout \
                    -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
        let made =
            Command::new("openssl").args(args.split_whitespace()).output().expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let pem = String::from_utf8(made.stdout).expect("PEM is text");
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("openssl wrote a key");
        Self { key: RsaKeyPair::from_pkcs8(der.secret_der()).expect("the key is PKCS #8"), pem }
    }

    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::from_pem(&self.pem).expect("openssl wrote a certificate")
    }

    /// The header of an assertion by this certificate.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": "PS256", "typ": "JWT", "x5t#S256": self.certificate().thumbprint()})
    }

    /// Signs by the header's algorithm.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        jwt(header, claims, |text| {
            let mut signature = vec![0; self.key.public_modulus_len()];
            let padding: &dyn RsaEncoding =
                if header["alg"] == "RS256" { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
            self.key.sign(padding, &SystemRandom::new(), text, &mut signature).expect("the key signs");
            signature
        })
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        // A key of 2048 bits: the modulus follows the nine octets before it.
        let modulus = &self.key.public_key().as_ref()[9..265];
        json!({"kty": "RSA", "kid": kid, "use": "sig", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB"})
    }
}

impl Ec {
    pub(crate) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made"))
    }

    pub(crate) fn sign(&self, kid: &str, claims: &Value) -> String {
        jwt(&json!({"alg": "ES256", "kid": kid}), claims, |text| {
            self.0.sign(&SystemRandom::new(), text).expect("the key signs").as_ref().to_vec()
        })
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|number| URL_SAFE_NO_PAD.encode(number));
        json!({"kty": "EC", "kid": kid, "crv": "P-256", "x": x, "y": y})
    }
}

fn jwt(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}
