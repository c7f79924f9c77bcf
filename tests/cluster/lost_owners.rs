//! `GraphToken`s and namespaces that go while an exchange is in flight.

use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Config, Fault, Journal, Outcome, Rotation, digest};
use graphtoken::api::GraphTokenStatus;
use graphtoken::observed::Identity;
use graphtoken::status::write;
use graphtoken::store::StoreError;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use tokio::time::{sleep, timeout};

use crate::chaos_ledger::Ledger;
use crate::harness::objects::{credential, graphtoken_resource};
use crate::harness::world::text_of;
use crate::harness::{Gt, Issuer, Options, World, delegated};

/// How long the provider keeps an exchange waiting.
const IN_FLIGHT: Duration = Duration::from_secs(3);

fn delay() -> Fault {
    Fault::token(Action::DelayMs(IN_FLIGHT.as_millis().try_into().unwrap()))
}

/// Whether the so-manieth exchange has arrived and waits for its answer.
fn in_flight(journal: &Journal, number: usize) -> bool {
    journal.token.len() == number && journal.token[number - 1].outcome == Outcome::Unanswered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graphtoken_that_is_created_again_in_mid_exchange_spends_no_token_twice() {
    World::run("recreated", async |world| {
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        world.create(&mail).await;
        world.until("mail", "ready", Gt::ready).await;
        let ledger = Ledger::of(world, "mail", &entra);

        entra.queue_fault(delay());
        world.request_refresh("mail", "now").await;
        entra.journal_until(|journal| in_flight(journal, 2)).await;
        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();
        world.create(&mail).await;
        entra.journal_until(|journal| journal.token[1].outcome == Outcome::Issued).await;
        world.until("mail", "ready", Gt::ready).await;

        for request in ["again", "and again"] {
            world.request_refresh("mail", request).await;
            let handled = |gt: &Gt| *gt.status("/lastHandledRequest") == request && gt.ready();
            world.until("mail", "refreshed", handled).await;
        }
        assert!(ledger.replays(0).is_empty(), "{:#?}", entra.journal().token);
        assert_eq!(entra.journal().count(Outcome::Refused), 0, "{:#?}", entra.journal().token);
        assert_eq!(ledger.lost().len(), 0, "{:#?}", ledger.lost());
        let kept = text_of(world.secrets().get(&credential("mail")).await.unwrap());
        let newest = entra.journal().token.last().unwrap().issued_sha256.clone();
        assert_eq!(Some(digest(&kept["refresh_token"])), newest);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graphtoken_that_goes_in_mid_exchange_leaves_the_newest_sign_in_behind() {
    World::run("gone-mid-way", async |world| {
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        world.create(&mail).await;
        world.until("mail", "ready", Gt::ready).await;
        entra.queue_fault(delay());
        world.request_refresh("mail", "now").await;
        entra.journal_until(|journal| in_flight(journal, 2)).await;
        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();
        let journal = entra.journal_until(|journal| journal.token[1].outcome == Outcome::Issued).await;
        let newest = journal.token[1].issued_sha256.clone();
        let kept = |secret: Option<&Secret>| {
            let token = secret.and_then(|secret| text_of(secret.clone()).remove("refresh_token"));
            token.is_some_and(|token| Some(digest(&token)) == newest)
        };
        let name = credential("mail");
        let kept = await_condition(world.secrets(), &name, kept);
        timeout(Duration::from_secs(30), kept).await.expect("the newest is kept").unwrap();

        world.create(&mail).await;
        world.until("mail", "ready again", Gt::ready).await;
        world.request_refresh("mail", "again").await;
        world.until("mail", "refreshed", |gt| *gt.status("/lastHandledRequest") == "again").await;
        assert_eq!(entra.journal().count(Outcome::Refused), 0, "{:#?}", entra.journal().token);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_goes_in_mid_exchange_troubles_no_other() {
    World::run("terminating", async |world| {
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        let namespaces: Api<Namespace> = Api::all(world.cluster.client.clone());
        let metadata = ObjectMeta {
            generate_name: Some(format!("{}-doomed-", world.namespace)),
            ..ObjectMeta::default()
        };
        let doomed = Namespace { metadata, ..Namespace::default() };
        let doomed = namespaces.create(&PostParams::default(), &doomed).await.unwrap();
        let (doomed, doomed_uid) = (doomed.metadata.name.unwrap(), doomed.metadata.uid.unwrap());
        let operator = world.operator(Options::default().flag(&format!("--namespace={doomed}"))).await;
        let issuer = Issuer::entra(&entra, CLIENT_ID);
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &issuer, "seed")).await;
        world.until("mail", "ready", Gt::ready).await;

        let client = || world.cluster.client.clone();
        let mut seed = world.seed("doomed-seed", &entra.mint().unwrap()).await;
        seed.metadata = ObjectMeta { name: Some("seed".to_owned()), ..ObjectMeta::default() };
        let secrets: Api<Secret> = Api::namespaced(client(), &doomed);
        secrets.create(&PostParams::default(), &seed).await.unwrap();
        let graphtokens: Api<DynamicObject> = Api::namespaced_with(client(), &doomed, &graphtoken_resource());
        let object: DynamicObject = serde_json::from_value(delegated("mail", &issuer, "seed")).unwrap();
        entra.queue_fault(delay());
        graphtokens.create(&PostParams::default(), &object).await.unwrap();
        entra.journal_until(|journal| in_flight(journal, 2)).await;

        let mark = world.audit.mark();
        let reconciles = reconciles(&operator.metrics().await.unwrap());
        namespaces.delete(&doomed, &DeleteParams::background()).await.unwrap();
        let gone = await_condition(namespaces.clone(), &doomed, conditions::is_deleted(&doomed_uid));
        timeout(Duration::from_mins(1), gone).await.expect("nothing holds the namespace").unwrap();
        sleep(IN_FLIGHT + Duration::from_secs(2)).await;

        let requests = world.audit.since(mark, &doomed);
        assert!(requests.all.len() <= 40, "a hot loop: {} requests {:#?}", requests.all.len(), requests.all);
        assert!(requests.events.len() <= 5, "{:#?}", requests.events);
        let more = self::reconciles(&operator.metrics().await.unwrap()) - reconciles;
        assert!(more <= 20, "a hot loop: {more} reconciles");

        // The operator is as well as before, and the other namespace's sign-in too.
        assert!(operator.ready().await);
        world.request_refresh("mail", "now").await;
        world.until("mail", "refreshed", |gt| gt.refresh_count() == 2 && gt.ready()).await;
        let settled = world.audit.mark();
        sleep(Duration::from_secs(3)).await;
        let requests = world.audit.since(settled, &doomed);
        assert_eq!((requests.all, requests.events), (Vec::new(), Vec::new()), "it is let go");
    })
    .await;
}

fn reconciles(metrics: &crate::harness::operator::Metrics) -> u64 {
    metrics.sum("graphtoken_reconcile_duration_seconds_count", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_never_reaches_another_graphtoken_of_the_same_name() {
    World::run("status-uid", async |world| {
        let issuer = Issuer {
            tenant: "t.example".into(),
            client_id: "c".into(),
            token_url: "https://x.example/".into(),
        };
        let gt = world.create(&delegated("mail", &issuer, "seed")).await;
        let living = Identity {
            namespace: world.namespace.clone(),
            name: "mail".to_owned(),
            uid: gt.uid().to_owned(),
            generation: 1,
        };
        let dead = Identity { uid: "00000000-0000-0000-0000-000000000000".to_owned(), ..living.clone() };
        let status = GraphTokenStatus { refresh_count: 7, ..GraphTokenStatus::default() };
        let client = &world.cluster.client;
        assert_eq!(write(client, &dead, &status).await.err(), Some(StoreError::Gone));
        assert_eq!(world.graphtoken("mail").await.refresh_count(), 0);
        write(client, &living, &status).await.unwrap();
        assert_eq!(world.graphtoken("mail").await.refresh_count(), 7);
    })
    .await;
}
