//! The failure classes, in their order, and what is said of them.

use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::Reason::{AuthorizationRequired, InvalidConfiguration, ProviderUnavailable, Throttled};
use crate::grant::GrantKind::{ClientCredentials, RefreshToken};

mod answers;

const NOW: Timestamp = Timestamp::constant(1_893_456_000, 0);

fn failure(grant: GrantKind, status: u16, retry_after: Option<&str>, body: &str) -> Failure {
    classify(grant, &Answer { status, retry_after, body: body.as_bytes() }, NOW)
}

fn refused(status: u16, body: &Value) -> Failure {
    failure(RefreshToken, status, None, &body.to_string())
}

/// A body as Entra writes it.
fn entra(error: &str, codes: &[u32]) -> Value {
    json!({
        "error": error, "error_description": "AADSTS0: s3cr3t@contoso.example. Trace ID: x", "error_codes": codes,
        "timestamp": "2030-01-01 00:00:00Z", "trace_id": "7d9c-trace", "correlation_id": "1f2e-correlation",
        "error_uri": "https://login.microsoftonline.com/error?code=0",
    })
}

// === The classes, by their numbers ===

#[rstest]
#[case::c1_too_many_requests(429, None, "", Throttled)]
#[case::c1_too_many_requests_goes_before_error(429, None, r#"{"error":"invalid_client"}"#, Throttled)]
#[case::c1_overload(503, Some("5"), "<html>", Throttled)]
#[case::c1_overload_with_a_senseless_pause(500, Some("later"), "", Throttled)]
#[case::c2_loop(400, None, r#"{"error":"invalid_grant","error_codes":[50196]}"#, Throttled)]
#[case::c2_loop_goes_before_the_status(
    500,
    None,
    r#"{"error":"server_error","error_codes":[90055]}"#,
    Throttled
)]
#[case::c2_loop_goes_before_a_redirect(302, None, r#"{"error_codes":[50196]}"#, Throttled)]
#[case::c3_request_timeout(408, None, r#"{"error":"invalid_grant"}"#, ProviderUnavailable)]
#[case::c3_request_timeout_with_a_pause(408, Some("5"), "{}", ProviderUnavailable)]
#[case::c3_server_error(500, None, r#"{"error":"invalid_grant"}"#, ProviderUnavailable)]
#[case::c3_beyond_http(999, None, "{}", ProviderUnavailable)]
#[case::c3_success_without_a_token(200, None, "{}", ProviderUnavailable)]
#[case::c3_informational(103, None, "{}", ProviderUnavailable)]
#[case::c3_html(400, None, "<html>", ProviderUnavailable)]
#[case::c3_html_unauthorized(401, None, "<html>", ProviderUnavailable)]
#[case::c3_nothing(404, None, "", ProviderUnavailable)]
#[case::c3_cut_off(400, None, r#"{"error":"invalid_gr"#, ProviderUnavailable)]
#[case::c5_temporarily_unavailable(400, None, r#"{"error":"temporarily_unavailable"}"#, ProviderUnavailable)]
#[case::c5_server_error(400, None, r#"{"error":"server_error"}"#, ProviderUnavailable)]
#[case::c5_a_passing_code(
    400,
    None,
    r#"{"error":"invalid_grant","error_codes":[90033]}"#,
    ProviderUnavailable
)]
#[case::c5_a_passing_code_among_others(
    400,
    None,
    r#"{"error":"invalid_grant","error_codes":[70000,90024]}"#,
    ProviderUnavailable
)]
#[case::c5_a_passing_code_as_a_string(
    400,
    None,
    r#"{"error":"invalid_client","error_codes":["50033"]}"#,
    ProviderUnavailable
)]
#[case::c6_invalid_client(401, None, r#"{"error":"invalid_client"}"#, InvalidConfiguration)]
#[case::c6_assertion_expired(
    401,
    None,
    r#"{"error":"invalid_client","error_codes":[700024]}"#,
    InvalidConfiguration
)]
#[case::c7_unauthorized_client(400, None, r#"{"error":"unauthorized_client"}"#, InvalidConfiguration)]
#[case::c7_invalid_tenant(400, None, r#"{"error":"invalid_tenant"}"#, InvalidConfiguration)]
#[case::c7_invalid_resource(400, None, r#"{"error":"invalid_resource"}"#, InvalidConfiguration)]
#[case::c7_invalid_scope(400, None, r#"{"error":"invalid_scope"}"#, InvalidConfiguration)]
#[case::c7_invalid_request(400, None, r#"{"error":"invalid_request"}"#, InvalidConfiguration)]
#[case::c7_unsupported_grant_type(400, None, r#"{"error":"unsupported_grant_type"}"#, InvalidConfiguration)]
#[case::c7_redirect(302, None, "", InvalidConfiguration)]
#[case::c7_redirect_goes_before_error(307, None, r#"{"error":"invalid_grant"}"#, InvalidConfiguration)]
#[case::c8_interaction_required(400, None, r#"{"error":"interaction_required"}"#, AuthorizationRequired)]
#[case::c8_consent_required(400, None, r#"{"error":"consent_required"}"#, AuthorizationRequired)]
#[case::c8_login_required(400, None, r#"{"error":"login_required"}"#, AuthorizationRequired)]
#[case::c8_access_denied(403, None, r#"{"error":"access_denied"}"#, AuthorizationRequired)]
#[case::c8_authorization_declined(400, None, r#"{"error":"authorization_declined"}"#, AuthorizationRequired)]
#[case::c8_expired_token(400, None, r#"{"error":"expired_token"}"#, AuthorizationRequired)]
#[case::c8_invalid_grant(400, None, r#"{"error":"invalid_grant"}"#, AuthorizationRequired)]
#[case::c8_bad_token(400, None, r#"{"error":"invalid_grant","suberror":"bad_token"}"#, AuthorizationRequired)]
#[case::c8_another_client(
    400,
    None,
    r#"{"error":"invalid_grant","suberror":"client_mismatch"}"#,
    InvalidConfiguration
)]
#[case::c8_app_protection(
    400,
    None,
    r#"{"error":"interaction_required","suberror":"protection_policy_required"}"#,
    InvalidConfiguration
)]
#[case::c9_unknown_error(400, None, r#"{"error":"unheard_of"}"#, InvalidConfiguration)]
#[case::c9_no_error(404, None, "{}", InvalidConfiguration)]
#[case::c9_no_object(403, None, "[]", InvalidConfiguration)]
#[case::c9_error_of_graphs_form(
    401,
    None,
    r#"{"error":{"code":"InvalidAuthenticationToken"}}"#,
    InvalidConfiguration
)]
#[case::c9_a_suberror_alone_decides_nothing(
    400,
    None,
    r#"{"error":"x","suberror":"consent_required"}"#,
    InvalidConfiguration
)]
fn a_refusal_has_the_class_of_the_first_rule_that_applies(
    #[case] status: u16,
    #[case] retry_after: Option<&str>,
    #[case] body: &str,
    #[case] reason: Reason,
) {
    let failure = failure(RefreshToken, status, retry_after, body);
    assert_eq!(failure.reason, reason, "{failure:?}");
    assert!(failure.answered);
    assert_eq!(failure.retry_after.is_some(), reason == Throttled);
    assert_eq!(failure.is_transient(), matches!(reason, Throttled | ProviderUnavailable));
}

