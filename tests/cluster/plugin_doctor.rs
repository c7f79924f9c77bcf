//! `kubectl graphtoken doctor`: what is wrong is found, and what to do is said.

use entra_simulator::{CLIENT_ID, Config};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::plugin::{Said, plugin};
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};
use crate::lost_rights::service_account;

/// The line that has this in it, and the one below it.
fn line<'a>(said: &'a Said, part: &str) -> (&'a str, &'a str) {
    let mut lines = said.out.lines();
    let found = lines.find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part:?}: {said:?}"));
    (found, lines.next().unwrap_or_default())
}

fn good(said: &Said, part: &str) {
    assert!(line(said, part).0.starts_with("✓ "), "{said:?}");
}

/// It is wrong, and this is to be done.
fn bad(said: &Said, part: &str, todo: &str) {
    let (found, below) = line(said, part);
    assert!(found.starts_with("✗ ") && below.contains(todo), "{todo:?}: {said:?}");
}

async fn doctor(world: &World, args: &[&str]) -> Said {
    plugin(world, &[&["doctor", "--operator-namespace", &world.namespace], args].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graphtoken_that_is_well_is_well_in_every_line() {
    World::run("plugin-doctor", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "ready", Gt::ready).await;
        let said = doctor(world, &["mail"]).await;
        assert_eq!(said.code, 0, "{said:?}");
        for part in [
            "the API server answers",
            "CRD graphtokens.graphtoken.io is that of this version",
            "CRD clustergraphclients.graphtoken.io is that of this version",
            "you may get, list, watch graphtokens",
            "you may create, get, patch secrets",
            "an operator works",
            "mail: its token is good until",
            "the token endpoint answers from here",
            "this machine's clock and that of",
            "mail: its seed, Secret seed, key token, holds a refresh token",
        ] {
            good(&said, part);
        }
        assert!(said.err.contains("nothing is wrong"), "{said:?}");

        // A seed that was taken up is not needed any more.
        world.secrets().delete("seed", &kube::api::DeleteParams::default()).await.unwrap();
        good(&doctor(world, &[]).await, "is gone, and not needed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_wrong_is_found_with_what_to_do() {
    World::run("plugin-ill", async |world| {
        let entra = world.entra(Config::default()).await;
        let issuer = Issuer::entra(&entra, CLIENT_ID);
        world.create(&delegated("mail", &issuer, "no-such-seed")).await;
        let said = doctor(world, &["mail"]).await;
        assert_eq!(said.code, 1, "{said:?}");
        bad(&said, "no operator was found", "graphtoken run");
        bad(&said, "mail: no operator has seen it yet", "is an operator running");
        bad(
            &said,
            "mail: its seed, Secret no-such-seed, key token, is not there",
            "kubectl graphtoken login mail",
        );

        world.operator(Options::default()).await;
        world.seed("seed", r#"{"access_token": "x"}"#).await;
        world.create(&delegated("odd", &issuer, "seed")).await;
        let stalled = |gt: &Gt| gt.condition("Stalled").is_some();
        world.until("odd", "stalled", stalled).await;
        let said = doctor(world, &["odd"]).await;
        bad(&said, "odd: a person must act (InvalidConfiguration)", "offline_access");
        bad(&said, "key token, cannot be used", "offline_access");
        good(&said, "an operator works");

        let mut away = delegated("away", &issuer, "seed");
        away["spec"]["endpoints"]["token"] = json!("http://127.0.0.1:9/t/oauth2/v2.0/token");
        world.create(&away).await;
        bad(&doctor(world, &["away"]).await, "does not answer from here", "HTTPS_PROXY");

        world.create(&app_only("app", &issuer, "no-such-secret")).await;
        let said = doctor(world, &["app"]).await;
        bad(&said, "app: the client's proof", "the client secret in Secret no-such-secret");

        let folder = tempfile::tempdir().unwrap();
        let limited = service_account(world, folder.path().join("kubeconfig")).await;
        let said = doctor(world, &["odd", "--kubeconfig", limited.to_str().unwrap()]).await;
        bad(&said, "you may not create, get, patch secrets", "login and import");
        assert!(line(&said, "cannot be seen: the API server answered 403").0.starts_with("– "), "{said:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_and_a_proof_that_is_there_are_told() {
    World::run("plugin-clock", async |world| {
        world.secret("proof", "client-secret", "s3cret-of-the-app").await;
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let token_url = format!("http://{}/t/oauth2/v2.0/token", server.local_addr().unwrap());
        let answering = tokio::spawn(async move {
            loop {
                let (mut stream, _) = server.accept().await.unwrap();
                let late =
                    "HTTP/1.1 405 No\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.read(&mut [0; 4096]).await;
                stream.write_all(late.as_bytes()).await.unwrap();
            }
        });
        let issuer = Issuer { tenant: "t".to_owned(), client_id: CLIENT_ID.to_owned(), token_url };
        world.create(&app_only("app", &issuer, "proof")).await;
        let said = doctor(world, &["app"]).await;
        answering.abort();
        bad(&said, "s ahead of that of http://127.0.0.1:", "NTP");
        good(&said, "app: the client's secret is there");
    })
    .await;
}
