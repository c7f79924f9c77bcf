//! Signing in by device code.

use std::time::Duration;

use entra_simulator::{
    Action, CLIENT_ID, Client, Config, DEVICE_CODE_PREFIX, DEVICE_LOGIN_URI, DeviceFlow, DevicePolicy, Fault,
    Outcome, Simulator, USER_OID, USER_UPN, Unknown, User, digest,
};
use reqwest::Method;
use serde_json::json;

use crate::control::call;
use crate::http::{Answer, NOW_MS, TENANT, client, config, graph, refresh, refused, start, token};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
const SCOPE: &str = "Mail.Read User.Read offline_access openid profile";
const OTHER_CLIENT: &str = "99999999-2222-3333-4444-555555555555";
const SECOND: Duration = Duration::from_secs(1);

async fn ask(simulator: &Simulator, form: &[(&str, &str)]) -> Answer {
    let request = client().post(simulator.device_authorization_url()).form(form);
    Answer::read(request.send().await.expect("the device endpoint answers")).await.expect("its answer ends")
}

async fn ask_for(simulator: &Simulator, scope: &str) -> Answer {
    ask(simulator, &[("client_id", CLIENT_ID), ("scope", scope)]).await
}

async fn poll(simulator: &Simulator, device_code: &str) -> Answer {
    let form = [("grant_type", GRANT), ("client_id", CLIENT_ID), ("device_code", device_code)];
    token(simulator, TENANT, &form).await
}

/// A device code and its user code.
async fn codes(simulator: &Simulator) -> (String, String) {
    let answer = ask_for(simulator, SCOPE).await;
    (answer.string("device_code"), answer.string("user_code"))
}

fn pending() -> (u16, serde_json::Value, serde_json::Value) {
    refused(400, "authorization_pending", 70_016)
}

#[tokio::test]
async fn the_device_endpoint_answers_what_entra_answers() {
    let simulator = start(config()).await;
    let answer = ask_for(&simulator, SCOPE).await;
    let body = answer.json();
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!((&body["expires_in"], &body["interval"]), (&json!(900), &json!(5)));
    assert_eq!(body["verification_uri"], DEVICE_LOGIN_URI);
    assert!(answer.string("device_code").starts_with(DEVICE_CODE_PREFIX));
    assert_eq!(answer.string("user_code").len(), 9);
    assert!(answer.string("message").contains(&answer.string("user_code")));
    assert_eq!(answer.header("cache-control"), "no-store, no-cache");
}

#[tokio::test]
async fn the_interval_may_be_absent_and_numbers_may_be_strings() {
    let device = DeviceFlow { lifetime: 60 * SECOND, interval: Some(2 * SECOND), ..DeviceFlow::default() };
    let simulator = start(Config { numbers_as_strings: true, device, ..config() }).await;
    let body = ask_for(&simulator, SCOPE).await.json();
    assert_eq!((&body["expires_in"], &body["interval"]), (&json!("60"), &json!("2")));
    simulator.set_device_interval(None);
    assert!(ask_for(&simulator, SCOPE).await.json().get("interval").is_none());
}

#[tokio::test]
async fn an_approved_code_becomes_an_ordinary_sign_in() {
    let simulator = start(config()).await;
    let (device_code, user_code) = codes(&simulator).await;
    assert_eq!(poll(&simulator, &device_code).await.refusal(), pending());
    simulator.approve_device_code(&user_code.to_lowercase(), Some(USER_UPN)).unwrap();
    let answer = poll(&simulator, &device_code).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.string("scope"), "Mail.Read User.Read openid profile");
    assert_eq!(answer.string("id_token").split('.').count(), 3);
    assert!(answer.json().get("client_info").is_none(), "it was not asked for");
    let access = answer.string("access_token");
    assert_eq!(simulator.access_token(&access).unwrap().oid.as_deref(), Some(USER_OID));
    assert_eq!(graph(&simulator, "/me", Some(&access)).await.status, 200);
    let again =
        refresh(&simulator, &answer.string("refresh_token"), "Mail.Read User.Read offline_access").await;
    assert_eq!(again.status, 200);
}

