//! Trials of tokens at Microsoft Graph: when they take place, what each answer leads to, and what they cost.

use std::time::Duration;

use entra_simulator::{
    Action, CLIENT_ID, Canned, Client, Config, Fault, GraphEntry, Outcome, Simulator, digest,
};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

const APP: &str = "55555555-6666-7777-8888-999999999999";
const CLIENT_SECRET: &str = "Fq8~kV2xR.tW9mB-example-client-secret";
/// Whatever a verdict entails has followed after this.
const AFTERMATH: Duration = Duration::from_secs(3);

/// With a Graph beside the token endpoint, tokens are tried by default.
fn probed(name: &str, entra: &Simulator) -> Value {
    let mut object = delegated(name, &Issuer::entra(entra, CLIENT_ID), "seed");
    object["spec"]["endpoints"]["graph"] = json!(entra.url());
    object
}

/// Starts all, up to a token that was accepted.
async fn accepted(world: &World) -> Simulator {
    let entra = world.entra(Config::default()).await;
    world.operator(Options::default()).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    world.create(&probed("mail", &entra)).await;
    verified(world, "True", "Accepted").await;
    entra
}

async fn verified(world: &World, status: &str, reason: &str) -> Gt {
    let what = format!("Verified {status} {reason}");
    world.until("mail", &what, |gt| gt.condition("Verified") == Some((status, reason)) && gt.observed()).await
}

/// As [`verified`], by a trial of this path.
async fn verified_by(world: &World, path: &str, status: &str, reason: &str) -> Gt {
    change(world, &json!({"verify": {"path": path}})).await;
    let tried = |gt: &Gt| {
        *gt.status("/lastProbe/path") == json!(path)
            && *gt.status("/lastProbe/reason") == json!(reason)
            && gt.condition("Verified") == Some((status, reason))
            && gt.observed()
    };
    world.until("mail", &format!("{status} {reason} by {path}"), tried).await
}

/// Changes the spec. Another path is tried at once.
async fn change(world: &World, spec: &Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    world.graphtokens().patch("mail", &PatchParams::default(), &patch).await.unwrap();
}

async fn events(world: &World, reason: &str) -> Vec<String> {
    let events: Api<Event> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    let found = events.list(&ListParams::default()).await.unwrap().items.into_iter();
    found.filter(|e| e.reason.as_deref() == Some(reason)).map(|e| e.message.unwrap_or_default()).collect()
}

fn message(gt: &Gt) -> String {
    let conditions = gt.status("/conditions").as_array().cloned().unwrap_or_default();
    let verified = conditions.into_iter().find(|condition| condition["type"] == "Verified").unwrap();
    verified["message"].as_str().unwrap().to_owned()
}

fn statuses(trials: &[GraphEntry]) -> Vec<u16> {
    trials.iter().filter_map(|trial| trial.status).collect()
}

fn exchanges(entra: &Simulator) -> usize {
    entra.journal().count(Outcome::Issued)
}

