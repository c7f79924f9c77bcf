//! `kubectl graphtoken login`: by browser, by code, for one and for all, and what is refused.

use std::time::Duration;

use entra_simulator::{Browser, CLIENT_ID, Client, Config, DeviceFlow, Simulator, USER_OID, USER_UPN, User};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, PostParams};
use reqwest::redirect::Policy;
use serde_json::{Value, json};

use crate::device::by_code;
use crate::harness::objects::{clustergraphclient_resource, secret_ref};
use crate::harness::plugin::{Running, Said, begin, plugin};
use crate::harness::{Gt, Issuer, Options, World, delegated};
use crate::lost_rights::service_account;

const LOGIN: &str = "mail-graphtoken-login";
const GUEST: (&str, &str) = ("0000eeee-aaaa-2222-bbbb-3333cccc4444", "guest@contoso.com");

/// A person whose browser opens what the terminal says. Returns what the page says in the end.
async fn browse(world: &World, running: &mut Running) -> String {
    let url = running.says("code_challenge").await;
    let browser = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    let page = browser.get(url.trim()).send().await.unwrap();
    assert_eq!(page.status(), 302, "{}", page.text().await.unwrap());
    let back = page.headers()["location"].to_str().unwrap().to_owned();
    assert!(back.starts_with("http://127.0.0.1:"), "{back}");
    let back = reqwest::Url::parse(&back).unwrap();
    if let Some((_, code)) = back.query_pairs().find(|(key, _)| key == "code") {
        world.confidential.note("the authorization code", &code);
    }
    // Others of this machine may knock there too.
    let forged = back.join("/?code=forged&state=forged").unwrap();
    assert_eq!(browser.get(forged).send().await.unwrap().status(), 404);
    browser.get(back).send().await.unwrap().text().await.unwrap()
}

async fn log_in(world: &World, args: &[&str]) -> Said {
    let mut running = begin(world, &[&["login", "--no-browser"], args].concat());
    browse(world, &mut running).await;
    running.ended(world).await
}

fn by_login(gt: &Gt) -> bool {
    gt.ready() && *gt.status("/signedIn/source") == json!("Login") && gt.condition("Stalled").is_none()
}

/// A `GraphToken` that tells whose it is by name.
fn named(mut object: Value) -> Value {
    object["spec"]["scopes"] = json!(["Mail.Read", "User.Read", "openid", "profile"]);
    object
}

