//! `spec.target.restart`: who reads the token from the environment is rolled out anew for each token, once, and nobody else.

use std::time::Duration;

use entra_simulator::{CLIENT_ID, Config, Simulator};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::operator::Metrics;
use crate::harness::{Gt, Issuer, Options, World, delegated};

const KEY: &str = "restart.graphtoken.io/mail";
/// What is waited for comes well within this; a second roll comes a minute after the first.
const PATIENCE: Duration = Duration::from_secs(100);

fn workloads(world: &World, kind: &str) -> Api<DynamicObject> {
    let plural = format!("{}s", kind.to_lowercase());
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("apps", "v1", kind), &plural);
    Api::namespaced_with(world.cluster.client.clone(), &world.namespace, &resource)
}

/// A workload whose environment has key `token` of a Secret.
fn reader(kind: &str, name: &str, secret: &str) -> Value {
    let labels = json!({"app": name});
    let token = json!({"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "token"}}});
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {"team.example.com/note": "stays"}},
                "spec": {"containers": [{"name": "reader", "image": "reader", "env": [token]}]},
            },
        },
    });
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = json!(name);
    }
    object
}

async fn create(world: &World, object: &Value) {
    let api = workloads(world, object["kind"].as_str().unwrap());
    let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

/// The generation of a workload's spec, and its mark.
async fn seen(world: &World, kind: &str, name: &str) -> (i64, Option<String>) {
    let object = workloads(world, kind).get(name).await.unwrap();
    (object.metadata.generation.unwrap(), mark(&object))
}

fn mark(object: &DynamicObject) -> Option<String> {
    let annotations = &object.data["spec"]["template"]["metadata"]["annotations"];
    annotations[KEY].as_str().map(str::to_owned)
}

/// Waits until a workload has another mark than this one.
async fn until_rolled(world: &World, kind: &str, name: &str, before: Option<&str>) -> String {
    let other =
        |object: Option<&DynamicObject>| object.and_then(mark).is_some_and(|now| Some(&*now) != before);
    let rolled = timeout(PATIENCE, await_condition(workloads(world, kind), name, other)).await;
    mark(&rolled.expect("it is rolled out").unwrap().unwrap()).unwrap()
}

async fn events(world: &World, reason: &str) -> Vec<String> {
    let events: Api<Event> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    let all = events.list(&ListParams::default()).await.unwrap().items;
    all.into_iter().filter(|e| e.reason.as_deref() == Some(reason)).filter_map(|e| e.message).collect()
}

async fn until_event(world: &World, reason: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(note) = events(world, reason).await.into_iter().next() {
            return note;
        }
        assert!(Instant::now() < deadline, "there is no event {reason}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// A ready `GraphToken` that restarts these.
#[must_use = "the provider ends with it"]
async fn mail(world: &World, restart: Value) -> Simulator {
    let entra = world.entra(Config::default()).await;
    world.operator(Options::default()).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    let mut mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
    mail["spec"]["target"] = json!({"restart": restart});
    world.create(&mail).await;
    world.until("mail", "Ready", Gt::ready).await;
    entra
}

async fn refresh(world: &World, value: &str, count: u64) {
    world.request_refresh("mail", value).await;
    world.until("mail", "refreshed", |gt| gt.ready() && gt.refresh_count() == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_workload_is_rolled_out_once_for_a_token_and_at_most_once_a_minute() {
    World::run("restart", async |world| {
        let kinds = ["Deployment", "StatefulSet", "DaemonSet"];
        for kind in kinds {
            create(world, &reader(kind, "reader", "mail")).await;
        }
        let _entra = mail(world, json!(kinds.map(|kind| json!({"kind": kind, "name": "reader"})))).await;
        for kind in kinds {
            assert_eq!(seen(world, kind, "reader").await, (1, None), "nobody has read another token");
        }

        refresh(world, "one", 2).await;
        let mut first = Vec::new();
        for kind in kinds {
            first.push(until_rolled(world, kind, "reader", None).await);
            let object = workloads(world, kind).get("reader").await.unwrap();
            let annotations = &object.data["spec"]["template"]["metadata"]["annotations"];
            assert_eq!(annotations["team.example.com/note"], "stays");
        }
        assert_eq!(events(world, "Restarted").await.len(), 3);
        let began = Instant::now();

        // Two more tokens at once: one more roll, a minute after the first, for the newer one.
        refresh(world, "two", 3).await;
        refresh(world, "three", 4).await;
        for (kind, first) in kinds.iter().zip(&first) {
            let second = until_rolled(world, kind, "reader", Some(first)).await;
            let at = |mark: &str| mark.split(' ').next().unwrap().parse::<jiff::Timestamp>().unwrap();
            let apart = at(&second).duration_since(at(first));
            assert!(apart.as_secs() >= 60, "{apart:?}");
            let (generation, mark) = seen(world, kind, "reader").await;
            assert_eq!((generation, mark), (3, Some(second)));
        }
        assert!(began.elapsed() < PATIENCE);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_reference_the_target_is_refused_and_who_is_missing_is_told_of() {
    World::run("foreign", async |world| {
        create(world, &reader("Deployment", "foreign", "another-secret")).await;
        let _entra = mail(
            world,
            json!([{"kind": "Deployment", "name": "foreign"}, {"kind": "StatefulSet", "name": "missing"}]),
        )
        .await;
        refresh(world, "one", 2).await;
        let refused = until_event(world, "RestartRefused").await;
        assert!(
            refused.contains("Deployment foreign") && refused.contains("does not reference Secret mail"),
            "{refused}"
        );
        let missing = until_event(world, "RestartMissing").await;
        assert!(missing.contains("StatefulSet missing is not there"), "{missing}");
        refresh(world, "two", 3).await;
        assert_eq!(seen(world, "Deployment", "foreign").await, (1, None), "it is left alone");
        assert!(world.graphtoken("mail").await.ready(), "a warning is no failure");
        assert_eq!(events(world, "RestartRefused").await.len(), 1, "it is said once");

        // It references the target from now on: the next token rolls it.
        create(world, &reader("StatefulSet", "missing", "mail")).await;
        refresh(world, "three", 4).await;
        until_rolled(world, "StatefulSet", "missing", None).await;
    })
    .await;
}

/// Other labels are no other content: not even an operator that has just started rolls anybody for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_got_other_labels_restarts_nobody() {
    World::run("relabelled", async |world| {
        create(world, &reader("Deployment", "reader", "mail")).await;
        let restart = json!([{"kind": "Deployment", "name": "reader"}]);
        let entra = world.entra(Config::default()).await;
        let operator = world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let mut mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        mail["spec"]["target"] = json!({"restart": restart});
        world.create(&mail).await;
        world.until("mail", "Ready", Gt::ready).await;
        let patch = json!({"spec": {"target": {"labels": {"team": "etl"}}}});
        world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let labelled = |secret: Option<&Secret>| {
            secret
                .and_then(|secret| secret.metadata.labels.as_ref())
                .is_some_and(|labels| labels.contains_key("team"))
        };
        await_condition(world.secrets(), "mail", labelled).await.unwrap();
        world.stop(&operator).await;

        let operator = world.operator(Options::default()).await;
        let looked = |metrics: &Metrics| {
            metrics.sum("graphtoken_kube_requests_total", &[("resource", "deployments"), ("verb", "get")]) > 0
        };
        let deadline = Instant::now() + PATIENCE;
        while !operator.metrics().await.is_some_and(|metrics| looked(&metrics)) {
            assert!(Instant::now() < deadline, "the workload is not looked at");
            sleep(Duration::from_millis(100)).await;
        }
        world.stop(&operator).await;
        assert_eq!(seen(world, "Deployment", "reader").await, (1, None));
    })
    .await;
}

/// As Flux applies what is in its repository: forced, again and again, and without our annotation.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_fights_with_who_applies_the_workload_from_elsewhere() {
    World::run("gitops", async |world| {
        let manifest = reader("Deployment", "reader", "mail");
        let api = workloads(world, "Deployment");
        let flux = PatchParams::apply("kustomize-controller").force();
        api.patch("reader", &flux, &Patch::Apply(&manifest)).await.unwrap();
        let _entra = mail(world, json!([{"kind": "Deployment", "name": "reader"}])).await;

        let (rounds, mut applied) = watch::channel(0);
        let apply = async {
            loop {
                api.patch("reader", &flux, &Patch::Apply(&manifest)).await.unwrap();
                rounds.send_modify(|n| *n += 1);
                sleep(Duration::from_millis(50)).await;
            }
        };
        let refreshed = async {
            refresh(world, "one", 2).await;
            let rolled_for = until_rolled(world, "Deployment", "reader", None).await;
            // And the other manager goes on.
            let so_far = *applied.borrow();
            applied.wait_for(|n| *n >= so_far + 20).await.unwrap();
            rolled_for
        };
        let mark = tokio::select! {
            mark = refreshed => mark,
            () = apply => unreachable!("it goes on"),
        };
        assert_eq!(seen(world, "Deployment", "reader").await, (2, Some(mark)), "one roll, and it stayed");
        let object = api.get("reader").await.unwrap();
        let annotations = &object.data["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["team.example.com/note"], "stays");
    })
    .await;
}
