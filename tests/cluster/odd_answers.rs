//! Answers of a token endpoint that are not quite, or not at all, what they should be.

use std::time::Duration;

use entra_simulator::{Action, Canned, Client, Config, Fault, Simulator, digest};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::device::message;
use crate::harness::{Gt, Issuer, Options, World, delegated};

const ACCESS_TOKEN: &str = "odd-but-good.access~token+of/a.user_Lw8tqX3rV5nK";
const HOUR: SignedDuration = SignedDuration::from_hours(1);
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A `GraphToken` whose every exchange is answered so. Returns its seed.
async fn answered(world: &World, entra: &Simulator, name: &str, action: Action) -> String {
    entra.put_client(Client::public(name));
    entra.queue_fault(Fault::token(action).for_client(name).forever());
    let seed = entra.mint_refresh_token(None, Some(name), &[]).unwrap();
    world.seed(&format!("{name}-seed"), &seed).await;
    world.create(&delegated(name, &Issuer::entra(entra, name), &format!("{name}-seed"))).await;
    seed
}

fn respond(body: Value, content_type: Option<&str>) -> Action {
    let content_type = content_type.map(str::to_owned);
    Action::Respond(Canned { status: 200, body, content_type, headers: Vec::new() })
}

/// A good answer, but for these members; null leaves one out.
fn token(odd: &Value) -> Value {
    let mut body = json!({
        "access_token": ACCESS_TOKEN, "refresh_token": "odd-but-good.refresh-token_pYcD0uJz",
        "token_type": "Bearer", "expires_in": 3600, "scope": "Mail.Read User.Read",
    });
    for (name, value) in odd.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    body
}

async fn odd_answers(world: &World, name: &str) -> Vec<String> {
    let events: Api<Event> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    let events = events.list(&ListParams::default()).await.unwrap().items.into_iter();
    events
        .filter(|event| event.involved_object.name.as_deref() == Some(name))
        .filter(|event| event.reason.as_deref() == Some("OddAnswer"))
        .map(|event| event.message.unwrap_or_default())
        .collect()
}

/// From the exchange to the token's end.
fn life(gt: &Gt) -> SignedDuration {
    let time = |pointer: &str| gt.status(pointer).as_str().unwrap().parse::<Timestamp>().unwrap();
    time("/expiresAt").duration_since(time("/lastRefreshTime"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_is_tried_again() {
    World::run("no-answers", async |world| {
        let entra = world.entra(Config::default()).await;
        // The deadline is half of it.
        world.operator(Options::default().flag("--lease-duration=10s")).await;
        let cut = format!("{{\"access_token\": \"{ACCESS_TOKEN}\", \"refresh_to");
        // One with another refresh token would be taken at its word: the old one may be spent.
        let unrotated = |odd: Value| {
            let mut body = token(&odd);
            body.as_object_mut().unwrap().remove("refresh_token");
            respond(body, None)
        };
        let cases = [
            ("huge", Action::HugeBody { megabytes: 10 }, "too large"),
            ("slow", Action::SlowBody { chunk_bytes: 1, delay_ms: 1000 }, "in time"),
            ("cut", respond(cut.into(), Some("application/json")), "cannot be used"),
            ("empty", respond("".into(), None), "cannot be used"),
            ("list", respond(json!([token(&json!({}))]), None), "cannot be used"),
            ("tokenless", unrotated(json!({"access_token": null})), "access_token"),
            ("lifeless", unrotated(json!({"expires_in": 0})), "expires_in"),
        ];
        for (name, action, _) in &cases {
            answered(world, &entra, name, action.clone()).await;
        }
        for (name, _, says) in &cases {
            let failing = |gt: &Gt| {
                gt.condition("Ready") == Some(("False", "ProviderUnavailable"))
                    && gt.condition("Reconciling").is_some()
                    && message(gt, "Ready").contains(says)
            };
            world.until(name, &format!("saying {says}"), failing).await;
        }
        entra.clear_faults();
        for (name, ..) in &cases {
            world.request_refresh(name, "mended").await;
            world.until(name, "ready", Gt::ready).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_is_taken_with_care_and_told() {
    World::run("odd-answers", async |world| {
        world.confidential.note("an access token", ACCESS_TOKEN);
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        let text = token(&json!({})).to_string();
        let html = Some("text/html");
        let cases: [(&str, Action, SignedDuration, &[&str]); 7] = [
            ("page", respond(text.clone().into(), html), HOUR, &[]),
            ("marked", respond(format!("\u{feff}{text}").into(), html), HOUR, &[]),
            ("text", respond(token(&json!({"expires_in": "3600", "refresh_in": "1800"})), None), HOUR, &[]),
            ("lifeless", respond(token(&json!({"expires_in": null})), None), HOUR, &["one hour is assumed"]),
            ("absurd", respond(token(&json!({"expires_in": 1e15})), None), WEEK, &["seven days"]),
            ("scopes", respond(token(&json!({"scope": "Mail.Read \u{1}x"})), None), HOUR, &["left out"]),
            ("unrotated", respond(token(&json!({"refresh_token": null})), None), HOUR, &[]),
        ];
        let mut seeds = Vec::new();
        for (name, action, ..) in &cases {
            seeds.push(answered(world, &entra, name, action.clone()).await);
        }
        for (name, _, lives, told) in &cases {
            let gt = world.until(name, "ready", Gt::ready).await;
            let off = life(&gt) - *lives;
            assert!(off.abs() < SignedDuration::from_secs(30), "{name} lives {:?}", life(&gt));
            assert_eq!(world.data(name).await["token"], ACCESS_TOKEN);
            let events = odd_answers(world, name).await;
            assert_eq!(events.len(), told.len(), "{name}: {events:?}");
            assert!(told.iter().all(|words| events[0].contains(words)), "{name}: {events:?}");
        }
        // Without another, the refresh token is used again.
        world.request_refresh("unrotated", "again").await;
        world.until("unrotated", "refreshed", |gt| gt.ready() && gt.refresh_count() == 2).await;
        let seed = digest(seeds.last().unwrap());
        let journal = entra.journal().token;
        let sent = journal.iter().filter(|entry| entry.received_sha256.as_ref() == Some(&seed)).count();
        assert_eq!(sent, 2);
    })
    .await;
}

// A day is what Entra gives where continuous access evaluation is on: nothing odd.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_day_is_no_surprise() {
    World::run("long-answers", async |world| {
        let token_lifetime = Duration::from_hours(28);
        let entra =
            world.entra(Config { token_lifetime, numbers_as_strings: true, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, entra_simulator::CLIENT_ID), "seed")).await;
        let gt = world.until("mail", "ready", Gt::ready).await;
        assert!(life(&gt) > HOUR * 27 && odd_answers(world, "mail").await.is_empty());
    })
    .await;
}
