//! The examples, applied as they stand: only the way to Microsoft leads to loopback, and pauses between requests are short.

use std::time::Duration;

use entra_simulator::digest;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{Gt, repository};
use crate::stage::{PATIENCE, Stage, on_stage};

/// Applies all of an example's folder. Returns the objects as they were applied.
async fn apply(stage: &Stage<'_>, example: &str) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(repository().join("examples").join(example))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
    let mut objects: Vec<Value> =
        texts.flat_map(|text| serde_saphyr::from_multiple::<Value>(&text).unwrap()).collect();
    for object in &mut objects {
        match object["kind"].as_str().unwrap() {
            "GraphToken" => {
                stage.world.seed("seed", &stage.sign_in()).await;
                stage.redirect(object);
            }
            "Pod" => furnish(stage, &mut object["spec"]),
            "Deployment" => furnish(stage, &mut object["spec"]["template"]["spec"]),
            "CronJob" => furnish(stage, &mut object["spec"]["jobTemplate"]["spec"]["template"]["spec"]),
            _ => {}
        }
        stage.create(object).await;
    }
    objects
}

fn furnish(stage: &Stage<'_>, pod: &mut Value) {
    stage.furnish(pod);
    for container in pod["containers"].as_array_mut().unwrap() {
        for entry in container["env"].as_array_mut().unwrap() {
            if entry["name"] == "SECONDS_BETWEEN" {
                entry["value"] = json!("1");
            }
        }
    }
}

async fn until_available(stage: &Stage<'_>, name: &str, replicas: i32) -> String {
    let api: Api<Deployment> = Api::namespaced(stage.world.cluster.client.clone(), &stage.world.namespace);
    let available = |deployment: Option<&Deployment>| {
        let status = deployment.and_then(|deployment| deployment.status.as_ref());
        status.is_some_and(|status| {
            status.available_replicas == Some(replicas)
                && status.updated_replicas == Some(replicas)
                && status.replicas == Some(replicas)
        })
    };
    timeout(PATIENCE, await_condition(api, name, available)).await.expect("it is available").unwrap();
    stage.pods_of(name).await.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_airflow_task_and_a_worker_read_their_mail() {
    on_stage("airflow", 6, Duration::from_hours(1), async |stage| {
        let world = stage.world;
        apply(stage, "airflow-worker").await;
        world.until("mail-etl", "Ready", Gt::ready).await;
        let (succeeded, log) = stage.ended("count-mail", PATIENCE).await;
        assert!(succeeded && log.contains("Inbox: ") && log.contains(" mails, "), "{log}");
        let worker = until_available(stage, "watch-mail", 2).await;
        stage.until_logged(&worker, "its mail", |log| log.contains("Inbox: ")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cronjob_asks_graph_with_curl() {
    on_stage("cronjob", 7, Duration::from_hours(1), async |stage| {
        let world = stage.world;
        let objects = apply(stage, "cronjob").await;
        world.until("mail-report", "Ready", Gt::ready).await;
        // What its schedule would start: nobody waits for seven past.
        let job = objects.iter().find(|object| object["kind"] == "CronJob").unwrap();
        let spec = &job["spec"]["jobTemplate"]["spec"];
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "now"}});
        pod["spec"] = spec["template"]["spec"].clone();
        stage.create(&pod).await;
        let (succeeded, log) = stage.ended("now", PATIENCE).await;
        assert!(succeeded && log.contains("totalItemCount"), "{log}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone_copies_a_drive_with_a_configuration_that_is_a_template() {
    on_stage("rclone", 8, Duration::from_hours(1), async |stage| {
        let world = stage.world;
        apply(stage, "rclone").await;
        world.until("files", "Ready", Gt::ready).await;
        let pod = until_available(stage, "onedrive-copy", 1).await;
        let log = stage.until_logged(&pod, "a copy", |log| log.contains("hello.json: Copied")).await;
        assert!(!log.contains("failed, and is tried again"), "{log}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_environment_is_rolled_out_once_and_sees_the_new_token() {
    on_stage("env-restart", 9, Duration::from_hours(1), async |stage| {
        let world = stage.world;
        apply(stage, "env-restart").await;
        world.until("mail-env", "Ready", Gt::ready).await;
        let first = until_available(stage, "legacy-env-reader", 1).await;
        stage.until_logged(&first, "an answer", |log| log.contains("me: 200")).await;

        world.request_refresh("mail-env", "now").await;
        world.until("mail-env", "refreshed", |gt| gt.ready() && gt.refresh_count() == 2).await;
        let gone = |pod: Option<&Pod>| pod.is_none();
        timeout(PATIENCE, await_condition(stage.pods(), &first, gone))
            .await
            .expect("it is replaced")
            .unwrap();
        let second = until_available(stage, "legacy-env-reader", 1).await;
        assert_ne!(first, second);
        stage.until_logged(&second, "an answer", |log| log.contains("me: 200")).await;
        let token = digest(&world.data("mail-env").await["token"]);
        let last = stage.entra.journal().graph.pop().unwrap();
        assert_eq!(last.bearer_sha256, Some(token), "it sends the new one");

        let revisions =
            stage.api("apps/v1", "ReplicaSet").list(&kube::api::ListParams::default()).await.unwrap();
        assert_eq!(revisions.items.len(), 2, "one roll for one refresh");
    })
    .await;
}
