//! Where nothing is to be done, nothing is done.

use std::collections::BTreeMap;
use std::time::Duration;

use entra_simulator::{CLIENT_ID, Client, Config, Simulator};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::harness::objects::secret_ref;
use crate::harness::operator::Operator;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

const APP: &str = "44444444-5555-6666-7777-888888888888";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";
/// Whatever an exchange or a failure entails has followed after this.
const AFTERMATH: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_mins(1);
/// A new process has looked at all there is after this.
const LOOKED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_converged_operator_writes_and_exchanges_nothing_for_a_minute_nor_after_a_restart() {
    World::run("converged", async |world| {
        let entra = entra(world).await;
        let operator = world.operator(Options::default()).await;
        let names = populate(world, &entra).await;
        sleep(AFTERMATH).await;

        let before = picture(world, &entra).await;
        let mark = world.audit.mark();
        sleep(QUIET).await;
        let requests = world.audit.since(mark, &world.namespace);
        assert!(requests.all.is_empty(), "{:#?}", requests.all);
        assert_eq!(requests.events, []);
        assert_eq!(picture(world, &entra).await, before);

        world.stop(&operator).await;
        let mark = world.audit.mark();
        let restarted = world.operator(Options::default()).await;
        await_looks(&restarted, names.len()).await;
        sleep(AFTERMATH).await;
        let requests = world.audit.since(mark, &world.namespace);
        assert!(requests.writes().is_empty(), "{:#?}", requests.all);
        assert_eq!(requests.events, []);
        assert_eq!(picture(world, &entra).await, before);
    })
    .await;
}

async fn entra(world: &World) -> Simulator {
    let confidential = Client::confidential(APP, CLIENT_SECRET);
    let clients = vec![Client::public(CLIENT_ID), confidential];
    world.entra(Config { clients, ..Config::default() }).await
}

/// One `GraphToken` of each kind that has come to rest: with a token, or with a problem that a person must solve.
async fn populate(world: &World, entra: &Simulator) -> Vec<&'static str> {
    let public = Issuer::entra(entra, CLIENT_ID);
    let confidential = Issuer::entra(entra, APP);
    world.secret("app", "client-secret", CLIENT_SECRET).await;
    let seed = |client: &str| entra.mint_refresh_token(None, Some(client), &[]).unwrap();
    for (name, client) in [("seed-public", CLIENT_ID), ("seed-confidential", APP), ("seed-idle", CLIENT_ID)] {
        world.seed(name, &seed(client)).await;
    }
    let refused = seed(CLIENT_ID);
    entra.revoke_refresh_token(&refused).unwrap();
    world.seed("seed-refused", &refused).await;

    world.create(&delegated("public", &public, "seed-public")).await;
    let mut object = delegated("confidential", &confidential, "seed-confidential");
    object["spec"]["clientAuth"] = secret_ref("app");
    world.create(&object).await;
    world.create(&app_only("app-only", &confidential, "app")).await;
    world.create(&delegated("refused", &public, "seed-refused")).await;
    world.create(&delegated("seedless", &public, "not-there")).await;
    let mut object = delegated("suspended", &public, "seed-idle");
    object["spec"]["suspend"] = json!(true);
    world.create(&object).await;

    for name in ["public", "confidential", "app-only"] {
        world.until(name, "ready", Gt::ready).await;
    }
    world.until("refused", "refused", |gt| stalled(gt, "AuthorizationRequired")).await;
    world.until("seedless", "stalled", |gt| stalled(gt, "InvalidConfiguration")).await;
    world.until("suspended", "seen", |gt| gt.condition("Refreshed") == Some(("Unknown", "Suspended"))).await;
    vec!["public", "confidential", "app-only", "refused", "seedless", "suspended"]
}

fn stalled(gt: &Gt, reason: &str) -> bool {
    gt.condition("Stalled") == Some(("True", reason))
}

/// Versions of all `GraphToken`s and Secrets, and the number of exchanges.
async fn picture(world: &World, entra: &Simulator) -> (BTreeMap<String, String>, usize) {
    let mut versions = BTreeMap::new();
    let graphtokens = world.graphtokens().list(&kube::api::ListParams::default()).await.unwrap().items;
    let secrets = world.secrets().list(&kube::api::ListParams::default()).await.unwrap().items;
    let metadata = graphtokens.into_iter().map(|object| ("GraphToken", object.metadata));
    for (kind, meta) in metadata.chain(secrets.into_iter().map(|secret| ("Secret", secret.metadata))) {
        let name = format!("{kind} {}", meta.name.unwrap_or_default());
        versions.insert(name, meta.resource_version.unwrap_or_default());
    }
    (versions, entra.journal().token.len())
}

/// Waits until a new process has looked at each `GraphToken`.
async fn await_looks(operator: &Operator, graphtokens: usize) {
    let began = Instant::now();
    loop {
        let metrics = operator.metrics().await.unwrap();
        let looks = metrics.sum("graphtoken_reconcile_duration_seconds_count", &[]);
        if looks >= graphtokens as u64 {
            return;
        }
        assert!(began.elapsed() < LOOKED, "only {looks} looks");
        sleep(Duration::from_millis(50)).await;
    }
}
