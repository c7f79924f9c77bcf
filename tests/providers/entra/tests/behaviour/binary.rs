//! The simulator as a process.

use std::process::Stdio;
use std::time::Duration;

use entra_simulator::CLIENT_ID;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::http::client;
use crate::sign::Rsa;

const SOON: Duration = Duration::from_secs(20);

/// Starts the binary and reads its first line.
async fn start(args: &[&str]) -> (Child, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_entra-simulator"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary was built with the tests");
    let stdout = child.stdout.take().expect("stdout is piped");
    let line = timeout(SOON, BufReader::new(stdout).lines().next_line()).await.expect("it starts soon");
    let line = line.expect("stdout can be read").expect("there is a first line");
    (child, serde_json::from_str(&line).expect("the first line is JSON"))
}

#[tokio::test]
async fn it_says_where_it_listens_and_knows_its_seeds_and_clients() {
    let dir = std::env::temp_dir().join(format!("entra-simulator-{}", std::process::id()));
    std::fs::write(&dir, "from-a-file\n").unwrap();
    let file = dir.to_str().unwrap();
    let args =
        ["--client", "app:s3cret", "--token-lifetime", "7", "--seed", "from-argv", "--seed-file", file];
    let (_child, line) = start(&args).await;
    std::fs::remove_file(&dir).unwrap();
    assert!(line["url"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    for seed in ["from-argv", "from-a-file"] {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", "app"),
            ("client_secret", "s3cret"),
            ("refresh_token", seed),
        ];
        let request = client().post(line["token_endpoint"].as_str().unwrap()).form(&form);
        let body: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(body["expires_in"], 7);
    }
}

#[tokio::test]
async fn it_hands_out_device_codes_as_told() {
    let (_child, line) = start(&["--device-lifetime", "60", "--device-interval", "1"]).await;
    let form = [("client_id", CLIENT_ID), ("scope", "User.Read")];
    let request = client().post(line["device_authorization_endpoint"].as_str().unwrap()).form(&form);
    let body: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!((&body["expires_in"], &body["interval"]), (&Value::from(60), &Value::from(1)));
}

#[tokio::test]
async fn it_serves_https_as_told() {
    let path = std::env::temp_dir().join(format!("entra-simulator-tls-{}", std::process::id()));
    std::fs::write(&path, &Rsa::new().pem).unwrap();
    let file = path.to_str().unwrap();
    let (_child, line) = start(&["--tls-certificate", file, "--tls-key", file]).await;
    std::fs::remove_file(&path).unwrap();
    assert!(line["token_endpoint"].as_str().unwrap().starts_with("https://127.0.0.1:"));
}

#[tokio::test]
async fn it_ends_when_its_stdin_closes_if_so_asked() {
    let (mut child, _) = start(&["--exit-with-stdin"]).await;
    drop(child.stdin.take());
    assert!(timeout(SOON, child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn it_ends_cleanly_on_sigterm_and_sigint() {
    for signal in ["-TERM", "-INT"] {
        let (mut child, _) = start(&[]).await;
        let pid = child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
        assert!(timeout(SOON, child.wait()).await.unwrap().unwrap().success());
    }
}
