//! Two operators, one Lease: one acts, and whatever becomes of it, no refresh token is sent twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use entra_simulator::{CLIENT_ID, Config, Outcome, Rotation, Simulator};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::harness::operator::Operator;
use crate::harness::{Issuer, Options, World, delegated};

const LEASE: Duration = Duration::from_secs(4);
/// The contract: the Lease's length and 5 s.
const TAKE_OVER: Duration = Duration::from_secs(4 + 5);
/// An exchange is due every two seconds or so.
const LIFETIME: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_killed_the_other_takes_over_in_time_and_no_refresh_token_is_sent_twice() {
    World::run("killed", async |world| {
        let (entra, leader, standby) = pair(world, &short_lease()).await;
        let before = await_exchanges(world, 3).await;
        assert_acts_alone(&entra, &leader, &standby).await;

        // The status is written last: now no exchange is in flight.
        await_exchanges(world, before + 1).await;
        leader.kill().await;
        let killed = Instant::now();
        let exchanges = entra.journal().token.len();
        entra.journal_until(|journal| journal.token.len() > exchanges).await;
        assert!(killed.elapsed() <= TAKE_OVER, "taken over after {:?}", killed.elapsed());

        await_exchanges(world, before + 4).await;
        assert!(standby.leads().await);
        assert_unbroken(&entra);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_beyond_its_lease_sends_nothing_when_it_goes_on() {
    World::run("paused", async |world| {
        let (entra, leader, standby) = pair(world, &short_lease()).await;
        let before = await_exchanges(world, 2).await;
        leader.pause();
        let paused = Instant::now();
        let exchanges = entra.journal().token.len();
        entra.journal_until(|journal| journal.token.len() > exchanges).await;
        // It was renewed a third of its length before at the latest, give or take a busy machine.
        assert!(paused.elapsed() > LEASE / 2 + LEASE / 20, "the other acted after {:?}", paused.elapsed());
        await_exchanges(world, before + 2).await;
        assert!(standby.leads().await);

        leader.resume();
        await_exchanges(world, before + 5).await;
        assert!(leader.ready().await && !leader.leads().await, "it stands by");
        assert!(standby.leads().await);
        assert_unbroken(&entra);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_gives_its_lease_back() {
    World::run("handed-over", async |world| {
        // So long a Lease would keep the other waiting.
        let (entra, leader, standby) = pair(world, &Options::default().flag("--lease-duration=60s")).await;
        let before = await_exchanges(world, 2).await;
        world.stop(&leader).await;
        let stopped = Instant::now();
        await_exchanges(world, before + 2).await;
        assert!(stopped.elapsed() < Duration::from_secs(15), "handed over after {:?}", stopped.elapsed());
        assert!(standby.leads().await);
        assert_unbroken(&entra);
    })
    .await;
}

fn short_lease() -> Options {
    Options::default().flag(&format!("--lease-duration={}s", LEASE.as_secs()))
}

/// Two operators, the first of which leads, and a `GraphToken` whose tokens are short-lived and work once.
async fn pair(world: &World, options: &Options) -> (Simulator, Arc<Operator>, Arc<Operator>) {
    let config = Config { token_lifetime: LIFETIME, rotation: Rotation::Strict, ..Config::default() };
    let entra = world.entra(config).await;
    let leader = world.operator(options.clone()).await;
    while !leader.leads().await {
        sleep(Duration::from_millis(50)).await;
    }
    let standby = world.operator(options.clone()).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    let mut object = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
    object["spec"]["refresh"] = json!({"renewBeforePercentage": 50});
    world.create(&object).await;
    (entra, leader, standby)
}

/// Waits until so many exchanges at least are in the status, which is written last; returns how many.
async fn await_exchanges(world: &World, at_least: u64) -> u64 {
    let what = format!("exchanged {at_least} times");
    world.until("mail", &what, |gt| gt.refresh_count() >= at_least).await.refresh_count()
}

async fn assert_acts_alone(entra: &Simulator, leader: &Operator, standby: &Operator) {
    let (leads, stands_by) = (leader.metrics().await.unwrap(), standby.metrics().await.unwrap());
    let sent = leads.sum("graphtoken_token_requests_total", &[("outcome", "Succeeded")]);
    assert!(sent > 0 && sent <= entra.journal().count(Outcome::Issued) as u64, "{sent} sent by the leader");
    assert_eq!(stands_by.sum("graphtoken_leader", &[]), 0);
    assert_eq!(stands_by.sum("graphtoken_token_requests_total", &[]), 0);
    assert_eq!(stands_by.sum("graphtoken_kube_requests_total", &[("resource", "secrets")]), 0);
    assert!(standby.ready().await, "a standby is ready");
}

/// The server takes each refresh token once, and none was refused.
pub fn assert_unbroken(entra: &Simulator) {
    let journal = entra.journal();
    let mut spent = HashSet::new();
    for entry in &journal.token {
        let twice = !spent.insert(entry.received_sha256.clone());
        assert!(!twice, "a refresh token was sent twice: {:#?}", journal.token);
        assert_ne!(entry.outcome, Outcome::Refused, "{:#?}", journal.token);
    }
}
