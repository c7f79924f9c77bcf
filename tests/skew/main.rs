//! The operator's binary beside a CRD, statuses and credentials of another version: `cargo test --test skew`. Each test has a
//! control plane of its own, because a CRD is for the whole cluster.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its harness too")]

#[path = "../cluster/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests that need no control plane of their own")]
mod harness;
#[path = "../outage/plane.rs"]
#[expect(dead_code, reason = "shared with the tests that make it fail")]
mod plane;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entra_simulator::{CLIENT_ID, Config, Outcome, Rotation, Simulator};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::harness::objects::credential;
use crate::harness::{Gt, Issuer, Options, World, delegated};
use crate::plane::Plane;

/// Well within this, whatever is awaited takes place, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(90);

async fn strict(world: &World, config: Config) -> Simulator {
    let entra = world.entra(Config { rotation: Rotation::Strict, ..config }).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    entra
}

/// Replaces the schema of `GraphToken`s, and waits until the API server goes by it: until `is_so` holds of a patched status.
async fn schema(world: &World, change: impl Fn(&mut Value)) {
    let crds: Api<CustomResourceDefinition> = Api::all(world.cluster.client.clone());
    let mut crd = json!(crds.get("graphtokens.graphtoken.io").await.unwrap());
    change(&mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    let patch = json!([{"op": "replace", "path": "/spec/versions", "value": crd["spec"]["versions"]}]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(patch).unwrap());
    crds.patch("graphtokens.graphtoken.io", &PatchParams::default(), &patch).await.unwrap();
}

/// As a newer version has it, of which nothing is known: everything is taken.
fn open(schema: &mut Value) {
    *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
}

/// The words that the version before knew: all that this one says but `TokenValid`.
fn closed(schema: &mut Value) {
    let reasons = json!([
        "TokenPending",
        "TokenExpired",
        "TargetConflict",
        "Succeeded",
        "Suspended",
        "Accepted",
        "TokenRejected",
        "ProbeFailed",
        "Progressing",
        "AuthorizationRequired",
        "WrongAccount",
        "InvalidConfiguration",
        "Throttled",
        "ProviderUnavailable",
        "StorageUnavailable"
    ]);
    let types = json!(["Stalled", "Ready", "Refreshed", "Verified", "Reconciling"]);
    let status = &mut schema["properties"]["status"]["properties"];
    let condition = &mut status["conditions"]["items"]["properties"];
    condition["type"] = json!({"type": "string", "enum": types});
    condition["reason"] = json!({"type": "string", "enum": reasons});
    for of in ["lastFailure", "lastProbe"] {
        status[of]["properties"]["reason"] = json!({"type": "string", "enum": reasons});
    }
    let sources = json!(["Seed", "DeviceCode", "Login"]);
    status["signedIn"]["properties"]["source"] = json!({"type": "string", "enum": sources});
}

async fn write_status(world: &World, patch: Value) -> kube::Result<DynamicObject> {
    let patch = json!({"status": patch});
    world.graphtokens().patch_status("mail", &PatchParams::default(), &Patch::Merge(&patch)).await
}

async fn edit_record(world: &World, edit: impl Fn(&mut Value)) {
    let name = credential("mail");
    let mut record: Value = serde_json::from_str(&world.data(&name).await["record.json"]).unwrap();
    edit(&mut record);
    let patch = json!({"data": {"record.json": STANDARD.encode(record.to_string())}});
    world.secrets().patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

fn issued(entra: &Simulator) -> usize {
    let journal = entra.journal();
    let issued = journal.count(Outcome::Issued);
    assert_eq!(journal.token.len(), issued, "nothing is sent twice: {:#?}", journal.token);
    issued
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_wrote_survives_and_refreshes_continue() {
    let plane = Plane::up().await;
    World::run_on(plane.cluster.clone(), "newer", async |world| {
        let entra = strict(world, Config::default()).await;
        let operator = world.operator(Options::default()).await;
        let gt = world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        drop(gt);
        let gt = world.until("mail", "ready", Gt::ready).await;
        world.stop(&operator).await;

        schema(world, open).await;
        let later = json!({"type": "Sealed", "status": "True", "reason": "Sealed", "message": "it is", "severity": "Info",
            "lastTransitionTime": "2026-11-23T10:00:00Z"});
        let mut conditions = gt.status("/conditions").clone();
        conditions.as_array_mut().unwrap().push(later.clone());
        conditions[0]["reason"] = json!("TokenSealed");
        let foreign = json!({
            "sealingKey": {"id": "k1"}, "consecutiveFailures": -1, "target": "mail/7", "conditions": conditions,
            "lastProbe": {"reason": "Unheard", "hint": 5},
        });
        // Until the API server goes by the new schema.
        timeout(PATIENCE, async {
            while write_status(world, foreign.clone()).await.map_or(true, |gt| gt.data["status"]["sealingKey"].is_null()) {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await
        .unwrap();
        edit_record(world, |record| {
            record["signedIn"]["source"] = json!("Passkey");
            record["sealedWith"] = json!({"key": "k1"});
        })
        .await;

        world.operator(Options::default()).await;
        world.request_refresh("mail", "now").await;
        let gt = world.until("mail", "refreshed", |gt| gt.refresh_count() == 2 && gt.ready()).await;
        assert_eq!(gt.condition("Ready"), Some(("True", "TokenValid")));
        assert_eq!(*gt.status("/sealingKey"), json!({"id": "k1"}));
        assert_eq!(*gt.status("/signedIn/source"), json!("Passkey"));
        assert!(gt.status("/conditions").as_array().unwrap().contains(&later), "{:#}", gt.status("/conditions"));
        let record: Value = serde_json::from_str(&world.data(&credential("mail")).await["record.json"]).unwrap();
        assert_eq!((&record["sealedWith"], &record["signedIn"]["source"]), (&json!({"key": "k1"}), &json!("Passkey")));
        assert_eq!(issued(&entra), 2);

        // A spec that this version cannot read: it is said, and nothing else is changed.
        let before = world.graphtoken("mail").await;
        let patch = json!({"spec": {"scopes": 5}});
        world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let invalid = Some(("True", "InvalidConfiguration"));
        let gt = world.until("mail", "stalled", |gt| gt.condition("Stalled") == invalid).await;
        let but_for_these = |gt: &Gt| {
            let mut status = gt.status("").clone();
            status.as_object_mut().unwrap().retain(|key, _| key != "conditions" && key != "observedGeneration");
            status
        };
        assert_eq!(but_for_these(&gt), but_for_these(&before));
        assert!(gt.status("/conditions").as_array().unwrap().contains(&later));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crd_of_an_older_version_costs_no_refresh() {
    let plane = Plane::up().await;
    World::run_on(plane.cluster.clone(), "older", async |world| {
        schema(world, closed).await;
        let config = Config { token_lifetime: Duration::from_secs(20), ..Config::default() };
        let entra = strict(world, config).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        let valid = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "TokenValid", "message": "",
            "lastTransitionTime": "2026-11-23T10:00:00Z"}]});
        timeout(PATIENCE, async {
            while write_status(world, valid.clone()).await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await
        .unwrap();
        let operator = world.operator(Options::default()).await;
        timeout(PATIENCE, entra.journal_until(|journal| journal.count(Outcome::Issued) == 4)).await.unwrap();
        issued(&entra);
        let log = std::fs::read_to_string(operator.log()).unwrap();
        let says = log.lines().find(|line| line.contains("422 Invalid")).unwrap_or_else(|| panic!("nothing is said:\n{log}"));
        assert!(says.contains("WARN") && says.contains("status.conditions[0].reason"), "{says}");
        assert!(!says.contains("TokenValid"), "the value is not shown: {says}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_later_format_is_neither_used_nor_written() {
    World::run("format", async |world| {
        let entra = strict(world, Config::default()).await;
        world.operator(Options::default()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "ready", Gt::ready).await;
        edit_record(world, |record| record["format"] = json!(2)).await;
        let version = |secret: k8s_openapi::api::core::v1::Secret| secret.metadata.resource_version;
        let before = version(world.secrets().get(&credential("mail")).await.unwrap());
        world.request_refresh("mail", "now").await;
        let invalid = Some(("True", "InvalidConfiguration"));
        let gt = world.until("mail", "stalled", |gt| gt.condition("Stalled") == invalid).await;
        assert!(gt.ready(), "the token that pods have is still good");
        let conditions = gt.status("/conditions").to_string();
        assert!(conditions.contains("record.json in Secret mail-graphtoken-credential"), "{conditions}");
        assert_eq!(version(world.secrets().get(&credential("mail")).await.unwrap()), before);
        assert_eq!(issued(&entra), 1);
        // The version that wrote it is back.
        edit_record(world, |record| record["format"] = json!(1)).await;
        world
            .until("mail", "refreshed", |gt| gt.refresh_count() == 2 && gt.condition("Stalled").is_none())
            .await;
        assert_eq!(issued(&entra), 2);
    })
    .await;
}
