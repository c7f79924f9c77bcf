//! Sign-ins by device code: what a user sees, what the provider may answer, and what a restart costs.

use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Config, DeviceFlow, DevicePolicy, Fault, Outcome, Simulator, User};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::objects::credential;
use crate::harness::{Gt, Issuer, Options, World, delegated};

/// Polls every second: a test does not wait for five.
fn quick() -> Config {
    let device = DeviceFlow { interval: Some(Duration::from_secs(1)), ..DeviceFlow::default() };
    Config { device, ..Config::default() }
}

/// A `GraphToken` that a user signs in to with a code.
pub fn by_code(name: &str, entra: &Simulator) -> Value {
    let mut object = delegated(name, &Issuer::entra(entra, CLIENT_ID), "unused");
    object["spec"]["grant"] = json!({"deviceCode": {}});
    object["spec"]["endpoints"]["deviceAuthorization"] = json!(entra.device_authorization_url());
    object
}

/// Waits until the status shows a code, and returns what the user is to enter.
pub async fn shows_a_code(world: &World, name: &str) -> String {
    let shown = |gt: &Gt| gt.status("/deviceCode/userCode").is_string();
    let gt = world.until(name, "showing a code", shown).await;
    assert_eq!(gt.condition("Stalled"), Some(("True", "AuthorizationRequired")));
    // The code itself is as good as a password: whoever enters it decides whose token this is, not whoever reads it.
    let kept = world.data(&credential(name)).await;
    let device: Value = serde_json::from_str(&kept["device.json"]).unwrap();
    world.confidential.note("the device code", device["deviceCode"].as_str().unwrap());
    gt.status("/deviceCode/userCode").as_str().unwrap().to_owned()
}

/// Waits until the status shows another code.
pub async fn another_code(world: &World, name: &str, than: &str) -> String {
    let other = |gt: &Gt| gt.status("/deviceCode/userCode").as_str().is_some_and(|code| code != than);
    world.until(name, "showing another code", other).await;
    shows_a_code(world, name).await
}

/// Whether a user has signed in, and nothing waits any more.
pub fn signed_in(gt: &Gt) -> bool {
    gt.ready() && gt.condition("Stalled").is_none() && gt.status("/deviceCode").is_null()
}

/// What a condition says.
pub fn message(gt: &Gt, kind: &str) -> String {
    let conditions = gt.status("/conditions").as_array().cloned().unwrap_or_default();
    let condition = conditions.into_iter().find(|condition| condition["type"] == kind);
    condition.map(|c| c["message"].as_str().unwrap().to_owned()).unwrap_or_default()
}

/// Whether no code waits any more, for a reason that says what to do.
pub fn came_to_nothing(says: &'static str) -> impl Fn(&Gt) -> bool {
    move |gt: &Gt| {
        gt.condition("Stalled") == Some(("True", "AuthorizationRequired"))
            && gt.status("/deviceCode").is_null()
            && message(gt, "Stalled").contains(says)
            && message(gt, "Stalled").contains("graphtoken.io/requested-at")
    }
}

