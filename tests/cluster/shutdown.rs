//! SIGTERM while an exchange is in flight.

use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Config, Fault, Journal, Outcome, Rotation, digest};

use crate::harness::objects::credential;
use crate::harness::world::text_of;
use crate::harness::{Gt, Issuer, Options, World, delegated};

/// How long the provider keeps the operator waiting.
const DELAY: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_in_flight_is_finished_and_stored_before_the_operator_ends() {
    World::run("shutdown", async |world| {
        // A refresh token that was sent and whose successor is dropped is the end of the sign-in.
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        let operator = world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "ready", Gt::ready).await;

        entra.queue_fault(Fault::token(Action::DelayMs(DELAY.as_millis().try_into().unwrap())));
        world.request_refresh("mail", "1").await;
        entra.journal_until(|journal| in_flight(journal, 2)).await;
        operator.terminate();
        let status = operator.ended().await;
        assert_eq!(status.code(), Some(0));

        let journal = entra.journal();
        assert_eq!(journal.count(Outcome::Issued), 2, "it was waited for");
        let newest = &journal.token[1];
        let kept = text_of(world.secrets().get(&credential("mail")).await.unwrap());
        assert_eq!(
            Some(digest(&kept["refresh_token"])),
            newest.issued_sha256,
            "the new refresh token is kept"
        );
        assert!(!kept.contains_key("pending.json"), "the exchange was ended in order");
        let token = &world.data("mail").await["token"];
        assert_eq!(Some(digest(token)), newest.access_sha256, "and pods have the new token");
        let gt = world.graphtoken("mail").await;
        assert_eq!(gt.status("/lastHandledRequest"), "1");
        assert_eq!(gt.refresh_count(), 2);

        world.operator(Options::default()).await;
        world.request_refresh("mail", "2").await;
        world.until("mail", "refreshed again", |gt| gt.refresh_count() == 3).await;
        assert_eq!(entra.journal().count(Outcome::Refused), 0, "the chain goes on");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_exchange_of_a_seed_is_finished_too() {
    World::run("shutdown-seed", async |world| {
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        let operator = world.operator(Options::default()).await;
        entra.queue_fault(Fault::token(Action::DelayMs(DELAY.as_millis().try_into().unwrap())));
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        entra.journal_until(|journal| in_flight(journal, 1)).await;
        operator.terminate();
        assert_eq!(operator.ended().await.code(), Some(0));

        let newest = &entra.journal().token[0];
        let kept = text_of(world.secrets().get(&credential("mail")).await.unwrap());
        assert_eq!(Some(digest(&kept["refresh_token"])), newest.issued_sha256);

        // The next process publishes or leaves what is there: it need not ask again.
        world.operator(Options::default()).await;
        let gt = world.until("mail", "ready", Gt::ready).await;
        assert_eq!((gt.refresh_count(), entra.journal().token.len()), (1, 1));
        assert_eq!(gt.status("/signedIn/source"), "Seed");
    })
    .await;
}

/// More than may be sent at once for one client.
const DUE: usize = 16;
/// As many as may be sent at once for one client.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn no_token_request_begins_after_sigterm() {
    World::run("shutdown-due", async |world| {
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        let delay = Action::DelayMs(DELAY.as_millis().try_into().unwrap());
        entra.queue_fault(Fault::token(delay).forever());
        let names: Vec<_> = (0..DUE).map(|number| format!("mail-{number}")).collect();
        for name in &names {
            let seed = format!("{name}-seed");
            world.seed(&seed, &entra.mint().unwrap()).await;
            world.create(&delegated(name, &Issuer::entra(&entra, CLIENT_ID), &seed)).await;
        }
        // All are due as soon as it starts.
        let operator = world.operator(Options::default()).await;
        entra.journal_until(|journal| journal.token.len() == AT_ONCE).await;
        operator.terminate();
        assert_eq!(operator.ended().await.code(), Some(0));
        let journal = entra.journal();
        assert_eq!(journal.token.len(), AT_ONCE, "requests began after SIGTERM: {:#?}", journal.token);
        assert_eq!(journal.count(Outcome::Issued), AT_ONCE, "those in flight were waited for");

        // Nothing is lost, and the others are served by the next process.
        entra.clear_faults();
        world.operator(Options::default()).await;
        for name in &names {
            world.until(name, "ready", Gt::ready).await;
        }
        let journal = entra.journal();
        assert_eq!(journal.count(Outcome::Issued), DUE, "{:#?}", journal.token);
        assert_eq!(journal.count(Outcome::Refused), 0, "{:#?}", journal.token);
    })
    .await;
}

/// Whether the so-manieth exchange has arrived and waits for its answer.
fn in_flight(journal: &Journal, number: usize) -> bool {
    journal.token.len() == number && journal.token[number - 1].outcome == Outcome::Unanswered
}
