use rstest::rstest;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::api::Reason;

fn entra() -> Value {
    json!({
        "device_code": "GAQABAAEAAA", "user_code": "ABCD1234E", "verification_uri": "https://microsoft.com/devicelogin",
        "expires_in": "900", "interval": 5, "message": "To sign in, use a web browser",
    })
}

fn read_body(status: u16, body: &Value) -> Result<Authorization, Box<Failure>> {
    let body = body.to_string();
    read(&Answer { status, retry_after: None, body: body.as_bytes() }, Timestamp::UNIX_EPOCH, &asked())
}

fn asked() -> TokenRequest {
    authorization("app", &[], Proof::Secret(&"the-client~secret.of-this-app".into()))
}

fn names(request: &TokenRequest) -> Vec<(&str, &str)> {
    request.form.iter().map(|(name, value)| (*name, value.expose_secret())).collect()
}

#[test]
fn a_code_is_asked_for_and_polled_as_the_rfc_says() {
    let scopes = ["Mail.Read".to_owned(), "offline_access".to_owned()];
    let asked = authorization("app", &scopes, Proof::Public);
    assert_eq!(names(&asked), [("client_id", "app"), ("scope", "Mail.Read offline_access")]);
    let poll = poll("app", &"code".to_owned().into(), Proof::Public);
    let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:device_code");
    assert_eq!(names(&poll), [("client_id", "app"), grant, ("device_code", "code"), ("client_info", "1")]);
    assert_eq!(poll.secrets().count(), 1, "a device code is a secret");
}

#[test]
fn a_code_comes_with_all_that_a_user_needs() {
    let got = read_body(200, &entra()).unwrap();
    assert_eq!(got.device_code.expose_secret(), "GAQABAAEAAA");
    assert_eq!((&*got.user_code, &*got.verification_uri), ("ABCD1234E", "https://microsoft.com/devicelogin"));
    assert_eq!((got.expires_in.as_secs(), got.interval.as_secs()), (900, 5));
}

#[rstest]
#[case::entra_omits_it("interval", Value::Null, (900, 5))]
#[case::zero("interval", json!(0), (900, 5))]
#[case::slow("interval", json!(7200), (900, 60))]
#[case::no_life("expires_in", Value::Null, (900, 5))]
#[case::negative("expires_in", json!(-1), (900, 5))]
#[case::absurd("expires_in", json!(1e300), (86400, 5))]
fn times_that_make_no_sense_are_put_right(
    #[case] member: &str,
    #[case] value: Value,
    #[case] times: (u64, u64),
) {
    let mut body = entra();
    body[member] = value;
    let got = read_body(200, &body).unwrap();
    assert_eq!((got.expires_in.as_secs(), got.interval.as_secs()), times);
}

#[rstest]
#[case("device_code", json!(""), "device_code")]
#[case("device_code", json!("a b"), "device_code")]
#[case("user_code", Value::Null, "user_code")]
#[case("user_code", json!("A\u{1b}[2J"), "user_code")]
#[case("user_code", json!("x".repeat(65)), "user_code")]
#[case("verification_uri", Value::Null, "verification_uri")]
#[case("verification_uri", json!("javascript:alert(1)"), "verification_uri")]
#[case("verification_uri", json!("https://ok.example/\nfake"), "verification_uri")]
#[case("user_code", json!("GAQABAAEAAA"), "a secret shows")]
#[case("verification_uri", json!("https://ok.example/?code=GAQABAAEAAA"), "a secret shows")]
#[case("user_code", json!("x-the-client~secret.of-this-app"), "a secret shows")]
fn what_no_user_could_use_is_no_answer(#[case] member: &str, #[case] value: Value, #[case] says: &str) {
    let mut body = entra();
    body[member] = value;
    let failure = read_body(200, &body).unwrap_err();
    assert_eq!(failure.reason, Reason::ProviderUnavailable);
    assert!(failure.message.contains(says) && !failure.message.contains("GAQ"), "{}", failure.message);
}

#[rstest]
#[case(400, json!({"error": "unauthorized_client", "error_codes": [700_016]}), Reason::InvalidConfiguration)]
#[case(400, json!({"error": "invalid_scope", "error_codes": [70011]}), Reason::InvalidConfiguration)]
#[case(429, json!({}), Reason::Throttled)]
#[case(503, json!({}), Reason::ProviderUnavailable)]
fn a_refusal_is_one_as_at_the_token_endpoint(
    #[case] status: u16,
    #[case] body: Value,
    #[case] reason: Reason,
) {
    assert_eq!(read_body(status, &body).unwrap_err().reason, reason);
}

#[test]
fn a_failure_names_this_endpoint() {
    let redirect = Answer { status: 307, retry_after: None, body: b"" };
    let failure = named(*read(&redirect, Timestamp::UNIX_EPOCH, &asked()).unwrap_err());
    assert!(failure.message.starts_with("The device authorization endpoint answered with a redirect"));
    assert!(failure.message.ends_with("put the final URL into spec.endpoints.deviceAuthorization."));
    let unreached = named(failure::NoAnswer::TooLarge.into());
    assert!(!unreached.message.contains("token"), "{}", unreached.message);
}