#[tokio::test]
async fn without_offline_access_a_device_gets_no_refresh_token() {
    let simulator = start(config()).await;
    let asked = ask_for(&simulator, "User.Read").await;
    simulator.approve_device_code(&asked.string("user_code"), None).unwrap();
    let form = [
        ("grant_type", GRANT),
        ("client_id", CLIENT_ID),
        ("device_code", &asked.string("device_code")),
        ("client_info", "1"),
    ];
    let answer = token(&simulator, TENANT, &form).await;
    assert!(answer.json().get("refresh_token").is_none());
    assert!(answer.json()["client_info"].is_string());
}

#[tokio::test]
async fn a_code_is_redeemed_once_and_by_its_own_client() {
    let clients = vec![Client::public(CLIENT_ID), Client::public(OTHER_CLIENT)];
    let simulator = start(Config { clients, ..config() }).await;
    let (device_code, user_code) = codes(&simulator).await;
    simulator.approve_device_code(&user_code, None).unwrap();
    let bad = refused(400, "bad_verification_code", 70_018);
    let form = [("grant_type", GRANT), ("client_id", OTHER_CLIENT), ("device_code", &device_code)];
    assert_eq!(token(&simulator, TENANT, &form).await.refusal(), bad);
    assert_eq!(poll(&simulator, &device_code).await.status, 200);
    for code in [device_code.as_str(), "unknown"] {
        assert_eq!(poll(&simulator, code).await.refusal(), bad);
    }
    assert!(simulator.device_codes().is_empty());
}

#[tokio::test]
async fn a_confidential_client_proves_itself_when_it_redeems() {
    let clients = vec![Client::confidential(OTHER_CLIENT, "s3cret")];
    let simulator = start(Config { clients, ..config() }).await;
    let asked = ask(&simulator, &[("client_id", OTHER_CLIENT), ("scope", SCOPE)]).await;
    simulator.approve_device_code(&asked.string("user_code"), None).unwrap();
    let device_code = asked.string("device_code");
    let mut form = vec![("grant_type", GRANT), ("client_id", OTHER_CLIENT), ("device_code", &device_code)];
    let bare = token(&simulator, TENANT, &form).await;
    assert_eq!(bare.refusal(), refused(401, "invalid_client", 7_000_218));
    form.push(("client_secret", "s3cret"));
    assert_eq!(token(&simulator, TENANT, &form).await.status, 200);
}

#[tokio::test]
async fn a_code_expires_by_the_clock_or_on_demand() {
    let simulator = start(config()).await;
    let (by_clock, user_code) = codes(&simulator).await;
    simulator.approve_device_code(&user_code, None).unwrap();
    simulator.clock().advance(900 * SECOND);
    let expired = refused(400, "expired_token", 70_020);
    assert_eq!(poll(&simulator, &by_clock).await.refusal(), expired);

    simulator.set_device_lifetime(60 * SECOND);
    let (on_demand, user_code) = codes(&simulator).await;
    assert_eq!(simulator.device_codes()[0].remaining_seconds, 60);
    simulator.expire_device_code(&user_code).unwrap();
    assert_eq!(poll(&simulator, &on_demand).await.refusal(), expired);
    assert_eq!(simulator.approve_device_code(&user_code, None), Err(Unknown::DeviceCode));
}

#[tokio::test]
async fn a_declined_code_is_declined_for_good() {
    let simulator = start(config()).await;
    let (device_code, user_code) = codes(&simulator).await;
    simulator.decline_device_code(&user_code).unwrap();
    for _ in 0..2 {
        let answer = poll(&simulator, &device_code).await;
        assert_eq!((answer.status, answer.string("error").as_str()), (400, "authorization_declined"));
    }
}

