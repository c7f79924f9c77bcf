//! What a provider says to one `GraphToken` holds for all of its client, and an outage costs it few requests.

use std::time::Duration;

use entra_simulator::{Action, Client, Config, Fault, Journal, Outcome, Simulator};
use jiff::Timestamp;
use kube::api::ListParams;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::harness::{Gt, Issuer, Options, World, app_only};

const BUSY: &str = "44444444-5555-6666-7777-888888888888";
const CALM: &str = "99999999-8888-7777-6666-555555555555";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";
/// Those on the throttled client.
const CROWD: usize = 50;
const OTHERS: usize = 3;
/// What the provider asks for.
const SILENCE: Duration = Duration::from_secs(30);

async fn entra(world: &World, life: Duration) -> Simulator {
    let clients = vec![Client::confidential(BUSY, CLIENT_SECRET), Client::confidential(CALM, CLIENT_SECRET)];
    let entra = world.entra(Config { clients, token_lifetime: life, ..Config::default() }).await;
    world.secret("app", "client-secret", CLIENT_SECRET).await;
    entra
}

async fn create(world: &World, entra: &Simulator, client: &str, prefix: &str, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("{prefix}-{n:02}")).collect();
    for name in &names {
        world.create(&app_only(name, &Issuer::entra(entra, client), "app")).await;
    }
    for name in &names {
        world.until(name, "Ready", Gt::ready).await;
    }
    names
}

async fn all(world: &World) -> Vec<Gt> {
    world.graphtokens().list(&ListParams::default()).await.unwrap().items.into_iter().map(Gt).collect()
}

fn name(gt: &Gt) -> &str {
    gt.0.metadata.name.as_deref().unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "what the operator's own clock shows")]
fn now() -> Timestamp {
    Timestamp::now()
}

/// Milliseconds at which requests of a client arrived.
fn arrivals(journal: &Journal, client: &str) -> Vec<u64> {
    journal.token.iter().filter(|entry| entry.client_id == client).map(|entry| entry.time_ms).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_throttled_is_silent_with_all_its_graphtokens_and_over_a_restart() {
    World::run("silent-client", async |world| {
        let entra = entra(world, Duration::from_hours(1)).await;
        // Killed below, its Lease would outlive it.
        let options = Options::default().flag("--leader-election=false");
        let operator = world.operator(options.clone()).await;
        let crowd = create(world, &entra, BUSY, "busy", CROWD).await;
        let others = create(world, &entra, CALM, "calm", OTHERS).await;

        entra.queue_fault(Fault::token(Action::throttled("30")).for_client(BUSY));
        world.request_refresh(&crowd[0], "now").await;
        let throttled = |gt: &Gt| gt.condition("Refreshed") == Some(("False", "Throttled"));
        world.until(&crowd[0], "throttled", throttled).await;
        let told = *arrivals(&entra.journal(), BUSY).last().unwrap();
        let mark = world.audit.mark();
        for name in &crowd[1..] {
            world.request_refresh(name, "now").await;
        }
        for name in &others {
            world.request_refresh(name, "now").await;
        }
        for name in &others {
            world.until(name, "refreshed meanwhile", |gt| gt.refresh_count() == 2).await;
        }
        for name in &crowd[1..] {
            let gt = world.until(name, "held up", throttled).await;
            assert!(gt.ready(), "its token is still good");
            let refreshed = gt.status("/conditions").as_array().unwrap();
            let refreshed = refreshed.iter().find(|c| c["type"] == "Refreshed").unwrap();
            let message = refreshed["message"].as_str().unwrap();
            assert!(message.contains("silence until 20") && message.contains(BUSY), "{message}");
        }
        // Amid the silence another process begins, and hears of it from the statuses alone.
        operator.kill().await;
        world.operator(options).await;
        let requests = world.audit.since(mark, &world.namespace);
        let of_one = requests.writes().iter().filter(|r| r.name.as_deref() == Some(&crowd[7])).count();
        assert!(of_one <= 2, "a status for each tick: {:#?}", requests.writes());
        for name in &crowd {
            let refreshed =
                |gt: &Gt| gt.refresh_count() == 2 && *gt.status("/lastHandledRequest") == json!("now");
            world.until(name, "refreshed", refreshed).await;
        }
        let journal = entra.journal();
        let after: Vec<u64> = arrivals(&journal, BUSY).into_iter().filter(|at| *at > told).collect();
        let first = after.iter().min().unwrap() - told;
        assert!(u128::from(first) >= SILENCE.as_millis(), "a request after {first} ms");
        assert_eq!(after.len(), CROWD, "one each");
        let took = after.iter().max().unwrap() - after.iter().min().unwrap();
        assert!(took >= 1_000, "all at once: within {took} ms");
        let meanwhile = arrivals(&journal, CALM).into_iter().filter(|at| *at > told);
        assert_eq!(meanwhile.filter(|at| at - told < 20_000).count(), OTHERS, "they were not held up");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_beyond_the_token_s_life_is_told_when_it_is_felt_and_costs_few_requests() {
    World::run("long-outage", async |world| {
        const QPS: u64 = 5;
        let entra = entra(world, Duration::from_secs(40)).await;
        world.operator(Options::default().flag(&format!("--provider-qps={QPS}"))).await;
        let down = Action::json(503, json!({"error": "temporarily_unavailable"}));
        let names = create(world, &entra, BUSY, "app", 10).await;
        // Before any of these tokens is due for a refresh.
        entra.queue_fault(Fault::token(down).forever());
        let began = Instant::now();
        let mut expired = 0;
        while expired < names.len() || began.elapsed() < Duration::from_secs(55) {
            assert!(
                began.elapsed() < Duration::from_secs(90),
                "{expired} of them say that they have expired"
            );
            expired = 0;
            let before = now();
            for gt in all(world).await {
                let end: Timestamp = gt.status("/expiresAt").as_str().unwrap().parse().unwrap();
                match gt.condition("Ready") {
                    Some(("True", "TokenValid")) => {
                        // The status shows whole seconds, and the operator may have much to do.
                        let late = before.duration_since(end).as_secs();
                        assert!(late < 5, "{} is said to be ready {late} s after its token's end", name(&gt));
                    }
                    Some(("False", "TokenExpired")) => {
                        assert!(now() >= end, "{} is good until {end}", name(&gt));
                        expired += 1;
                    }
                    other => panic!("{}: {other:?}", name(&gt)),
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
        entra.clear_faults();
        let back = Instant::now();
        for name in &names {
            world.until(name, "Ready again", Gt::ready).await;
        }
        // The longest back-off, and a turn of each.
        let took = back.elapsed();
        assert!(took <= Duration::from_secs(30), "{took:?}");
        let journal = entra.journal();
        let times = arrivals(&journal, BUSY);
        for (n, began) in times.iter().enumerate() {
            let within = times[n..].iter().take_while(|at| *at - began < 2_000).count();
            assert!(within as u64 <= 2 * QPS + 1, "{within} requests in two seconds");
        }
        assert!(journal.count(Outcome::Faulted) >= names.len(), "it was felt");
    })
    .await;
}
