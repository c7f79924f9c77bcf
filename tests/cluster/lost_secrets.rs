//! Secrets of the operator's that are deleted, emptied, or put back from a backup.

use entra_simulator::{CLIENT_ID, Config, Outcome, Rotation, Simulator};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Duration, timeout};

use crate::chaos_ledger::{Ledger, falls_silent, lost_sign_in};
use crate::harness::objects::credential;
use crate::harness::world::text_of;
use crate::harness::{Gt, Issuer, Options, World, delegated};

/// What becomes of a credential.
#[derive(Clone, Copy)]
enum Blow {
    Deleted,
    Emptied,
    /// Put back as it was after the first exchange.
    Restored,
}

/// A `GraphToken` that has been refreshed a few times, whose credential is struck.
struct Struck {
    entra: Simulator,
    /// Exchanges before.
    exchanges: usize,
}

async fn struck(world: &World, rotation: Rotation, blow: Blow) -> Struck {
    let entra = world.entra(Config { rotation, ..Config::default() }).await;
    world.operator(Options::default()).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
    world.until("mail", "ready", Gt::ready).await;
    let backup = world.secrets().get(&credential("mail")).await.unwrap();
    for count in [2, 3] {
        refreshed(world, count).await;
    }
    let exchanges = entra.journal().token.len();
    let name = credential("mail");
    match blow {
        Blow::Deleted => {
            world.secrets().delete(&name, &DeleteParams::default()).await.unwrap();
        }
        Blow::Emptied => {
            let secret = world.secrets().get(&name).await.unwrap();
            let emptied = Secret { data: None, ..secret };
            world.secrets().replace(&name, &PostParams::default(), &emptied).await.unwrap();
        }
        Blow::Restored => {
            world.secrets().delete(&name, &DeleteParams::default()).await.unwrap();
            // The operator may have made a new one at once: a restore overwrites it.
            let patch = json!({
                "apiVersion": "v1", "kind": "Secret", "data": backup.data, "type": backup.type_,
                "metadata": {"name": name, "labels": backup.metadata.labels, "annotations": backup.metadata.annotations},
            });
            let params = PatchParams::apply("backup").force();
            world.secrets().patch(&name, &params, &Patch::Apply(&patch)).await.unwrap();
        }
    }
    Struck { entra, exchanges }
}

async fn refreshed(world: &World, count: u64) {
    world.request_refresh("mail", &format!("for {count}")).await;
    world.until("mail", "refreshed", |gt| gt.refresh_count() >= count && gt.ready()).await;
}

/// The sign-in goes on: it can be refreshed, and what comes is kept.
async fn assert_heals(world: &World, struck: &Struck) {
    let handled = |gt: &Gt| {
        *gt.status("/lastHandledRequest") == json!("after the blow")
            && gt.condition("Refreshed") == Some(("True", "Succeeded"))
    };
    world.request_refresh("mail", "after the blow").await;
    let gt = world.until("mail", "healed", handled).await;
    assert!(gt.ready() && gt.condition("Stalled").is_none(), "{:#}", gt.status(""));
    let journal = struck.entra.journal();
    assert_eq!(journal.count(Outcome::Refused), 0, "{:#?}", journal.token);
    assert!(journal.token.len() > struck.exchanges && journal.token.len() <= struck.exchanges + 3);
    let kept = text_of(world.secrets().get(&credential("mail")).await.unwrap());
    let newest = journal.token.last().unwrap().issued_sha256.clone();
    assert_eq!(Some(entra_simulator::digest(&kept["refresh_token"])), newest, "the newest is kept");
    assert!(struck.entra.is_active(&world.data("mail").await["token"]));
}

