//! The Secret that pods mount: kept as it was written, whatever is done to it, and let go as its `GraphToken` says.

use std::collections::BTreeMap;

use entra_simulator::{CLIENT_ID, Client, Config, Outcome, Simulator};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};

use crate::harness::objects::credential;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

async fn patch_secret(world: &World, name: &str, patch: &Value) {
    world.secrets().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn patch_spec(world: &World, name: &str, spec: &Value) {
    let patch = json!({"spec": spec});
    world.graphtokens().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

async fn until_secret(world: &World, name: &str, wanted: impl Fn(&Secret) -> bool) -> Secret {
    let wanted = |secret: Option<&Secret>| secret.is_some_and(&wanted);
    await_condition(world.secrets(), name, wanted).await.unwrap().unwrap()
}

fn holds(secret: &Secret, data: &BTreeMap<String, String>) -> bool {
    let found = secret.data.clone().unwrap_or_default();
    found.len() == data.len()
        && data.iter().all(|(key, text)| found.get(key).is_some_and(|b| b.0 == text.as_bytes()))
}

fn labels(secret: &Secret) -> BTreeMap<String, String> {
    secret.metadata.labels.clone().unwrap_or_default()
}

async fn mail(world: &World, options: Options) -> Simulator {
    let clients = vec![Client::public(CLIENT_ID), Client::confidential("app", "right-secret")];
    let entra = world.entra(Config { clients, ..Config::default() }).await;
    world.operator(options).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
    world.until("mail", "Ready", Gt::ready).await;
    entra
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_edited_or_deleted_is_repaired_without_an_exchange() {
    World::run("repair", async |world| {
        let entra = mail(world, Options::default()).await;
        let data = world.data("mail").await;

        patch_secret(world, "mail", &json!({"stringData": {"token": "edited"}})).await;
        until_secret(world, "mail", |secret| holds(secret, &data)).await;
        patch_secret(world, "mail", &json!({"data": {"o365_token.txt": null}})).await;
        until_secret(world, "mail", |secret| holds(secret, &data)).await;
        // As a restore from a backup would leave it.
        patch_secret(
            world,
            "mail",
            &json!({"metadata": {"ownerReferences": null, "labels": {"graphtoken.io/name": "mail"},
            "annotations": {"graphtoken.io/token": null}}}),
        )
        .await;
        until_secret(world, "mail", |s| s.metadata.owner_references.is_some() && holds(s, &data)).await;
        let before = world.secrets().get("mail").await.unwrap().metadata.uid;
        world.secrets().delete("mail", &DeleteParams::default()).await.unwrap();
        let back = until_secret(world, "mail", |s| s.metadata.uid != before && holds(s, &data)).await;
        assert!(back.metadata.owner_references.is_some());

        // What others add is theirs.
        patch_secret(world, "mail", &json!({"metadata": {"labels": {"team": "etl"}}})).await;
        patch_secret(world, "mail", &json!({"stringData": {"token": "edited"}})).await;
        let repaired = until_secret(world, "mail", |s| holds(s, &data)).await;
        assert_eq!(labels(&repaired)["team"], "etl");
        assert_eq!(entra.journal().count(Outcome::Issued), 1, "the credential's token is written again");
        world.until("mail", "Ready again", Gt::ready).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_only_target_is_repaired_at_the_cost_of_one_exchange() {
    World::run("repair-app", async |world| {
        let entra = mail(world, Options::default()).await;
        world.secret("proof", "client-secret", "right-secret").await;
        world.create(&app_only("app", &Issuer::entra(&entra, "app"), "proof")).await;
        world.until("app", "Ready", Gt::ready).await;
        let issued = entra.journal().count(Outcome::Issued);

        // Metadata alone is mended with what is there.
        patch_secret(world, "app", &json!({"metadata": {"ownerReferences": null}})).await;
        until_secret(world, "app", |s| s.metadata.owner_references.is_some()).await;
        assert_eq!(entra.journal().count(Outcome::Issued), issued);

        patch_secret(world, "app", &json!({"stringData": {"token": "edited"}})).await;
        until_secret(world, "app", |s| {
            let token = s.data.as_ref().and_then(|data| data.get("token")).cloned().unwrap_or_default();
            entra.is_active(&String::from_utf8(token.0).unwrap())
        })
        .await;
        assert_eq!(entra.journal().count(Outcome::Issued), issued + 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_target_outlives_its_graphtoken_and_is_taken_up_again() {
    World::run("retain", async |world| {
        let entra = mail(world, Options::default()).await;
        // A change of mind reaches the Secret that is there already.
        patch_spec(world, "mail", &json!({"target": {"deletionPolicy": "Retain"}})).await;
        let kept = until_secret(world, "mail", |s| s.metadata.owner_references.is_none()).await;
        world.until("mail", "settled", Gt::ready).await;
        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();
        until_secret(world, &credential("mail"), |secret| {
            secret.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("graphtoken.io/delete-after"))
        })
        .await;
        assert_eq!(world.secrets().get("mail").await.unwrap().metadata.uid, kept.metadata.uid);

        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "Ready", Gt::ready).await;
        let again = world.secrets().get("mail").await.unwrap();
        assert_eq!(again.metadata.uid, kept.metadata.uid, "it is the same Secret: pods kept their file");
        assert!(again.metadata.owner_references.is_some());
        assert_eq!(entra.journal().count(Outcome::Issued), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_target_leaves_nothing_behind() {
    World::run("rename", async |world| {
        let entra = mail(world, Options::default()).await;
        let keys = json!({"data": [{"key": "bearer", "format": "AccessToken"}]});
        patch_spec(world, "mail", &json!({"target": keys})).await;
        until_secret(world, "mail", |s| s.data.as_ref().is_some_and(|data| data.keys().eq(["bearer"]))).await;

        let former = world.secrets().get("mail").await.unwrap().metadata.uid.unwrap();
        patch_spec(world, "mail", &json!({"target": {"secretName": "mail-two"}})).await;
        until_secret(world, "mail-two", |s| s.data.as_ref().is_some_and(|data| data.contains_key("bearer")))
            .await;
        await_condition(world.secrets(), "mail", conditions::is_deleted(&former)).await.unwrap();
        let gt = world.until("mail", "Ready under the new name", Gt::ready).await;
        assert_eq!(*gt.status("/secretName"), json!("mail-two"));
        assert_eq!(entra.journal().count(Outcome::Issued), 1, "no exchange: the token is the same");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_the_operators_settings_are_on_every_secret() {
    World::run("labels", async |world| {
        mail(world, Options::default().flag("--secret-label=team=platform")).await;
        for name in ["mail".to_owned(), credential("mail")] {
            let found = labels(&world.secrets().get(&name).await.unwrap());
            let expected = [
                ("app.kubernetes.io/managed-by", "graphtoken-operator"),
                ("graphtoken.io/name", "mail"),
                ("team", "platform"),
            ];
            let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!(found, BTreeMap::from(expected), "{name}");
        }
    })
    .await;
}
