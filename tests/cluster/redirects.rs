//! Redirects are never followed: what is sent are secrets, and where they would go, nobody has allowed.

use entra_simulator::{Action, CLIENT_ID, Canned, Config, Fault, Simulator};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::device::{by_code, message, shows_a_code};
use crate::harness::proxy::Proxy;
use crate::harness::{Gt, Issuer, Options, World, delegated};

fn redirect(status: u16, elsewhere: &Proxy) -> Action {
    let headers = vec![("Location".to_owned(), format!("{}/elsewhere", elsewhere.url()))];
    Action::Respond(Canned { status, body: Value::Null, content_type: None, headers })
}

async fn wrong_url(world: &World, name: &str, member: &str) {
    let wrong = |gt: &Gt| {
        let words = ["redirect", "spec.endpoints.", member];
        gt.condition("Stalled") == Some(("True", "InvalidConfiguration"))
            && words.iter().all(|word| message(gt, "Stalled").contains(word))
    };
    world.until(name, "told of the redirect", wrong).await;
}

async fn started(world: &World) -> (Simulator, Proxy) {
    let entra = world.entra(Config::default()).await;
    world.operator(Options::default()).await;
    world.seed("seed", &entra.mint().unwrap()).await;
    (entra, Proxy::start().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_redirects_is_a_wrong_url() {
    World::run("redirects", async |world| {
        let (entra, elsewhere) = started(world).await;
        for (name, status) in [("found", 302), ("temporary", 307), ("permanent", 308)] {
            entra.queue_fault(Fault::token(redirect(status, &elsewhere)).forever());
            world.create(&delegated(name, &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
            wrong_url(world, name, "token").await;
            entra.clear_faults();
            world.request_refresh(name, "mended").await;
            world.until(name, "healed", |gt| gt.ready() && gt.condition("Stalled").is_none()).await;
        }
        entra.queue_fault(Fault::device(redirect(307, &elsewhere)));
        world.create(&by_code("code", &entra)).await;
        wrong_url(world, "code", "deviceAuthorization").await;
        world.request_refresh("code", "mended").await;
        shows_a_code(world, "code").await;
        assert_eq!(elsewhere.asked(), [""; 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_redirects_gets_no_token_there() {
    World::run("probe-redirects", async |world| {
        let (entra, elsewhere) = started(world).await;
        entra.queue_fault(Fault::graph(redirect(302, &elsewhere)));
        let mut mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        mail["spec"]["endpoints"]["graph"] = json!(entra.url());
        world.create(&mail).await;
        let failed = |gt: &Gt| gt.condition("Verified") == Some(("False", "ProbeFailed"));
        let gt = world.until("mail", "refused", failed).await;
        assert!(gt.ready(), "pods have their token");
        entra.queue_fault(Fault::graph(redirect(307, &elsewhere)));
        let path = json!({"spec": {"verify": {"path": "/me"}}});
        world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&path)).await.unwrap();
        let again = |gt: &Gt| failed(gt) && *gt.status("/lastProbe/path") == json!("/me");
        world.until("mail", "refused again", again).await;
        assert_eq!(elsewhere.asked(), [""; 0]);
        world.request_refresh("mail", "now").await;
        world.until("mail", "accepted", |gt| gt.condition("Verified") == Some(("True", "Accepted"))).await;
    })
    .await;
}
