//! Providers that accept a request and never answer: `GraphTokens` of other clients do not wait for them, whatever happens to the Lease.

use entra_simulator::{Action, Client, Config, Fault, Outcome};

use crate::harness::lease::lose_and_regain;
use crate::harness::{Issuer, Options, World, app_only};
use crate::stuck_commits::is_served;

const HANGS: &str = "44444444-5555-6666-7777-888888888888";
const ANSWERS: &str = "99999999-8888-7777-6666-555555555555";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";
/// More in each of two namespaces than may be reconciled at once in all.
const CROWD: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_never_answers_delays_no_other_client() {
    World::run("hang-other", async |other| {
        World::run("hang-second", async |second| {
            World::run("hang-first", async |first| {
                let clients = vec![
                    Client::confidential(HANGS, CLIENT_SECRET),
                    Client::confidential(ANSWERS, CLIENT_SECRET),
                ];
                let entra = first.entra(Config { clients, ..Config::default() }).await;
                entra.queue_fault(Fault::token(Action::Hang).for_client(HANGS).forever());
                let mut options = Options::default();
                for world in [second, other] {
                    options = options.flag(&format!("--namespace={}", world.namespace));
                }
                for world in [first, second, other] {
                    world.secret("app", "client-secret", CLIENT_SECRET).await;
                }
                first.operator(options).await;
                for number in 0..CROWD {
                    let hangs = app_only(&format!("app-{number}"), &Issuer::entra(&entra, HANGS), "app");
                    first.create(&hangs).await;
                    second.create(&hangs).await;
                }
                let hanging = |journal: &entra_simulator::Journal| journal.count(Outcome::Unanswered) >= 4;
                entra.journal_until(hanging).await;

                let issuer = Issuer::entra(&entra, ANSWERS);
                is_served(other, "one", &app_only("one", &issuer, "app"), "a provider that hangs").await;
                lose_and_regain(first).await;
                let beside = "a provider that hangs, in the next term";
                is_served(other, "two", &app_only("two", &issuer, "app"), beside).await;
                entra.clear_faults();
            })
            .await;
        })
        .await;
    })
    .await;
}
