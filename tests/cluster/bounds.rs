//! Specs as large as the API server takes them: each becomes ready, or says what is wrong; and what lies beyond a bound is refused.

use std::collections::BTreeMap;

use entra_simulator::{CLIENT_ID, Client, Config};
use serde_json::{Value, json};

use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";

/// So many characters that no pattern refuses, the last ones a number.
fn long(length: usize, number: usize) -> String {
    let number = number.to_string();
    "a".repeat(length.saturating_sub(number.len())) + &number
}

/// Keys of labels and annotations, at their longest.
fn metadata(count: usize, value: usize) -> BTreeMap<String, String> {
    (0..count).map(|n| (format!("{}/{}", long(253, n), long(63, n)), long(value, n))).collect()
}

/// A URL of the provider that is as long as a URL may be.
fn padded(url: &str) -> String {
    let url = format!("{url}?padding=");
    format!("{url}{}", "a".repeat(2048 - url.len()))
}

/// As much of everything as `spec.target` can have. Its texts come to half a megabyte.
fn target() -> Value {
    let text = "{{ access_token }}";
    let entry =
        |n| json!({"key": long(253, n), "template": format!("{}{text}", "x".repeat(16_384 - text.len()))});
    json!({
        "secretName": long(253, 0),
        "deletionPolicy": "Retain",
        "labels": metadata(32, 63),
        "annotations": metadata(32, 4096),
        "data": (0..32).map(entry).collect::<Vec<_>>(),
        "restart": (0..16).map(|n| json!({"kind": "Deployment", "name": long(253, n)})).collect::<Vec<_>>(),
    })
}

/// An app's, with everything at its bound.
fn app(issuer: &Issuer) -> Value {
    let mut object = app_only(&long(63, 0), issuer, &long(253, 1));
    let spec = &mut object["spec"];
    spec["tenant"] = json!(long(253, 0));
    spec["endpoints"]["token"] = json!(padded(&issuer.token_url));
    spec["clientAuth"]["secretRef"]["key"] = json!(long(253, 0));
    spec["scopes"] = json!([format!("{}/.default", "a".repeat(247))]);
    spec["refresh"] = json!({"renewBefore": "168h"});
    spec["verify"] = json!({"interval": "0s", "path": format!("/{}", long(1023, 0))});
    spec["target"] = target();
    object
}

/// A user's, likewise. No user has consented to such scopes.
fn mail(issuer: &Issuer) -> Value {
    let mut object = delegated(&long(63, 1), issuer, &long(253, 2));
    let spec = &mut object["spec"];
    spec["grant"]["refreshToken"]["secretRef"]["key"] = json!(long(253, 0));
    spec["scopes"] = json!((0..64).map(|n| long(256, n)).collect::<Vec<_>>());
    spec["account"] = json!(long(320, 0));
    spec["credentialRetention"] = json!("8760h");
    spec["refresh"] = json!({"renewBeforePercentage": 99});
    spec["verify"] = json!({"interval": "8760h"});
    spec["target"] = target();
    spec["target"]["secretName"] = json!(long(253, 3));
    spec["target"]["includeRefreshToken"] = json!(true);
    object
}

