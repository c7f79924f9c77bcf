//! Sign-ins by device code at a strict server: it tells no pace, and takes each refresh token once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::device::{another_code, came_to_nothing, shows_a_code, signed_in};
use crate::harness::oidc::Oidc;
use crate::harness::{Options, World, delegated};

/// How often the journal is looked at, which cannot be awaited.
const LOOK: Duration = Duration::from_millis(50);

/// A `GraphToken` that a user signs in to with a code.
fn by_code(oidc: &Oidc) -> Value {
    let mut object = delegated("mail", &oidc.by_code(), "unused");
    object["spec"]["grant"] = json!({"deviceCode": {}});
    object["spec"]["endpoints"]["deviceAuthorization"] = json!(oidc.device_authorization_url());
    object["spec"]["scopes"] = json!(["openid", "Mail.Read"]);
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_server_grants_a_code_and_its_chain_goes_on() {
    World::run("device-strict", async |world| {
        let oidc = Oidc::start(600).await;
        world.operator(Options::default()).await;
        world.create(&by_code(&oidc)).await;
        let code = shows_a_code(world, "mail").await;
        let waiting = async || {
            let journal = oidc.control().journal().await;
            journal.iter().filter(|entry| entry["error"] == "authorization_pending").count()
        };
        while waiting().await < 2 {
            tokio::time::sleep(LOOK).await;
        }
        oidc.control().approve(&code).await;
        let gt = world.until("mail", "signed in", signed_in).await;
        assert_eq!(*gt.status("/signedIn/source"), json!("DeviceCode"));
        assert_eq!(gt.status("/account/objectId"), oidc.account());
        for count in 2..=3 {
            world.request_refresh("mail", &format!("number {count}")).await;
            world.until("mail", "refreshed", |gt| gt.refresh_count() == count && signed_in(gt)).await;
        }
        assert!(oidc.control().accepts(&world.data("mail").await["token"]).await);

        let journal = oidc.control().journal().await;
        let [polls @ .., granted, first, second] = &journal[..] else { panic!("{journal:#?}") };
        assert!(polls.iter().all(|poll| poll["error"] == "authorization_pending"), "{journal:#?}");
        let times: Vec<_> = polls.iter().chain([granted]).map(|p| p["time_ms"].as_u64().unwrap()).collect();
        let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap >= 4_990), "five seconds, for the server tells none: {gaps:?}");
        for (spent, issued) in [(first, granted), (second, first)] {
            assert_eq!(spent["received_sha256"], issued["issued_sha256"], "the newest token is spent");
        }
        assert_eq!(oidc.control().device_journal().await.len(), 1, "one code was enough");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_servers_refusals_of_a_code_say_what_to_do() {
    World::run("device-strict-no", async |world| {
        let oidc = Oidc::start(600).await;
        world.operator(Options::default()).await;
        world.create(&by_code(&oidc)).await;
        let first = shows_a_code(world, "mail").await;
        oidc.control().decline(&first).await;
        world.until("mail", "declined", came_to_nothing("declined")).await;

        oidc.control().set_device_lifetime(3).await;
        world.request_refresh("mail", "again").await;
        let second = another_code(world, "mail", &first).await;
        world.until("mail", "run out", came_to_nothing("ran out")).await;

        oidc.control().set_device_lifetime(600).await;
        world.request_refresh("mail", "and again").await;
        let third = another_code(world, "mail", &second).await;
        oidc.control().approve(&third).await;
        world.until("mail", "signed in", signed_in).await;
        let journal = oidc.control().device_journal().await;
        assert_eq!(journal.len(), 3, "none is issued that nobody asked for: {journal:#?}");
    })
    .await;
}
