//! Assertions, as a provider reads them.

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::*;
use crate::pki::{CLIENT, CLIENT_KEY};

const ENDPOINT: &str = "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token";

fn certificate() -> ClientCertificate {
    ClientCertificate::parse(CLIENT.as_bytes(), CLIENT_KEY.as_bytes()).unwrap()
}

/// Header and claims of an assertion whose signature is right.
fn read(assertion: &SecretString) -> [Value; 2] {
    let (signed, signature) = assertion.expose_secret().rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let x509 = x509_cert::der::Decode::from_der(pem::parse(CLIENT).unwrap().contents());
    let x509: x509_cert::Certificate = x509.unwrap();
    let key = &x509.tbs_certificate().subject_public_key_info().subject_public_key;
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key.raw_bytes())
        .verify(signed.as_bytes(), &signature)
        .expect("the signature is the certificate's");
    let (header, claims) = signed.split_once('.').unwrap();
    [header, claims].map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
}

#[test]
fn an_assertion_says_who_to_whom_and_for_how_long() {
    let now = "2026-11-23T10:00:00.7Z".parse().unwrap();
    let certificate = certificate();
    let [header, claims] = read(&signed(&certificate, "the-client", ENDPOINT, "id-1", now).unwrap());
    assert_eq!(header, json!({"alg": "PS256", "typ": "JWT", "x5t#S256": certificate.thumbprint()}));
    assert_eq!(
        claims,
        json!({
            "aud": ENDPOINT, "iss": "the-client", "sub": "the-client", "jti": "id-1",
            "nbf": 1_795_428_000, "iat": 1_795_428_000, "exp": 1_795_428_600,
        })
    );
}

proptest! {
    #[test]
    fn whatever_the_spec_holds_it_stays_json(client_id: String, audience: String, second in 0_i64..253_402_207_200) {
        let now = Timestamp::from_second(second).unwrap();
        let [_, claims] = read(&signed(&certificate(), &client_id, &audience, "id", now).unwrap());
        prop_assert_eq!(claims["sub"].as_str(), Some(client_id.as_str()));
        prop_assert_eq!(claims["aud"].as_str(), Some(audience.as_str()));
    }
}
