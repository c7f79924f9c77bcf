//! Token responses: what is taken, what is refused, what is never lost.

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use rstest::rstest;
use secrecy::ExposeSecret;
use serde_json::json;

use super::*;
use crate::api::Reason;

const HOUR: Duration = Duration::from_hours(1);

fn read_as(grant: GrantKind, status: u16, body: &[u8]) -> Outcome {
    read(grant, &Answer { status, retry_after: None, body }, Timestamp::UNIX_EPOCH)
}

fn outcome(body: &Value) -> Outcome {
    read_as(GrantKind::RefreshToken, 200, body.to_string().as_bytes())
}

fn issued(body: &Value) -> Issued {
    match outcome(body) {
        Outcome::Issued(issued) => *issued,
        other => panic!("{other:?}"),
    }
}

/// Refresh token, account and message of an answer that cannot be used.
fn unusable(body: &Value) -> (Option<String>, Option<Account>, String) {
    match outcome(body) {
        Outcome::Unusable { failure, rotated, account } => {
            assert_eq!(failure.reason, Reason::ProviderUnavailable);
            assert!(failure.answered);
            (rotated.map(|token| token.expose_secret().to_owned()), account, failure.message)
        }
        other => panic!("{other:?}"),
    }
}

/// A good response with members put over it.
fn with(members: Value) -> Value {
    let mut body = json!({"token_type": "Bearer", "access_token": "eyJ.at", "expires_in": 3600});
    if let Value::Object(members) = members {
        body.as_object_mut().unwrap().extend(members);
    }
    body
}

fn client_info(claims: &Value) -> String {
    URL_SAFE_NO_PAD.encode(claims.to_string())
}

