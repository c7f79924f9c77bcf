//! The controls, in process and over HTTP.

use std::time::Duration;

use entra_simulator::{CLIENT_ID, Outcome, Simulator, USER_OID, Unknown, digest};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::http::{Answer, SCOPE, access_token, client, config, graph, refresh, refused, start};

const SOON: Duration = Duration::from_secs(20);

/// Calls a control as `curl -d` does: with no word of JSON in the content type.
pub(crate) async fn call(simulator: &Simulator, method: Method, path: &str, body: Value) -> Answer {
    let request = client().request(method, format!("{}/_sim{path}", simulator.url()));
    let response = request.body(body.to_string()).send().await.expect("the controls answer");
    Answer::read(response).await.expect("the answer ends")
}

#[tokio::test]
async fn a_script_can_mint_look_up_and_revoke() {
    let simulator = start(config()).await;
    let minted = call(&simulator, Method::POST, "/refresh-tokens", json!({"scopes": ["User.Read"]})).await;
    let seed = minted.string("refresh_token");
    assert_eq!(minted.string("sha256"), digest(&seed));
    let access = refresh(&simulator, &seed, SCOPE).await.string("access_token");

    let lookup = || call(&simulator, Method::POST, "/access-tokens/lookup", json!({"token": access}));
    let info = lookup().await.json();
    assert_eq!((&info["active"], &info["remaining_seconds"]), (&json!(true), &json!(3_600)));
    assert_eq!((&info["oid"], &info["client_id"]), (&json!(USER_OID), &json!(CLIENT_ID)));
    let by_digest = json!({"sha256": digest(&access)});
    assert_eq!(call(&simulator, Method::POST, "/access-tokens/revoke", by_digest).await.status, 200);
    assert_eq!(lookup().await.json()["active"], false);
    assert_eq!(graph(&simulator, "/me", Some(&access)).await.status, 401);

    call(&simulator, Method::POST, "/refresh-tokens/revoke", json!({"user": USER_OID})).await;
    let answer = refresh(&simulator, &seed, SCOPE).await;
    assert_eq!(answer.refusal(), refused(400, "invalid_grant", 50_173));
}

#[tokio::test]
async fn a_script_can_seed_a_token_of_its_own() {
    let simulator = start(config()).await;
    let answer = call(&simulator, Method::POST, "/refresh-tokens", json!({"token": "known"})).await;
    assert_eq!(answer.json(), json!({"sha256": digest("known")}));
    assert_eq!(refresh(&simulator, "known", SCOPE).await.status, 200);
}

#[tokio::test]
async fn a_script_can_change_settings_clients_and_users() {
    let simulator = start(config()).await;
    let settings = json!({
        "token_lifetime_seconds": 5, "refresh_in_seconds": 2, "numbers_as_strings": true, "rotation": "strict",
    });
    assert_eq!(call(&simulator, Method::PUT, "/settings", settings).await.status, 200);
    let user = json!({"upn": "new@contoso.com", "consented": ["User.Read"]});
    call(&simulator, Method::PUT, "/users/0000-new", user).await;
    let mint = json!({"user": "new@contoso.com"});
    let seed = call(&simulator, Method::POST, "/refresh-tokens", mint).await.string("refresh_token");
    let body = refresh(&simulator, &seed, "User.Read offline_access").await.json();
    assert_eq!((&body["expires_in"], &body["refresh_in"]), (&json!("5"), &json!("2")));
    assert_eq!(refresh(&simulator, &seed, "User.Read").await.status, 400, "it was spent");

    let secret = format!("/clients/{CLIENT_ID}/secret");
    call(&simulator, Method::PUT, &secret, json!({"secret": "s3cret"})).await;
    let answer = refresh(&simulator, &seed, SCOPE).await;
    assert_eq!(answer.refusal(), refused(401, "invalid_client", 7_000_218));
    call(&simulator, Method::PUT, &secret, json!({"secret": null})).await;
    call(&simulator, Method::PUT, "/settings", json!({"refresh_in_seconds": 0, "rotation": "lenient"})).await;
    let seed = simulator.mint().unwrap();
    assert!(refresh(&simulator, &seed, SCOPE).await.json().get("refresh_in").is_none());
}

#[tokio::test]
async fn a_script_can_make_graph_refuse_old_tokens_and_all_tokens() {
    let simulator = start(config()).await;
    let old = access_token(&simulator, "User.Read").await;
    assert_eq!(call(&simulator, Method::POST, "/access-tokens/revoke-all", json!({})).await.status, 200);
    assert_eq!(graph(&simulator, "/me", Some(&old)).await.status, 401);
    let new = access_token(&simulator, "User.Read").await;
    call(&simulator, Method::PUT, "/settings", json!({"graph_refuses": true})).await;
    assert_eq!(graph(&simulator, "/me", Some(&new)).await.status, 401);
    call(&simulator, Method::PUT, "/settings", json!({"graph_refuses": false})).await;
    assert_eq!(graph(&simulator, "/me", Some(&new)).await.status, 200);
}

