//! Clients that prove themselves with the key of a certificate.

use std::sync::LazyLock;
use std::time::Duration;

use entra_simulator::{
    Certificate, Client, Config, InvalidCertificate, Outcome, Simulator, TENANT_ID, digest,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::control::call;
use crate::http::{Answer, NOW_MS, TENANT, config, refused, start, token};
use crate::sign::Rsa;

const APP: &str = "99999999-2222-3333-4444-555555555555";
const NOW: u64 = NOW_MS / 1_000;
const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

static KEY: LazyLock<Rsa> = LazyLock::new(Rsa::new);
static STRANGER: LazyLock<Rsa> = LazyLock::new(Rsa::new);

async fn simulator() -> Simulator {
    let app = Client::public(APP).with_certificate(KEY.certificate());
    start(Config { clients: vec![app], ..config() }).await
}

fn claims(simulator: &Simulator, jti: &str) -> Value {
    json!({
        "aud": simulator.token_url(), "iss": APP, "sub": APP, "jti": jti,
        "iat": NOW, "nbf": NOW, "exp": NOW + 600,
    })
}

fn assertion(simulator: &Simulator, jti: &str) -> String {
    KEY.sign(&KEY.header(), &claims(simulator, jti))
}

async fn prove(simulator: &Simulator, assertion: &str) -> Answer {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", APP),
        ("scope", "https://graph.microsoft.com/.default"),
        ("client_assertion_type", TYPE),
        ("client_assertion", assertion),
    ];
    token(simulator, TENANT_ID, &form).await
}

/// The claims with one of them changed, or taken away.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    if let Some(members) = claims.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    claims
}