async fn events(world: &World) -> Vec<Event> {
    let events: Api<Event> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    events.list(&ListParams::default()).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_signs_in_with_the_code_that_the_status_shows() {
    World::run("device", async |world| {
        let entra = world.entra(quick()).await;
        world.operator(Options::default()).await;
        world.create(&by_code("mail", &entra)).await;
        let code = shows_a_code(world, "mail").await;
        let gt = world.graphtoken("mail").await;
        assert_eq!(gt.condition("Ready"), Some(("False", "AuthorizationRequired")));
        assert!(message(&gt, "Stalled").contains(gt.status("/deviceCode/verificationUri").as_str().unwrap()));
        assert!(gt.status("/deviceCode/expiresAt").is_string());

        // Polls write nothing.
        let sha256 = entra.device_codes()[0].device_sha256.clone();
        let mark = world.audit.mark();
        let polled = entra.journal().polls(&sha256).len();
        let journal = entra.journal_until(|journal| journal.polls(&sha256).len() >= polled + 4);
        timeout(Duration::from_secs(30), journal).await.expect("it is polled");
        let requests = world.audit.since(mark, &world.namespace);
        assert!(requests.writes().is_empty(), "{:#?}", requests.writes());

        entra.approve_device_code(&code, None).unwrap();
        let gt = world.until("mail", "signed in", signed_in).await;
        assert_eq!(*gt.status("/signedIn/source"), json!("DeviceCode"));
        assert!(entra.is_active(&world.data("mail").await["token"]));
        assert!(!world.data(&credential("mail")).await.contains_key("device.json"));

        // From here on it is a chain like any other.
        world.request_refresh("mail", "now").await;
        world.until("mail", "refreshed", |gt| gt.refresh_count() == 2 && signed_in(gt)).await;
        assert_eq!(entra.journal().device.len(), 1, "one code was enough");
        let reasons: Vec<_> = events(world).await;
        assert!(reasons.iter().any(|event| event.reason.as_deref() == Some("DeviceCodeIssued")));
        assert!(!json!(reasons).to_string().contains(&code), "others read events");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_came_to_nothing_says_so_and_a_request_brings_another() {
    World::run("device-again", async |world| {
        let entra = world.entra(quick()).await;
        world.operator(Options::default()).await;
        world.create(&by_code("mail", &entra)).await;
        let first = shows_a_code(world, "mail").await;
        entra.decline_device_code(&first).unwrap();
        world.until("mail", "declined", came_to_nothing("declined")).await;

        entra.set_device_lifetime(Duration::from_secs(4));
        world.request_refresh("mail", "again").await;
        let second = another_code(world, "mail", &first).await;
        world.until("mail", "run out", came_to_nothing("ran out")).await;

        entra.set_device_lifetime(Duration::from_mins(10));
        world.request_refresh("mail", "and again").await;
        let third = another_code(world, "mail", &second).await;
        entra.expire_device_code(&third).unwrap();
        world.until("mail", "expired there", came_to_nothing("ran out")).await;
        assert_eq!(entra.journal().device.len(), 3, "none is issued that nobody asked for");

        world.request_refresh("mail", "a last time").await;
        let fourth = another_code(world, "mail", &third).await;
        entra.approve_device_code(&fourth, None).unwrap();
        world.until("mail", "signed in", signed_in).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_with_the_same_code() {
    World::run("device-restart", async |world| {
        let entra = world.entra(quick()).await;
        let operator = world.operator(Options::default().flag("--lease-duration=2s")).await;
        world.create(&by_code("mail", &entra)).await;
        let code = shows_a_code(world, "mail").await;
        operator.kill().await;
        entra.approve_device_code(&code, None).unwrap();
        world.operator(Options::default().flag("--lease-duration=2s")).await;
        world.until("mail", "signed in", signed_in).await;
        assert_eq!(entra.journal().device.len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_keep_the_servers_pace() {
    World::run("device-pace", async |world| {
        let entra = world.entra(quick()).await;
        world.operator(Options::default()).await;
        world.create(&by_code("mail", &entra)).await;
        let code = shows_a_code(world, "mail").await;
        let sha256 = entra.device_codes()[0].device_sha256.clone();
        entra.journal_until(|journal| journal.polls(&sha256).len() >= 2).await;
        let before = entra.journal().polls(&sha256).len();
        entra.queue_fault(Fault::token(Action::slow_down()).for_grant("device_code"));
        let enough = |journal: &entra_simulator::Journal| journal.polls(&sha256).len() >= before + 3;
        let journal = timeout(Duration::from_mins(1), entra.journal_until(enough)).await.unwrap();
        let times = journal.polls(&sha256);
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap >= 990), "{gaps:?}");
        let slower = gaps.iter().skip_while(|gap| **gap < 5_900).count();
        assert!(slower >= 1 && gaps[gaps.len() - slower..].iter().all(|gap| *gap >= 5_900), "{gaps:?}");
        entra.approve_device_code(&code, None).unwrap();
        world.until("mail", "signed in", signed_in).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_refuses_after_the_sign_in_is_told() {
    World::run("device-refused", async |world| {
        let entra = world.entra(quick()).await;
        entra.put_user(User::new("0000eeee-aaaa-2222-bbbb-3333cccc4444", "guest@contoso.com"));
        world.operator(Options::default()).await;
        entra.set_device_policy(DevicePolicy::AccessDenied);
        let mut mail = by_code("mail", &entra);
        mail["spec"]["account"] = json!(entra_simulator::USER_OID);
        world.create(&mail).await;
        let first = shows_a_code(world, "mail").await;
        entra.approve_device_code(&first, None).unwrap();
        let blocked = |gt: &Gt| message(gt, "Stalled").contains("Conditional Access");
        let gt = world.until("mail", "blocked by policy", blocked).await;
        assert!(message(&gt, "Stalled").contains("grant refreshToken"), "it says what to use instead");

        entra.set_device_policy(DevicePolicy::Allowed);
        world.request_refresh("mail", "again").await;
        let second = another_code(world, "mail", &first).await;
        entra.approve_device_code(&second, Some("guest@contoso.com")).unwrap();
        let wrong = |gt: &Gt| gt.condition("Stalled") == Some(("True", "WrongAccount"));
        world.until("mail", "refused for its account", wrong).await;
        assert!(world.secrets().get_opt("mail").await.unwrap().is_none(), "nothing is published");

        world.request_refresh("mail", "and again").await;
        let third = another_code(world, "mail", &second).await;
        entra.approve_device_code(&third, None).unwrap();
        world.until("mail", "signed in", signed_in).await;
        assert_eq!(entra.journal().token.iter().filter(|entry| entry.outcome == Outcome::Issued).count(), 2);
    })
    .await;
}
