//! `grant_type=client_credentials`.

use entra_simulator::{CLIENT_ID, Client, Config, Simulator};

use crate::http::{Answer, TENANT, config, graph, refused, start, token};

const APP: &str = "99999999-2222-3333-4444-555555555555";
const DEFAULT: &str = "https://graph.microsoft.com/.default";

async fn simulator(app: Client) -> Simulator {
    start(Config { clients: vec![Client::public(CLIENT_ID), app], ..config() }).await
}

async fn app_token(simulator: &Simulator, tenant: &str, scope: &str) -> Answer {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", APP),
        ("client_secret", "s3cret"),
        ("client_info", "1"),
        ("scope", scope),
    ];
    token(simulator, tenant, &form).await
}

#[tokio::test]
async fn an_app_gets_an_access_token_and_nothing_of_an_account() {
    let simulator = simulator(Client::confidential(APP, "s3cret")).await;
    let answer = app_token(&simulator, TENANT, DEFAULT).await;
    let body = answer.json();
    assert_eq!((answer.status, &body["expires_in"]), (200, &serde_json::json!(3_600)));
    for absent in ["refresh_token", "id_token", "client_info", "scope"] {
        assert!(body.get(absent).is_none(), "{absent} belongs to a user");
    }
    let info = simulator.access_token(&answer.string("access_token")).unwrap();
    assert_eq!((info.oid, info.client_id.as_str()), (None, APP));
}

#[tokio::test]
async fn an_app_needs_a_concrete_tenant_and_one_default_scope() {
    let simulator = simulator(Client::confidential(APP, "s3cret")).await;
    for tenant in ["common", "organizations"] {
        let answer = app_token(&simulator, tenant, DEFAULT).await;
        assert_eq!(answer.refusal(), refused(400, "invalid_request", 50_059));
    }
    for scope in ["User.Read", "https://graph.microsoft.com/.default offline_access", "openid"] {
        let answer = app_token(&simulator, TENANT, scope).await;
        assert_eq!(answer.refusal(), refused(400, "invalid_scope", 1_002_012), "{scope}");
    }
    let answer = app_token(&simulator, TENANT, "").await;
    assert_eq!(answer.refusal(), refused(400, "invalid_request", 900_144));
}

#[tokio::test]
async fn an_app_without_proof_is_refused() {
    let simulator = simulator(Client::confidential(APP, "s3cret")).await;
    for client in [APP, CLIENT_ID] {
        let form = [("grant_type", "client_credentials"), ("client_id", client), ("scope", DEFAULT)];
        let answer = token(&simulator, TENANT, &form).await;
        assert_eq!(answer.refusal(), refused(401, "invalid_client", 7_000_216));
    }
}

#[tokio::test]
async fn graph_gives_an_app_only_what_it_was_permitted_and_never_me() {
    let simulator = simulator(Client::confidential(APP, "s3cret")).await;
    let bare = app_token(&simulator, TENANT, DEFAULT).await.string("access_token");
    assert_eq!(graph(&simulator, "/me", Some(&bare)).await.status, 400);
    assert_eq!(graph(&simulator, "/users", Some(&bare)).await.status, 403);
    simulator.put_client(Client::confidential(APP, "s3cret").with_app_role("User.Read.All"));
    let permitted = app_token(&simulator, TENANT, DEFAULT).await.string("access_token");
    let answer = graph(&simulator, "/users", Some(&permitted)).await;
    assert_eq!((answer.status, answer.json()["value"].as_array().unwrap().len()), (200, 1));
    assert_eq!(graph(&simulator, "/me", Some(&permitted)).await.status, 400);
}
