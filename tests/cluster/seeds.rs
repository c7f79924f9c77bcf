//! What becomes of seeds and sign-ins: adopted once, kept out when bad, outlived by the sign-in they began.

use entra_simulator::{CLIENT_ID, Config, Journal, Outcome, Rotation, digest};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;

use crate::harness::objects::credential;
use crate::harness::{Gt, Issuer, Options, World, delegated};

async fn replace_seed(world: &World, refresh_token: &str) {
    world.confidential.note("a new seed", refresh_token);
    let patch = json!({"stringData": {"token": refresh_token}});
    world.secrets().patch("seed", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

fn sent(journal: &Journal, refresh_token: &str) -> usize {
    let digest = digest(refresh_token);
    journal.token.iter().filter(|entry| entry.received_sha256.as_ref() == Some(&digest)).count()
}

/// Asks for a refresh and waits until it worked; returns how many exchanges there were.
async fn refreshed(world: &World, name: &str, value: &str) -> Gt {
    let before = world.graphtoken(name).await.refresh_count();
    world.request_refresh(name, value).await;
    world
        .until(name, "refreshed on request", |gt| {
            *gt.status("/lastHandledRequest") == json!(value) && gt.refresh_count() > before && gt.ready()
        })
        .await
}

async fn event(world: &World, reason: &str) -> Option<Event> {
    let events: Api<Event> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    let found = events.list(&ListParams::default()).await.unwrap().items;
    found.into_iter().find(|event| event.reason.as_deref() == Some(reason))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_adopted_once_and_kept_out_when_it_is_bad() {
    World::run("seeds", async |world| {
        // Strict: a used refresh token that is sent again would end the sign-in.
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        world.operator(Options::default()).await;
        let first = entra.mint().unwrap();
        world.seed("seed", &first).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        let gt = world.until("mail", "Ready", Gt::ready).await;
        assert_eq!(*gt.status("/signedIn/source"), json!("Seed"));
        assert!(event(world, "SeedAdopted").await.is_some());

        let second = entra.mint().unwrap();
        replace_seed(world, &second).await;
        entra.journal_until(|journal| sent(journal, &second) == 1).await;
        refreshed(world, "mail", "after the second seed").await;

        // A bad one is tried (twice: invalid_grant is sometimes passing) and kept out; the sign-in goes on.
        replace_seed(world, "no-such-refresh-token").await;
        entra.journal_until(|journal| sent(journal, "no-such-refresh-token") == 2).await;
        let gt = refreshed(world, "mail", "after a bad seed").await;
        assert_eq!(gt.condition("Refreshed"), Some(("True", "Succeeded")));
        assert!(event(world, "SeedRejected").await.is_some());

        // An old one is ignored, as GitOps would put it back.
        replace_seed(world, &first).await;
        refreshed(world, "mail", "after the old seed came back").await;
        replace_seed(world, "no-such-refresh-token").await;
        refreshed(world, "mail", "after the bad seed came back").await;

        world.secrets().delete("seed", &DeleteParams::default()).await.unwrap();
        refreshed(world, "mail", "after the seed was deleted").await;
        let journal = entra.journal();
        assert_eq!((sent(&journal, &first), sent(&journal, &second)), (1, 1), "each good seed is sent once");
        assert_eq!(sent(&journal, "no-such-refresh-token"), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graphtoken_that_is_created_again_takes_the_sign_in_up() {
    World::run("created-again", async |world| {
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        world.create(&mail).await;
        let first = world.until("mail", "Ready", Gt::ready).await;
        world.secrets().delete("seed", &DeleteParams::default()).await.unwrap();
        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();

        // The target goes with it, by the garbage collector; the sign-in stays, and says for how long.
        let target_uid = first.status("/target/uid").as_str().unwrap();
        await_condition(world.secrets(), "mail", conditions::is_deleted(target_uid)).await.unwrap();
        let marked = |secret: Option<&k8s_openapi::api::core::v1::Secret>| {
            let annotations = secret.and_then(|secret| secret.metadata.annotations.as_ref());
            annotations.is_some_and(|annotations| annotations.contains_key("graphtoken.io/delete-after"))
        };
        await_condition(world.secrets(), &credential("mail"), marked).await.unwrap();

        let exchanges = entra.journal().count(Outcome::Issued);
        world.create(&mail).await;
        let second = world.until("mail", "Ready without a seed", Gt::ready).await;
        assert_ne!(first.uid(), second.uid());
        assert_eq!(
            entra.journal().count(Outcome::Issued),
            exchanges,
            "the token that was kept is still good"
        );
        let kept = world.secrets().get(&credential("mail")).await.unwrap();
        let annotations = kept.metadata.annotations.clone().unwrap_or_default();
        assert_eq!(annotations["graphtoken.io/uid"], second.uid());
        assert!(!annotations.contains_key("graphtoken.io/delete-after"));
        refreshed(world, "mail", "the chain goes on").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_without_retention_goes_at_once() {
    World::run("no-retention", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let mut mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        mail["spec"]["credentialRetention"] = json!("0s");
        world.create(&mail).await;
        world.until("mail", "Ready", Gt::ready).await;
        let kept = world.secrets().get(&credential("mail")).await.unwrap();
        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();
        let uid = kept.metadata.uid.unwrap();
        await_condition(world.secrets(), &credential("mail"), conditions::is_deleted(&uid)).await.unwrap();
    })
    .await;
}

/// A name, and a seed of that shape with a refresh token in it.
type Shape = (&'static str, fn(&str) -> String);

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_seed_is_understood() {
    World::run("seed-shapes", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        let shapes: [Shape; 4] = [
            ("bare", |token| format!("{token}\n")),
            ("o365-2-0", |token| {
                json!({"token_type": "Bearer", "scope": ["User.Read"], "expires_in": 3599, "ext_expires_in": 3599,
                       "access_token": "x", "refresh_token": token, "expires_at": 1_893_456_000.5})
                .to_string()
            }),
            ("msal", |token| {
                json!({"RefreshToken": {"k": {"credential_type": "RefreshToken", "secret": token, "client_id": CLIENT_ID,
                       "home_account_id": "o.t", "environment": "login.microsoftonline.com", "target": "User.Read",
                       "last_modification_time": "1893452400"}}})
                .to_string()
            }),
            ("go", |token| json!({"access_token": "x", "refresh_token": token, "expiry": "2030-01-01T00:00:00Z"}).to_string()),
        ];
        for (name, shape) in shapes {
            let token = entra.mint().unwrap();
            world.confidential.note(name, &token);
            world.seed(&format!("seed-{name}"), &shape(&token)).await;
            world.create(&delegated(name, &Issuer::entra(&entra, CLIENT_ID), &format!("seed-{name}"))).await;
            world.until(name, "Ready", Gt::ready).await;
            assert_eq!(sent(&entra.journal(), &token), 1, "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_graphtokens_on_one_seed_are_allowed_and_warned_about() {
    World::run("seed-shared", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        for name in ["one", "other"] {
            world.create(&delegated(name, &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
            world.until(name, "Ready", Gt::ready).await;
        }
        let note = event(world, "SeedShared").await.expect("a warning").message.unwrap();
        assert!(note.contains("one"), "{note}");
    })
    .await;
}
