//! A provider that accepts requests and never answers, in as many namespaces as there are: no other client's `GraphToken` waits for it.

use std::time::Duration;

use entra_simulator::{Action, Client, Config, Fault, Journal, Outcome};
use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use crate::harness::objects::graphtoken_resource;
use crate::harness::{Gt, Issuer, Options, World, app_only};
use crate::plane::Plane;

const HANGS: &str = "44444444-5555-6666-7777-888888888888";
const ANSWERS: &str = "99999999-8888-7777-6666-555555555555";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";
/// Namespaces with one `GraphToken` each on the client whose provider hangs.
const TENANTS: usize = 200;
/// What another client's `GraphToken` waits at most, for a first token and for a refresh.
const SERVED: Duration = Duration::from_secs(2);
/// When it is tried, counted from the first request that hangs: before the first one ends after 15 s, and long after.
const TRIED: [u64; 4] = [0, 5, 20, 40];

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_hangs_in_200_namespaces_delays_no_other_client() {
    let plane = Plane::up().await;
    World::run_on(plane.cluster.clone(), "quiet", async |quiet| {
        let clients =
            vec![Client::confidential(HANGS, CLIENT_SECRET), Client::confidential(ANSWERS, CLIENT_SECRET)];
        let entra = quiet.entra(Config { clients, ..Config::default() }).await;
        entra.queue_fault(Fault::token(Action::Hang).for_client(HANGS).forever());
        quiet.secret("app", "client-secret", CLIENT_SECRET).await;
        let hangs = app_only("report", &Issuer::entra(&entra, HANGS), "app");
        let tenants = stream::iter(0..TENANTS).map(|number| tenant(&plane, number, &hangs));
        tenants.buffer_unordered(16).count().await;
        // All are due as soon as it starts. Of so many a log at trace would be very long.
        let options = Options::default().everywhere().env("RUST_LOG", "info,tower=trace");
        quiet.operator(options).await;
        entra.journal_until(|journal| hanging(journal) > 0).await;

        let began = Instant::now();
        for second in TRIED {
            sleep_until(began + Duration::from_secs(second)).await;
            let name = format!("after-{second}");
            let object = app_only(&name, &Issuer::entra(&entra, ANSWERS), "app");
            quiet.create(&object).await;
            within(quiet, &name, "has its first token", Gt::ready).await;
            quiet.request_refresh(&name, "again").await;
            within(quiet, &name, "is refreshed on request", |gt| gt.refresh_count() == 2).await;
        }
        let hanging = hanging(&entra.journal());
        assert!(hanging < TENANTS, "{hanging} requests hung: too many for the last one to have waited");
    })
    .await;
}

fn hanging(journal: &Journal) -> usize {
    journal.count(Outcome::Unanswered)
}

async fn within(world: &World, name: &str, what: &str, wanted: impl Fn(&Gt) -> bool) {
    let done = timeout(SERVED, world.until(name, what, wanted)).await;
    assert!(done.is_ok(), "GraphToken {name}: not within {SERVED:?} that it {what}");
}

/// A namespace with a `GraphToken` and its client secret.
async fn tenant(plane: &Plane, number: usize, graphtoken: &Value) {
    let name = format!("tenant-{number:03}");
    let client = &plane.cluster.client;
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let secret = json!({"metadata": {"name": "app"}, "stringData": {"client-secret": CLIENT_SECRET}});
    let secret: Secret = serde_json::from_value(secret).unwrap();
    Api::namespaced(client.clone(), &name).create(&PostParams::default(), &secret).await.unwrap();
    let object: DynamicObject = serde_json::from_value(graphtoken.clone()).unwrap();
    let objects = Api::namespaced_with(client.clone(), &name, &graphtoken_resource());
    objects.create(&PostParams::default(), &object).await.unwrap();
}