#[tokio::test]
async fn a_script_can_queue_every_fault_that_the_documentation_shows() {
    let simulator = start(config()).await;
    let actions = json!([
        {"respond": {"status": 502, "body": "<html>", "content_type": "text/html", "headers": [["Retry-After", "1"]]}},
        {"error": {"status": 400, "error": "invalid_grant", "codes": [50173], "suberror": "bad_token", "retry_after": "2.5"}},
        {"delay_ms": 500}, "hang", "close", "answer_lost",
        {"huge_body": {"megabytes": 64}}, {"slow_body": {"chunk_bytes": 16, "delay_ms": 200}},
    ]);
    for action in actions.as_array().unwrap() {
        let fault = json!({"match": {"path": "graph", "client_id": "x"}, "times": 2, "action": action});
        let answer = call(&simulator, Method::POST, "/faults", fault).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let fault = json!({"times": "forever", "action": {"respond": {"status": 503}}});
    call(&simulator, Method::POST, "/faults", fault).await;
    let pending = call(&simulator, Method::GET, "/faults", json!({})).await.json();
    assert_eq!(pending["faults"].as_array().unwrap().len(), 9);
    assert_eq!(pending["faults"][8]["times"], "forever");
    assert_eq!(refresh(&simulator, "unknown", SCOPE).await.status, 503);
    call(&simulator, Method::DELETE, "/faults", json!({})).await;
    assert_eq!(refresh(&simulator, "unknown", SCOPE).await.status, 400);
}

#[tokio::test]
async fn a_script_can_move_the_clock_and_read_the_journal() {
    let simulator = start(config()).await;
    let seed = simulator.mint().unwrap();
    call(&simulator, Method::POST, "/clock/advance", json!({"seconds": 91 * 86_400})).await;
    refresh(&simulator, &seed, SCOPE).await;
    refresh(&simulator, "unknown", SCOPE).await;
    let journal = call(&simulator, Method::GET, "/journal?token_from=1", json!({})).await;
    let body = journal.json();
    assert_eq!(body["counts"], json!({"refresh_token": {"refused": 2}}));
    assert_eq!(body["token"].as_array().unwrap().len(), 1);
    assert_eq!(body["token"][0]["codes"], json!([70_000]));
    assert!(!journal.text.contains(&seed));
}

#[tokio::test]
async fn a_script_hears_of_its_mistakes() {
    let simulator = start(config()).await;
    let typo = call(&simulator, Method::PUT, "/settings", json!({"token_lifetime": 5})).await;
    assert_eq!(typo.status, 400);
    assert!(typo.string("error").contains("token_lifetime"));
    let user = call(&simulator, Method::POST, "/refresh-tokens", json!({"user": "nobody"})).await;
    assert_eq!((user.status, user.string("error").as_str()), (404, "unknown user"));
    assert_eq!(call(&simulator, Method::POST, "/access-tokens/lookup", json!({})).await.status, 400);
}

#[tokio::test]
async fn an_unknown_name_is_an_error() {
    let simulator = start(config()).await;
    let mint = |user, client| simulator.mint_refresh_token(user, client, &[]);
    assert_eq!(mint(Some("nobody"), None), Err(Unknown::User));
    assert_eq!(mint(None, Some("nothing")), Err(Unknown::Client));
    assert_eq!(simulator.revoke_user("nobody"), Err(Unknown::User));
    assert_eq!(simulator.revoke_access_token("none"), Err(Unknown::Token));
    assert_eq!(simulator.set_client_secret("nothing", None), Err(Unknown::Client));
}

#[tokio::test]
async fn a_test_can_wait_for_the_journal() {
    let simulator = start(config()).await;
    let control = simulator.control().clone();
    let waiter = tokio::spawn(async move {
        timeout(SOON, control.journal_until(|journal| journal.count(Outcome::Refused) == 2)).await
    });
    for _ in 0..2 {
        refresh(&simulator, "unknown", SCOPE).await;
    }
    assert_eq!(waiter.await.unwrap().unwrap().token.len(), 2);
}

#[tokio::test]
async fn a_dropped_simulator_stops_answering() {
    let simulator = start(config()).await;
    let url = simulator.url();
    drop(simulator);
    // The task ends at the runtime's next turn.
    let stopped = async {
        while client().get(&url).send().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(SOON, stopped).await.is_ok());
}
