//! Clients that prove themselves with a token of another issuer.

use std::sync::LazyLock;

use entra_simulator::{
    Action, Client, Config, Fault, FederatedCredential, Jwks, Simulator, TENANT_ID, TOKEN_EXCHANGE_AUDIENCE,
    Tls, digest,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::control::call;
use crate::http::{Answer, NOW_MS, config, refused, start, token};
use crate::sign::{Ec, Rsa};

const APP: &str = "99999999-2222-3333-4444-555555555555";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const SUBJECT: &str = "system:serviceaccount:pipelines:etl";
const NOW: u64 = NOW_MS / 1_000;

static RSA: LazyLock<Rsa> = LazyLock::new(Rsa::new);
static EC: LazyLock<Ec> = LazyLock::new(Ec::new);

fn key_set() -> Value {
    json!({"keys": [{"kty": "OKP", "kid": "another"}, RSA.jwk("rsa"), EC.jwk("ec")]})
}

fn inline() -> Jwks {
    Jwks::Inline { jwks: key_set() }
}

fn at(url: &str) -> Jwks {
    Jwks::Url { jwks_url: url.to_owned(), bearer: Some("knock".to_owned()), ca_pem: None }
}

async fn simulator(keys: Jwks) -> Simulator {
    let app = Client::public(APP).with_federated(FederatedCredential::new(ISSUER, SUBJECT, keys));
    start(Config { clients: vec![app], ..config() }).await
}

/// As a kube-apiserver writes them for a service account.
fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": SUBJECT, "aud": [TOKEN_EXCHANGE_AUDIENCE],
        "iat": NOW, "nbf": NOW, "exp": NOW + 3_600, "jti": "1",
    })
}

fn by_rsa(claims: &Value) -> String {
    RSA.sign(&json!({"alg": "RS256", "kid": "rsa"}), claims)
}

async fn prove(simulator: &Simulator, assertion: &str) -> Answer {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", APP),
        ("scope", "https://graph.microsoft.com/.default"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ];
    token(simulator, TENANT_ID, &form).await
}

