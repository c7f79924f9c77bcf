//! When exchanges take place: early enough, on request, not while suspended, and with a back-off that pods do not feel.

use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Config, Fault, Outcome, Simulator};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::{Gt, Issuer, Options, World, delegated};

async fn mail(world: &World, life: Duration, refresh: Value) -> Simulator {
    let entra = world.entra(Config { token_lifetime: life, ..Config::default() }).await;
    world.operator(Options::default()).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    let mut mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
    mail["spec"]["refresh"] = refresh;
    world.create(&mail).await;
    world.until("mail", "Ready", Gt::ready).await;
    entra
}

async fn patch_spec(world: &World, spec: &Value) {
    let patch = json!({"spec": spec});
    world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

fn time(gt: &Gt, pointer: &str) -> Timestamp {
    gt.status(pointer).as_str().unwrap_or_default().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_day_is_refreshed_when_the_policy_says() {
    World::run("day", async |world| {
        let day = 24 * 3600;
        mail(world, Duration::from_secs(day), json!({"renewBeforePercentage": 75})).await;
        let gt = world.graphtoken("mail").await;
        let wait = time(&gt, "/nextRefreshTime").duration_since(time(&gt, "/lastRefreshTime")).as_secs();
        // A quarter of the life, up to a tenth earlier; the status shows whole seconds.
        assert!((19_439..=21_600).contains(&wait), "{wait} s");
        let life = time(&gt, "/expiresAt").duration_since(time(&gt, "/lastRefreshTime")).as_secs();
        assert_eq!(life.unsigned_abs(), day);
        let unused = time(&gt, "/refreshTokenExpiresAt").duration_since(time(&gt, "/lastRefreshTime"));
        assert_eq!(unused.as_hours(), 90 * 24);

        // A changed policy moves the time without an exchange.
        patch_spec(world, &json!({"refresh": {"renewBeforePercentage": null, "renewBefore": "6h"}})).await;
        let gt = world.until("mail", "planned anew", |gt| gt.observed() && gt.ready()).await;
        let wait = time(&gt, "/nextRefreshTime").duration_since(time(&gt, "/lastRefreshTime")).as_secs();
        assert!((58_319..=64_800).contains(&wait), "{wait} s");
        assert_eq!(gt.refresh_count(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_handled_once_and_its_removal_asks_for_nothing() {
    World::run("request", async |world| {
        let entra = mail(world, Duration::from_hours(1), Value::Null).await;
        world.request_refresh("mail", "now").await;
        let handled = |gt: &Gt| *gt.status("/lastHandledRequest") == json!("now") && gt.ready();
        let gt = world.until("mail", "refreshed on request", handled).await;
        assert_eq!(gt.refresh_count(), 2);

        let removed = json!({"metadata": {"annotations": {"graphtoken.io/requested-at": null}}});
        world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&removed)).await.unwrap();
        // A later change of the spec is seen after the removal was.
        patch_spec(world, &json!({"credentialRetention": "1h"})).await;
        world.until("mail", "observed", |gt| gt.observed() && gt.ready()).await;
        assert_eq!(entra.journal().count(Outcome::Issued), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_graphtoken_exchanges_nothing_until_it_is_resumed() {
    World::run("suspend", async |world| {
        let entra = mail(world, Duration::from_secs(8), Value::Null).await;
        patch_spec(world, &json!({"suspend": true})).await;
        let gt = world
            .until("mail", "suspended", |gt| gt.condition("Refreshed") == Some(("Unknown", "Suspended")))
            .await;
        let before = entra.journal().count(Outcome::Issued);
        world.request_refresh("mail", "while suspended").await;
        // Its token runs out meanwhile, and the status says so without an exchange.
        let expired = world
            .until("mail", "expired", |gt| gt.condition("Ready") == Some(("False", "TokenExpired")))
            .await;
        assert_eq!(entra.journal().count(Outcome::Issued), before);
        assert_eq!(expired.refresh_count(), gt.refresh_count());
        patch_spec(world, &json!({"suspend": false})).await;
        world.until("mail", "Ready again", Gt::ready).await;
        assert!(entra.journal().count(Outcome::Issued) > before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_outage_shorter_than_the_token_s_life_is_not_felt() {
    World::run("outage", async |world| {
        let entra = mail(world, Duration::from_secs(24), json!({"renewBeforePercentage": 90})).await;
        let down = Action::json(503, json!({"error": "temporarily_unavailable"}));
        entra.queue_fault(Fault::token(down).forever());
        let gt =
            world.until("mail", "failing", |gt| gt.status("/consecutiveFailures").as_u64() >= Some(3)).await;
        assert_eq!(gt.condition("Ready"), Some(("True", "TokenValid")));
        assert_eq!(gt.condition("Refreshed"), Some(("False", "ProviderUnavailable")));
        assert_eq!(gt.condition("Stalled"), None);
        assert_eq!(gt.condition("Reconciling"), None, "pods have a token: nothing is in progress");

        // Longer, and the status says so when the token has in fact run out.
        let gt = world
            .until("mail", "expired", |gt| gt.condition("Ready") == Some(("False", "TokenExpired")))
            .await;
        assert!(gt.condition("Reconciling").is_some());
        let failed = entra.journal().count(Outcome::Faulted);
        assert!(failed <= 20, "{failed} attempts in 24 s: back-off");
        entra.clear_faults();
        let gt = world.until("mail", "Ready again", Gt::ready).await;
        assert_eq!(gt.status("/consecutiveFailures"), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_client_is_silent_as_long_as_it_was_asked_to_be() {
    World::run("throttled", async |world| {
        let entra = mail(world, Duration::from_hours(1), Value::Null).await;
        entra.queue_fault(Fault::token(Action::throttled("9")));
        world.request_refresh("mail", "first").await;
        let gt = world
            .until("mail", "throttled", |gt| gt.condition("Refreshed") == Some(("False", "Throttled")))
            .await;
        assert_eq!(gt.condition("Ready"), Some(("True", "TokenValid")));
        // A request does not pass over it.
        world.request_refresh("mail", "second").await;
        world
            .until("mail", "refreshed", |gt| {
                *gt.status("/lastHandledRequest") == json!("second") && gt.ready()
            })
            .await;
        let times: Vec<_> = entra.journal().token.iter().map(|entry| entry.time_ms).collect();
        let [.., throttled, next] = times[..] else { panic!("{times:?}") };
        assert!(next - throttled >= 8_900, "{} ms of silence", next - throttled);
    })
    .await;
}
