//! What a refresh costs the API server and the provider.

use std::time::Duration;

use entra_simulator::{CLIENT_ID, Client, Config, Outcome, Simulator};
use serde_json::Value;
use tokio::time::sleep;

use crate::harness::audit::Requests;
use crate::harness::objects::secret_ref;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

const APP: &str = "33333333-4444-5555-6666-777777777777";
const CLIENT_SECRET: &str = "Cq8~kV2xR.tW9mB-example-client-secret";
/// The first token asks to be refreshed after this: time enough for everything that its issue entails.
const REFRESH_IN: Duration = Duration::from_secs(6);
/// What follows a refresh follows within this.
const AFTERMATH: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_by_refresh_token_costs_one_read_four_writes_and_one_exchange() {
    World::run("cost-delegated", async |world| {
        let client = Client::confidential(CLIENT_ID, CLIENT_SECRET);
        let entra = entra(world, client).await;
        world.secret("app", "client-secret", CLIENT_SECRET).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let mut object = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        object["spec"]["clientAuth"] = secret_ref("app");
        let requests = second_refresh(world, &entra, &object).await;
        assert!(requests.reads().len() <= 1, "{:#?}", requests.all);
        assert!(requests.writes().len() <= 4, "{:#?}", requests.all);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_by_client_credentials_costs_two_writes_and_one_exchange() {
    World::run("cost-app-only", async |world| {
        let entra = entra(world, Client::confidential(APP, CLIENT_SECRET)).await;
        world.secret("app", "client-secret", CLIENT_SECRET).await;
        let object = app_only("mail", &Issuer::entra(&entra, APP), "app");
        let requests = second_refresh(world, &entra, &object).await;
        assert_eq!(requests.reads().len(), 0, "{:#?}", requests.all);
        assert!(requests.writes().len() <= 2, "{:#?}", requests.all);
    })
    .await;
}

async fn entra(world: &World, client: Client) -> Simulator {
    world.entra(Config { clients: vec![client], refresh_in: Some(REFRESH_IN), ..Config::default() }).await
}

/// Lets a first token be issued, and counts what its refresh, when it is due, costs.
async fn second_refresh(world: &World, entra: &Simulator, object: &Value) -> Requests {
    world.operator(Options::default()).await;
    world.create(object).await;
    world.until("mail", "ready", Gt::ready).await;
    // The second token lives for an hour undisturbed.
    entra.set_refresh_in(None);
    sleep(REFRESH_IN / 3).await;
    let mark = world.audit.mark();
    let before = world.graphtoken("mail").await;
    assert_eq!(
        (before.refresh_count(), entra.journal().token.len()),
        (1, 1),
        "the machine is too slow for this test"
    );

    world.until("mail", "refreshed", |gt| gt.refresh_count() == 2).await;
    sleep(AFTERMATH).await;
    let requests = world.audit.since(mark, &world.namespace);
    assert_eq!(entra.journal().token.len(), 2, "one exchange");
    assert_eq!(entra.journal().count(Outcome::Issued), 2);
    assert_eq!(requests.events, [], "a routine refresh is no event");
    assert!(!requests.writes().is_empty(), "the audit log shows nothing of the operator");
    requests
}