#[tokio::test]
async fn an_assertion_of_a_registered_certificate_proves_the_client() {
    let simulator = simulator().await;
    let answer = prove(&simulator, &assertion(&simulator, "1")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(simulator.access_token(&answer.string("access_token")).unwrap().client_id, APP);
    let issuer = with(claims(&simulator, "2"), "aud", format!("{}/{TENANT}/v2.0", simulator.url()).into());
    assert_eq!(prove(&simulator, &KEY.sign(&KEY.header(), &issuer)).await.status, 200);
}

#[tokio::test]
async fn it_proves_the_client_to_every_grant() {
    let simulator = simulator().await;
    let seed = simulator.mint().unwrap();
    let proof = assertion(&simulator, "1");
    let mut form = vec![
        ("grant_type", "refresh_token"),
        ("client_id", APP),
        ("refresh_token", &seed),
        ("client_assertion_type", TYPE),
        ("client_assertion", &proof),
    ];
    assert_eq!(token(&simulator, TENANT_ID, &form).await.status, 200);
    form.truncate(3);
    let bare = token(&simulator, TENANT_ID, &form).await;
    assert_eq!(bare.refusal(), refused(401, "invalid_client", 7_000_218));
}

#[tokio::test]
async fn a_replayed_assertion_is_refused_and_the_journal_tells() {
    let simulator = simulator().await;
    let proof = assertion(&simulator, "1");
    assert_eq!(prove(&simulator, &proof).await.status, 200);
    let replay = prove(&simulator, &proof).await;
    assert_eq!((replay.status, replay.string("error").as_str()), (401, "invalid_client"));
    // The same jti in other words is a replay as well.
    let other_words = with(claims(&simulator, "1"), "exp", json!(NOW + 599));
    assert_eq!(prove(&simulator, &KEY.sign(&KEY.header(), &other_words)).await.status, 401);

    let journal = simulator.journal();
    let seen: Vec<_> = journal.token.iter().flat_map(|entry| &entry.assertion).collect();
    assert_eq!(seen.iter().map(|entry| entry.seen_before).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(seen[0].sha256, digest(&proof));
    assert_eq!((seen[0].algorithm.as_deref(), seen[0].lifetime_seconds), (Some("PS256"), Some(600)));
    assert_eq!(seen[0].key, Some(KEY.certificate().thumbprint()));
    assert_eq!((seen[0].issuer.as_deref(), seen[0].subject.as_deref()), (Some(APP), Some(APP)));
    assert_eq!(seen[0].audience, [simulator.token_url()]);
    assert_eq!(seen[0].jti_sha256, seen[2].jti_sha256);
    assert_eq!(journal.count(Outcome::Refused), 2);
    let text = serde_json::to_string(&journal).unwrap() + &format!("{simulator:?}");
    assert!(!text.contains(&proof) && !text.contains(proof.rsplit('.').next().unwrap()));
}

#[tokio::test]
async fn a_jti_is_remembered_only_while_its_assertion_lives() {
    let simulator = simulator().await;
    assert_eq!(prove(&simulator, &assertion(&simulator, "1")).await.status, 200);
    simulator.clock().advance(Duration::from_secs(601));
    let later = with(claims(&simulator, "1"), "exp", json!(NOW + 900));
    assert_eq!(prove(&simulator, &KEY.sign(&KEY.header(), &later)).await.status, 200);
}

#[tokio::test]
async fn an_assertion_is_taken_only_in_its_time_give_or_take_five_minutes() {
    let simulator = simulator().await;
    let out_of_time = refused(401, "invalid_client", 700_024);
    let future = with(with(claims(&simulator, "1"), "nbf", json!(NOW + 301)), "exp", json!(NOW + 600));
    assert_eq!(prove(&simulator, &KEY.sign(&KEY.header(), &future)).await.refusal(), out_of_time);
    let proof = assertion(&simulator, "2");
    simulator.clock().advance(Duration::from_secs(899));
    assert_eq!(prove(&simulator, &proof).await.status, 200);
    let proof = assertion(&simulator, "3");
    simulator.clock().advance(Duration::from_secs(1));
    assert_eq!(prove(&simulator, &proof).await.refusal(), out_of_time);
}

#[tokio::test]
async fn every_claim_is_looked_at() {
    let simulator = simulator().await;
    let cases = [
        ("aud", json!("https://elsewhere.example/token"), 700_023),
        ("aud", Value::Null, 700_023),
        ("aud", json!([simulator.token_url(), "https://elsewhere.example/token"]), 700_023),
        ("sub", json!("somebody"), 700_021),
        ("iss", json!("somebody"), 70_021),
        ("exp", json!(NOW + 901), 50_027),
        ("exp", Value::Null, 50_027),
        ("nbf", Value::Null, 50_027),
        ("jti", Value::Null, 50_027),
        ("jti", json!(""), 50_027),
    ];
    for (name, value, code) in cases {
        let wrong = with(claims(&simulator, "1"), name, value.clone());
        let answer = prove(&simulator, &KEY.sign(&KEY.header(), &wrong)).await;
        assert_eq!(answer.refusal(), refused(401, "invalid_client", code), "{name}: {value}");
    }
    assert_eq!(prove(&simulator, &assertion(&simulator, "1")).await.status, 200, "none of them was accepted");
}

#[tokio::test]
async fn header_and_signature_are_looked_at() {
    let simulator = simulator().await;
    let cases = [
        ("typ", Value::Null, 50_027),
        ("alg", json!("RS256"), 5_002_738),
        ("alg", json!("none"), 5_002_738),
        ("x5t#S256", Value::Null, 700_027),
        ("x5t#S256", json!(STRANGER.certificate().thumbprint()), 700_027),
    ];
    for (name, value, code) in cases {
        let header = with(KEY.header(), name, value.clone());
        let answer = prove(&simulator, &KEY.sign(&header, &claims(&simulator, "1"))).await;
        assert_eq!(answer.refusal(), refused(401, "invalid_client", code), "{name}: {value}");
    }
    let forged = STRANGER.sign(&KEY.header(), &claims(&simulator, "1"));
    assert_eq!(prove(&simulator, &forged).await.refusal(), refused(401, "invalid_client", 700_027));
    for unreadable in ["text", "a.b.c", "e30.e30."] {
        let answer = prove(&simulator, unreadable).await;
        assert_eq!(answer.refusal(), refused(401, "invalid_client", 50_027), "{unreadable}");
    }
}

#[tokio::test]
async fn rs256_is_taken_only_if_it_is_allowed() {
    let simulator = simulator().await;
    let header = with(KEY.header(), "alg", json!("RS256"));
    for (allowed, status) in [(true, 200), (false, 401)] {
        let settings = json!({"rs256_assertions": allowed});
        assert_eq!(call(&simulator, Method::PUT, "/settings", settings).await.status, 200);
        let proof = KEY.sign(&header, &claims(&simulator, &allowed.to_string()));
        assert_eq!(prove(&simulator, &proof).await.status, status);
    }
}

#[tokio::test]
async fn a_rotated_certificate_replaces_the_old_one() {
    let simulator = simulator().await;
    let renewed = STRANGER.sign(&STRANGER.header(), &claims(&simulator, "1"));
    assert_eq!(prove(&simulator, &renewed).await.refusal(), refused(401, "invalid_client", 700_027));
    let body = json!({"certificates": [STRANGER.pem]});
    let path = format!("/clients/{APP}/certificates");
    assert_eq!(call(&simulator, Method::PUT, &path, body).await.status, 200);
    assert_eq!(prove(&simulator, &renewed).await.status, 200);
    let old = assertion(&simulator, "2");
    assert_eq!(prove(&simulator, &old).await.refusal(), refused(401, "invalid_client", 700_027));
}

#[tokio::test]
async fn a_client_presents_one_proof_and_one_of_its_kind() {
    let simulator = simulator().await;
    let proof = assertion(&simulator, "1");
    let form = |kind: &'static str, secret: Option<&'static str>| {
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", APP),
            ("scope", "https://graph.microsoft.com/.default"),
            ("client_assertion_type", kind),
            ("client_assertion", proof.as_str()),
        ];
        form.extend(secret.map(|secret| ("client_secret", secret)));
        form
    };
    let two = token(&simulator, TENANT_ID, &form(TYPE, Some("s3cret"))).await;
    assert_eq!(two.refusal(), refused(400, "invalid_request", 90_023));
    let untyped = token(&simulator, TENANT_ID, &form("", None)).await;
    assert_eq!(untyped.refusal(), refused(400, "invalid_request", 90_023));
    simulator.put_client(Client::public(APP));
    let public = token(&simulator, TENANT_ID, &form(TYPE, None)).await;
    assert_eq!(public.refusal(), refused(401, "invalid_client", 700_025));
}

#[tokio::test]
async fn a_script_registers_a_client_with_certificates() {
    let simulator = start(config()).await;
    let client = json!({"certificates": [KEY.pem]});
    let path = format!("/clients/{APP}");
    assert_eq!(call(&simulator, Method::PUT, &path, client).await.status, 200);
    assert_eq!(prove(&simulator, &assertion(&simulator, "1")).await.status, 200);
    let nonsense = json!({"certificates": ["text"]});
    assert_eq!(call(&simulator, Method::PUT, &path, nonsense).await.status, 400);
    assert_eq!(Certificate::from_der(b"nonsense"), Err(InvalidCertificate));
}