#[rstest]
#[case("invalid_grant")]
#[case("interaction_required")]
#[case("access_denied")]
fn an_app_is_never_asked_to_sign_in(#[case] error: &str) {
    let failure = failure(ClientCredentials, 400, None, &entra(error, &[53003]).to_string());
    assert_eq!(failure.reason, InvalidConfiguration);
    assert!(!failure.message.to_lowercase().contains("sign"), "{}", failure.message);
}

#[rstest]
#[case(50033)]
#[case(50087)]
#[case(90006)]
#[case(90012)]
#[case(90024)]
#[case(90033)]
#[case(90090)]
#[case(70012)]
#[case(90061)]
fn passing_codes_are_the_providers_trouble_whatever_the_error(#[case] code: u32) {
    assert_eq!(refused(400, &entra("invalid_grant", &[code])).reason, ProviderUnavailable);
    assert_eq!(refused(401, &entra("invalid_client", &[code])).reason, ProviderUnavailable);
}

#[rstest]
#[case(70021)]
#[case(700_211)]
#[case(700_212)]
#[case(700_213)]
fn a_federated_credential_that_may_be_too_new_is_worth_another_look_soon(#[case] code: u32) {
    let failure = failure(ClientCredentials, 401, None, &entra("invalid_client", &[code]).to_string());
    assert_eq!(failure.reason, InvalidConfiguration);
    assert_eq!(failure.retry_after, Some(Duration::from_mins(1)));
    assert!(failure.message.contains("federated credential"), "{}", failure.message);
}

// === Retry-After ===

