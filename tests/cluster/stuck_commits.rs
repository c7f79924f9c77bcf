//! Commits that keep being rejected: the `GraphTokens` concerned wait, and no other one does, also if the Lease is lost. SIGTERM ends
//! the process in time, and its log names the sign-in that is lost with it.

use std::time::Duration;

use entra_simulator::{CLIENT_ID, Config, DeviceFlow, Journal, Outcome, Rotation, Simulator};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::chaos_ledger::{Ledger, Pod};
use crate::device::{by_code, shows_a_code, signed_in};
use crate::harness::admission::{lift, reject_commits};
use crate::harness::lease::lose_and_regain;
use crate::harness::objects::credential;
use crate::harness::operator::error_lines;
use crate::harness::{Gt, Issuer, Options, World, delegated};
use crate::leaders::assert_unbroken;
use crate::lost_rights::{assert_newest_is_kept, cannot_store, strict};

/// A short Lease is soon lost, and soon held again.
const LEASE: &str = "--lease-duration=4s";
/// A new GraphToken has its token within this, whatever becomes of others.
const SERVED: Duration = Duration::from_secs(10);
/// As many as may be sent at once for one client.
const CODES: [&str; 4] = ["first", "second", "third", "fourth"];

/// Creates a `GraphToken`, and expects it to be served in time.
pub async fn is_served(world: &World, name: &str, object: &Value, beside: &str) {
    world.create(object).await;
    let served = timeout(SERVED, world.until(name, "served", Gt::ready)).await;
    assert!(served.is_ok(), "GraphToken {name} is not served within {SERVED:?}, beside {beside}");
}

async fn user_is_served(world: &World, name: &str, entra: &Simulator, beside: &str) {
    let seed = format!("{name}-seed");
    world.seed(&seed, &entra.mint().unwrap()).await;
    is_served(world, name, &delegated(name, &Issuer::entra(entra, CLIENT_ID), &seed), beside).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_stays_rejected_does_not_delay_the_next_term() {
    World::run("term-other", async |other| {
        World::run("term-stuck", async |stuck| {
            let entra = strict(stuck).await;
            let ledger = Ledger::of(stuck, "mail", &entra);
            let options = Options::default().flag(LEASE).flag(&format!("--namespace={}", other.namespace));
            stuck.operator(options).await;
            stuck.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
            stuck.until("mail", "ready", Gt::ready).await;
            let pod = Pod::mount(stuck, "mail", &entra).await;

            let policy = reject_commits(stuck, &[credential("mail")], Some("Forbidden")).await;
            stuck.request_refresh("mail", "now").await;
            cannot_store(stuck, &["kept in memory"]).await;
            for term in ["second", "third"] {
                lose_and_regain(stuck).await;
                let beside = format!("a stuck commit, in the {term} term");
                user_is_served(other, term, &entra, &beside).await;
            }

            lift(stuck, &policy).await;
            let healed = |gt: &Gt| {
                gt.ready()
                    && gt.condition("Refreshed") == Some(("True", "Succeeded"))
                    && gt.status("/lastHandledRequest") == "now"
            };
            stuck.until("mail", "healed", healed).await;
            // The provider takes each refresh token once.
            assert_newest_of_its_own(stuck, &entra).await;
            stuck.request_refresh("mail", "again").await;
            let refreshed = |gt: &Gt| gt.ready() && gt.status("/lastHandledRequest") == "again";
            stuck.until("mail", "refreshed once more", refreshed).await;
            assert_unbroken(&entra);
            assert_newest_is_kept(stuck, &entra).await;
            assert!(ledger.lost().is_empty(), "{:#?}", ledger.lost());
            assert_eq!(pod.refused(), Vec::<u64>::new());
        })
        .await;
    })
    .await;
}

/// What the credential holds was issued, and was not spent.
async fn assert_newest_of_its_own(world: &World, entra: &Simulator) {
    let kept = world.data(&credential("mail")).await;
    let kept = Some(entra_simulator::digest(&kept["refresh_token"]));
    let journal = entra.journal();
    assert!(journal.token.iter().any(|entry| entry.issued_sha256 == kept), "{:#?}", journal.token);
    assert!(journal.token.iter().all(|entry| entry.received_sha256 != kept), "{:#?}", journal.token);
}

#[tokio::test(flavor = "multi_thread")]
async fn device_sign_ins_that_cannot_be_stored_delay_no_other_graphtoken() {
    World::run("codes-other", async |other| {
        World::run("codes-stuck", async |stuck| {
            let device = DeviceFlow { interval: Some(Duration::from_secs(1)), ..DeviceFlow::default() };
            let config = Config { device, rotation: Rotation::Strict, ..Config::default() };
            let entra = stuck.entra(config).await;
            // One reconcile at a time: a stuck commit holds nothing that another needs.
            let options = Options::default().flag(LEASE).flag("--concurrency=1");
            let options = options.flag(&format!("--namespace={}", other.namespace));
            stuck.operator(options).await;
            let policy = sign_in_in_vain(stuck, &entra).await;
            user_is_served(other, "fifth", &entra, "device sign-ins that cannot be stored").await;
            lose_and_regain(stuck).await;
            user_is_served(other, "sixth", &entra, "device sign-ins that cannot be stored, in the next term")
                .await;

            lift(stuck, &policy).await;
            for name in CODES {
                let gt = stuck.until(name, "signed in", signed_in).await;
                assert_eq!(*gt.status("/signedIn/source"), json!("DeviceCode"));
            }
            assert_eq!(entra.journal().count(Outcome::Refused), 0, "{:#?}", entra.journal().token);
            assert_eq!(entra.journal().device.len(), CODES.len(), "nobody had to sign in again");
        })
        .await;
    })
    .await;
}

/// Users sign in with as many codes as may be polled for at once, and none of the sign-ins can be stored.
async fn sign_in_in_vain(world: &World, entra: &Simulator) -> String {
    let mut shown = Vec::new();
    for name in CODES {
        world.create(&by_code(name, entra)).await;
    }
    for name in CODES {
        shown.push(shows_a_code(world, name).await);
    }
    let policy = reject_commits(world, &CODES.map(credential), Some("Forbidden")).await;
    for code in shown {
        entra.approve_device_code(&code, None).unwrap();
    }
    entra.journal_until(|journal: &Journal| journal.count(Outcome::Issued) == CODES.len()).await;
    policy
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_process_with_a_stuck_commit_and_its_log_names_the_graphtoken() {
    World::run("stuck-end", async |world| {
        let entra = strict(world).await;
        let operator = world.operator(Options::default().flag(LEASE)).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "ready", Gt::ready).await;
        let policy = reject_commits(world, &[credential("mail")], Some("Forbidden")).await;
        world.request_refresh("mail", "now").await;
        cannot_store(world, &["kept in memory"]).await;
        assert_eq!(entra.journal().count(Outcome::Issued), 2);

        operator.terminate();
        // Panics at the end of the pod's grace period, at which it would be killed.
        let status = operator.ended().await;
        lift(world, &policy).await;
        assert!(status.code().is_some_and(|code| code != 0), "a sign-in is lost, and it ended with {status}");
        let lines = error_lines(operator.log());
        let names = |line: &&String| {
            line.contains(&format!(" namespace={} ", world.namespace)) && line.contains(" name=mail ")
        };
        let told: Vec<_> = lines.iter().filter(names).filter(|line| line.contains("refresh token")).collect();
        assert!(
            told.iter().any(|line| line.contains("could not be stored")),
            "no error says whose new refresh token could not be stored: {lines:#?}"
        );
    })
    .await;
}
