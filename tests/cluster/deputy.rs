//! No confused deputy: nothing that a tenant can write makes the operator use its rights on what is not that tenant's, or on what its
//! owner did not hand over.

use entra_simulator::{CLIENT_ID, Client, Config, Outcome};
use futures::future::join;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

use crate::harness::objects::{credential, secret_ref};
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

const APP: &str = "44444444-5555-6666-7777-888888888888";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";

fn issuer() -> Issuer {
    Issuer {
        tenant: "contoso.onmicrosoft.com".to_owned(),
        client_id: CLIENT_ID.to_owned(),
        token_url: "https://login.example.com/token".to_owned(),
    }
}

/// Each reference that a spec can have: by the object that names something in it, and the member that has the name.
fn references() -> Vec<(Value, &'static str, &'static str)> {
    let seeded = delegated("mail", &issuer(), "seed");
    let with = |auth: Value| {
        let mut object = app_only("app", &issuer(), "unused");
        object["spec"]["clientAuth"] = auth;
        object
    };
    let mut restarts = seeded.clone();
    restarts["spec"]["target"] = json!({"restart": [{"kind": "Deployment", "name": "reader"}]});
    let mut target = seeded.clone();
    target["spec"]["target"] = json!({"secretName": "target"});
    let mut on_client = seeded.clone();
    for member in ["tenant", "clientId", "endpoints"] {
        on_client["spec"].as_object_mut().unwrap().remove(member);
    }
    on_client["spec"]["clientRef"] = json!({"name": "platform"});
    vec![
        (seeded, "/spec/grant/refreshToken/secretRef", "name"),
        (with(secret_ref("proof")), "/spec/clientAuth/secretRef", "name"),
        (with(json!({"certificateRef": {"name": "proof"}})), "/spec/clientAuth/certificateRef", "name"),
        (
            with(json!({"workloadIdentity": {"serviceAccountName": "etl"}})),
            "/spec/clientAuth/workloadIdentity",
            "serviceAccountName",
        ),
        (target, "/spec/target", "secretName"),
        (restarts, "/spec/target/restart/0", "name"),
        (on_client, "/spec/clientRef", "name"),
    ]
}