#[rstest]
#[case::absent(None, 60_000)]
#[case::seconds(Some("120"), 120_000)]
#[case::white_space(Some(" 7 "), 7_000)]
#[case::fraction(Some("0.25"), 250)]
#[case::now(Some("0"), 0)]
#[case::capped(Some("86400"), 3_600_000)]
#[case::beyond_numbers(Some("99999999999999999999999999999999999999999"), 3_600_000)]
#[case::imf_fixdate(Some("Tue, 01 Jan 2030 00:02:00 GMT"), 120_000)]
#[case::rfc_850_date(Some("Tuesday, 01-Jan-30 00:02:00 GMT"), 120_000)]
#[case::asctime_date(Some("Tue Jan  1 00:02:00 2030"), 120_000)]
#[case::a_date_that_has_passed(Some("Mon, 31 Dec 2029 23:00:00 GMT"), 0)]
#[case::a_date_far_off(Some("Fri, 01 Jan 2038 00:00:00 GMT"), 3_600_000)]
#[case::negative(Some("-5"), 60_000)]
#[case::infinite(Some("inf"), 60_000)]
#[case::exponent(Some("1e3"), 60_000)]
#[case::empty(Some(""), 60_000)]
#[case::dot(Some("."), 60_000)]
#[case::words(Some("soon"), 60_000)]
#[case::no_such_date(Some("Tue, 32 Jan 2030 00:00:00 GMT"), 60_000)]
fn a_pause_is_what_retry_after_says_within_bounds(#[case] retry_after: Option<&str>, #[case] millis: u64) {
    let failure = failure(RefreshToken, 429, retry_after, "{}");
    assert_eq!(failure.retry_after, Some(Duration::from_millis(millis)));
}

#[rstest]
#[case(400, None, 300)]
#[case(400, Some("10"), 300)]
#[case(400, Some("900"), 900)]
#[case(400, Some("9000"), 3600)]
#[case(429, None, 300)]
#[case(429, Some("10"), 10)]
fn a_detected_loop_pauses_for_five_minutes_unless_the_answer_says_how_long(
    #[case] status: u16,
    #[case] retry_after: Option<&str>,
    #[case] seconds: u64,
    #[values(50196, 90055)] code: u32,
) {
    let failure = failure(RefreshToken, status, retry_after, &entra("invalid_grant", &[code]).to_string());
    assert_eq!(failure.retry_after, Some(Duration::from_secs(seconds)));
}

// === What is kept of the provider's words ===

#[test]
fn what_support_asks_for_is_kept() {
    let mut body = entra("invalid_grant", &[50076, 50173]);
    body["suberror"] = json!("basic_action");
    let failure = refused(400, &body);
    assert_eq!(failure.error.as_deref(), Some("invalid_grant"));
    assert_eq!(failure.suberror.as_deref(), Some("basic_action"));
    assert_eq!(failure.codes, [50076, 50173]);
    assert_eq!(failure.trace_id.as_deref(), Some("7d9c-trace"));
    assert_eq!(failure.correlation_id.as_deref(), Some("1f2e-correlation"));
}

#[rstest]
#[case::usual(json!("Az09_.-"), Some("Az09_.-"))]
#[case::longest(json!("x".repeat(64)), Some(&*"x".repeat(64)))]
#[case::too_long(json!("x".repeat(65)), Some("invalid"))]
#[case::white_space(json!("two words"), Some("invalid"))]
#[case::line_break(json!("a\nb"), Some("invalid"))]
#[case::markup(json!("<b>"), Some("invalid"))]
#[case::a_name(json!("svc@contoso.example"), Some("invalid"))]
#[case::not_ascii(json!("\u{e9}"), Some("invalid"))]
#[case::empty(json!(""), None)]
#[case::null(Value::Null, None)]
#[case::a_number(json!(5), None)]
fn provider_strings_are_kept_only_in_their_usual_form(#[case] told: Value, #[case] kept: Option<&str>) {
    let body = json!({"error": told, "suberror": told, "trace_id": told, "correlation_id": told});
    let failure = refused(400, &body);
    for text in [failure.error, failure.suberror, failure.trace_id, failure.correlation_id] {
        assert_eq!(text.as_deref(), kept);
    }
}

#[rstest]
#[case(json!([1, "2", 3.5, -4, "x", null, 4_294_967_296_u64, 4_294_967_295_u64]), vec![1, 2, u32::MAX])]
#[case(json!((0..99).collect::<Vec<u32>>()), (0..16).collect())]
#[case(json!(50076), vec![])]
fn codes_are_bounded_numbers(#[case] told: Value, #[case] kept: Vec<u32>) {
    assert_eq!(refused(400, &json!({"error": "x", "error_codes": told})).codes, kept);
}

