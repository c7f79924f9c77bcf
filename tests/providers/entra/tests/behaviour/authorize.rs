//! Signing in by a browser: the authorization endpoint, and the codes that it sends.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_simulator::{
    AUTHORIZATION_CODE_PREFIX, Browser, CLIENT_ID, Client, Config, Simulator, USER_OID, Unknown, User,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::http::{Answer, TENANT, client, config, refresh, refused, start, token};

const REDIRECT: &str = "http://127.0.0.1:49152/";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const SCOPE: &str = "Mail.Read openid offline_access";
const GUEST: (&str, &str) = ("0000eeee-aaaa-2222-bbbb-3333cccc4444", "guest@contoso.com");

fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))
}

/// What a browser is sent to: the defaults, with these changed.
async fn open(simulator: &Simulator, changes: &[(&str, &str)]) -> Answer {
    let challenge = challenge();
    let mut query = BTreeMap::from([
        ("client_id", CLIENT_ID),
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("scope", SCOPE),
        ("state", "a state & more"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ]);
    query.extend(changes.iter().copied());
    query.retain(|_, value| !value.is_empty());
    let mut url = reqwest::Url::parse(&simulator.authorization_url()).expect("it is a URL");
    url.query_pairs_mut().extend_pairs(query);
    Answer::read(client().get(url).send().await.expect("it answers")).await.expect("its answer ends")
}

/// What stands in the query that the client is sent.
fn sent(answer: &Answer) -> BTreeMap<String, String> {
    assert_eq!(answer.status, 302, "{}", answer.text);
    let location = reqwest::Url::parse(answer.header("location")).expect("it is a URL");
    assert!(location.as_str().starts_with(REDIRECT));
    location.query_pairs().into_owned().collect()
}

async fn redeem(simulator: &Simulator, code: &str, changes: &[(&str, &str)]) -> Answer {
    let mut form = BTreeMap::from([
        ("grant_type", "authorization_code"),
        ("client_id", CLIENT_ID),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
        ("client_info", "1"),
    ]);
    form.extend(changes.iter().copied());
    form.retain(|_, value| !value.is_empty());
    token(simulator, TENANT, &form.into_iter().collect::<Vec<_>>()).await
}

#[tokio::test]
async fn a_browser_is_signed_in_at_once_and_its_code_becomes_an_ordinary_sign_in() {
    let simulator = start(config()).await;
    let sent = sent(&open(&simulator, &[]).await);
    assert_eq!(sent["state"], "a state & more");
    assert!(sent["code"].starts_with(AUTHORIZATION_CODE_PREFIX));
    let answer = redeem(&simulator, &sent["code"], &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.string("scope"), "Mail.Read openid");
    assert!(answer.json()["client_info"].is_string() && answer.json()["id_token"].is_string());
    let info = simulator.access_token(&answer.string("access_token")).unwrap();
    assert_eq!(info.oid.as_deref(), Some(USER_OID));
    let again = refresh(&simulator, &answer.string("refresh_token"), "Mail.Read offline_access").await;
    assert_eq!(again.status, 200);
    let entry = &simulator.journal().token[0];
    assert_eq!(entry.grant, "authorization_code");
}

#[tokio::test]
async fn a_code_is_redeemed_once_in_time_and_by_who_asked_for_it() {
    let clients = vec![Client::public(CLIENT_ID), Client::public("other")];
    let simulator = start(Config { clients, ..config() }).await;
    let code = sent(&open(&simulator, &[]).await)["code"].clone();
    let bad = |code| refused(400, "invalid_grant", code);
    for (change, number) in [
        (("client_id", "other"), 70_000),
        (("code", "unknown"), 70_000),
        (("redirect_uri", "http://127.0.0.1:49153/"), 500_112),
        (("code_verifier", "another"), 50_148),
        (("code_verifier", ""), 50_148),
    ] {
        assert_eq!(redeem(&simulator, &code, &[change]).await.refusal(), bad(number), "{change:?}");
    }
    assert_eq!(redeem(&simulator, &code, &[]).await.status, 200);
    assert_eq!(redeem(&simulator, &code, &[]).await.refusal(), bad(54_005));
    let late = sent(&open(&simulator, &[]).await)["code"].clone();
    simulator.clock().advance(Duration::from_mins(10));
    assert_eq!(redeem(&simulator, &late, &[]).await.refusal(), bad(70_008));
}

#[tokio::test]
async fn a_confidential_client_proves_itself_and_may_leave_the_challenge_out() {
    let clients = vec![Client::confidential("web", "s3cret")];
    let simulator = start(Config { clients, ..config() }).await;
    let plain = [("client_id", "web"), ("code_challenge", ""), ("code_challenge_method", "")];
    let code = sent(&open(&simulator, &plain).await)["code"].clone();
    let change = [("client_id", "web"), ("code_verifier", "")];
    assert_eq!(redeem(&simulator, &code, &change).await.refusal(), refused(401, "invalid_client", 7_000_218));
    let proven = [("client_id", "web"), ("code_verifier", ""), ("client_secret", "s3cret")];
    assert_eq!(redeem(&simulator, &code, &proven).await.status, 200);
}

#[tokio::test]
async fn the_hint_and_the_person_decide_who_signs_in() {
    let simulator = start(config()).await;
    let (oid, upn) = GUEST;
    assert_eq!(simulator.set_browser(Browser::SignsInAs(oid.to_owned())), Err(Unknown::User));
    simulator.put_user(User::new(oid, upn));
    let who = async |changes: &[(&str, &str)]| {
        let code = sent(&open(&simulator, changes).await)["code"].clone();
        let answer = redeem(&simulator, &code, &[]).await;
        simulator.access_token(&answer.string("access_token")).unwrap().oid.unwrap()
    };
    assert_eq!(who(&[("login_hint", upn)]).await, oid);
    assert_eq!(who(&[("login_hint", "nobody@contoso.com")]).await, USER_OID);
    simulator.set_browser(Browser::SignsInAs(oid.to_owned())).unwrap();
    assert_eq!(who(&[("login_hint", "etl@contoso.com")]).await, oid);
    simulator.set_browser(Browser::Declines).unwrap();
    let declined = sent(&open(&simulator, &[]).await);
    assert_eq!((declined["error"].as_str(), declined["state"].as_str()), ("access_denied", "a state & more"));
    assert!(declined["error_description"].starts_with("AADSTS65004: "));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_to_the_client_only_where_it_may_listen() {
    let simulator = start(config()).await;
    for change in [
        ("client_id", "unknown"),
        ("redirect_uri", ""),
        ("redirect_uri", "https://127.0.0.1.example.com/"),
        ("redirect_uri", "http://example.com/?http://127.0.0.1/"),
    ] {
        let answer = open(&simulator, &[change]).await;
        assert_eq!(answer.status, 400, "{change:?}");
        assert_eq!(answer.header("location"), "", "{change:?}");
    }
    for (change, error) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("code_challenge", ""), "invalid_request"),
    ] {
        assert_eq!(sent(&open(&simulator, &[change]).await)["error"], error, "{change:?}");
    }
    let unknown = simulator.authorization_url().replace(&simulator.tenant().id, "elsewhere.example");
    let answer = Answer::read(client().get(unknown).send().await.unwrap()).await.unwrap();
    assert_eq!(answer.refusal(), (400, json!("invalid_request"), json!([90_002])));
}
