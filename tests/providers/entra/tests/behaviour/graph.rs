//! Graph's side.

use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, DRIVE_FILE, DRIVE_ID, Fault, USER_OID, USER_UPN, digest};
use serde_json::json;

use crate::http::{access_token, client, config, graph, start};

#[tokio::test]
async fn me_tells_the_user_and_obeys_select() {
    let simulator = start(config()).await;
    let token = access_token(&simulator, "User.Read").await;
    assert_eq!(graph(&simulator, "/me", Some(&token)).await.string("userPrincipalName"), USER_UPN);
    let answer = graph(&simulator, "/me?$select=id", Some(&token)).await;
    assert_eq!(answer.json(), json!({"id": USER_OID}));
}

#[tokio::test]
async fn each_resource_wants_its_own_scope() {
    let simulator = start(config()).await;
    let resources = [
        ("/me", "user.read", "Authorization_RequestDenied"),
        ("/me/mailFolders/inbox", "https://graph.microsoft.com/Mail.Read", "ErrorAccessDenied"),
        ("/me/drive", "Files.ReadWrite.All", "accessDenied"),
        ("/drives/b!aaaabbbb0000cccc1111/root", "Files.Read", "accessDenied"),
        ("/users", "User.ReadBasic.All", "Authorization_RequestDenied"),
    ];
    for (path, scope, denied) in resources {
        let fitting = access_token(&simulator, scope).await;
        assert_eq!(graph(&simulator, path, Some(&fitting)).await.status, 200, "{path}");
        let unfit = access_token(&simulator, "Calendars.Read").await;
        let answer = graph(&simulator, path, Some(&unfit)).await;
        assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (403, json!(denied)), "{path}");
    }
}

#[tokio::test]
async fn a_path_that_is_not_there_is_a_bad_request() {
    let simulator = start(config()).await;
    let token = access_token(&simulator, "User.Read").await;
    let answer = graph(&simulator, "/mee", Some(&token)).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (400, json!("BadRequest")));
}