fn answer(status: u16, headers: &[(&str, &str)]) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::graph(Action::Respond(Canned { status, body: json!({}), content_type: None, headers }))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_tried_once_and_a_refresh_with_a_trial_costs_one_get_more() {
    World::run("probe", async |world| {
        let entra = accepted(world).await;
        let gt = world.graphtoken("mail").await;
        assert!(gt.ready() && gt.status("/lastVerifiedTime").is_string());
        let trials = entra.journal().graph;
        assert_eq!((statuses(&trials), trials[0].path.as_str()), (vec![200], "/v1.0/me?$select=id"));
        let token = world.data("mail").await["token"].clone();
        assert_eq!(trials[0].bearer_sha256, Some(digest(&token)), "what pods have is tried");
        sleep(AFTERMATH).await;

        let mark = world.audit.mark();
        world.request_refresh("mail", "now").await;
        let request = json!("now");
        let tried = |gt: &Gt| *gt.status("/lastProbe/request") == request && gt.refresh_count() == 2;
        world.until("mail", "refreshed and tried", tried).await;
        sleep(AFTERMATH).await;
        let requests = world.audit.since(mark, &world.namespace);
        assert!(requests.reads().len() <= 1, "{:#?}", requests.all);
        assert!(requests.writes().len() <= 4, "{:#?}", requests.all);
        assert_eq!(requests.events, [], "a routine trial is no event");
        assert_eq!(statuses(&entra.journal().graph), [200, 200]);
        assert_eq!(exchanges(&entra), 2);

        let mark = world.audit.mark();
        sleep(AFTERMATH).await;
        assert!(world.audit.since(mark, &world.namespace).all.is_empty(), "what has converged costs nothing");
        assert_eq!(entra.journal().graph.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_do_not_wait_for_a_graph_that_is_silent() {
    World::run("probe-silent", async |world| {
        let entra = world.entra(Config::default()).await;
        entra.queue_fault(Fault::graph(Action::Hang));
        let operator = world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&probed("mail", &entra)).await;
        let is_there = |secret: Option<&k8s_openapi::api::core::v1::Secret>| secret.is_some();
        await_condition(world.secrets(), "mail", is_there).await.unwrap();
        entra.journal_until(|journal| journal.graph.len() == 1).await;
        assert!(!world.graphtoken("mail").await.ready(), "the trial goes on");

        let gt = verified(world, "Unknown", "ProviderUnavailable").await;
        assert!(gt.ready());
        assert_eq!(events(world, "ProviderUnavailable").await.len(), 0);
        world.request_refresh("mail", "now").await;
        verified(world, "True", "Accepted").await;
        let metrics = operator.metrics().await.unwrap();
        for outcome in ["ProviderUnavailable", "Accepted"] {
            assert_eq!(metrics.sum("graphtoken_probe_total", &[("outcome", outcome)]), 1, "{outcome}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_early_is_replaced() {
    World::run("probe-revoked", async |world| {
        let entra = accepted(world).await;
        let revoked = world.data("mail").await["token"].clone();
        entra.revoke_access_tokens();
        verified_by(world, "/me", "True", "Accepted").await;
        let token = world.data("mail").await["token"].clone();
        assert!(entra.is_active(&token) && token != revoked, "pods have the new one");
        assert_eq!(statuses(&entra.journal().graph), [200, 401, 200]);
        assert_eq!(exchanges(&entra), 2);
        assert!(world.graphtoken("mail").await.ready());
        for reason in ["TokenRejected", "Accepted"] {
            assert_eq!(events(world, reason).await, [""; 0], "it was mended at once");
        }
        // And once more, for it was accepted in between.
        entra.revoke_access_tokens();
        verified_by(world, "/me?$select=id,mail", "True", "Accepted").await;
        assert_eq!(exchanges(&entra), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_refuses_every_token_leads_to_no_loop() {
    World::run("probe-refused", async |world| {
        let entra = accepted(world).await;
        entra.set_graph_refuses(true);
        let gt = verified_by(world, "/me", "False", "TokenRejected").await;
        assert!(gt.ready(), "pods keep what they have");
        assert_eq!(gt.condition("Refreshed"), Some(("True", "Succeeded")));
        sleep(AFTERMATH).await;
        assert_eq!(statuses(&entra.journal().graph), [200, 401, 401]);
        assert_eq!(exchanges(&entra), 2, "one forced refresh");
        assert_eq!(events(world, "TokenRejected").await.len(), 1);

        // Who asks gets one token, and it is tried.
        world.request_refresh("mail", "still?").await;
        world.until("mail", "tried", |gt| *gt.status("/lastProbe/request") == json!("still?")).await;
        sleep(AFTERMATH).await;
        assert_eq!((exchanges(&entra), entra.journal().graph.len()), (3, 4));

        entra.set_graph_refuses(false);
        world.request_refresh("mail", "now?").await;
        verified(world, "True", "Accepted").await;
        assert_eq!(exchanges(&entra), 4);
        assert_eq!(events(world, "Accepted").await.len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_leads_to_what_it_means() {
    World::run("probe-answers", async |world| {
        let entra = accepted(world).await;

        // A permission is missing: the token is good.
        let gt = verified_by(world, "/me/drive", "True", "Accepted").await;
        assert!(message(&gt).contains("lacks the permission for /me/drive"), "{}", message(&gt));
        assert_eq!(events(world, "PermissionMissing").await, [message(&gt)]);

        // The path is wrong.
        let gt = verified_by(world, "/me/mailFolders/nowhere", "False", "ProbeFailed").await;
        assert!(
            message(&gt).contains("404") && message(&gt).contains("spec.verify.path"),
            "{}",
            message(&gt)
        );
        let location = format!("{}/v1.0/me", entra.url());
        entra.queue_fault(answer(302, &[("location", &location)]));
        let gt = verified_by(world, "/me?a", "False", "ProbeFailed").await;
        assert!(gt.ready());

        // Graph is busy: it heals by itself, and no sooner than it was asked to.
        entra.queue_fault(answer(429, &[("retry-after", "1.5")]));
        verified_by(world, "/me?b", "Unknown", "Throttled").await;
        verified(world, "True", "Accepted").await;
        let trials = entra.journal().graph;
        let [.., throttled, healed] = &trials[..] else { panic!("{trials:?}") };
        assert!(healed.time_ms - throttled.time_ms >= 1500, "{throttled:?} {healed:?}");

        // Graph is unwell.
        entra.queue_fault(answer(503, &[]));
        let gt = verified_by(world, "/me?c", "Unknown", "ProviderUnavailable").await;
        assert!(gt.ready());
        verified_by(world, "/me?d", "True", "Accepted").await;
        assert_eq!(exchanges(&entra), 1);

        // A claims challenge.
        entra.queue_fault(Fault::graph(Action::claims_challenge(403)));
        verified_by(world, "/me?e", "True", "Accepted").await;
        assert_eq!(exchanges(&entra), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_tried_that_is_switched_off_or_suspended() {
    World::run("probe-off", async |world| {
        let entra = accepted(world).await;
        change(world, &json!({"suspend": true, "verify": {"path": "/me"}})).await;
        let frozen = world.until("mail", "suspended", Gt::observed).await;
        assert_eq!(frozen.condition("Verified"), Some(("True", "Accepted")));
        world.request_refresh("mail", "while suspended").await;
        sleep(AFTERMATH).await;
        assert_eq!(entra.journal().graph.len(), 1);

        change(world, &json!({"suspend": false, "verify": {"path": null, "interval": "0s"}})).await;
        let gone = |gt: &Gt| gt.condition("Verified").is_none() && gt.refresh_count() == 2;
        let gt = world.until("mail", "without Verified", gone).await;
        assert!(gt.status("/lastProbe").is_null() && gt.status("/lastVerifiedTime").is_null());
        sleep(AFTERMATH).await;
        assert_eq!(entra.journal().graph.len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apps_token_is_tried_where_a_path_is_given() {
    World::run("probe-app", async |world| {
        let client = Client::confidential(APP, CLIENT_SECRET).with_app_role("User.Read.All");
        let entra = world.entra(Config { clients: vec![client], ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.secret("app", "client-secret", CLIENT_SECRET).await;
        let mut object = app_only("mail", &Issuer::entra(&entra, APP), "app");
        object["spec"]["endpoints"]["graph"] = json!(entra.url());
        // What the operator finds the token in, once it no longer has it in memory.
        object["spec"]["target"] = json!({"data": [{"key": "cache", "format": "O365"}]});
        world.create(&object).await;
        let gt = world.until("mail", "ready", Gt::ready).await;
        assert_eq!(gt.condition("Verified"), None, "an app's token is tried nowhere by default");
        verified_by(world, "/users?$select=id", "True", "Accepted").await;
        entra.revoke_access_tokens();
        verified_by(world, "/users", "True", "Accepted").await;
        assert_eq!(statuses(&entra.journal().graph), [200, 401, 200]);
        assert_eq!(exchanges(&entra), 2);
    })
    .await;
}
