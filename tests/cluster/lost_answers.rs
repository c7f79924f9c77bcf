//! Answers that are lost after the provider has spent the refresh token.

use entra_simulator::{Action, CLIENT_ID, Config, Fault, Outcome, Rotation, Simulator};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::chaos_ledger::{Ledger, Pod, falls_silent, lost_sign_in};
use crate::harness::{Gt, Issuer, Options, World, delegated};

async fn signed_in(world: &World, rotation: Rotation) -> Simulator {
    let entra = world.entra(Config { rotation, ..Config::default() }).await;
    world.operator(Options::default()).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
    world.until("mail", "ready", Gt::ready).await;
    entra
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_a_lenient_provider_costs_one_exchange_more() {
    World::run("answer-lost", async |world| {
        let entra = signed_in(world, Rotation::Lenient).await;
        let ledger = Ledger::of(world, "mail", &entra);
        let pod = Pod::mount(world, "mail", &entra).await;
        entra.queue_fault(Fault::token(Action::AnswerLost));
        world.request_refresh("mail", "now").await;
        let failed = |gt: &Gt| gt.condition("Refreshed") == Some(("False", "ProviderUnavailable"));
        let gt = world.until("mail", "said to have got no answer", failed).await;
        assert!(gt.ready() && gt.condition("Stalled").is_none(), "pods have a token and nobody need act");

        let gt = world.until("mail", "refreshed", |gt| gt.refresh_count() == 2).await;
        assert_eq!(gt.condition("Refreshed"), Some(("True", "Succeeded")));
        let journal = entra.journal();
        let outcomes: Vec<_> = journal.token.iter().map(|entry| entry.outcome).collect();
        assert_eq!(outcomes, [Outcome::Issued; 3], "the seed, the lost one, and one more");
        assert_eq!(journal.token[1].received_sha256, journal.token[2].received_sha256);
        assert_eq!(pod.refused().len(), 0);
        assert_eq!(ledger.lost().len(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_a_strict_provider_ends_the_sign_in_in_plain_words() {
    World::run("answer-lost-strict", async |world| {
        let entra = signed_in(world, Rotation::Strict).await;
        entra.queue_fault(Fault::token(Action::AnswerLost));
        world.request_refresh("mail", "now").await;
        let gt = world.until("mail", "stalled", |gt| lost_sign_in(gt).is_some()).await;
        assert_eq!(gt.condition("Stalled"), Some(("True", "AuthorizationRequired")));
        assert_eq!(gt.condition("Refreshed"), Some(("False", "AuthorizationRequired")));
        assert!(gt.ready(), "the token that pods have is still good");
        let message = lost_sign_in(&gt).unwrap();
        for word in ["refresh token", "sign in again", "seed Secret"] {
            assert!(message.contains(word), "{message}");
        }
        assert_eq!(*gt.status("/lastFailure/error"), json!("invalid_grant"));

        falls_silent(world, &entra).await;
        assert!(entra.journal().token.len() <= 4, "{:#?}", entra.journal().token);

        let seed = entra.mint().unwrap();
        world.confidential.note("a new seed", &seed);
        let patch = Patch::Merge(json!({"stringData": {"token": seed}}));
        world.secrets().patch("seed", &PatchParams::default(), &patch).await.unwrap();
        let healed = |gt: &Gt| gt.ready() && gt.condition("Stalled").is_none();
        let gt = world.until("mail", "signed in anew", healed).await;
        assert_eq!(gt.condition("Refreshed"), Some(("True", "Succeeded")));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_before_the_provider_acts_cost_no_sign_in_of_a_strict_one() {
    World::run("answer-closed", async |world| {
        let entra = signed_in(world, Rotation::Strict).await;
        let ledger = Ledger::of(world, "mail", &entra);
        entra.queue_fault(Fault::token(Action::Close).times(3));
        world.request_refresh("mail", "now").await;
        world.until("mail", "refreshed", |gt| gt.refresh_count() == 2).await;
        assert_eq!(ledger.lost().len(), 0);
        assert_eq!(entra.journal().count(Outcome::Refused), 0);
    })
    .await;
}
