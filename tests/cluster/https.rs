//! HTTPS with a certificate of an authority that only `--ca-bundle` makes known.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use entra_simulator::{CLIENT_ID, Config};
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::device::message;
use crate::harness::cluster::Cluster;
use crate::harness::tls::Authority;
use crate::harness::{Gt, Issuer, Options, World, delegated};

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_trusted_that_the_bundle_names_and_without_it_the_message_names_the_flag() {
    World::run("https", async |world| {
        let authority = Authority::new();
        let entra = world.entra(Config { tls: Some(authority.server()), ..Config::default() }).await;
        let plain = world.entra(Config::default()).await;
        assert!(entra.url().starts_with("https://"));
        world.seed("seed", &entra.mint().unwrap()).await;
        world.seed("plain-seed", &plain.mint().unwrap()).await;

        let operator = world.operator(Options::default()).await;
        let mut mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        mail["spec"]["endpoints"]["graph"] = json!(entra.url());
        world.create(&mail).await;
        // One whose trial alone goes there.
        let mut tried = delegated("tried", &Issuer::entra(&plain, CLIENT_ID), "plain-seed");
        tried["spec"]["endpoints"]["graph"] = json!(entra.url());
        world.create(&tried).await;
        let untrusted = |gt: &Gt| {
            gt.condition("Ready") == Some(("False", "ProviderUnavailable"))
                && message(gt, "Ready").contains("--ca-bundle")
        };
        world.until("mail", "naming the flag", untrusted).await;
        let untried = |gt: &Gt| {
            gt.condition("Verified") == Some(("Unknown", "ProviderUnavailable"))
                && message(gt, "Verified").contains("--ca-bundle")
        };
        world.until("tried", "naming the flag", untried).await;
        assert!(world.graphtoken("tried").await.ready(), "pods have their token all the same");
        assert!(entra.journal().token.is_empty() && entra.journal().graph.is_empty(), "nothing is sent");
        world.stop(&operator).await;

        let flag = format!("--ca-bundle={}", authority.bundle().display());
        world.operator(Options::default().flag(&flag)).await;
        world.request_refresh("mail", "now").await;
        let accepted = |gt: &Gt| gt.ready() && gt.condition("Verified") == Some(("True", "Accepted"));
        world.until("mail", "ready, and tried", accepted).await;
        world.request_refresh("tried", "now").await;
        // That Graph knows no token of the other provider, and says so.
        let refused = |gt: &Gt| gt.condition("Verified") == Some(("False", "TokenRejected"));
        world.until("tried", "answered", refused).await;
        assert!(world.graphtoken("tried").await.ready());
    })
    .await;
}

/// What the operator says as it ends at the start.
async fn ends(kubeconfig: &Path, bundle: &Path) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_graphtoken"))
        .args(["run", "--listen", "127.0.0.1:0", "--leader-election=false"])
        .arg("--ca-bundle")
        .arg(bundle)
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_mins(1), run).await.expect("it ends").unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_bundle_that_cannot_be_used_ends_the_operator_at_its_start_and_is_named() {
    let kubeconfig = Cluster::connect().await.kubeconfig;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate =
        |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    let cases = [
        (folder.path().join("missing.pem"), "No such file"),
        (folder.path().to_owned(), "Is a directory"),
        (file("empty.pem", ""), "no PEM certificate"),
        (file("text.pem", "not a certificate"), "no PEM certificate"),
        (file("key.pem", crate::pki::CLIENT_KEY), "no PEM certificate"),
        (file("broken.pem", &certificate("s3cret!")), ""),
        (file("hollow.pem", &certificate("AAAA")), "cannot be read"),
    ];
    for (path, problem) in cases {
        let said = ends(&kubeconfig, &path).await;
        let path = path.display().to_string();
        let words = ["cannot use the CA certificates of", &path, problem, "--ca-bundle"];
        assert!(words.iter().all(|word| said.contains(word)), "{path}: {said}");
        assert!(!said.contains("s3cret") && !said.contains("PRIVATE KEY"), "{said}");
    }
}
