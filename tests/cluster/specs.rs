//! Which specs the API server takes and which it refuses, and that it says why.

use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::harness::{Issuer, World, app_only, delegated};

fn issuer() -> Issuer {
    Issuer {
        tenant: "contoso.onmicrosoft.com".to_owned(),
        client_id: "11111111-2222-3333-4444-555555555555".to_owned(),
        token_url: "https://login.example.com/token".to_owned(),
    }
}

/// A delegated spec with some members changed.
fn with(patch: &[(&str, Value)]) -> Value {
    changed(delegated("mail", &issuer(), "seed"), patch)
}

/// An app-only spec at Entra itself with some members changed.
fn app(patch: &[(&str, Value)]) -> Value {
    let mut object = app_only("mail", &issuer(), "proof");
    object["spec"].as_object_mut().unwrap().remove("endpoints");
    changed(object, patch)
}

fn changed(mut object: Value, patch: &[(&str, Value)]) -> Value {
    for (member, value) in patch {
        if value.is_null() {
            object["spec"].as_object_mut().unwrap().remove(*member);
        } else {
            object["spec"][*member] = value.clone();
        }
    }
    object
}

fn target(data: &Value) -> [(&'static str, Value); 1] {
    [("target", json!({"data": data}))]
}

fn named(name: &str) -> Value {
    let mut object = with(&[]);
    object["metadata"]["name"] = json!(name);
    object
}

fn good() -> Vec<Value> {
    vec![
        with(&[]),
        app(&[]),
        app(&[("scopes", json!([".default"]))]),
        app(&[("scopes", json!(["https://graph.microsoft.com/.default"]))]),
        with(&[("tenant", json!("common"))]),
        with(&[("clientId", json!("my_app.1~x"))]),
        with(&[("scopes", json!([".default", "offline_access"]))]),
        with(&[("cloud", json!("USGovDoD"))]),
        with(&[("account", json!("etl@contoso.com"))]),
        with(&[("refresh", json!({"renewBefore": "1h30m"}))]),
        with(&[("refresh", json!({"renewBeforePercentage": 99}))]),
        with(&[("credentialRetention", json!("0s"))]),
        with(&[("target", json!({"secretName": "other", "deletionPolicy": "Retain"}))]),
        with(&target(&json!([{"key": "a", "format": "AccessToken"}, {"key": "b", "format": "O365"}]))),
        named(&"n".repeat(63)),
    ]
}

fn bad() -> Vec<(Value, &'static str)> {
    let reference = json!({"secretRef": {"name": "seed", "key": "token"}});
    vec![
        (with(&[("tenant", Value::Null)]), "tenant"),
        (with(&[("tenant", json!("../x"))]), "tenant"),
        (with(&[("clientId", json!("a b"))]), "clientId"),
        (with(&[("cloud", json!("Mars"))]), "cloud"),
        (with(&[("grant", json!({}))]), "exactly one of"),
        (with(&[("grant", json!({"refreshToken": reference, "clientCredentials": {}}))]), "exactly one of"),
        (with(&[("grant", json!({"refreshToken": {"secretRef": {"name": "Seed!", "key": "k"}}}))]), "name"),
        (with(&[("scopes", Value::Null)]), "scopes must say"),
        (with(&[("scopes", json!([]))]), "scopes"),
        (with(&[("scopes", json!(["a b"]))]), "scopes"),
        (with(&[("scopes", json!(["x", "x"]))]), "Duplicate"),
        (with(&[("scopes", json!([".default", "Mail.Read"]))]), "not mixed"),
        (with(&[("endpoints", json!({"token": "ftp://x.example"}))]), "endpoints.token"),
        (with(&[("endpoints", json!({"token": "https://u:p@x.example/"}))]), "endpoints.token"),
        (with(&[("refresh", json!({"renewBefore": "5m", "renewBeforePercentage": 5}))]), "at most one"),
        (with(&[("refresh", json!({"renewBefore": "0s"}))]), "more than 0s"),
        (with(&[("refresh", json!({"renewBefore": "5 minutes"}))]), "renewBefore"),
        (with(&[("refresh", json!({"renewBeforePercentage": 100}))]), "renewBeforePercentage"),
        (with(&[("credentialRetention", json!("7d"))]), "credentialRetention"),
        (with(&[("credentialRetention", json!("9000h"))]), "at most 8760h"),
        (with(&[("target", json!({"secretName": "seed"}))]), "seed Secret"),
        (with(&[("target", json!({"secretName": "x-graphtoken-credential"}))]), "may not end in"),
        (with(&[("target", json!({"deletionPolicy": "Orphan"}))]), "deletionPolicy"),
        (with(&target(&json!([]))), "data"),
        (with(&target(&json!([{"key": "..x", "format": "O365"}]))), "kubelet"),
        (with(&target(&json!([{"key": "a/b", "format": "O365"}]))), "key"),
        (with(&target(&json!([{"key": "a", "format": "Xml"}]))), "format"),
        (
            with(&target(&json!([{"key": "a", "format": "O365"}, {"key": "a", "format": "O365"}]))),
            "Duplicate",
        ),
        (app(&[("clientAuth", Value::Null)]), "needs clientAuth"),
        (app(&[("account", json!("a@b.c"))]), "no user signs in"),
        (app(&[("tenant", json!("Common"))]), "one tenant"),
        (app(&[("scopes", json!(["Mail.Read"]))]), "takes one scope"),
        (app(&[("target", json!({"secretName": "proof"}))]), "client secret's Secret"),
        (named("seed"), "seed Secret"),
        (named("x-graphtoken-login"), "may not end in"),
        (named(&"n".repeat(64)), "at most 63"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_good_specs_and_says_what_is_wrong_with_bad_ones() {
    World::run("specs", async |world| {
        let api = world.graphtokens();
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        for object in good() {
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            api.create(&dry_run, &object).await.unwrap_or_else(|e| panic!("{e}: {object:?}"));
        }
        for (object, says) in bad() {
            let parsed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
            match api.create(&dry_run, &parsed).await {
                Err(kube::Error::Api(refused)) => {
                    assert!(refused.message.contains(says), "{:?} does not say {says:?}", refused.message);
                }
                other => panic!("it was taken: {object:#} {other:?}"),
            }
        }
    })
    .await;
}
