//! A Secret that is not the operator's is never written or deleted, not even one that comes between the operator's look and its write:
//! each kind of write is held before the API server while somebody else's Secret takes the place of what was looked at.

use entra_simulator::{CLIENT_ID, Client, Config, Outcome, Rotation, Simulator, digest};
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};

use crate::harness::gate::Gate;
use crate::harness::objects::credential;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

const APP: &str = "44444444-5555-6666-7777-888888888888";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";
/// A short Lease means short deadlines: the status tells sooner that storing takes long.
const LEASE: &str = "--lease-duration=4s";

/// A provider, and an operator behind a gate.
async fn stage(world: &World) -> (Simulator, Gate) {
    let clients = vec![Client::public(CLIENT_ID), Client::confidential(APP, CLIENT_SECRET)];
    // A refresh token that is sent twice, or lost, is the end of the sign-in.
    let config = Config { clients, rotation: Rotation::Strict, ..Config::default() };
    let entra = world.entra(config).await;
    world.secret("proof", "client-secret", CLIENT_SECRET).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    let gate = Gate::before(&world.cluster).await;
    world.operator(Options::default().flag(LEASE).kubeconfig(&gate.kubeconfig())).await;
    (entra, gate)
}

async fn app(world: &World, entra: &Simulator) {
    world.create(&app_only("app", &Issuer::entra(entra, APP), "proof")).await;
}

async fn mail(world: &World, entra: &Simulator) {
    world.create(&delegated("mail", &Issuer::entra(entra, CLIENT_ID), "seed")).await;
}

/// Puts a Secret of somebody else's there, in the place of another if there is one.
async fn plant(world: &World, name: &str) -> Secret {
    if let Some(there) = world.secrets().get_opt(name).await.unwrap() {
        world.secrets().delete(name, &DeleteParams::default()).await.unwrap();
        let uid = there.metadata.uid.unwrap();
        await_condition(world.secrets(), name, conditions::is_deleted(&uid)).await.unwrap();
    }
    let foreign = json!({"metadata": {"name": name}, "stringData": {"theirs": "theirs"}});
    let foreign: Secret = serde_json::from_value(foreign).unwrap();
    world.secrets().create(&PostParams::default(), &foreign).await.unwrap()
}

/// It is as it was planted: not one field of it was touched.
async fn assert_untouched(world: &World, planted: &Secret) {
    let name = planted.metadata.name.as_deref().unwrap();
    assert_eq!(world.secrets().get_opt(name).await.unwrap().as_ref(), Some(planted), "{name} was touched");
}

async fn remove(world: &World, name: &str) {
    world.secrets().delete(name, &DeleteParams::default()).await.unwrap();
}