/// What would name something elsewhere, if a name were put into a path as it is.
const ELSEWHERE: [&str; 6] = [
    "victim/seed",
    "../../victim/secrets/seed",
    "..",
    "%2e%2e%2fvictim",
    "victim:seed",
    "seed?namespace=victim",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_reference_can_name_anything_of_another_namespace() {
    World::run("references", async |world| {
        for (object, at, member) in references() {
            world.dry_run(&object).await.unwrap_or_else(|error| panic!("{at}: {error}"));
            for name in ELSEWHERE {
                let mut object = object.clone();
                object.pointer_mut(at).unwrap()[member] = json!(name);
                match world.dry_run(&object).await {
                    Err(kube::Error::Api(refused)) => {
                        assert_eq!(refused.code, 422, "{at} {name}: {}", refused.message);
                        assert!(refused.message.contains(member), "{at} {name}: {}", refused.message);
                    }
                    other => panic!("{at} takes {name}: {other:?}"),
                }
            }
            // There is no such member: it is dropped, and what is named is of the GraphToken's own namespace.
            let mut object = object.clone();
            object.pointer_mut(at).unwrap()["namespace"] = json!("victim");
            let taken = world.dry_run(&object).await.unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_eq!(json!(taken.0.data).pointer(at).unwrap().get("namespace"), None, "{at}");
        }
    })
    .await;
}

/// Name of the Secret, and what its owner wrote on it.
fn spoofs(own: &Gt) -> Vec<(&'static str, Value)> {
    let managed = ("app.kubernetes.io/managed-by", "graphtoken-operator");
    let named = |name: &str| json!({"labels": {managed.0: managed.1, "graphtoken.io/name": name}});
    let owner = json!([{
        "apiVersion": "graphtoken.io/v1alpha1", "kind": "GraphToken", "name": "own", "uid": own.uid(), "controller": true,
    }]);
    vec![
        ("plain", json!({})),
        ("managed", json!({"labels": {managed.0: managed.1}})),
        (
            "managed-by-another",
            json!({"labels": {managed.0: "Helm", "graphtoken.io/name": "managed-by-another"}}),
        ),
        ("labelled", json!({"labels": {"graphtoken.io/name": "labelled"}})),
        ("of-another", named("own")),
        ("of-a-dead-one", named("dead")),
        ("uid-of-another", json!({"annotations": {"graphtoken.io/uid": own.uid()}})),
        ("owned-by-another", json!({"ownerReferences": owner})),
        ("adopted-by-another", json!({"annotations": {"graphtoken.io/adopt": "own"}})),
        ("adopted-by-nobody", json!({"annotations": {"graphtoken.io/adopt": ""}})),
        (
            "published",
            json!({"annotations": {"graphtoken.io/token": "{}", "graphtoken.io/expires-at": "2099-01-01T00:00:00Z"}}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_written_only_where_both_labels_or_its_owners_leave_say_so() {
    World::run("spoofs", async |world| {
        let clients = vec![Client::confidential(APP, CLIENT_SECRET)];
        let entra = world.entra(Config { clients, ..Config::default() }).await;
        let operator = world.operator(Options::default()).await;
        world.secret("proof", "client-secret", CLIENT_SECRET).await;
        // A second one, so that the first may be named as a target.
        world.secret("another-proof", "client-secret", CLIENT_SECRET).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let issuer = Issuer::entra(&entra, APP);
        world.create(&app_only("own", &issuer, "proof")).await;
        let own = world.until("own", "Ready", Gt::ready).await;

        let mut planted = Vec::new();
        for (name, metadata) in spoofs(&own) {
            let mut secret = json!({"metadata": metadata, "stringData": {"token": "theirs"}});
            secret["metadata"]["name"] = json!(name);
            let secret: Secret = serde_json::from_value(secret).unwrap();
            planted.push(world.secrets().create(&PostParams::default(), &secret).await.unwrap());
        }
        // What other GraphTokens read or write: a seed, a client's secret, a target.
        for name in ["seed", "proof", "own"] {
            planted.push(world.secrets().get(name).await.unwrap());
        }
        for secret in &planted {
            let name = secret.metadata.name.clone().unwrap();
            let mut object = app_only(&format!("wants-{name}"), &issuer, "another-proof");
            // One that has the name of the Secret where a label could match.
            if !["own", "proof", "seed"].contains(&name.as_str()) {
                object["metadata"]["name"] = json!(name);
            }
            object["spec"]["target"] = json!({"secretName": name});
            world.create(&object).await;
        }
        let mut asked = Vec::new();
        for object in world.graphtokens().list(&ListParams::default()).await.unwrap() {
            let name = object.metadata.name.unwrap();
            if name != "own" {
                let conflicts = |gt: &Gt| gt.condition("Stalled") == Some(("True", "TargetConflict"));
                world.until(&name, "in conflict", conflicts).await;
                asked.push(name);
            }
        }
        assert_eq!(asked.len(), planted.len());
        assert_eq!(entra.journal().count(Outcome::Issued), 1, "no token was got for any of them");
        for name in asked {
            world.graphtokens().delete(&name, &DeleteParams::default()).await.unwrap();
        }
        operator
            .metrics_until(|metrics| metrics.sum("graphtoken_info", &[("namespace", &world.namespace)]) == 1)
            .await;
        world.stop(&operator).await;
        for secret in planted {
            let name = secret.metadata.name.as_deref().unwrap();
            assert_eq!(
                world.secrets().get_opt(name).await.unwrap().as_ref(),
                Some(&secret),
                "{name} was touched"
            );
        }
    })
    .await;
}

/// Two `GraphToken`s that name one target, at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_want_one_target_one_has_it_and_the_other_after_it() {
    World::run("rivals", async |world| {
        let clients = vec![Client::confidential(APP, CLIENT_SECRET)];
        let entra = world.entra(Config { clients, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.secret("proof", "client-secret", CLIENT_SECRET).await;
        let wants = |name| {
            let mut object = app_only(name, &Issuer::entra(&entra, APP), "proof");
            object["spec"]["target"] = json!({"secretName": "shared"});
            object
        };
        let (one, two) = (wants("one"), wants("two"));
        join(world.create(&one), world.create(&two)).await;
        let settled = |gt: &Gt| gt.ready() || gt.condition("Stalled") == Some(("True", "TargetConflict"));
        let (one, two) =
            join(world.until("one", "settled", settled), world.until("two", "settled", settled)).await;
        assert_ne!(one.ready(), two.ready(), "one of them has it");
        let (winner, loser) = if one.ready() { ("one", "two") } else { ("two", "one") };
        let secret = world.secrets().get("shared").await.unwrap();
        assert_eq!(secret.metadata.labels.unwrap()["graphtoken.io/name"], winner);
        world.graphtokens().delete(winner, &DeleteParams::default()).await.unwrap();
        world.until(loser, "Ready once the target is free", Gt::ready).await;
    })
    .await;
}

/// What is left of a `GraphToken` that is gone is deleted by its labels and its name together, and by nothing less.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_not_deleted_for_being_called_like_a_credential() {
    World::run("ghosts", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("living", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("living", "Ready", Gt::ready).await;
        let labels = |name: &str| {
            json!({"app.kubernetes.io/managed-by": "graphtoken-operator", "graphtoken.io/name": name})
        };
        let over = json!({
            "graphtoken.io/credential-retention": "0s", "graphtoken.io/delete-after": "2020-01-01T00:00:00Z",
        });
        let plant = async |name: &str, labels: Value| {
            let secret = json!({
                "metadata": {"name": name, "labels": labels, "annotations": over}, "stringData": {"theirs": "theirs"},
            });
            let secret: Secret = serde_json::from_value(secret).unwrap();
            world.secrets().create(&PostParams::default(), &secret).await.unwrap()
        };
        let foreign = [
            plant(&credential("bare"), json!({})).await,
            plant(&credential("half"), json!({"app.kubernetes.io/managed-by": "graphtoken-operator"})).await,
            plant(&credential("named"), json!({"graphtoken.io/name": "named"})).await,
            plant(&credential("other"), labels("another")).await,
            plant("no-credential", labels("no-credential")).await,
            plant("no", labels("no-credential")).await,
        ];
        // Its GraphToken lives, whatever the annotations say.
        let mark = json!({"metadata": {"annotations": over}});
        let params = PatchParams::default();
        let credential_of = credential("living");
        world.secrets().patch(&credential_of, &params, &Patch::Merge(&mark)).await.unwrap();
        // This one is what it says: when it is gone, the others have been seen.
        plant(&credential("ghost"), labels("ghost")).await;
        let gone = |secret: Option<&Secret>| secret.is_none();
        await_condition(world.secrets(), &credential("ghost"), gone).await.unwrap();
        for secret in foreign {
            let name = secret.metadata.name.as_deref().unwrap();
            assert_eq!(world.secrets().get_opt(name).await.unwrap().as_ref(), Some(&secret), "{name} was touched");
        }
        world.request_refresh("living", "now").await;
        world.until("living", "refreshed", |gt| gt.ready() && gt.refresh_count() == 2).await;
    })
    .await;
}
