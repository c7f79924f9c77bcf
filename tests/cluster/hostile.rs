//! The whole operator against a hostile provider and a hostile Graph: each `GraphToken` says what is wrong, memory is bounded,
//! and the others go on. `tests/hostile` has what each trick comes to.

use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Canned, Client, Config, Fault, Simulator};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::device::message;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};
use crate::hostile_server::{Hostile, tricks};

const CLIENT_SECRET: &str = "Zq4~hostile-providers.client-secret";
/// What the operator may need at most in MiB, above what it needed before: 40 answers at a time of a MiB, read and parsed.
const MOST_GROWTH: u64 = 192;

/// The most memory that a process has had, in MiB.
fn high_water(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux tells it");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// One that is refreshed all the time, which nothing else may hinder.
async fn honest(world: &World, entra: &Simulator) {
    world.seed("honest-seed", &entra.mint().unwrap()).await;
    world.create(&delegated("honest", &Issuer::entra(entra, CLIENT_ID), "honest-seed")).await;
    world.until("honest", "ready", Gt::ready).await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the figure is worth a look where all goes well, too")]
async fn a_hostile_provider_gets_a_clear_condition_and_bounded_memory_while_others_go_on() {
    World::run("hostile", async |world| {
        let entra =
            world.entra(Config { token_lifetime: Duration::from_secs(20), ..Config::default() }).await;
        let operator = world.operator(Options::default()).await;
        honest(world, &entra).await;
        let before = high_water(operator.pid());

        let all = tricks();
        let names: Vec<_> = all.iter().map(|trick| trick.name).collect();
        let hostile = Hostile::start(all).await;
        world.secret("app", "client-secret", CLIENT_SECRET).await;
        for name in &names {
            let issuer = Issuer {
                tenant: "contoso.onmicrosoft.com".to_owned(),
                client_id: format!("client-of-{name}"),
                token_url: hostile.url(name),
            };
            world.create(&app_only(name, &issuer, "app")).await;
        }
        for name in &names {
            let told = |gt: &Gt| {
                gt.condition("Ready") == Some(("False", "ProviderUnavailable"))
                    && gt.condition("Reconciling").is_some()
                    && message(gt, "Ready").contains("token endpoint")
            };
            world.until(name, "told of", told).await;
        }
        assert!(hostile.requests().len() >= names.len(), "each was asked");
        let count = world.graphtoken("honest").await.refresh_count();
        let goes_on = |gt: &Gt| gt.ready() && gt.refresh_count() > count + 1;
        world.until("honest", "refreshed meanwhile", goes_on).await;
        assert_eq!(*world.graphtoken("honest").await.status("/consecutiveFailures"), json!(0));

        let grown = high_water(operator.pid()) - before;
        println!("{} tricks: memory grew by {grown} MiB of {MOST_GROWTH}", names.len());
        assert!(grown <= MOST_GROWTH, "memory grew by {grown} MiB");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_graph_costs_no_token_and_no_memory() {
    World::run("hostile-graph", async |world| {
        let entra = world.entra(Config::default()).await;
        let operator = world.operator(Options::default()).await;
        honest(world, &entra).await;
        let before = high_water(operator.pid());
        let all = tricks();
        let names: Vec<_> = all.iter().map(|trick| trick.name).collect();
        let hostile = Hostile::start(all).await;
        for name in &names {
            let seed = format!("{name}-seed");
            world.seed(&seed, &entra.mint().unwrap()).await;
            let mut object = delegated(name, &Issuer::entra(&entra, CLIENT_ID), &seed);
            object["spec"]["endpoints"]["graph"] = json!(hostile.url(name));
            world.create(&object).await;
        }
        for name in &names {
            // A status of 200 is all that a good answer has to have; the rest is read up to a bound, and dropped.
            let tried = |gt: &Gt| gt.ready() && gt.condition("Verified").is_some();
            world.until(name, "ready, and tried", tried).await;
        }
        assert!(hostile.requests().len() >= names.len(), "each was asked");
        let grown = high_water(operator.pid()) - before;
        assert!(grown <= MOST_GROWTH, "memory grew by {grown} MiB");
    })
    .await;
}

/// Nothing of these may be told as it is: a line of a log, a colour, a turn of the writing direction.
const INJECTION: &str =
    "invalid_grant\r\n2026-11-26T10:00:00Z  INFO graphtoken: forged\u{1b}[2K\u{202e}\u{2028}\u{9b}31m";

fn misleads(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Every text in a JSON value.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(members) => members.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_providers_and_of_specs_make_no_lines_and_turn_none() {
    World::run("injection", async |world| {
        let entra = world.entra(Config::default()).await;
        let operator = world.operator(Options::default()).await;
        let description = INJECTION.repeat(5000);
        let answers = [
            (
                "words",
                400,
                json!({"error": INJECTION, "suberror": INJECTION, "error_description": INJECTION}),
            ),
            (
                "description",
                400,
                json!({"error": "invalid_grant", "error_description": description, "error_uri": description}),
            ),
            ("nested", 400, json!({"error": "invalid_grant", "error_description": {"error": INJECTION}})),
            (
                "ids",
                401,
                json!({"error": "invalid_client", "trace_id": INJECTION, "correlation_id": description}),
            ),
            (
                "success",
                200,
                json!({"access_token": INJECTION, "token_type": INJECTION, "expires_in": INJECTION}),
            ),
            (
                "scopes",
                200,
                json!({"access_token": "a-token-with-odd-scopes", "expires_in": 3600, "scope": INJECTION}),
            ),
        ];
        for (name, status, body) in answers {
            entra.put_client(Client::public(name));
            let headers = vec![("retry-after".to_owned(), "1\u{9b}31m".to_owned())];
            let canned = Canned { status, body, content_type: None, headers };
            entra.queue_fault(Fault::token(Action::Respond(canned)).for_client(name).forever());
            world
                .seed(&format!("{name}-seed"), &entra.mint_refresh_token(None, Some(name), &[]).unwrap())
                .await;
            let mut object = delegated(name, &Issuer::entra(&entra, name), &format!("{name}-seed"));
            // Whatever the API server's patterns let pass of this.
            object["spec"]["account"] = json!("a\u{202e}b\u{1b}[31m@contoso.com");
            object["metadata"]["annotations"] = json!({"graphtoken.io/requested-at": INJECTION});
            world.create(&object).await;
            world.until(name, "failed", |gt| *gt.status("/lastFailure") != Value::Null).await;
        }
        // The echo of the annotation is as the annotation was.
        let mut said = Vec::new();
        for mut graphtoken in world.graphtokens().list(&ListParams::default()).await.unwrap().items {
            graphtoken.data["status"].as_object_mut().unwrap().remove("lastHandledRequest");
            texts(&graphtoken.data["status"], &mut said);
        }
        let events: Api<Event> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
        for event in events.list(&ListParams::default()).await.unwrap().items {
            said.extend(event.message.into_iter().chain(event.reason));
        }
        assert!(said.len() > 50);
        for text in &said {
            assert!(
                !text.contains("forged") && !text.chars().any(misleads) && text.len() <= 1024,
                "{text:?}"
            );
        }
        let log = std::fs::read_to_string(operator.log()).unwrap();
        for line in log.lines() {
            assert!(!line.chars().any(misleads), "{line:?}");
            // The operator's own begin with the time and have a level.
            let time = line.get(..27).unwrap_or_default();
            assert!(time.ends_with('Z') && line.as_bytes()[4] == b'-', "{line:?}");
        }
    })
    .await;
}
