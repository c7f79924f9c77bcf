//! Every program that the token is for reads its file and is let in by Graph.

use std::time::Duration;

use entra_simulator::{CLIENT_ID, TENANT_ID, digest};
use serde_json::{Value, json};

use crate::harness::Gt;
use crate::stage::{MOUNTED, PATIENCE, on_stage, python, python_of_2_0, report};

const DRIVE: &str = "b!aaaabbbb0000cccc1111";

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// Name of the pod, and its command line.
fn programs() -> Vec<(&'static str, Vec<String>)> {
    let (python, python_of_2_0) = (python(), python_of_2_0());
    let who = format!("--token-dir {MOUNTED} --client-id {CLIENT_ID}");
    let and_where = format!("{who} --tenant-id {TENANT_ID}");
    vec![
        (
            "o365",
            words(&format!(
                "{python} /opt/clients/o365_check.py {and_where} --api-url https://graph.microsoft.com"
            )),
        ),
        ("o365-2-0", words(&format!("{python_of_2_0} /opt/clients/o365_v20_check.py {who}"))),
        (
            "msal",
            // As the provider spelled it: MSAL looks scopes up as texts.
            words(&format!(
                "{python} /opt/clients/msal_check.py {and_where} --scopes https://graph.microsoft.com/Mail.Read"
            )),
        ),
        ("curl", words(&format!("sh /opt/clients/curl_check.sh {MOUNTED}"))),
        ("go", words(&format!("go-oauth2 --token-dir {MOUNTED}"))),
        ("rclone", words(&format!("sh /opt/clients/rclone_check.sh {MOUNTED} {DRIVE} /tmp/copied"))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_consumer_reads_its_file_as_an_unprivileged_user_and_is_let_in() {
    on_stage("consumers", 1, Duration::from_hours(1), async |stage| {
        let world = stage.world;
        let data = json!([
            {"key": "token", "format": "AccessToken"}, {"key": "o365_token.txt", "format": "O365"},
            {"key": "oauth2.json", "format": "OAuth2"}, {"key": "header", "format": "AuthorizationHeader"},
        ]);
        let mail = stage.graphtoken("mail", &json!({"data": data})).await;
        world.create(&mail).await;
        world.until("mail", "Ready", Gt::ready).await;
        let token = digest(&world.data("mail").await["token"]);

        let programs = programs();
        for (name, command) in &programs {
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            stage.create(&stage.pod(name, "mail", &command)).await;
        }
        for (name, _) in programs {
            let (succeeded, log) = stage.ended(name, PATIENCE).await;
            let report = report(&log);
            assert!(succeeded, "{name}: {log}");
            let sent = ["sent_bearer_sha256", "msal_sha256", "file_bearer_sha256"];
            assert!(
                sent.iter().any(|member| report[*member] == token),
                "{name} sent another token: {report}"
            );
            if !report["request_status"].is_null() {
                assert_eq!(report["request_status"], 200, "{name}: {report}");
            }
            if name == "rclone" {
                assert_eq!(report["files"], json!(["hello.json"]), "{report}");
            }
            assert!(report["refused_hosts"].as_array().is_none_or(Vec::is_empty), "{name}: {report}");
        }
        let graph = stage.entra.journal().graph;
        let paths = graph.iter().filter(|asked| asked.bearer_sha256.as_deref() == Some(&*token));
        assert!(paths.count() >= 6 + 2, "all of them asked Graph, and rclone several times: {graph:?}");
    })
    .await;
}

/// What users of python-o365 met with: the library would write its file, and may not. Here it need not.
#[tokio::test(flavor = "multi_thread")]
async fn the_mount_cannot_be_written_and_there_is_no_way_to_the_api() {
    on_stage("read-only", 2, Duration::from_hours(1), async |stage| {
        let world = stage.world;
        let mail = stage.graphtoken("mail", &Value::Null).await;
        world.create(&mail).await;
        world.until("mail", "Ready", Gt::ready).await;
        let script = "id -u; id -g; for f in /var/run/graph/o365_token.txt /var/run/graph/new /new; do \
                      (: >>$f) 2>/dev/null && echo written $f; done; \
                      test -e /var/run/secrets/kubernetes.io && echo api; ls -A /var/run/graph | grep -v '^[.]'; true";
        stage.create(&stage.pod("look", "mail", &["sh", "-c", script])).await;
        let (succeeded, log) = stage.ended("look", PATIENCE).await;
        assert!(succeeded, "{log}");
        assert_eq!(log.lines().collect::<Vec<_>>(), ["50000", "0", "o365_token.txt", "token"]);
    })
    .await;
}
