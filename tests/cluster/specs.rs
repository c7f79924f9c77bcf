//! Which specs the API server takes and which it refuses, and that it says why.

use kube::Api;
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::harness::objects::clustergraphclient_resource;
use crate::harness::{Issuer, World, app_only, delegated, repository};

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

fn metadata(field: &str, key: &str, value: &str) -> [(&'static str, Value); 1] {
    [("target", json!({field: {key: value}}))]
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
        with(&target(&json!([
            {"key": "a", "format": "OAuth2"}, {"key": "b", "format": "AuthorizationHeader"},
            {"key": "c", "template": "T={{ access_token }}\n"},
        ]))),
        with(&[(
            "target",
            json!({"labels": {"team": "etl", "example.com/a.b_c": ""}, "annotations": {"kubernetes.ion/a": "ü"}}),
        )]),
        with(&[("target", json!({"includeRefreshToken": true}))]),
        with(&[(
            "target",
            json!({"restart": [
                {"kind": "Deployment", "name": "a"}, {"kind": "StatefulSet", "name": "a"}, {"kind": "DaemonSet", "name": "a"},
            ]}),
        )]),
        app(&[("target", json!({"includeRefreshToken": false}))]),
        named(&"n".repeat(63)),
        on_client(&[]),
        on_client(&[("clientRef", json!({"name": "mail"}))]),
        on_client(&[("clientRef", json!({"kind": "ClusterGraphClient", "name": "mail.example"}))]),
        on_client(&[("grant", json!({"clientCredentials": {}})), ("scopes", Value::Null)]),
    ]
}

/// A delegated spec that leaves its client to the platform team, with some members changed.
fn on_client(patch: &[(&str, Value)]) -> Value {
    let none = ["tenant", "clientId", "endpoints"].map(|member| (member, Value::Null));
    changed(with(&none), patch)
}

/// A client for all, with some members changed.
fn client(patch: &[(&str, Value)]) -> Value {
    let object = json!({
        "apiVersion": "graphtoken.io/v1alpha1",
        "kind": "ClusterGraphClient",
        "metadata": {"name": "specs"},
        "spec": {
            "tenant": "contoso.onmicrosoft.com",
            "clientId": "11111111-2222-3333-4444-555555555555",
            "clientAuth": {"secretRef": {"name": "app", "key": "client-secret"}},
            "allow": {"namespaceSelector": {"matchLabels": {"team": "etl"}}, "grants": ["refreshToken"]},
        },
    });
    changed(object, patch)
}