#[rstest]
#[case::the_secret_itself("0.AXkA-secret", "masked")]
#[case::the_secret_in_more("token.0.AXkA-secret.bad", "masked")]
#[case::a_long_piece_of_it("0123456789abcdef", "masked")]
#[case::a_short_piece_of_it("0123456789", "0123456789")]
#[case::nothing_of_it("invalid_grant", "invalid_grant")]
fn a_secret_that_a_server_echoes_is_masked(#[case] told: &str, #[case] kept: &str) {
    let secrets = ["0.AXkA-secret", "xx0123456789abcdefxx", ""].map(SecretString::from);
    let body = json!({"error": told, "suberror": told, "trace_id": told, "correlation_id": told});
    let before = refused(400, &body);
    let after = before.clone().masked(&secrets);
    for text in [&after.error, &after.suberror, &after.trace_id, &after.correlation_id] {
        assert_eq!(text.as_deref(), Some(kept));
    }
    assert_eq!(after.message, before.message.replace(told, kept));
    assert_eq!(after.reason, before.reason);
}

#[test]
fn masking_leaves_a_message_alone_that_shows_nothing_of_the_provider() {
    let before = Failure::from(NoAnswer::Timeout);
    assert_eq!(before.clone().masked(&[SecretString::from("token")]), before);
}

// === What is said ===

#[rstest]
#[case(401, entra("invalid_client", &[7_000_215]), "put the secret's value, not its id")]
#[case(401, entra("invalid_client", &[7_000_222]), "client secret has expired")]
#[case(401, entra("invalid_client", &[7_000_218]), "set spec.clientAuth")]
#[case(401, entra("invalid_client", &[700_025]), "remove spec.clientAuth")]
#[case(401, entra("invalid_client", &[]), "check spec.clientId, spec.clientAuth")]
#[case(400, entra("unauthorized_client", &[700_016]), "check spec.clientId and spec.tenant")]
#[case(400, entra("invalid_scope", &[70011]), "check spec.scopes")]
#[case(400, entra("invalid_scope", &[]), "check spec.scopes")]
#[case(400, entra("invalid_request", &[90002]), "check spec.tenant and spec.cloud")]
#[case(400, entra("invalid_request", &[9_002_327]), "single-page app")]
#[case(400, entra("invalid_request", &[]), "check spec.tenant, spec.clientId")]
#[case(400, entra("invalid_grant", &[50076]), "Multi-factor authentication is required: sign in again")]
#[case(400, entra("interaction_required", &[50079]), "Multi-factor authentication is required: sign in again")]
#[case(400, entra("invalid_grant", &[50173]), "revoked, for example by a new password: sign in again")]
#[case(400, entra("invalid_grant", &[700_082]), "expired for want of use: sign in again")]
#[case(400, entra("invalid_grant", &[70008]), "expired for want of use: sign in again")]
#[case(400, entra("invalid_grant", &[70043]), "sign-in frequency")]
#[case(400, entra("invalid_grant", &[65001]), "consent, then sign in again")]
#[case(400, entra("invalid_grant", &[53003]), "Conditional Access")]
#[case(400, entra("invalid_grant", &[99999]), "not valid any more: sign in again and put the new refresh token into the seed Secret")]
#[case(400, entra("invalid_grant", &[99999, 50057]), "account is disabled")]
#[case(400, entra("login_required", &[]), "wants a user to sign in")]
#[case(400, json!({"error": "invalid_grant", "suberror": "client_mismatch"}), "another client")]
#[case(400, json!({"error": "unheard_of"}), "(HTTP 400): check spec.tenant")]
#[case(429, json!({}), "(HTTP 429)")]
#[case(503, json!({}), "failed (HTTP 503); the operator tries again by itself")]
#[case(302, json!({}), "put the final URL into spec.endpoints.token")]
fn a_message_says_what_to_do(#[case] status: u16, #[case] body: Value, #[case] said: &str) {
    let message = refused(status, &body).message;
    assert!(message.contains(said), "{message}");
}