#[tokio::test]
async fn a_token_of_the_registered_issuer_and_subject_proves_the_client() {
    let simulator = simulator(inline()).await;
    for assertion in [by_rsa(&claims()), EC.sign("ec", &claims())] {
        let answer = prove(&simulator, &assertion).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_reused_token_is_taken_and_the_journal_tells() {
    let simulator = simulator(inline()).await;
    let [first, second] = [EC.sign("ec", &claims()), EC.sign("ec", &claims())];
    for assertion in [&first, &second, &first] {
        assert_eq!(prove(&simulator, assertion).await.status, 200);
    }
    let journal = simulator.journal();
    let seen: Vec<_> = journal.token.iter().flat_map(|entry| &entry.assertion).collect();
    assert_eq!(seen.iter().map(|entry| entry.seen_before).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(seen[2].sha256, digest(&first));
    assert_eq!((seen[0].issuer.as_deref(), seen[0].subject.as_deref()), (Some(ISSUER), Some(SUBJECT)));
    assert_eq!(seen[0].key.as_deref(), Some("ec"));
    assert!(!serde_json::to_string(&journal).unwrap().contains(&first));
}

#[tokio::test]
async fn what_fits_no_credential_is_told_apart() {
    let simulator = simulator(inline()).await;
    let cases = [
        ("iss", json!("https://elsewhere.example"), 700_211),
        ("sub", json!("system:serviceaccount:pipelines:ETL"), 700_213),
        ("aud", json!("https://kubernetes.default.svc"), 700_212),
        ("exp", json!(NOW - 301), 700_024),
        ("nbf", json!(NOW + 301), 700_024),
    ];
    for (name, value, code) in cases {
        let mut wrong = claims();
        wrong[name] = value;
        let answer = prove(&simulator, &by_rsa(&wrong)).await;
        assert_eq!(answer.refusal(), refused(401, "invalid_client", code), "{name}");
    }
    simulator.change_client(APP, |client| client.federated.clear()).unwrap();
    simulator.set_client_secret(APP, Some("s3cret")).unwrap();
    let answer = prove(&simulator, &by_rsa(&claims())).await;
    assert_eq!(answer.refusal(), refused(401, "invalid_client", 70_021));
}

#[tokio::test]
async fn key_and_signature_are_looked_at() {
    let simulator = simulator(inline()).await;
    let unknown_key = EC.sign("unknown", &claims());
    let forged = Ec::new().sign("ec", &claims());
    let wrong_key = EC.sign("rsa", &claims());
    for assertion in [unknown_key, forged, wrong_key] {
        assert_eq!(prove(&simulator, &assertion).await.refusal(), refused(401, "invalid_client", 700_027));
    }
    let by_pss = RSA.sign(&json!({"alg": "PS256", "kid": "rsa"}), &claims());
    assert_eq!(prove(&simulator, &by_pss).await.refusal(), refused(401, "invalid_client", 5_002_738));
}

#[tokio::test]
async fn keys_are_fetched_with_a_bearer_once_and_again_for_a_key_that_is_new() {
    // Another simulator's Graph stands in for the issuer.
    let issuer = start(config()).await;
    let simulator = simulator(at(&format!("{}/v1.0/jwks", issuer.url()))).await;
    let answer = prove(&simulator, &by_rsa(&claims())).await;
    assert_eq!((answer.status, answer.string("error").as_str()), (500, "server_error"));

    issuer.queue_fault(Fault::graph(Action::json(200, json!({"keys": [RSA.jwk("rsa")]}))));
    issuer.queue_fault(Fault::graph(Action::json(200, key_set())));
    for _ in 0..2 {
        assert_eq!(prove(&simulator, &by_rsa(&claims())).await.status, 200);
    }
    assert_eq!(prove(&simulator, &EC.sign("ec", &claims())).await.status, 200);
    let asked = issuer.journal().graph;
    assert_eq!(asked.len(), 3, "one failed, one for each new key");
    assert!(asked.iter().all(|entry| entry.bearer_sha256 == Some(digest("knock"))));
    assert!(!format!("{simulator:?}").contains("knock"));
}

#[tokio::test]
async fn keys_are_fetched_from_an_issuer_of_a_private_authority() {
    let pem = RSA.pem.clone();
    let tls = Tls { certificates_pem: pem.clone(), key_pem: pem.clone() };
    let issuer = start(Config { tls: Some(tls), ..config() }).await;
    issuer.queue_fault(Fault::graph(Action::json(200, key_set())));
    let jwks_url = format!("{}/v1.0/jwks", issuer.url());
    let untrusted = simulator(at(&jwks_url)).await;
    assert_eq!(prove(&untrusted, &by_rsa(&claims())).await.status, 500);
    let trusted = simulator(Jwks::Url { jwks_url, bearer: None, ca_pem: Some(pem) }).await;
    let answer = prove(&trusted, &by_rsa(&claims())).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn a_script_registers_federated_credentials() {
    let simulator = start(config()).await;
    let credential = json!({"issuer": ISSUER, "subject": SUBJECT, "jwks": key_set()});
    let path = format!("/clients/{APP}");
    call(&simulator, Method::PUT, &path, json!({"federated": [credential]})).await;
    assert_eq!(prove(&simulator, &by_rsa(&claims())).await.status, 200);
    let other = json!({
        "issuer": ISSUER, "subject": SUBJECT, "audience": "api://other", "jwks_url": "http://127.0.0.1:1/",
    });
    let path = format!("{path}/federated");
    assert_eq!(call(&simulator, Method::PUT, &path, json!({"federated": [other]})).await.status, 200);
    let answer = prove(&simulator, &by_rsa(&claims())).await;
    assert_eq!(answer.refusal(), refused(401, "invalid_client", 700_212));
}