fn id_token(claims: &Value) -> String {
    format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn account(object_id: &str, tenant_id: Option<&str>, username: Option<&str>) -> Account {
    Account {
        guest_in: None,
        object_id: object_id.to_owned(),
        tenant_id: tenant_id.map(str::to_owned),
        username: username.map(str::to_owned),
    }
}

fn guest(object_id: &str, home: &str, host: &str) -> Account {
    Account { guest_in: Some(host.to_owned()), ..account(object_id, Some(home), None) }
}

#[test]
fn all_of_an_entra_response_is_read() {
    let issued = issued(&json!({
        "token_type": "Bearer", "scope": "Mail.Read User.Read", "expires_in": "4102", "ext_expires_in": "4102",
        "access_token": "eyJ.at", "refresh_token": "0.new", "refresh_in": "2051",
        "id_token": id_token(&json!({"oid": "guest-oid", "tid": "t", "preferred_username": "svc@contoso.example"})),
        "client_info": client_info(&json!({"uid": "u", "utid": "ut"})),
    }));
    assert_eq!(issued.access_token.expose_secret(), "eyJ.at");
    assert_eq!(issued.token_type, "Bearer");
    assert_eq!(issued.expires_in, Duration::from_secs(4102));
    assert_eq!(issued.refresh_in, Some(Duration::from_secs(2051)));
    assert_eq!(issued.granted_scopes, ["Mail.Read", "User.Read"]);
    assert_eq!(issued.refresh_token.unwrap().expose_secret(), "0.new");
    assert_eq!(
        issued.account,
        Some(Account { username: Some("svc@contoso.example".to_owned()), ..guest("u", "ut", "t") })
    );
    assert_eq!(issued.warnings, []);
}

#[test]
fn the_least_response_has_a_bearer_token_of_an_hour() {
    let issued = issued(&json!({"access_token": "at"}));
    assert_eq!((issued.token_type.as_str(), issued.expires_in), ("Bearer", HOUR));
    assert_eq!(issued.warnings, [Warning::NoLife]);
    assert!(issued.refresh_token.is_none() && issued.account.is_none() && issued.granted_scopes.is_empty());
}

#[rstest]
#[case(json!(3599), 3_599_000)]
#[case(json!("3599"), 3_599_000)]
#[case(json!(3599.5), 3_599_500)]
#[case(json!(" 3599.5 "), 3_599_500)]
#[case(json!(0.5), 500)]
fn a_life_may_be_a_number_or_a_string_of_one(#[case] told: Value, #[case] millis: u64) {
    let issued = issued(&with(json!({"expires_in": told})));
    assert_eq!((issued.expires_in, issued.warnings), (Duration::from_millis(millis), vec![]));
}

#[rstest]
#[case(json!(604_801))]
#[case(json!("99999999999999999999999999999999"))]
#[case(json!(u64::MAX))]
#[case(json!(1e300))]
fn more_than_a_week_is_taken_for_a_week(#[case] told: Value) {
    let issued = issued(&with(json!({"expires_in": told})));
    assert_eq!((issued.expires_in, issued.warnings), (168 * HOUR, vec![Warning::LifeCapped]));
}

#[rstest]
#[case(json!(0))]
#[case(json!("0"))]
#[case(json!(-1))]
#[case(json!("-1"))]
#[case(json!(1e-300))]
#[case(json!(""))]
#[case(json!("soon"))]
#[case(json!("inf"))]
#[case(json!("NaN"))]
#[case(json!("1e3"))]
#[case(json!("."))]
#[case(json!(true))]
#[case(json!([3600]))]
fn a_senseless_life_spoils_the_token_but_not_the_rotation(#[case] told: Value) {
    let info = client_info(&json!({"uid": "u", "utid": "t"}));
    let (rotated, owner, message) =
        unusable(&with(json!({"expires_in": told, "refresh_token": "0.new", "client_info": info})));
    assert_eq!(rotated.as_deref(), Some("0.new"));
    assert_eq!(owner, Some(account("u", Some("t"), None)));
    assert!(message.contains("expires_in is not a positive number"), "{message}");
}

#[rstest]
#[case(json!(1800), Some(1800))]
#[case(json!("1800"), Some(1800))]
#[case(json!(3600), None)]
#[case(json!(9999), None)]
#[case(json!(0), None)]
#[case(json!(-5), None)]
#[case(json!("soon"), None)]
fn refresh_in_counts_only_within_the_life(#[case] told: Value, #[case] seconds: Option<u64>) {
    assert_eq!(issued(&with(json!({"refresh_in": told}))).refresh_in, seconds.map(Duration::from_secs));
}

#[rstest]
#[case(json!({"access_token": null}))]
#[case(json!({"access_token": ""}))]
#[case(json!({"access_token": "two words"}))]
#[case(json!({"access_token": "line\n"}))]
#[case(json!({"access_token": "\u{e9}"}))]
#[case(json!({"access_token": 5}))]
#[case(json!({"access_token": "x".repeat(MAX_TOKEN + 1)}))]
fn an_access_token_that_no_header_can_carry_is_not_used(#[case] members: Value) {
    let mut members = members;
    members["refresh_token"] = json!("0.new");
    let (rotated, _, message) = unusable(&with(members));
    assert_eq!(rotated.as_deref(), Some("0.new"));
    assert!(message.contains("access_token"), "{message}");
}

#[rstest]
#[case(json!("Bearer"))]
#[case(json!("bearer"))]
#[case(json!("BEARER"))]
#[case(Value::Null)]
fn pods_get_one_spelling_of_bearer(#[case] told: Value) {
    assert_eq!(issued(&with(json!({"token_type": told}))).token_type, "Bearer");
}

#[rstest]
#[case(json!("pop"))]
#[case(json!("mac"))]
#[case(json!(""))]
#[case(json!(1))]
fn a_token_of_another_type_is_not_used(#[case] told: Value) {
    let (rotated, _, message) = unusable(&with(json!({"token_type": told, "refresh_token": "0.new"})));
    assert_eq!(rotated.as_deref(), Some("0.new"));
    assert!(message.contains("token_type"), "{message}");
}

#[rstest]
#[case::none(json!({}))]
#[case::null(json!({"refresh_token": null}))]
#[case::empty(json!({"refresh_token": ""}))]
#[case::blank(json!({"refresh_token": " "}))]
#[case::not_text(json!({"refresh_token": 5}))]
fn without_a_new_refresh_token_the_old_one_stays(#[case] members: Value) {
    let issued = issued(&with(members));
    assert!(issued.refresh_token.is_none());
    assert_eq!(issued.warnings, []);
}

#[test]
fn a_refresh_token_is_taken_whatever_its_characters_but_not_of_any_length() {
    let odd = issued(&with(json!({"refresh_token": "with space \u{e9}"})));
    assert_eq!(odd.refresh_token.unwrap().expose_secret(), "with space \u{e9}");
    let long = issued(&with(json!({"refresh_token": "x".repeat(MAX_TOKEN + 1)})));
    assert!(long.refresh_token.is_none());
    assert_eq!(long.warnings, [Warning::RefreshTokenDropped]);
}

#[rstest]
#[case::half_a_surrogate_pair(r#""\ud800""#)]
#[case::a_number_beyond_range("1e999")]
#[case::lists_too_deep(&["[".repeat(200), "]".repeat(200)].concat())]
fn a_refresh_token_is_taken_though_a_member_beside_it_has_no_value(#[case] odd: &str) {
    for body in [
        format!(r#"{{"access_token": "eyJ.at", "refresh_token": "0.AX-new", "odd": {odd}}}"#),
        format!(r#"{{"expires_in": {odd}, "access_token": {odd}, "refresh_token": "0.AX-new"}}"#),
    ] {
        let rotated = match read_as(GrantKind::RefreshToken, 200, body.as_bytes()) {
            Outcome::Issued(issued) => issued.refresh_token,
            Outcome::Unusable { rotated, .. } => rotated,
            other => panic!("{other:?}"),
        };
        assert_eq!(rotated.as_ref().map(SecretString::expose_secret), Some("0.AX-new"), "{body}");
    }
}

#[test]
fn an_app_has_no_refresh_token_and_no_account() {
    let info = client_info(&json!({"uid": "u", "utid": "t"}));
    let body = with(json!({"refresh_token": "0.new", "client_info": info})).to_string();
    let Outcome::Issued(issued) = read_as(GrantKind::ClientCredentials, 200, body.as_bytes()) else {
        panic!("not issued")
    };
    assert!(issued.refresh_token.is_none() && issued.account.is_none());
}

#[test]
fn a_rotation_survives_bad_bytes_beside_it() {
    let body = b"\xef\xbb\xbf{\"refresh_token\":\"0.new\",\"access_token\":\"a\",\"note\":\"\xff\xfe\"}";
    let Outcome::Issued(issued) = read_as(GrantKind::RefreshToken, 200, body) else { panic!("not issued") };
    assert_eq!(issued.refresh_token.unwrap().expose_secret(), "0.new");
}

#[rstest]
#[case::empty("")]
#[case::html("<html>")]
#[case::array("[]")]
#[case::null("null")]
fn a_success_without_an_object_has_nothing_to_commit(#[case] body: &str) {
    match read_as(GrantKind::RefreshToken, 200, body.as_bytes()) {
        Outcome::Unusable { rotated: None, account: None, failure } => {
            assert_eq!(failure.reason, Reason::ProviderUnavailable);
        }
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case("Mail.Read  User.Read ", vec!["Mail.Read", "User.Read"], false)]
#[case("b a b", vec!["b", "a"], false)]
#[case("ok bad\"quote ok2", vec!["ok", "ok2"], true)]
#[case("ok b\u{e9} ok2", vec!["ok", "ok2"], true)]
#[case("", vec![], false)]
fn granted_scopes_keep_their_spelling_and_order(
    #[case] told: &str,
    #[case] scopes: Vec<&str>,
    #[case] dropped: bool,
) {
    let issued = issued(&with(json!({"scope": told})));
    assert_eq!(issued.granted_scopes, scopes);
    assert_eq!(issued.warnings, if dropped { vec![Warning::ScopesDropped] } else { vec![] });
}

#[test]
fn granted_scopes_are_bounded_in_number_and_length() {
    let many: Vec<_> = (0..200).map(|n| format!("s{n}")).collect();
    let issued_many = issued(&with(json!({"scope": many.join(" ")})));
    assert_eq!(issued_many.granted_scopes.len(), 128);
    assert_eq!(issued_many.warnings, [Warning::ScopesDropped]);
    let long = format!("{} {} z", "x".repeat(256), "y".repeat(257));
    assert_eq!(issued(&with(json!({"scope": long}))).granted_scopes, ["x".repeat(256), "z".to_owned()]);
}

#[rstest]
#[case::client_info_goes_first(
    json!({"uid": "u", "utid": "t"}), json!({"oid": "o", "tid": "t2", "sub": "s"}), Some(guest("u", "t", "t2")))]
#[case::a_member_is_no_guest(
    json!({"uid": "u", "utid": "t"}), json!({"oid": "u", "tid": "t"}), Some(account("u", Some("t"), None)))]
