//! No token, secret or seed in any log line, event, status or metric, whatever goes wrong. The search itself takes place at
//! the end of every test, with the operator logging at level trace; here it meets answers that are made to leak.

use entra_simulator::{Action, Canned, Client, Config, Fault, Simulator};
use serde_json::{Value, json};

use crate::harness::objects::secret_ref;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

/// Made of nothing that a search for the simulator's prefixes would find.
const SEED: &str = "1.AXoA-plain/seed+of~a_user.Lw8tqX3rV5nKpYcD0uJz";
const CLIENT_SECRET: &str = "Eq8~kV2xR.tW9mB-example-client-secret";
const ACCESS_TOKEN: &str = "eyJ0eXAiOiJKV1QifQ.eyJhdWQiOiJncmFwaCJ9.c2lnbmF0dXJl-odd";

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_every_kind_reveal_no_secret() {
    World::run("silence", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.confidential.note("an access token", ACCESS_TOKEN);

        let echo = format!("AADSTS70000: {SEED} with secret={CLIENT_SECRET} and {ACCESS_TOKEN} is no good");
        let answers = [
            ("echoed", answer(400, json!({"error": "invalid_grant", "error_description": echo}))),
            ("echoed-client", answer(401, json!({"error": "invalid_client", "error_description": echo}))),
            (
                "echoed-code",
                answer(400, json!({"error": SEED, "suberror": CLIENT_SECRET, "correlation_id": SEED})),
            ),
            ("page", answer(502, format!("<html><body>{echo}</body></html>").into())),
            ("not-json", answer(200, format!("access_token={ACCESS_TOKEN}&refresh_token={SEED}").into())),
            ("no-life", answer(200, token(&json!({"expires_in": SEED})))),
            ("odd-type", answer(200, token(&json!({"token_type": SEED})))),
            (
                "nested",
                answer(200, json!({"access_token": {"secret": ACCESS_TOKEN}, "refresh_token": [SEED]})),
            ),
            ("redirect", redirect(&entra)),
            ("closed", Action::Close),
            ("lost", Action::AnswerLost),
        ];
        for (name, action) in answers {
            failing(world, &entra, name, action).await;
        }
        refused_by_rules(world, &entra).await;
        unusable_seeds(world, &entra).await;
    })
    .await;
}

fn answer(status: u16, body: Value) -> Action {
    Action::Respond(Canned { status, body, content_type: None, headers: Vec::new() })
}

/// A token answer with something odd in it.
fn token(odd: &Value) -> Value {
    let mut body = json!({
        "access_token": ACCESS_TOKEN, "refresh_token": SEED, "token_type": "Bearer", "expires_in": 3600,
    });
    for (name, value) in odd.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn redirect(entra: &Simulator) -> Action {
    let location = format!("{}/?token={ACCESS_TOKEN}", entra.url());
    Action::Respond(Canned {
        status: 302,
        body: json!({}),
        content_type: None,
        headers: vec![("Location".to_owned(), location)],
    })
}

/// A client of its own, so that the fault meets no other.
fn client(entra: &Simulator, name: &str) -> Issuer {
    let id = format!("client-{name}");
    entra.put_client(Client::confidential(&id, CLIENT_SECRET));
    Issuer::entra(entra, &id)
}

/// A `GraphToken` whose every exchange is answered so, until it has failed.
async fn failing(world: &World, entra: &Simulator, name: &str, action: Action) {
    let issuer = client(entra, name);
    entra.queue_fault(Fault::token(action).for_client(&issuer.client_id).forever());
    world.secret(&format!("{name}-app"), "client-secret", CLIENT_SECRET).await;
    world.seed(&format!("{name}-seed"), SEED).await;
    let mut object = delegated(name, &issuer, &format!("{name}-seed"));
    object["spec"]["clientAuth"] = secret_ref(&format!("{name}-app"));
    world.create(&object).await;
    world.until(name, "failed", failed).await;
}

/// Refusals by the simulator's own rules.
async fn refused_by_rules(world: &World, entra: &Simulator) {
    let wrong = "a-wrong~secret.of-this-client";
    world.secret("wrong-app", "client-secret", wrong).await;
    world.create(&app_only("wrong-secret", &client(entra, "wrong-secret"), "wrong-app")).await;
    world.until("wrong-secret", "failed", failed).await;

    let issuer = client(entra, "wrong-account");
    world.secret("account-app", "client-secret", CLIENT_SECRET).await;
    let seed = entra.mint_refresh_token(None, Some(&issuer.client_id), &[]).unwrap();
    world.seed("account-seed", &seed).await;
    let mut object = delegated("wrong-account", &issuer, "account-seed");
    object["spec"]["clientAuth"] = secret_ref("account-app");
    object["spec"]["account"] = json!("somebody.else@contoso.com");
    world.create(&object).await;
    let gt = world.until("wrong-account", "failed", failed).await;
    assert_eq!(gt.condition("Stalled"), Some(("True", "WrongAccount")));
}

/// Seeds and client secrets in which something else is, or too much.
async fn unusable_seeds(world: &World, entra: &Simulator) {
    let issuer = client(entra, "unusable");
    let seeds = [
        ("two-lines", format!("{SEED}\n{SEED}x")),
        ("no-member", json!({"token": SEED}).to_string()),
        ("cut-json", format!("{{\"refresh_token\": \"{SEED}")),
        ("number", format!("{{\"refresh_token\": 17, \"access_token\": \"{ACCESS_TOKEN}\"}}")),
    ];
    for (name, seed) in seeds {
        world.seed(&format!("{name}-seed"), &seed).await;
        world.create(&delegated(name, &issuer, &format!("{name}-seed"))).await;
        world.until(name, "stalled", |gt| gt.condition("Stalled").is_some()).await;
    }
    world.secret("lines-app", "client-secret", &format!("{CLIENT_SECRET}\nsecond line")).await;
    world.create(&app_only("lines", &issuer, "lines-app")).await;
    world.until("lines", "stalled", |gt| gt.condition("Stalled").is_some()).await;
}

fn failed(gt: &Gt) -> bool {
    *gt.status("/lastFailure") != Value::Null
}
