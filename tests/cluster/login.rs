//! The login Secret: a sign-in made elsewhere, handed over to a `GraphToken` that is there already.

use std::time::Duration;

use entra_simulator::{CLIENT_ID, Client, Config, Journal, Rotation, Simulator, User, digest};
use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;
use tokio::time::timeout;

use crate::device::by_code;
use crate::harness::objects::credential;
use crate::harness::{Gt, Issuer, Options, World, delegated};

const LOGIN: &str = "mail-graphtoken-login";
const GUEST: &str = "guest@contoso.com";
const ANOTHER_CLIENT: &str = "99999999-2222-3333-4444-555555555555";

async fn strict(world: &World) -> Simulator {
    world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await
}

async fn log_in(world: &World, refresh_token: &str) -> Secret {
    world.secret(LOGIN, "refresh_token", refresh_token).await
}

async fn taken(world: &World, login: &Secret) {
    let uid = login.metadata.uid.as_deref().unwrap();
    let gone = await_condition(world.secrets(), LOGIN, conditions::is_deleted(uid));
    timeout(Duration::from_mins(1), gone).await.expect("it is deleted").unwrap();
}

fn by_login(gt: &Gt) -> bool {
    gt.ready() && *gt.status("/signedIn/source") == json!("Login") && gt.condition("Stalled").is_none()
}

fn sent(journal: &Journal, refresh_token: &str) -> usize {
    let digest = digest(refresh_token);
    journal.token.iter().filter(|entry| entry.received_sha256.as_ref() == Some(&digest)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_adopted_by_any_delegated_grant_and_then_deleted() {
    World::run("login", async |world| {
        let entra = strict(world).await;
        world.operator(Options::default()).await;
        // While a code waits.
        world.create(&by_code("mail", &entra)).await;
        world.until("mail", "showing a code", |gt| gt.status("/deviceCode").is_object()).await;
        let first = entra.mint().unwrap();
        let login = log_in(world, &first).await;
        let gt = world.until("mail", "signed in by login", by_login).await;
        assert!(gt.status("/deviceCode").is_null(), "no code waits any more");
        taken(world, &login).await;

        // Beside a chain that works; and in place of one that was revoked.
        let second = entra.mint().unwrap();
        let login = log_in(world, &second).await;
        taken(world, &login).await;
        entra.revoke_user(entra_simulator::USER_OID).unwrap();
        world.request_refresh("mail", "now").await;
        let refused = |gt: &Gt| gt.condition("Stalled") == Some(("True", "AuthorizationRequired"));
        let gt = world.until("mail", "signed out", refused).await;
        assert!(gt.ready(), "the token that pods have is still good");
        let third = entra.mint().unwrap();
        let login = log_in(world, &third).await;
        world.until("mail", "signed in again", by_login).await;
        taken(world, &login).await;
        let journal = entra.journal();
        assert_eq!([&first, &second, &third].map(|token| sent(&journal, token)), [1, 1, 1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_a_seed_is_enough() {
    World::run("login-first", async |world| {
        let entra = strict(world).await;
        world.operator(Options::default()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "no-such-seed")).await;
        let missing = |gt: &Gt| gt.condition("Stalled") == Some(("True", "InvalidConfiguration"));
        world.until("mail", "without a seed", missing).await;
        let login = log_in(world, &entra.mint().unwrap()).await;
        world.until("mail", "signed in by login", by_login).await;
        taken(world, &login).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_is_refused_and_the_chain_goes_on() {
    World::run("login-account", async |world| {
        let entra = strict(world).await;
        entra.put_user(User::new("0000eeee-aaaa-2222-bbbb-3333cccc4444", GUEST));
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        let before = world.until("mail", "ready", Gt::ready).await;
        let kept = world.data("mail").await["token"].clone();

        let login = log_in(world, &entra.mint_refresh_token(Some(GUEST), None, &[]).unwrap()).await;
        let wrong = |gt: &Gt| gt.condition("Stalled") == Some(("True", "WrongAccount"));
        let gt = world.until("mail", "refused for its account", wrong).await;
        assert!(gt.ready());
        assert_eq!(gt.status("/account"), before.status("/account"));
        assert_eq!(world.data("mail").await["token"], kept, "nothing of it is published");

        // The old chain goes on beside it.
        world.request_refresh("mail", "now").await;
        world.until("mail", "refreshed", |gt| gt.refresh_count() == 2).await;
        let token = world.data("mail").await["token"].clone();
        assert_eq!(entra.access_token(&token).unwrap().oid.as_deref(), Some(entra_simulator::USER_OID));

        // It stays until a person sees to it.
        assert_eq!(world.secrets().get(LOGIN).await.unwrap().metadata.uid, login.metadata.uid);
        world.secrets().delete(LOGIN, &DeleteParams::default()).await.unwrap();
        world.until("mail", "well again", |gt| gt.ready() && gt.condition("Stalled").is_none()).await;
        assert!(world.data(&credential("mail")).await.contains_key("refresh_token"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_another_client_is_refused_and_the_chain_goes_on() {
    World::run("login-client", async |world| {
        let clients = vec![Client::public(CLIENT_ID), Client::public(ANOTHER_CLIENT)];
        let config = Config { clients, rotation: Rotation::Strict, ..Config::default() };
        let entra = world.entra(config).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "ready", Gt::ready).await;

        let foreign = entra.mint_refresh_token(None, Some(ANOTHER_CLIENT), &[]).unwrap();
        log_in(world, &foreign).await;
        let refused = |gt: &Gt| gt.condition("Stalled") == Some(("True", "InvalidConfiguration"));
        let gt = world.until("mail", "refused for its client", refused).await;
        assert!(gt.ready());
        world.request_refresh("mail", "now").await;
        world.until("mail", "refreshed", |gt| gt.refresh_count() == 2).await;
        assert_eq!(sent(&entra.journal(), &foreign), 1);
    })
    .await;
}