#[tokio::test]
async fn an_item_that_is_not_there_is_not_found() {
    let simulator = start(config()).await;
    let token = access_token(&simulator, "User.Read").await;
    for path in ["/me/mailFolders/nowhere", "/me/drive/items/1", "/drives/other/root", "/users/nobody"] {
        assert_eq!(graph(&simulator, path, Some(&token)).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_drive_leads_from_its_root_to_a_file_and_its_content() {
    let simulator = start(config()).await;
    let token = access_token(&simulator, "Files.Read").await;
    let get = async |path: &str| {
        let answer = graph(&simulator, path, Some(&token)).await;
        assert_eq!(answer.status, 200, "{path}");
        answer
    };
    assert_eq!(get("/me/drive").await.json()["id"], DRIVE_ID);
    let drive = format!("/drives/{DRIVE_ID}");
    let root = get(&format!("{drive}/root")).await.json();
    let items = |item: &serde_json::Value| format!("{drive}/items/{}", item["id"].as_str().unwrap());
    let children = get(&format!("{}/children?$top=1000", items(&root))).await.json();
    let [file] = children["value"].as_array().unwrap().as_slice() else { panic!("{children}") };
    assert_eq!((file["name"].as_str(), &file["parentReference"]["id"]), (Some(DRIVE_FILE), &root["id"]));
    let content = get(&format!("{}/content", items(file))).await.text;
    assert_eq!(file["size"], content.len());
}

#[tokio::test]
async fn tokens_revoked_early_are_refused_and_the_next_one_is_taken() {
    let simulator = start(config()).await;
    let old = [access_token(&simulator, "User.Read").await, access_token(&simulator, "User.Read").await];
    simulator.revoke_access_tokens();
    for token in &old {
        assert_eq!(graph(&simulator, "/me", Some(token)).await.status, 401);
        assert!(simulator.access_token(token).unwrap().revoked);
    }
    let new = access_token(&simulator, "User.Read").await;
    assert_eq!(graph(&simulator, "/me", Some(&new)).await.status, 200);
}

#[tokio::test]
async fn graph_can_refuse_every_token_however_new() {
    let simulator = start(config()).await;
    simulator.set_graph_refuses(true);
    let token = access_token(&simulator, "User.Read").await;
    let answer = graph(&simulator, "/me", Some(&token)).await;
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").contains(r#"error="invalid_token""#));
    assert!(simulator.is_active(&token));
    simulator.set_graph_refuses(false);
    assert_eq!(graph(&simulator, "/me", Some(&token)).await.status, 200);
}

#[tokio::test]
async fn a_claims_challenge_says_so() {
    let simulator = start(config()).await;
    let token = access_token(&simulator, "User.Read").await;
    for status in [401, 403] {
        simulator.queue_fault(Fault::graph(Action::claims_challenge(status)));
        let answer = graph(&simulator, "/me", Some(&token)).await;
        assert_eq!(answer.status, status);
        let challenge = answer.header("www-authenticate");
        assert!(challenge.contains(r#"error="insufficient_claims", claims="ey"#), "{challenge}");
    }
    assert_eq!(graph(&simulator, "/me", Some(&token)).await.status, 200);
}

#[tokio::test]
async fn graph_answers_every_status_that_a_fault_asks_for() {
    let simulator = start(config()).await;
    let token = access_token(&simulator, "User.Read").await;
    for status in [400, 403, 404, 500, 503, 509] {
        simulator.queue_fault(Fault::graph(Action::json(status, json!({}))));
        assert_eq!(graph(&simulator, "/me", Some(&token)).await.status, status);
    }
    simulator.queue_fault(Fault::graph(Action::redirect("https://elsewhere.example/")));
    let answer = graph(&simulator, "/me", Some(&token)).await;
    assert_eq!((answer.status, answer.header("location")), (302, "https://elsewhere.example/"));
    simulator.queue_fault(Fault::graph(Action::throttled("0.5")));
    let answer = graph(&simulator, "/me", Some(&token)).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "0.5"));
    simulator.queue_fault(Fault::graph(Action::Close));
    let url = format!("{}/v1.0/me", simulator.url());
    assert!(client().get(url).bearer_auth(&token).send().await.is_err());
    let statuses: Vec<_> = simulator.journal().graph.iter().map(|entry| entry.status).collect();
    let expected = [400, 403, 404, 500, 503, 509, 302, 429].map(Some);
    assert_eq!(statuses, [&expected[..], &[None]].concat());
}

#[tokio::test]
async fn a_missing_unknown_expired_or_revoked_bearer_is_challenged() {
    let simulator = start(config()).await;
    let answer = graph(&simulator, "/me", None).await;
    assert_eq!(answer.status, 401);
    assert!(!answer.header("www-authenticate").contains("error="));

    let revoked = access_token(&simulator, "User.Read").await;
    simulator.revoke_access_token(&revoked).unwrap();
    let expired = access_token(&simulator, "User.Read").await;
    simulator.clock().advance(Duration::from_hours(1));
    for token in ["unknown", &revoked, &expired] {
        let answer = graph(&simulator, "/me", Some(token)).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json()["error"]["code"], "InvalidAuthenticationToken");
        let challenge = answer.header("www-authenticate");
        assert!(challenge.starts_with("Bearer ") && challenge.contains(r#"error="invalid_token""#));
    }
}

#[tokio::test]
async fn a_token_is_active_until_the_second_it_expires() {
    let simulator = start(config()).await;
    simulator.set_token_lifetime(Duration::from_secs(5));
    let token = access_token(&simulator, "User.Read").await;
    assert_eq!(simulator.access_token(&token).unwrap().remaining_seconds, 5);
    simulator.clock().advance(Duration::from_millis(4_999));
    assert!(simulator.is_active(&token));
    simulator.clock().advance(Duration::from_millis(1));
    assert!(!simulator.is_active(&token));
    assert_eq!(simulator.access_token(&token).unwrap().remaining_seconds, 0);
    assert_eq!(simulator.access_token("unknown"), None);
}

#[tokio::test]
async fn the_journal_tells_graph_requests() {
    let simulator = start(config()).await;
    let token = access_token(&simulator, "User.Read").await;
    graph(&simulator, "/me?$select=id", Some(&token)).await;
    graph(&simulator, "/me/drive", Some(&token)).await;
    let journal = simulator.journal();
    let seen: Vec<_> = journal.graph.iter().map(|entry| (entry.path.as_str(), entry.status)).collect();
    assert_eq!(seen, [("/v1.0/me?$select=id", Some(200)), ("/v1.0/me/drive", Some(403))]);
    assert_eq!(journal.graph[0].bearer_sha256, Some(digest(&token)));
    assert_eq!(journal.graph[0].client_id.as_deref(), Some(CLIENT_ID));
}