#[tokio::test]
async fn a_policy_blocks_what_the_user_approved() {
    let simulator = start(config()).await;
    let (device_code, user_code) = codes(&simulator).await;
    simulator.set_device_policy(DevicePolicy::AccessDenied);
    assert_eq!(poll(&simulator, &device_code).await.refusal(), pending(), "it speaks after the user");
    simulator.approve_device_code(&user_code, None).unwrap();
    assert_eq!(poll(&simulator, &device_code).await.refusal(), refused(400, "access_denied", 53_003));
    simulator.set_device_policy(DevicePolicy::InvalidGrant);
    assert_eq!(poll(&simulator, &device_code).await.refusal(), refused(400, "invalid_grant", 53_003));
    simulator.set_device_policy(DevicePolicy::Allowed);
    assert_eq!(poll(&simulator, &device_code).await.status, 200);
}

#[tokio::test]
async fn a_user_who_does_not_consent_is_not_signed_in() {
    let user = User::new(USER_OID, USER_UPN).with_consent(["User.Read"]);
    let simulator = start(Config { users: vec![user], ..config() }).await;
    let (device_code, user_code) = codes(&simulator).await;
    simulator.approve_device_code(&user_code, None).unwrap();
    let answer = poll(&simulator, &device_code).await;
    assert_eq!(answer.refusal(), refused(400, "invalid_grant", 65_001));
    assert_eq!(answer.string("suberror"), "consent_required");
}

#[tokio::test]
async fn who_polls_too_fast_is_told_to_slow_down_and_by_five_seconds_each_time() {
    let simulator = start(config()).await;
    simulator.set_device_slow_down(true);
    let (device_code, _) = codes(&simulator).await;
    let mut errors = Vec::new();
    // Due after 5 s, then after 10.
    for wait in [0, 5, 1, 9, 20] {
        simulator.clock().advance(wait * SECOND);
        errors.push(poll(&simulator, &device_code).await.string("error"));
    }
    let pending = "authorization_pending";
    assert_eq!(errors, [pending, pending, "slow_down", "slow_down", pending]);

    let journal = simulator.journal();
    let since: Vec<_> = journal.polls(&digest(&device_code)).iter().map(|time| time - NOW_MS).collect();
    assert_eq!(since, [0, 5_000, 6_000, 15_000, 35_000]);
    assert_eq!(journal.counts()["device_code"][&Outcome::Pending], 5);
}

#[tokio::test]
async fn a_device_request_that_lacks_something_is_refused() {
    let simulator = start(config()).await;
    let form = [("client_id", CLIENT_ID), ("scope", SCOPE)];
    for lacking in [&form[..1], &form[1..]] {
        assert_eq!(ask(&simulator, lacking).await.refusal(), refused(400, "invalid_request", 900_144));
    }
    let unknown = ask(&simulator, &[("client_id", "nobody"), ("scope", SCOPE)]).await;
    assert_eq!(unknown.refusal(), refused(400, "unauthorized_client", 700_016));
    let mixed = ask_for(&simulator, "https://graph.microsoft.com/.default Mail.Read").await;
    assert_eq!(mixed.refusal(), refused(400, "invalid_scope", 70_011));
}

#[tokio::test]
async fn faults_meet_the_device_endpoint_and_the_polls_each_for_themselves() {
    let simulator = start(config()).await;
    simulator.queue_fault(Fault::device(Action::throttled("1.5")));
    simulator.queue_fault(Fault::token(Action::slow_down()).for_grant("device_code"));
    simulator.queue_fault(Fault::token(Action::json(503, json!({}))).for_grant(GRANT));
    let throttled = ask_for(&simulator, SCOPE).await;
    assert_eq!((throttled.status, throttled.header("retry-after")), (429, "1.5"));
    let (device_code, _) = codes(&simulator).await;
    let slow = poll(&simulator, &device_code).await;
    assert_eq!((slow.string("error").as_str(), slow.json()["error_codes"].clone()), ("slow_down", json!([])));
    assert_eq!(poll(&simulator, &device_code).await.status, 503);
    assert_eq!(poll(&simulator, &device_code).await.refusal(), pending());
}

