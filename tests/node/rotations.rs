//! A process that outlives its token, and one that reads the file all the time.

use std::time::Duration;

use entra_simulator::{CLIENT_ID, TENANT_ID, digest};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::harness::Gt;
use crate::stage::{MOUNTED, PATIENCE, Stage, on_stage, python, report};

/// Pods see a new token within a few seconds here, and get it with half of its life left.
const LIFE: Duration = Duration::from_secs(30);
const ROTATIONS: usize = 5;
/// A target that was deleted is back within this.
const BACK: Duration = Duration::from_secs(2);

/// The process of `tests/clients/loop.py`: a request every half second with one `Account`.
fn request_loop(stage: &Stage<'_>, name: &str, secret: &str) -> Value {
    let python = python();
    stage.pod(
        name,
        secret,
        &[
            &python,
            "/opt/clients/loop.py",
            "--token-dir",
            MOUNTED,
            "--client-id",
            CLIENT_ID,
            "--tenant-id",
            TENANT_ID,
        ],
    )
}

/// Digests of the tokens that a request loop was let in with so far.
fn tokens(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tokens = lines.filter(|line| line["event"] == "token");
    tokens.filter_map(|line| line["sent_bearer_sha256"].as_str().map(str::to_owned)).collect()
}

/// Asks a pod's process to end, and returns its report.
async fn end(stage: &Stage<'_>, name: &str) -> Value {
    // By a deadline: with a deleted pod its log would go.
    let patch = json!({"spec": {"activeDeadlineSeconds": 1}});
    stage.pods().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let (_, log) = stage.ended(name, PATIENCE).await;
    report(&log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_goes_through_five_rotations_without_a_failed_request_and_no_reader_sees_a_bad_file() {
    on_stage("rotations", 3, LIFE, async |stage| {
        let world = stage.world;
        let mail = stage.graphtoken("mail", &Value::Null).await;
        world.create(&mail).await;
        world.until("mail", "Ready", Gt::ready).await;
        stage.create(&request_loop(stage, "worker", "mail")).await;
        let python = python();
        let file = format!("{MOUNTED}/o365_token.txt");
        let reader =
            [&*python, "/opt/clients/reader.py", "--file", &file, "--kind", "json", "--pause", "0.0005"];
        stage.create(&stage.pod("reader", "mail", &reader)).await;

        let rotated = |log: &str| tokens(log).len() > ROTATIONS;
        stage.until_logged("worker", "five rotations", rotated).await;

        // While they run, the Secret is deleted: it is back, and pods notice nothing.
        let before = world.secrets().get("mail").await.unwrap();
        world.secrets().delete("mail", &DeleteParams::default()).await.unwrap();
        let began = Instant::now();
        let new = |secret: Option<&Secret>| secret.is_some_and(|s| s.metadata.uid != before.metadata.uid);
        timeout(PATIENCE, await_condition(world.secrets(), "mail", new)).await.unwrap().unwrap();
        let back = began.elapsed();
        assert!(back < BACK, "it was gone for {back:?}");
        let so_far = tokens(&stage.log("worker").await).len();
        stage.until_logged("worker", "another rotation", |log| tokens(log).len() > so_far).await;

        let worker = end(stage, "worker").await;
        assert_eq!(worker["failed"], 0, "{worker:#}");
        assert!(worker["requests"].as_u64().unwrap() >= 100, "{worker:#}");
        let reader = end(stage, "reader").await;
        assert_eq!(reader["other_errors"], json!({}), "{reader:#}");
        for bad in ["empty", "torn", "wrong_length"] {
            assert_eq!(reader[bad], 0, "{reader:#}");
        }
        assert_eq!(reader["missing"], reader["healed_by_one_retry"], "{reader:#}");
        tell(&worker, &reader, back);
    })
    .await;
}

#[expect(clippy::print_stdout, reason = "the figures are worth knowing")]
fn tell(worker: &Value, reader: &Value, back: Duration) {
    println!(
        "{} requests through {} rotations, {} failed; {} reads, {} met a swap; a deleted Secret was back after {back:?}",
        worker["requests"], worker["rotations"], worker["failed"], reader["reads"], reader["missing"],
    );
}

/// Revoked long before it would expire: the trial notices, another token is got, and the process goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_recovers_from_a_revoked_token_without_a_restart() {
    on_stage("revoked", 4, Duration::from_hours(1), async |stage| {
        let world = stage.world;
        let mut mail = stage.graphtoken("mail", &Value::Null).await;
        mail["spec"]["verify"] = json!({"interval": "1m", "path": "/me"});
        world.create(&mail).await;
        world.until("mail", "Ready", Gt::ready).await;
        stage.create(&request_loop(stage, "worker", "mail")).await;
        let log = stage.until_logged("worker", "a request", |log| !tokens(log).is_empty()).await;
        let first = tokens(&log);
        assert_eq!(first, [digest(&world.data("mail").await["token"])]);

        stage.entra.revoke_access_tokens();
        let recovered = stage.until_logged("worker", "recovery", |log| tokens(log).len() > 1).await;
        let second = digest(&world.data("mail").await["token"]);
        assert_eq!(tokens(&recovered).last(), Some(&second));
        assert_eq!(world.graphtoken("mail").await.refresh_count(), 2, "one forced refresh was enough");
        let restarts = stage.pods().get("worker").await.unwrap().status.unwrap().container_statuses.unwrap();
        assert_eq!(restarts[0].restart_count, 0);
        let worker = end(stage, "worker").await;
        let failures = worker["failures"].as_array().unwrap();
        assert!(!failures.is_empty(), "until the trial nobody could know: {worker:#}");
        let with_the_first = |failure: &Value| {
            failure["answers"]
                .as_array()
                .unwrap()
                .iter()
                .all(|answer| answer["sent_bearer_sha256"] == first[0])
        };
        assert!(failures.iter().all(with_the_first), "none after the new token came: {worker:#}");
    })
    .await;
}

/// From the exchange to the changed file in the pod. On this node a kubelet looks each second; users' look each minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_is_in_the_pod_long_before_the_old_one_ends() {
    on_stage("delay", 5, Duration::from_hours(1), async |stage| {
        let world = stage.world;
        let mail = stage.graphtoken("mail", &Value::Null).await;
        world.create(&mail).await;
        world.until("mail", "Ready", Gt::ready).await;
        let script = "while :; do now=$(sha256sum </var/run/graph/token); \
                      if [ \"$now\" != \"$last\" ]; then last=$now; echo $(date +%s%3N) ${now%% *}; fi; sleep 0.1; done";
        stage.create(&stage.pod("clock", "mail", &["bash", "-c", script])).await;
        let seen = |log: &str, token: &str| {
            let line = log.lines().find(|line| line.ends_with(token));
            line.and_then(|line| line.split(' ').next()?.parse::<u64>().ok())
        };
        let mut delays = Vec::new();
        for round in 0..rounds() {
            let token = digest(&world.data("mail").await["token"]);
            stage.until_logged("clock", "the token", |log| seen(log, &token).is_some()).await;
            let value = format!("round {round}");
            let patch = json!({"metadata": {"annotations": {"graphtoken.io/requested-at": value}}});
            world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
            world.until("mail", "refreshed", |gt| gt.refresh_count() == round + 2).await;
            let token = digest(&world.data("mail").await["token"]);
            let log = stage.until_logged("clock", "the new token", |log| seen(log, &token).is_some()).await;
            let got = stage.entra.access_token_by_digest(&token).unwrap();
            let issued = got.expires_ms - 3_600_000;
            delays.push(seen(&log, &token).unwrap() - issued);
        }
        say(&mut delays);
    })
    .await;
}

/// More of them measure more: `GRAPHTOKEN_TEST_DELAYS=20`, on a node that was started with the delay to be measured.
fn rounds() -> u64 {
    std::env::var("GRAPHTOKEN_TEST_DELAYS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[expect(clippy::print_stdout, reason = "the figures are worth knowing")]
fn say(delays: &mut [u64]) {
    delays.sort_unstable();
    println!("from the exchange to the file in the pod: {delays:?} ms");
}