fn unsigned(name: &str, entra: &Simulator) -> Value {
    named(delegated(name, &Issuer::entra(entra, CLIENT_ID), "no-such-seed"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_by_browser_and_the_operator_takes_it_up() {
    World::run("plugin-login", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.create(&named(by_code("mail", &entra))).await;
        crate::device::shows_a_code(world, "mail").await;

        let mut running = begin(world, &["login", "mail", "--no-browser"]);
        let page = browse(world, &mut running).await;
        assert!(page.contains("You are signed in"), "{page}");
        let said = running.ended(world).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.err.contains(&format!("signed in as {USER_UPN}")), "{said:?}");
        assert!(said.err.contains("the operator has taken up the sign-in"), "{said:?}");
        assert_eq!(said.out, "", "nothing but talk");
        world.until("mail", "signed in by login", by_login).await;
        assert!(world.secrets().get_opt(LOGIN).await.unwrap().is_none());
        let journal = entra.journal();
        let redeemed: Vec<_> = journal.token.iter().filter(|e| e.grant == "authorization_code").collect();
        assert_eq!(redeemed.len(), 1);
        assert!(redeemed[0].scopes.contains(&"offline_access".to_owned()), "{redeemed:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_account_is_refused_before_anything_is_written() {
    World::run("plugin-account", async |world| {
        let entra = world.entra(Config::default()).await;
        let (oid, upn) = GUEST;
        entra.put_user(User::new(oid, upn));
        world.operator(Options::default()).await;
        world.create(&unsigned("mail", &entra)).await;
        assert_eq!(log_in(world, &["mail"]).await.code, 0);
        world.until("mail", "signed in by login", by_login).await;

        // Against the account that is bound.
        entra.set_browser(Browser::SignsInAs(oid.to_owned())).unwrap();
        let said = log_in(world, &["mail"]).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains(&format!("you signed in as {upn}")), "{said:?}");
        assert!(said.err.contains(USER_OID) && said.err.contains("nothing was written"), "{said:?}");
        assert!(world.secrets().get_opt(LOGIN).await.unwrap().is_none());

        // Against the one that the spec names, to which the page is hinted.
        let mut other = unsigned("other", &entra);
        other["spec"]["account"] = json!(USER_UPN);
        world.create(&other).await;
        assert_eq!(log_in(world, &["other"]).await.code, 1);
        entra.set_browser(Browser::SignsIn).unwrap();
        assert_eq!(log_in(world, &["other"]).await.code, 0);

        entra.set_browser(Browser::Declines).unwrap();
        let said = log_in(world, &["mail"]).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("access_denied, AADSTS65004"), "{said:?}");
        assert!(world.graphtoken("mail").await.ready(), "it goes on as before");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_serves_where_there_is_no_browser() {
    World::run("plugin-device", async |world| {
        let device = DeviceFlow { interval: Some(Duration::from_secs(1)), ..DeviceFlow::default() };
        let entra = world.entra(Config { device, ..Config::default() }).await;
        world.operator(Options::default()).await;
        let mut object = unsigned("mail", &entra);
        object["spec"]["endpoints"]["deviceAuthorization"] = json!(entra.device_authorization_url());
        world.create(&object).await;

        let mut running = begin(world, &["login", "mail", "--device"]);
        let line = running.says("one-time code").await;
        running.says("https://microsoft.com/devicelogin").await;
        entra.approve_device_code(line.rsplit(' ').next().unwrap(), None).unwrap();
        let said = running.ended(world).await;
        assert_eq!(said.code, 0, "{said:?}");
        world.until("mail", "signed in by login", by_login).await;

        let mut running = begin(world, &["login", "mail", "--device"]);
        let line = running.says("one-time code").await;
        entra.decline_device_code(line.rsplit(' ').next().unwrap()).unwrap();
        let said = running.ended(world).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(
            said.err.contains("The user declined the sign-in: run kubectl graphtoken login again"),
            "{said:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_must_prove_itself_does_so_by_what_the_person_may_read() {
    const APP: &str = "99999999-2222-3333-4444-555555555555";
    World::run("plugin-proof", async |world| {
        let clients = vec![Client::confidential(APP, "s3cret-of-the-app")];
        let entra = world.entra(Config { clients, ..Config::default() }).await;
        world.operator(Options::default()).await;
        let mut object = delegated("mail", &Issuer::entra(&entra, APP), "no-such-seed");
        object["spec"]["clientAuth"] = secret_ref("app");
        world.create(&object).await;
        let said = plugin(world, &["login", "mail", "--no-browser"]).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("the client secret in Secret app"), "{said:?}");

        world.secret("app", "client-secret", "s3cret-of-the-app").await;
        let said = log_in(world, &["mail"]).await;
        assert_eq!(said.code, 0, "{said:?}");
        world.until("mail", "signed in by login", by_login).await;

        let folder = tempfile::tempdir().unwrap();
        let limited = service_account(world, folder.path().join("kubeconfig")).await;
        let said = plugin(world, &["login", "mail", "--kubeconfig", limited.to_str().unwrap()]).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("you may not get Secret app in namespace"), "{said:?}");
        assert!(said.err.contains("or have spec.grant be deviceCode"), "{said:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_wait_for_a_person_are_signed_in_to_one_after_the_other() {
    World::run("plugin-pending", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        assert!(plugin(world, &["login", "--pending"]).await.err.contains("waits for a person"));
        for name in ["one", "two"] {
            let mut object = named(by_code(name, &entra));
            object["spec"]["account"] = json!(USER_UPN);
            world.create(&object).await;
        }
        // Something is wrong with this one, but not the sign-in.
        world.create(&unsigned("wrong", &entra)).await;
        for name in ["one", "two"] {
            crate::device::shows_a_code(world, name).await;
        }
        let mut running = begin(world, &["login", "--pending", "--no-browser"]);
        running.says(USER_UPN).await;
        running.says("[1/2]").await;
        browse(world, &mut running).await;
        running.says("[2/2]").await;
        browse(world, &mut running).await;
        let said = running.ended(world).await;
        assert_eq!(said.code, 0, "{said:?}");
        for name in ["one", "two"] {
            world.until(name, "signed in by login", by_login).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graphtoken_of_a_shared_client_is_signed_in_to_like_any_other() {
    World::run("plugin-shared", async |world| {
        let entra = world.entra(Config::default()).await;
        let name = format!("{}-client", world.namespace);
        let shared = json!({
            "apiVersion": "graphtoken.io/v1alpha1", "kind": "ClusterGraphClient", "metadata": {"name": name},
            "spec": {
                "tenant": entra.tenant().id, "clientId": CLIENT_ID, "endpoints": {"token": entra.token_url()},
                "allow": {"namespaceSelector": {}, "grants": ["refreshToken"]},
            },
        });
        let clients: Api<DynamicObject> =
            Api::all_with(world.cluster.client.clone(), &clustergraphclient_resource());
        let shared = serde_json::from_value(shared).unwrap();
        clients.create(&PostParams::default(), &shared).await.unwrap();
        world.operator(Options::default().flag(&format!("--client-namespace={}", world.namespace))).await;
        let mut object = unsigned("mail", &entra);
        for member in ["tenant", "clientId", "endpoints"] {
            object["spec"].as_object_mut().unwrap().remove(member);
        }
        object["spec"]["clientRef"] = json!({"kind": "ClusterGraphClient", "name": name});
        world.create(&object).await;
        let said = log_in(world, &["mail"]).await;
        assert_eq!(said.code, 0, "{said:?}");
        world.until("mail", "signed in by login", by_login).await;
        clients.delete(&name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_signed_in_to_is_told_why() {
    World::run("plugin-refusals", async |world| {
        let entra = world.entra(Config::default()).await;
        let mut object = unsigned("clear", &entra);
        object["spec"]["endpoints"]["token"] = json!("http://login.example.com/token");
        world.create(&object).await;
        let said = plugin(world, &["login", "clear"]).await;
        assert!(said.code == 1 && said.err.contains("in clear text"), "{said:?}");

        let mut object = unsigned("odd", &entra);
        object["spec"]["endpoints"]["token"] = json!(format!("{}/issue", entra.url()));
        world.create(&object).await;
        let said = plugin(world, &["login", "odd"]).await;
        assert!(said.code == 1 && said.err.contains("--authorization-endpoint"), "{said:?}");

        // Nobody comes.
        world.create(&unsigned("mail", &entra)).await;
        let said = plugin(world, &["login", "mail", "--no-browser", "--timeout=1s"]).await;
        assert!(said.code == 1 && said.err.contains("nobody signed in within 1s"), "{said:?}");
    })
    .await;
}