#[case::client_info_without_a_tenant(
    json!({"uid": "u"}), json!({"oid": "o", "tid": "t2"}), Some(account("u", Some("t2"), None)))]
#[case::id_token_of_entra(json!({}), json!({"oid": "o", "tid": "t2", "sub": "s"}), Some(account("o", Some("t2"), None)))]
#[case::id_token_of_another_server(json!({}), json!({"sub": "s", "tid": "x"}), Some(account("s", None, None)))]
#[case::name_by_preferred_username(
    json!({}), json!({"sub": "s", "preferred_username": "a@b", "upn": "c@d", "email": "e@f"}), Some(account("s", None, Some("a@b"))))]
#[case::name_by_upn(json!({}), json!({"sub": "s", "upn": "c@d", "email": "e@f"}), Some(account("s", None, Some("c@d"))))]
#[case::never_by_other_claims(json!({}), json!({"sub": "s", "email": "e@f", "name": "N"}), Some(account("s", None, None)))]
#[case::a_malformed_name_is_left(json!({}), json!({"sub": "s", "upn": "c\nd"}), Some(account("s", None, None)))]
#[case::malformed_ids_are_skipped(json!({"uid": "two words"}), json!({"oid": "", "sub": "s"}), Some(account("s", None, None)))]
#[case::ids_of_a_wrong_type(json!({"uid": 5}), json!({"sub": ["s"]}), None)]
#[case::nobody(json!({}), json!({}), None)]
fn whose_token_it_is(#[case] info: Value, #[case] claims: Value, #[case] owner: Option<Account>) {
    let body = with(json!({"client_info": client_info(&info), "id_token": id_token(&claims)}));
    assert_eq!(issued(&body).account, owner);
}