fn allow(selector: &Value, grants: &Value) -> [(&'static str, Value); 1] {
    [("allow", json!({"namespaceSelector": selector, "grants": grants}))]
}

fn in_expression(expression: &Value) -> [(&'static str, Value); 1] {
    allow(&json!({"matchExpressions": [expression]}), &json!(["deviceCode"]))
}

fn good_clients() -> Vec<Value> {
    vec![
        client(&[]),
        client(&[("allow", Value::Null)]),
        client(&[("allow", json!({}))]),
        client(&[("clientAuth", Value::Null)]),
        client(&[("clientAuth", json!({"certificateRef": {"name": "app-cert"}}))]),
        client(&[("clientAuth", json!({"workloadIdentity": {"serviceAccountName": "etl"}}))]),
        client(&[("cloud", json!("China"))]),
        client(&allow(&json!({}), &json!(["refreshToken", "deviceCode", "clientCredentials"]))),
        client(&in_expression(&json!({"key": "team", "operator": "In", "values": ["etl", "web"]}))),
        client(&in_expression(&json!({"key": "example.com/team", "operator": "Exists"}))),
    ]
}

fn bad_clients() -> Vec<(Value, &'static str)> {
    let both = json!({"secretRef": {"name": "app", "key": "k"}, "certificateRef": {"name": "app-cert"}});
    vec![
        (client(&[("tenant", Value::Null)]), "tenant"),
        (client(&[("tenant", json!("../x"))]), "tenant"),
        (client(&[("clientId", Value::Null)]), "clientId"),
        (client(&[("clientId", json!("a b"))]), "clientId"),
        (client(&[("cloud", json!("Mars"))]), "cloud"),
        (client(&[("endpoints", json!({"token": "ftp://x.example"}))]), "endpoints.token"),
        (client(&[("clientAuth", json!({}))]), "exactly one of"),
        (client(&[("clientAuth", both)]), "exactly one of"),
        (client(&allow(&json!({}), &json!(["password"]))), "grants"),
        (client(&allow(&json!({}), &json!(["deviceCode", "deviceCode"]))), "Duplicate"),
        (client(&allow(&json!({"matchLabels": {"team": "x".repeat(64)}}), &json!([]))), "matchLabels"),
        (client(&in_expression(&json!({"key": "team", "operator": "In"}))), "need values"),
        (
            client(&in_expression(&json!({"key": "team", "operator": "Exists", "values": ["etl"]}))),
            "have none",
        ),
        (client(&in_expression(&json!({"key": "team", "operator": "Like", "values": ["e"]}))), "operator"),
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
        (with(&[("endpoints", json!({"token": "https://x.example/ y"}))]), "endpoints.token"),
        (
            with(&[("endpoints", json!({"token": "https://x.example/t", "graph": "https://x.example/?g"}))]),
            "endpoints.graph",
        ),
        (with(&[("tenant", json!("a/../b"))]), "tenant"),
        (with(&[("tenant", json!("a%2fb"))]), "tenant"),
        (with(&[("tenant", json!(".."))]), "tenant"),
        (with(&[("verify", json!({"path": "me"}))]), "verify.path"),
        (with(&[("verify", json!({"path": "/\\x.example"}))]), "verify.path"),
        (with(&[("verify", json!({"path": "/me#x"}))]), "verify.path"),
        (with(&[("verify", json!({"path": "/me\nHost: x.example"}))]), "verify.path"),
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
        (with(&target(&json!([{"key": "a"}]))), "exactly one of format and template"),
        (
            with(&target(&json!([{"key": "a", "format": "O365", "template": "x"}]))),
            "exactly one of format and template",
        ),
        (with(&target(&json!([{"key": "a", "template": "x".repeat(16385)}]))), "template"),
        (with(&metadata("labels", "graphtoken.io/name", "x")), "reserved"),
        (with(&metadata("labels", "app.kubernetes.io/name", "x")), "reserved"),
        (with(&metadata("annotations", "kubernetes.io/x", "x")), "reserved"),
        (with(&metadata("labels", "-team", "x")), "a key is a name"),
        (with(&metadata("annotations", "Example.com/x", "x")), "a key is a name"),
        (with(&metadata("annotations", "a..b/x", "x")), "a key is a name"),
        (with(&metadata("labels", "a-.b/x", "x")), "a key is a name"),
        (with(&metadata("labels", &"n".repeat(64), "x")), "a key is a name"),
        (with(&metadata("labels", "team", "a b")), "labels"),
        (with(&[("target", json!({"restart": [{"kind": "Job", "name": "a"}]}))]), "restart"),
        (with(&[("target", json!({"restart": [{"kind": "Deployment", "name": "A!"}]}))]), "restart"),
        (
            with(&[(
                "target",
                json!({"restart": [{"kind": "Deployment", "name": "a"}, {"kind": "Deployment", "name": "a"}]}),
            )]),
            "Duplicate",
        ),
        (app(&[("target", json!({"includeRefreshToken": true}))]), "there is no refresh token"),
        (app(&[("clientAuth", Value::Null)]), "needs clientAuth"),
        (app(&[("account", json!("a@b.c"))]), "no user signs in"),
        (app(&[("tenant", json!("Common"))]), "one tenant"),
        (app(&[("scopes", json!(["Mail.Read"]))]), "takes one scope"),
        (app(&[("target", json!({"secretName": "proof"}))]), "client secret's Secret"),
        (named("seed"), "seed Secret"),
        (with(&[("clientId", Value::Null)]), "go together"),
        (with(&[("clientRef", json!({"name": "mail"}))]), "clientRef stands instead"),
        (on_client(&[("clientAuth", json!({"secretRef": reference["secretRef"]}))]), "has its own"),
        (on_client(&[("cloud", json!("China"))]), "has its own"),
        (on_client(&[("clientRef", json!({"name": "Mail!"}))]), "clientRef.name"),
        (on_client(&[("clientRef", json!({"kind": "GraphClient", "name": "mail"}))]), "clientRef.kind"),
        (named("x-graphtoken-login"), "may not end in"),
        (named(&"n".repeat(64)), "at most 63"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_good_specs_and_says_what_is_wrong_with_bad_ones() {
    World::run("specs", async |world| {
        let api = world.graphtokens();
        taken_or_refused(&api, good(), bad()).await;
        let client = world.cluster.client.clone();
        let clients = Api::all_with(client, &clustergraphclient_resource());
        taken_or_refused(&clients, good_clients(), bad_clients()).await;
    })
    .await;
}

/// What users copy.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_every_example() {
    World::run("examples", async |world| {
        let mut taken = 0;
        let entries = std::fs::read_dir(repository().join("examples")).unwrap();
        for folder in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "yaml") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
                for object in objects.into_iter().filter(|object| object["kind"] == "GraphToken") {
                    // As the API server stores it: what it would drop is a mistake.
                    let mut spec = world.dry_run(&object).await.unwrap_or_else(|e| panic!("{path:?}: {e}"));
                    assert_eq!(spec.0.data["spec"].take(), object["spec"], "{path:?}");
                    taken += 1;
                }
            }
        }
        assert!(taken >= 5, "{taken}");
    })
    .await;
}

async fn taken_or_refused(api: &Api<DynamicObject>, good: Vec<Value>, bad: Vec<(Value, &str)>) {
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    for object in good {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        api.create(&dry_run, &object).await.unwrap_or_else(|e| panic!("{e}: {object:?}"));
    }
    for (object, says) in bad {
        let parsed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        match api.create(&dry_run, &parsed).await {
            Err(kube::Error::Api(refused)) => {
                assert!(refused.message.contains(says), "{:?} does not say {says:?}", refused.message);
            }
            other => panic!("it was taken: {object:#} {other:?}"),
        }
    }
}