#[tokio::test]
async fn the_journal_tells_each_device_request_and_holds_no_device_code() {
    let simulator = start(config()).await;
    simulator.queue_fault(Fault::device(Action::json(503, json!({}))));
    ask_for(&simulator, SCOPE).await;
    let (device_code, user_code) = codes(&simulator).await;
    simulator.approve_device_code(&user_code, None).unwrap();
    poll(&simulator, &device_code).await;
    let journal = simulator.journal();
    let [faulted, issued] = &journal.device[..] else { panic!("two requests were made") };
    assert_eq!((faulted.outcome, faulted.fault), (Outcome::Faulted, Some("respond")));
    assert_eq!((issued.outcome, issued.status), (Outcome::Issued, Some(200)));
    assert_eq!((issued.client_id.as_str(), issued.scopes.join(" ").as_str()), (CLIENT_ID, SCOPE));
    assert_eq!(issued.device_sha256, Some(digest(&device_code)));
    assert_eq!((journal.token[0].grant.as_str(), journal.token[0].outcome), ("device_code", Outcome::Issued));
    assert_eq!(journal.token[0].device_sha256, issued.device_sha256);
    assert_eq!(journal.count(Outcome::Issued), 1, "a device code is no token");
    let text = serde_json::to_string(&journal).unwrap() + &format!("{simulator:?}");
    assert!(!text.contains(DEVICE_CODE_PREFIX));
}

#[tokio::test]
async fn a_script_sees_approves_declines_and_expires_codes() {
    let simulator = start(config()).await;
    let settings = json!({
        "device_lifetime_seconds": 60, "device_interval_seconds": 0, "device_slow_down": true,
        "device_policy": "access_denied",
    });
    assert_eq!(call(&simulator, Method::PUT, "/settings", settings).await.status, 200);
    let (device_code, user_code) = codes(&simulator).await;
    let listed = call(&simulator, Method::GET, "/device-codes", json!({})).await;
    assert!(!listed.text.contains(&device_code));
    let expected = json!({
        "user_code": user_code, "client_id": CLIENT_ID, "scopes": SCOPE.split(' ').collect::<Vec<_>>(),
        "expires_ms": NOW_MS + 60_000, "remaining_seconds": 60, "approved_by": null, "declined": false,
        "device_sha256": digest(&device_code),
    });
    assert_eq!(listed.json(), json!({"device_codes": [expected]}));

    let approval = json!({"user_code": user_code, "user": USER_OID});
    call(&simulator, Method::POST, "/device-codes/approve", approval).await;
    assert_eq!(simulator.device_codes()[0].approved_by.as_deref(), Some(USER_OID));
    assert_eq!(poll(&simulator, &device_code).await.string("error"), "access_denied");
    let code = json!({"user_code": user_code});
    call(&simulator, Method::POST, "/device-codes/decline", code.clone()).await;
    assert!(simulator.device_codes()[0].declined);
    call(&simulator, Method::POST, "/device-codes/expire", code.clone()).await;
    let gone = call(&simulator, Method::POST, "/device-codes/approve", code).await;
    assert_eq!((gone.status, gone.string("error").as_str()), (404, "unknown device code"));

    let journal = call(&simulator, Method::GET, "/journal?token_from=1", json!({})).await.json();
    assert_eq!(journal["counts"]["device_authorization"], json!({"issued": 1}));
    assert_eq!(journal["device"][0]["device_sha256"], json!(digest(&device_code)));
    let fault = json!({"match": {"path": "device"}, "action": "close"});
    assert_eq!(call(&simulator, Method::POST, "/faults", fault).await.status, 200);
}
