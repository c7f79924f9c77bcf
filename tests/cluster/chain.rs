//! The chain of refresh tokens at a server that takes each of them once.

use std::collections::HashSet;
use std::time::Duration;

use entra_simulator::digest;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::harness::graph::Graph;
use crate::harness::o365::{Mount, check};
use crate::harness::oidc::Oidc;
use crate::harness::{Gt, Options, World, delegated};

/// The first exchange and thirty refreshes.
const EXCHANGES: u64 = 31;
/// Each takes a good second; the rest is for a busy machine.
const ENOUGH: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn thirty_refreshes_in_a_row_pass_replay_detection_and_the_token_is_valid_all_the_time() {
    World::run("chain", async |world| {
        let oidc = Oidc::start(5).await;
        let graph = Graph::start(oidc.control().clone()).await;
        let scopes = ["openid", "offline_access", "https://graph.microsoft.com/Mail.Read"];
        world.seed("seed", &oidc.control().mint(&scopes).await).await;
        world.operator(Options::default()).await;
        let mut object = delegated("mail", &oidc.issuer(), "seed");
        object["spec"]["scopes"] = json!(["openid", "Mail.Read"]);
        object["spec"]["refresh"] = json!({"renewBeforePercentage": 80});
        world.create(&object).await;
        world.until("mail", "ready", Gt::ready).await;

        let tokens = accepted_until_enough(world, &oidc).await;
        assert!(tokens.len() > 20, "only {} tokens were seen in the Secret", tokens.len());

        let mount = Mount::of(world, "mail").await;
        let report = check(mount.path(), &oidc.issuer(), &graph.url(), &[]).await;
        assert_eq!(report["is_authenticated"], true, "{report:#}");
        assert_eq!(report["request_status"], 200, "{report:#}");
        assert_eq!(report["refused_hosts"], json!([]), "{report:#}");

        let journal = oidc.control().journal().await;
        let sent = report["sent_bearer_sha256"].as_str();
        assert!(
            journal.iter().any(|entry| entry["access_sha256"].as_str() == sent),
            "a token of ours went out"
        );
        for pair in journal.windows(2) {
            assert_eq!(
                pair[1]["received_sha256"], pair[0]["issued_sha256"],
                "each exchange spends the newest token"
            );
        }
        assert!(journal.iter().all(|entry| entry["outcome"] == "issued"), "{journal:#?}");

        let gt = world.graphtoken("mail").await;
        assert_eq!(gt.status("/account/objectId"), oidc.account());
        assert_eq!(gt.status("/consecutiveFailures"), 0);
    })
    .await;
}

/// Looks at the Secret four times a second, and asks the provider whether it takes the token in it.
async fn accepted_until_enough(world: &World, oidc: &Oidc) -> HashSet<String> {
    let began = Instant::now();
    let mut tokens = HashSet::new();
    let mut ticks = interval(Duration::from_millis(250));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let gt = world.graphtoken("mail").await;
        let token = world.data("mail").await["token"].clone();
        assert!(
            oidc.control().accepts(&token).await,
            "after {} refreshes the token is refused",
            gt.refresh_count()
        );
        assert!(gt.ready(), "{:#}", gt.status(""));
        tokens.insert(digest(&token));
        if gt.refresh_count() >= EXCHANGES {
            return tokens;
        }
        assert!(began.elapsed() < ENOUGH, "only {} exchanges: {:#}", gt.refresh_count(), gt.status(""));
    }
}
