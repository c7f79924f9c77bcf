//! No hot loop on the real control plane: where the watches bring back what the operator wrote itself, bad input costs no
//! more reconciles than its back-off allows. `tests/crash/bad_input.rs` has more kinds of it, and an hour of each.

use std::time::Duration;

use entra_simulator::{Action, Canned, Client, Config, Fault, Simulator};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::audit::Request;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

const CLIENT_SECRET: &str = "Fq8~kV2xR.tW9mB-example-client-secret";
const WINDOW: Duration = Duration::from_secs(20);
/// Another controller looks as often.
const RIVAL: Duration = Duration::from_millis(50);

/// Name, and the most reconciles within the window. Who waits for a person has none, but one is left from the beginning.
const BOUNDS: [(&str, usize); 7] = [
    ("malformed", 1),
    ("seedless", 1),
    ("refused", 1),
    ("throttled", 1),
    // 5 s, 10 s, 20 s apart: three in any 20 s, and one left from the beginning.
    ("page", 4),
    // A second apart, and one at the end of each life.
    ("short-lived", 42),
    // A repair each 5 s, and one for each change that is seen.
    ("fought-over", 14),
];

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the figures are worth a look where all goes well, too")]
async fn bad_input_of_many_kinds_at_once_makes_no_hot_loop() {
    World::run("bad-input", async |world| {
        let entra = world.entra(Config::default()).await;
        let operator = world.operator(Options::default()).await;
        populate(world, &entra).await;
        sleep(Duration::from_secs(2)).await;

        let before =
            operator.metrics().await.unwrap().sum("graphtoken_reconcile_duration_seconds_count", &[]);
        let mark = world.audit.mark();
        fight_over(world, "fought-over").await;
        let after = operator.metrics().await.unwrap().sum("graphtoken_reconcile_duration_seconds_count", &[]);
        let requests = world.audit.since(mark, &world.namespace);

        let most: usize = BOUNDS.iter().map(|(_, most)| most).sum();
        println!("{} reconciles of {most} in {WINDOW:?}", after - before);
        assert!(after - before <= most as u64, "{} reconciles\n{:#?}", after - before, requests.all);
        // A status is written once a reconcile at most, so it tells whose they are.
        for (name, most) in BOUNDS {
            let of_it = |request: &&Request| request.name.as_deref() == Some(name);
            let statuses = requests
                .all
                .iter()
                .filter(of_it)
                .filter(|r| r.subresource.as_deref() == Some("status"))
                .count();
            println!("{name:12} {statuses} statuses of {most}");
            assert!(statuses <= most, "{name}: {statuses} statuses");
        }
    })
    .await;
}

/// One `GraphToken` of each kind, all of which have been looked at.
async fn populate(world: &World, entra: &Simulator) {
    world.secret("app", "client-secret", CLIENT_SECRET).await;
    let issuer = |name: &str| {
        entra.put_client(Client::confidential(name, CLIENT_SECRET));
        Issuer::entra(entra, name)
    };
    world.seed("two-words", "two words").await;
    world.create(&delegated("malformed", &issuer("malformed"), "two-words")).await;
    world.create(&delegated("seedless", &issuer("seedless"), "not-there")).await;
    let answers = [
        ("refused", 400, json!({"error": "unauthorized_client"})),
        ("throttled", 429, json!({})),
        ("page", 200, json!("<html>sign in</html>")),
        ("short-lived", 200, json!({"access_token": "at-that-lives-for-a-second", "expires_in": 1})),
    ];
    for (name, status, body) in answers {
        let issuer = issuer(name);
        let canned = Canned { status, body, content_type: None, headers: Vec::new() };
        entra.queue_fault(Fault::token(Action::Respond(canned)).for_client(&issuer.client_id).forever());
        world.create(&app_only(name, &issuer, "app")).await;
    }
    world.create(&app_only("fought-over", &issuer("fought-over"), "app")).await;
    let failed = |gt: &Gt| *gt.status("/lastFailure") != Value::Null;
    for name in ["refused", "throttled", "page"] {
        world.until(name, "failed", failed).await;
    }
    for name in ["malformed", "seedless"] {
        world.until(name, "stalled", |gt| gt.condition("Stalled").is_some()).await;
    }
    world.until("short-lived", "served", |gt| gt.refresh_count() > 1).await;
    world.until("fought-over", "ready", Gt::ready).await;
}

/// Another controller with ideas of its own, for the length of the window.
async fn fight_over(world: &World, target: &str) {
    let began = Instant::now();
    let theirs = json!({"stringData": {"token": "theirs"}});
    while began.elapsed() < WINDOW {
        world.secrets().patch(target, &PatchParams::default(), &Patch::Merge(&theirs)).await.unwrap();
        sleep(RIVAL).await;
    }
}