/// The sign-in cannot go on, and the status says what to do; a new seed mends it.
async fn assert_says_what_happened(world: &World, struck: &Struck) {
    world.request_refresh("mail", "after the blow").await;
    let gt = world.until("mail", "stalled", |gt| lost_sign_in(gt).is_some()).await;
    assert_eq!(gt.condition("Stalled"), Some(("True", "AuthorizationRequired")));
    assert!(gt.ready(), "the token that pods have is still good");
    let message = lost_sign_in(&gt).unwrap();
    assert!(message.contains("sign in again") && message.contains("seed Secret"), "{message}");

    falls_silent(world, &struck.entra).await;
    // The seed and the kept token, or the request and what the blow brought: each is sent twice at most.
    let journal = struck.entra.journal();
    assert!(journal.token.len() <= struck.exchanges + 6, "{:#?}", journal.token);

    let seed = struck.entra.mint().unwrap();
    world.confidential.note("a new seed", &seed);
    let patch = Patch::Merge(json!({"stringData": {"token": seed}}));
    world.secrets().patch("seed", &PatchParams::default(), &patch).await.unwrap();
    let healed = |gt: &Gt| gt.ready() && gt.condition("Stalled").is_none();
    world.until("mail", "signed in anew", healed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_credential_is_begun_anew_from_the_seed_where_the_provider_takes_it_again() {
    World::run("deleted", async |world| {
        let struck = struck(world, Rotation::Lenient, Blow::Deleted).await;
        assert_heals(world, &struck).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_credential_of_a_strict_provider_asks_for_a_new_sign_in() {
    World::run("deleted-strict", async |world| {
        let struck = struck(world, Rotation::Strict, Blow::Deleted).await;
        assert_says_what_happened(world, &struck).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_credential_is_begun_anew_from_the_seed_where_the_provider_takes_it_again() {
    World::run("emptied", async |world| {
        let struck = struck(world, Rotation::Lenient, Blow::Emptied).await;
        assert_heals(world, &struck).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_credential_of_a_strict_provider_asks_for_a_new_sign_in() {
    World::run("emptied-strict", async |world| {
        let struck = struck(world, Rotation::Strict, Blow::Emptied).await;
        assert_says_what_happened(world, &struck).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_of_the_credential_goes_on_where_the_provider_takes_used_tokens() {
    World::run("restored", async |world| {
        let struck = struck(world, Rotation::Lenient, Blow::Restored).await;
        let ledger = Ledger::of(world, "mail", &struck.entra);
        assert_heals(world, &struck).await;
        assert_eq!(ledger.lost().len(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_of_the_credential_of_a_strict_provider_asks_for_a_new_sign_in() {
    World::run("restored-strict", async |world| {
        let struck = struck(world, Rotation::Strict, Blow::Restored).await;
        assert_says_what_happened(world, &struck).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_restored_without_its_owner_gets_it_back_without_an_exchange() {
    World::run("ownerless", async |world| {
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        let gt = world.until("mail", "ready", Gt::ready).await;
        let target = world.secrets().get("mail").await.unwrap();
        world.secrets().delete("mail", &DeleteParams::default()).await.unwrap();
        let metadata = ObjectMeta {
            name: target.metadata.name.clone(),
            labels: target.metadata.labels.clone(),
            annotations: target.metadata.annotations.clone(),
            ..ObjectMeta::default()
        };
        let restored = Secret { metadata, data: target.data.clone(), ..Secret::default() };
        // The operator may have been quicker.
        match world.secrets().create(&PostParams::default(), &restored).await {
            Ok(_) | Err(kube::Error::Api(_)) => {}
            Err(error) => panic!("{error}"),
        }
        let patch = json!({"metadata": {"ownerReferences": null}});
        world.secrets().patch("mail", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();

        let owned = |secret: Option<&Secret>| {
            let owners = secret.and_then(|secret| secret.metadata.owner_references.as_ref());
            owners.is_some_and(|owners| owners.iter().any(|owner| owner.uid == gt.uid()))
        };
        let owned = kube::runtime::wait::await_condition(world.secrets(), "mail", owned);
        timeout(Duration::from_secs(30), owned).await.expect("it is owned again").unwrap();
        assert_eq!(entra.journal().token.len(), 1, "no exchange was needed");
        assert_eq!(world.secrets().get("mail").await.unwrap().data, target.data);
    })
    .await;
}