#[test]
fn a_message_ends_with_the_providers_own_words() {
    let mut body = entra("invalid_grant", &[50173, 70000, 1, 2]);
    body["suberror"] = json!("bad_token");
    insta::assert_snapshot!(refused(400, &body).message, @"The sign-in was revoked, for example by a new password: sign in again and put the new refresh token into the seed Secret. (invalid_grant, bad_token, AADSTS50173, AADSTS70000, AADSTS1)");
    insta::assert_snapshot!(refused(404, &json!({})).message, @"The provider refused the request (HTTP 404): check spec.tenant, spec.clientId, spec.clientAuth, spec.scopes and the seed Secret.");
    insta::assert_snapshot!(failure(RefreshToken, 404, None, "<html>").message, @"The token endpoint's answer is not JSON (HTTP 404); the operator tries again by itself. If it lasts, check spec.tenant, spec.endpoints.token and any proxy in between.");
    insta::assert_snapshot!(failure(ClientCredentials, 400, None, r#"{"error":"invalid_grant"}"#).message, @"The provider refused the request (HTTP 400): check spec.tenant, spec.clientId, spec.clientAuth, spec.scopes and the permissions of the app. (invalid_grant)");
}

#[test]
fn advice_by_code_is_given_only_within_its_class() {
    let failure = failure(ClientCredentials, 400, None, &entra("invalid_grant", &[50173]).to_string());
    assert!(!failure.message.contains("sign in"), "{}", failure.message);
    assert!(!refused(401, &entra("invalid_client", &[50173])).message.contains("sign in"));
}

/// The same failure must not look like another: a status would be written for nothing, an event sent twice.
#[test]
fn a_message_is_the_same_for_the_same_failure() {
    let one = entra("invalid_grant", &[50076]);
    let mut other = one.clone();
    other["trace_id"] = json!("another");
    other["correlation_id"] = json!("another");
    assert_eq!(refused(400, &one).message, refused(400, &other).message);
    let paused = |pause| failure(RefreshToken, 429, Some(pause), "{}").message;
    assert_eq!(paused("5"), paused("90"));
}

#[rstest]
#[case(NoAnswer::Connect, "cannot be reached", false)]
#[case(NoAnswer::Timeout, "in time", false)]
#[case(NoAnswer::Closed, "broke", false)]
#[case(NoAnswer::TooLarge, "too large", true)]
#[case(NoAnswer::Tls, "--ca-bundle", false)]
#[case(NoAnswer::Other, "failed", false)]
fn no_answer_is_the_providers_trouble_and_says_which(
    #[case] why: NoAnswer,
    #[case] said: &str,
    #[case] answered: bool,
) {
    let failure = Failure::from(why);
    assert_eq!((failure.reason, failure.answered), (ProviderUnavailable, answered));
    assert!(failure.message.contains(said) && failure.is_transient() && failure.retry_after.is_none());
}

#[test]
fn nothing_of_a_description_is_ever_shown() {
    for status in [200, 302, 400, 401, 403, 429, 500, 503] {
        for error in ["invalid_grant", "invalid_client", "server_error", "unheard_of"] {
            let mut body = entra(error, &[50076, 7_000_215]);
            body["claims"] = json!("s3cr3t");
            let failure = refused(status, &body);
            assert!(!format!("{failure:?}").contains("s3cr3t"), "{failure:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_answer_has_a_class_a_message_and_bounds(status: u16, retry_after: Option<String>, body: Vec<u8>) {
        let answer = Answer { status, retry_after: retry_after.as_deref(), body: &body };
        let failure = classify(RefreshToken, &answer, NOW);
        prop_assert!(!failure.message.is_empty());
        prop_assert!(failure.retry_after.unwrap_or_default() <= MAX_PAUSE);
    }

    #[test]
    fn any_words_of_a_provider_come_out_bounded(error: String, suberror: String, id: String, codes: Vec<u64>, secret: String) {
        let body = json!({
            "error": error, "suberror": suberror, "trace_id": id, "correlation_id": id, "error_codes": codes,
            "error_description": "s3cr3t\u{7}",
        });
        let failure = refused(400, &body).masked(&[SecretString::from(secret)]);
        prop_assert!(failure.message.len() < 1024 && failure.message.is_ascii());
        prop_assert!(!failure.message.contains("s3cr3t") && !failure.message.contains(char::is_control));
        for text in [failure.error, failure.suberror, failure.trace_id, failure.correlation_id].into_iter().flatten() {
            prop_assert!(text.len() <= 64 && text.is_ascii() && !text.contains(char::is_whitespace));
        }
    }

    #[test]
    fn any_retry_after_is_read_without_a_panic(text in "[-+0-9.eE:, A-Za-z]{0,40}") {
        let pause = failure(RefreshToken, 429, Some(&text), "").retry_after.unwrap();
        prop_assert!(pause <= MAX_PAUSE);
    }
}