async fn conflicts(world: &World, name: &str) {
    let conflicts = |gt: &Gt| gt.condition("Stalled") == Some(("True", "TargetConflict"));
    world.until(name, "in conflict", conflicts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_comes_before_the_target_is_created_is_left_alone() {
    World::run("race-create", async |world| {
        let (entra, gate) = stage(world).await;
        let mut create = gate.hold(Method::POST, "/secrets");
        app(world, &entra).await;
        create.reached().await;
        let planted = plant(world, "app").await;
        assert_eq!(create.release().await, StatusCode::CONFLICT);
        conflicts(world, "app").await;
        assert_untouched(world, &planted).await;
        remove(world, "app").await;
        world.until("app", "Ready", Gt::ready).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_takes_the_targets_place_is_not_merged_into() {
    World::run("race-apply", async |world| {
        let (entra, gate) = stage(world).await;
        app(world, &entra).await;
        world.until("app", "Ready", Gt::ready).await;
        let mut apply = gate.hold(Method::PATCH, "/secrets/app");
        world.request_refresh("app", "now").await;
        apply.reached().await;
        let planted = plant(world, "app").await;
        // A UID cannot be changed, the API server says.
        assert_eq!(apply.release().await, StatusCode::UNPROCESSABLE_ENTITY);
        conflicts(world, "app").await;
        assert_untouched(world, &planted).await;
        remove(world, "app").await;
        world.until("app", "Ready", Gt::ready).await;
    })
    .await;
}

/// The first apply that takes a key away claims the fields that were created: a write of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_takes_the_targets_place_is_not_claimed_either() {
    World::run("race-claim", async |world| {
        let (entra, gate) = stage(world).await;
        app(world, &entra).await;
        world.until("app", "Ready", Gt::ready).await;
        let mut claim = gate.hold(Method::GET, "/secrets/app");
        let keys = json!({"spec": {"target": {"data": [{"key": "bearer", "format": "AccessToken"}]}}});
        world.graphtokens().patch("app", &PatchParams::default(), &Patch::Merge(&keys)).await.unwrap();
        claim.reached().await;
        // By the operator's own name as a field manager, as who restores a backup of it might do.
        plant(world, "app").await;
        let params =
            PatchParams { field_manager: Some("graphtoken-operator".to_owned()), ..PatchParams::default() };
        let more = json!({"data": {"more": "bW9yZQ=="}});
        let planted = world.secrets().patch("app", &params, &Patch::Merge(&more)).await.unwrap();
        assert_eq!(claim.release().await, StatusCode::OK);
        conflicts(world, "app").await;
        assert_untouched(world, &planted).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_comes_before_the_credential_is_created_is_left_alone_and_nothing_is_sent() {
    World::run("race-credential", async |world| {
        let (entra, gate) = stage(world).await;
        let mut create = gate.hold(Method::POST, "/secrets");
        mail(world, &entra).await;
        create.reached().await;
        let planted = plant(world, &credential("mail")).await;
        assert_eq!(create.release().await, StatusCode::CONFLICT);
        let refused = |gt: &Gt| gt.condition("Stalled") == Some(("True", "InvalidConfiguration"));
        world.until("mail", "refused", refused).await;
        assert_untouched(world, &planted).await;
        assert!(entra.journal().token.is_empty(), "{:#?}", entra.journal().token);
        remove(world, &credential("mail")).await;
        world.until("mail", "Ready", Gt::ready).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_takes_the_credentials_place_in_mid_exchange_gets_no_refresh_token_and_none_is_lost() {
    World::run("race-commit", async |world| {
        let (entra, gate) = stage(world).await;
        let name = credential("mail");
        let mut commit = gate.hold(Method::PATCH, &format!("/secrets/{name}"));
        mail(world, &entra).await;
        commit.reached().await;
        let planted = plant(world, &name).await;
        assert_eq!(commit.release().await, StatusCode::CONFLICT);
        let held_up = |gt: &Gt| {
            let conditions = gt.status("/conditions").as_array().cloned().unwrap_or_default();
            let says = |c: &Value| {
                c["message"].as_str().is_some_and(|m| m.contains(&name) && m.contains("delete it"))
            };
            conditions.iter().any(|c| c["status"] != "True" && says(c))
        };
        world.until("mail", "held up by somebody else's Secret", held_up).await;
        assert_untouched(world, &planted).await;
        remove(world, &name).await;
        let gt = world.until("mail", "Ready", Gt::ready).await;
        assert_eq!(gt.refresh_count(), 1);
        let journal = entra.journal();
        assert_eq!((journal.token.len(), journal.count(Outcome::Issued)), (1, 1), "{:#?}", journal.token);
        let kept = digest(&world.data(&name).await["refresh_token"]);
        assert_eq!(Some(kept), journal.token[0].issued_sha256, "what was got is kept");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_but_what_was_looked_at() {
    World::run("race-delete", async |world| {
        let (entra, gate) = stage(world).await;
        mail(world, &entra).await;
        world.until("mail", "Ready", Gt::ready).await;

        // A login that was adopted, and meanwhile there is another Secret.
        let mut delete = gate.hold(Method::DELETE, "/secrets/mail-graphtoken-login");
        world.secret("mail-graphtoken-login", "refresh_token", &entra.mint().unwrap()).await;
        delete.reached().await;
        let login = plant(world, "mail-graphtoken-login").await;
        assert_eq!(delete.release().await, StatusCode::CONFLICT);

        // A target that another name took the place of.
        let mut delete = gate.hold(Method::DELETE, "/secrets/mail");
        let other = json!({"spec": {"target": {"secretName": "mail-two"}}});
        world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&other)).await.unwrap();
        delete.reached().await;
        let former = plant(world, "mail").await;
        assert_eq!(delete.release().await, StatusCode::CONFLICT);
        world
            .until("mail", "Ready elsewhere", |gt| {
                gt.ready() && *gt.status("/secretName") == json!("mail-two")
            })
            .await;

        // A credential whose time is over.
        let at_once = json!({"spec": {"credentialRetention": "0s"}});
        world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&at_once)).await.unwrap();
        let noted = |secret: Option<&Secret>| {
            let annotations = secret.and_then(|secret| secret.metadata.annotations.as_ref());
            annotations
                .is_some_and(|all| all.get("graphtoken.io/credential-retention").is_some_and(|v| v == "0s"))
        };
        await_condition(world.secrets(), &credential("mail"), noted).await.unwrap();
        let mut delete = gate.hold(Method::DELETE, &format!("/secrets/{}", credential("mail")));
        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();
        delete.reached().await;
        let kept = plant(world, &credential("mail")).await;
        assert_eq!(delete.release().await, StatusCode::CONFLICT);
        for planted in [&login, &former, &kept] {
            assert_untouched(world, planted).await;
        }
    })
    .await;
}
