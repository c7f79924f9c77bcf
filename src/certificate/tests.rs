//! Certificates and keys, good and bad.

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::pki::{
    CLIENT, CLIENT_KEY, CLIENT_KEY_ENCRYPTED, CLIENT_KEY_ENCRYPTED_PKCS1, CLIENT_KEY_PKCS1, CURVE, CURVE_KEY,
    CURVE_KEY_SEC1, EXPIRED, FUTURE, ISSUED, OTHER, OTHER_KEY, SHORT, SHORT_KEY,
};

/// SHA-256 of DER, as `openssl x509 -outform DER | openssl dgst -sha256 -binary` has it.
fn digest(pem: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(pem::parse(pem).unwrap().contents()))
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

#[rstest]
#[case::pkcs8(CLIENT, CLIENT_KEY, CLIENT)]
#[case::pkcs1(CLIENT, CLIENT_KEY_PKCS1, CLIENT)]
#[case::a_chain(&[ISSUED, OTHER].concat(), CLIENT_KEY, ISSUED)]
#[case::text_around_it(&format!("subject=CN = client\n\n{CLIENT}\nthe end"), CLIENT_KEY, CLIENT)]
#[case::lines_of_windows(&CLIENT.replace('\n', "\r\n"), &CLIENT_KEY.replace('\n', "\r\n"), CLIENT)]
#[case::both_in_both(&[CLIENT, CLIENT_KEY].concat(), &[CLIENT, CLIENT_KEY].concat(), CLIENT)]
fn a_certificate_is_taken_with_its_key(#[case] certificates: &str, #[case] key: &str, #[case] leaf: &str) {
    let read = ClientCertificate::parse(certificates.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(read.thumbprint(), digest(leaf));
    assert_eq!(read.not_before(), at("2020-01-01T00:00:00Z"));
    assert_eq!(read.problem(at("2026-11-23T10:00:00Z")), None);
}

const EC: CertificateError = CertificateError::NotRsa { kind: "an elliptic-curve key" };

#[rstest]
#[case::nothing("", CLIENT_KEY, CertificateError::NoCertificate)]
#[case::der("\u{30}\u{1}", CLIENT_KEY, CertificateError::NoCertificate)]
#[case::a_key_where_the_certificate_belongs(CLIENT_KEY, CLIENT_KEY, CertificateError::NoCertificate)]
#[case::cut_off(&CLIENT[..300], CLIENT_KEY, CertificateError::NoCertificate)]
#[case::not_x509(
    "-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n",
    CLIENT_KEY,
    CertificateError::MalformedCertificate
)]
#[case::no_key(CLIENT, "", CertificateError::NoKey)]
#[case::a_certificate_where_the_key_belongs(CLIENT, CLIENT, CertificateError::NoKey)]
#[case::encrypted(CLIENT, CLIENT_KEY_ENCRYPTED, CertificateError::EncryptedKey)]
#[case::encrypted_pkcs1(CLIENT, CLIENT_KEY_ENCRYPTED_PKCS1, CertificateError::EncryptedKey)]
#[case::not_a_key(
    CLIENT,
    "-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n",
    CertificateError::MalformedKey
)]
#[case::another_key(CLIENT, OTHER_KEY, CertificateError::Mismatch)]
#[case::a_key_of_another_kind(CLIENT, CURVE_KEY_SEC1, CertificateError::Mismatch)]
#[case::a_pair_on_a_curve(CURVE, CURVE_KEY, EC)]
#[case::a_short_pair(SHORT, SHORT_KEY, CertificateError::ShortKey { bits: 1024 })]
#[case::a_chain_upside_down(&[OTHER, ISSUED].concat(), CLIENT_KEY, CertificateError::LeafNotFirst)]
fn what_is_wrong_is_told(#[case] certificates: &str, #[case] key: &str, #[case] wrong: CertificateError) {
    let read = ClientCertificate::parse(certificates.as_bytes(), key.as_bytes());
    assert_eq!(read.map(|read| read.thumbprint().to_owned()), Err(wrong));
}

#[rstest]
#[case::expired(EXPIRED, "2026-11-23T10:00:00Z", "expired at 2019-01-01T00:00:00Z")]
#[case::not_yet_valid(FUTURE, "2026-11-23T10:00:00Z", "is not valid before 2070-01-01T00:00:00Z")]
#[case::its_last_second(EXPIRED, "2019-01-01T00:00:00Z", "")]
#[case::just_after_it(EXPIRED, "2019-01-01T00:00:00.001Z", "expired")]
#[case::its_first_second(FUTURE, "2070-01-01T00:00:00Z", "")]
fn a_certificate_is_used_within_its_time_only(#[case] pem: &str, #[case] now: &str, #[case] says: &str) {
    let read = ClientCertificate::parse(pem.as_bytes(), CLIENT_KEY.as_bytes()).unwrap();
    let problem = read.problem(at(now)).map(|problem| problem.to_string());
    assert_eq!(problem.is_some(), !says.is_empty());
    assert!(problem.unwrap_or_default().contains(says));
}

#[test]
fn debug_shows_no_key() {
    let read = ClientCertificate::parse(CLIENT.as_bytes(), CLIENT_KEY.as_bytes()).unwrap();
    assert_eq!(format!("{read:?}"), format!("ClientCertificate {{ thumbprint: {:?}, .. }}", digest(CLIENT)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(certificates: Vec<u8>, key: Vec<u8>) {
        prop_assert!(ClientCertificate::parse(&certificates, &key).is_err());
        prop_assert!(ClientCertificate::parse(CLIENT.as_bytes(), &key).is_err());
    }

    /// A damaged pair is refused or is the pair; what is said of it quotes nothing of the key.
    #[test]
    fn a_damaged_pair_is_never_another(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let [mut certificate, mut key] = [CLIENT, CLIENT_KEY].map(|pem| pem::parse(pem).unwrap().into_contents());
        for (index, flip) in flips {
            let at = index.index(certificate.len() + key.len());
            match at.checked_sub(certificate.len()) {
                None => certificate[at] ^= flip,
                Some(at) => key[at] ^= flip,
            }
        }
        let certificate = pem::encode(&Pem::new("CERTIFICATE", certificate));
        let key = pem::encode(&Pem::new("PRIVATE KEY", key));
        let original = ClientCertificate::parse(CLIENT.as_bytes(), CLIENT_KEY.as_bytes()).unwrap();
        if let Ok(read) = ClientCertificate::parse(certificate.as_bytes(), key.as_bytes()) {
            prop_assert_eq!(read.key.public_key().as_ref(), original.key.public_key().as_ref());
        }
    }
}
