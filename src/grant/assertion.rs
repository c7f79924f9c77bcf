//! The assertion by which a client proves who it is with its certificate (`private_key_jwt`, OpenID Connect Core section 9;
//! RFC 7523; Microsoft: "Microsoft identity platform application authentication certificate credentials").

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;

use crate::certificate::ClientCertificate;

/// How long an assertion is good for.
const LIFE_SECONDS: i64 = 10 * 60;

/// A signed assertion for one request to the token endpoint `audience`: `id` is never to be used again. `None`: the system
/// gives no random numbers.
pub fn signed(
    certificate: &ClientCertificate,
    client_id: &str,
    audience: &str,
    id: &str,
    now: Timestamp,
) -> Option<SecretString> {
    let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": certificate.thumbprint()});
    let issued = now.as_second();
    let claims = json!({
        "aud": audience,
        "iss": client_id,
        "sub": client_id,
        "jti": id,
        "nbf": issued,
        "iat": issued,
        "exp": issued.saturating_add(LIFE_SECONDS),
    });
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(certificate.sign(signed.as_bytes())?);
    Some(format!("{signed}.{signature}").into())
}

#[cfg(test)]
mod tests;