fn message(gt: &Gt, kind: &str) -> String {
    let conditions = gt.status("/conditions").as_array().cloned().unwrap_or_default();
    let condition = conditions.into_iter().find(|condition| condition["type"] == kind);
    condition.and_then(|c| c["message"].as_str().map(str::to_owned)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_with_everything_at_its_bound_is_served_or_says_what_is_wrong() {
    World::run("bounds", async |world| {
        let client_id = long(128, 0);
        let clients = vec![Client::public(CLIENT_ID), Client::confidential(&client_id, CLIENT_SECRET)];
        let entra = world.entra(Config { clients, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.secret(&long(253, 1), &long(253, 0), CLIENT_SECRET).await;
        world.secret(&long(253, 2), &long(253, 0), &entra.mint().unwrap()).await;

        world.create(&app(&Issuer::entra(&entra, &client_id))).await;
        let gt = world.until(&long(63, 0), "Ready", Gt::ready).await;
        assert_eq!(*gt.status("/secretName"), json!(long(253, 0)));
        let written = world.secrets().get(&long(253, 0)).await.unwrap();
        assert_eq!(written.data.unwrap().len(), 32);
        assert_eq!(written.metadata.labels.unwrap().len(), 34);

        world.create(&mail(&Issuer::entra(&entra, CLIENT_ID))).await;
        let stalled = |gt: &Gt| gt.condition("Stalled").is_some();
        let gt = world.until(&long(63, 1), "refused by the provider", stalled).await;
        assert_eq!(gt.condition("Ready").map(|(status, _)| status), Some("False"));
        assert!(message(&gt, "Stalled").len() > 40, "{:?} says nothing", message(&gt, "Stalled"));
    })
    .await;
}

/// One more than each bound.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_a_bound_is_refused_by_the_api_server() {
    World::run("beyond", async |world| {
        let issuer = Issuer {
            tenant: "contoso.onmicrosoft.com".to_owned(),
            client_id: "app".to_owned(),
            token_url: "https://login.example.com/token".to_owned(),
        };
        let app = app(&issuer);
        let mail = mail(&issuer);
        world.dry_run(&app).await.unwrap();
        world.dry_run(&mail).await.unwrap();
        let entries =
            |n: usize| (0..n).map(|n| json!({"key": long(9, n), "format": "O365"})).collect::<Vec<_>>();
        let workloads =
            |n: usize| (0..n).map(|n| json!({"kind": "Deployment", "name": long(9, n)})).collect::<Vec<_>>();
        let beyond = [
            (&app, "/spec/tenant", json!(long(254, 0))),
            (&app, "/spec/clientId", json!(long(129, 0))),
            (&app, "/spec/endpoints/token", json!(padded(&issuer.token_url) + "a")),
            (&app, "/spec/clientAuth/secretRef/name", json!(long(254, 0))),
            (&app, "/spec/clientAuth/secretRef/key", json!(long(254, 0))),
            (&app, "/spec/verify/path", json!(format!("/{}", long(1024, 0)))),
            (&app, "/spec/verify/interval", json!("8761h")),
            (&app, "/spec/refresh/renewBefore", json!("169h")),
            (&app, "/spec/target/secretName", json!(long(254, 0))),
            (&app, "/spec/target/labels", json!(metadata(33, 2))),
            (&app, "/spec/target/labels", json!(metadata(1, 64))),
            (&app, "/spec/target/annotations", json!(metadata(33, 2))),
            (&app, "/spec/target/annotations", json!(metadata(1, 4097))),
            (&app, "/spec/target/data", json!(entries(33))),
            (&app, "/spec/target/data/0/key", json!(long(254, 0))),
            (&app, "/spec/target/data/0/template", json!("x".repeat(16_385))),
            (&app, "/spec/target/restart", json!(workloads(17))),
            (&app, "/spec/target/restart/0/name", json!(long(254, 0))),
            (&mail, "/spec/scopes", json!((0..65).map(|n| long(9, n)).collect::<Vec<_>>())),
            (&mail, "/spec/scopes/0", json!(long(257, 0))),
            (&mail, "/spec/account", json!(long(321, 0))),
            (&mail, "/spec/credentialRetention", json!("8761h")),
            (&mail, "/spec/refresh/renewBeforePercentage", json!(100)),
            (&mail, "/metadata/name", json!(long(64, 0))),
        ];
        for (object, at, value) in beyond {
            let mut object = object.clone();
            *object.pointer_mut(at).unwrap_or_else(|| panic!("no {at}")) = value;
            match world.dry_run(&object).await {
                Err(kube::Error::Api(refused)) => assert_eq!(refused.code, 422, "{at}: {}", refused.message),
                other => panic!("{at} is taken beyond its bound: {:?}", other.map(|_| ())),
            }
        }
    })
    .await;
}

/// They would keep the operator busy, each look anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_burns_fuel_is_refused_in_words_and_before_anything_is_sent() {
    World::run("fuel", async |world| {
        let clients = vec![Client::confidential("app", CLIENT_SECRET)];
        let entra = world.entra(Config { clients, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.secret("proof", "client-secret", CLIENT_SECRET).await;
        let deep = 18;
        let loops = format!("{}{}", "{% for s in scopes %}".repeat(deep), "{% endfor %}".repeat(deep));
        let mut object = app_only("burns", &Issuer::entra(&entra, "app"), "proof");
        object["spec"]["target"] = json!({"data": [{"key": "a", "template": loops}]});
        world.create(&object).await;
        let refused = |gt: &Gt| gt.condition("Stalled") == Some(("True", "InvalidConfiguration"));
        let gt = world.until("burns", "refused", refused).await;
        let says = message(&gt, "Stalled");
        assert!(says.contains("too long to render") && says.contains("fewer loops"), "{says}");
        assert!(entra.journal().token.is_empty(), "nothing was sent");
        // Others are served meanwhile.
        world.create(&app_only("app", &Issuer::entra(&entra, "app"), "proof")).await;
        world.until("app", "Ready", Gt::ready).await;
    })
    .await;
}