#[rstest]
#[case::padded(URL_SAFE.encode(r#"{"uid":"u", "utid":"t"}"#), Some(account("u", Some("t"), None)))]
#[case::not_base64("%%%".to_owned(), None)]
#[case::not_json(URL_SAFE_NO_PAD.encode("uid"), None)]
#[case::not_an_object(URL_SAFE_NO_PAD.encode("[1]"), None)]
fn client_info_is_base64url_with_or_without_padding(#[case] info: String, #[case] owner: Option<Account>) {
    assert_eq!(issued(&with(json!({"client_info": info}))).account, owner);
}

#[rstest]
#[case("")]
#[case("one")]
#[case("a.b")]
#[case("a.%%.c")]
#[case("a.b.c.d.e")]
fn an_unreadable_id_token_names_nobody(#[case] token: &str) {
    assert_eq!(issued(&with(json!({"id_token": token}))).account, None);
}

#[test]
fn an_account_outlives_a_restart_as_json() {
    let before = account("u", Some("t"), Some("svc@contoso.example"));
    let text = serde_json::to_string(&before).unwrap();
    assert_eq!(text, r#"{"objectId":"u","tenantId":"t","username":"svc@contoso.example"}"#);
    assert_eq!(serde_json::from_str::<Account>(&text).unwrap(), before);
    assert_eq!(serde_json::from_str::<Account>(r#"{"objectId":"u"}"#).unwrap(), account("u", None, None));
}

#[test]
fn debug_shows_neither_tokens_nor_names() {
    let claims = json!({"oid": "o", "tid": "t", "preferred_username": "s3cr3t@contoso.example"});
    let members =
        json!({"access_token": "s3cr3t-a", "refresh_token": "s3cr3t-r", "id_token": id_token(&claims)});
    let good = with(members.clone());
    let mut bad = with(members);
    bad["expires_in"] = json!(0);
    for body in [good, bad] {
        let shown = format!("{:?}", outcome(&body));
        assert!(shown.contains("\"o\"") && !shown.contains("s3cr3t"), "{shown}");
        let text = body.to_string();
        let answer = Answer { status: 200, retry_after: None, body: text.as_bytes() };
        assert!(!format!("{answer:?}").contains("s3cr3t"));
    }
}

#[test]
fn a_refusal_is_classified() {
    let body = br#"{"error":"invalid_client","error_codes":[7000215]}"#;
    match read_as(GrantKind::RefreshToken, 401, body) {
        Outcome::Refused(failure) => assert_eq!(failure.reason, Reason::InvalidConfiguration),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_server_echoes_is_masked() {
    let request =
        super::super::refresh_token::request("c", &"0.AX-old".into(), &[], super::super::Proof::Public);
    let refused = read_as(GrantKind::RefreshToken, 400, br#"{"error":"bad.0.AX-old"}"#).masked(&request);
    let unusable =
        read_as(GrantKind::RefreshToken, 200, br#"{"error":"0.AX-new","refresh_token":"0.AX-new"}"#);
    for outcome in [refused, unusable.masked(&request)] {
        let shown = format!("{outcome:?}");
        assert!(shown.contains("(masked)") && !shown.contains("0.AX-"), "{shown}");
    }
}

#[test]
fn what_a_server_echoes_beside_a_token_is_left_out_of_what_the_status_shows() {
    let proof = "the-client~secret.of-this-app".into();
    let request = super::super::refresh_token::request(
        "c",
        &"0.AX-the-old-one".into(),
        &[],
        super::super::Proof::Secret(&proof),
    );
    let of = |members: Value| {
        let body = with(members).to_string();
        let Outcome::Issued(issued) = read_as(GrantKind::RefreshToken, 200, body.as_bytes()).masked(&request)
        else {
            panic!("no token")
        };
        issued
    };
    let token = "at-of-this-answer";
    for scope in ["0.AX-the-old-one", "x.the-client~secret.of-this-app.x", "0.AX-the-new-one", token] {
        let echoed = json!({"access_token": token, "refresh_token": "0.AX-the-new-one", "scope": format!("Mail.Read {scope}")});
        let issued = of(echoed);
        assert_eq!(issued.granted_scopes, ["Mail.Read"], "{scope}");
        assert_eq!(issued.warnings, [Warning::ScopesDropped]);
    }
    for claims in [json!({"oid": "0.AX-the-old-one"}), json!({"oid": "o", "tid": "x0.AX-the-old-one"})] {
        assert_eq!(of(json!({"id_token": id_token(&claims)})).account, None);
    }
    // A token that has the id in it hides nobody.
    let issued = of(
        json!({"access_token": "token-of-a-user-00000", "id_token": id_token(&json!({"oid": "a-user-00000"}))}),
    );
    assert_eq!(issued.account, Some(account("a-user-00000", None, None)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(status: u16, body: Vec<u8>, retry_after: Option<String>) {
        for grant in [GrantKind::RefreshToken, GrantKind::ClientCredentials] {
            let answer = Answer { status, retry_after: retry_after.as_deref(), body: &body };
            let _ = read(grant, &answer, Timestamp::UNIX_EPOCH);
        }
    }

    #[test]
    fn a_rotated_token_is_never_lost(access in any::<String>(), life in "[-0-9.e]{0,6}", kind in "[a-zA-Z]{0,6}", rotated in "[!-~]{1,99}") {
        let body = json!({"access_token": access, "expires_in": life, "token_type": kind, "refresh_token": rotated});
        let kept = match outcome(&body) {
            Outcome::Issued(issued) => issued.refresh_token,
            Outcome::Unusable { rotated, .. } => rotated,
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(kept.map(|token| token.expose_secret().to_owned()), Some(rotated));
    }

    #[test]
    fn a_life_is_always_within_its_bounds(life: f64, refresh: f64) {
        if let Outcome::Issued(issued) = outcome(&with(json!({"expires_in": life, "refresh_in": refresh}))) {
            prop_assert!(!issued.expires_in.is_zero() && issued.expires_in <= MAX_LIFE);
            prop_assert!(issued.refresh_in.is_none_or(|at| at < issued.expires_in));
        }
    }
}
