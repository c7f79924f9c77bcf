//! What becomes of seeds and sign-ins: adopted once, kept out when bad, outlived by the sign-in they began.

use std::time::Duration;

use entra_simulator::{CLIENT_ID, Client, Config, Journal, Outcome, Rotation, Simulator, User, digest};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;
use tokio::time::{Instant, interval};

use crate::harness::objects::credential;
use crate::harness::{Gt, Issuer, Options, World, delegated};

async fn replace_seed(world: &World, refresh_token: &str) {
    put_into(world, "seed", refresh_token).await;
}

async fn put_into(world: &World, secret: &str, refresh_token: &str) {
    world.confidential.note("a new seed", refresh_token);
    let patch = json!({"stringData": {"token": refresh_token}});
    world.secrets().patch(secret, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

fn sent(journal: &Journal, refresh_token: &str) -> usize {
    let digest = digest(refresh_token);
    journal.token.iter().filter(|entry| entry.received_sha256.as_ref() == Some(&digest)).count()
}

/// Asks for a refresh and waits until it worked; returns how many exchanges there were.
async fn refreshed(world: &World, name: &str, value: &str) -> Gt {
    let before = world.graphtoken(name).await.refresh_count();
    world.request_refresh(name, value).await;
    world
        .until(name, "refreshed on request", |gt| {
            *gt.status("/lastHandledRequest") == json!(value) && gt.refresh_count() > before && gt.ready()
        })
        .await
}

async fn events(world: &World) -> Vec<Event> {
    let events: Api<Event> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
    events.list(&ListParams::default()).await.unwrap().items
}

async fn event(world: &World, reason: &str) -> Option<Event> {
    events(world).await.into_iter().find(|event| event.reason.as_deref() == Some(reason))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_adopted_once_and_kept_out_when_it_is_bad() {
    World::run("seeds", async |world| {
        // Strict: a used refresh token that is sent again would end the sign-in.
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        world.operator(Options::default()).await;
        let first = entra.mint().unwrap();
        world.seed("seed", &first).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        let gt = world.until("mail", "Ready", Gt::ready).await;
        assert_eq!(*gt.status("/signedIn/source"), json!("Seed"));
        assert!(event(world, "SeedAdopted").await.is_some());

        let second = entra.mint().unwrap();
        replace_seed(world, &second).await;
        entra.journal_until(|journal| sent(journal, &second) == 1).await;
        refreshed(world, "mail", "after the second seed").await;

        // A bad one is tried (twice: invalid_grant is sometimes passing) and kept out; the sign-in goes on.
        replace_seed(world, "no-such-refresh-token").await;
        entra.journal_until(|journal| sent(journal, "no-such-refresh-token") == 2).await;
        let gt = refreshed(world, "mail", "after a bad seed").await;
        assert_eq!(gt.condition("Refreshed"), Some(("True", "Succeeded")));
        assert!(event(world, "SeedRejected").await.is_some());

        // An old one is ignored, as GitOps would put it back.
        replace_seed(world, &first).await;
        refreshed(world, "mail", "after the old seed came back").await;
        replace_seed(world, "no-such-refresh-token").await;
        refreshed(world, "mail", "after the bad seed came back").await;

        world.secrets().delete("seed", &DeleteParams::default()).await.unwrap();
        refreshed(world, "mail", "after the seed was deleted").await;
        let journal = entra.journal();
        assert_eq!((sent(&journal, &first), sent(&journal, &second)), (1, 1), "each good seed is sent once");
        assert_eq!(sent(&journal, "no-such-refresh-token"), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graphtoken_that_is_created_again_takes_the_sign_in_up() {
    World::run("created-again", async |world| {
        let entra = world.entra(Config { rotation: Rotation::Strict, ..Config::default() }).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        world.create(&mail).await;
        let first = world.until("mail", "Ready", Gt::ready).await;
        world.secrets().delete("seed", &DeleteParams::default()).await.unwrap();
        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();

        // The target goes with it, by the garbage collector; the sign-in stays, and says for how long.
        let target_uid = first.status("/target/uid").as_str().unwrap();
        await_condition(world.secrets(), "mail", conditions::is_deleted(target_uid)).await.unwrap();
        let marked = |secret: Option<&k8s_openapi::api::core::v1::Secret>| {
            let annotations = secret.and_then(|secret| secret.metadata.annotations.as_ref());
            annotations.is_some_and(|annotations| annotations.contains_key("graphtoken.io/delete-after"))
        };
        await_condition(world.secrets(), &credential("mail"), marked).await.unwrap();

        let exchanges = entra.journal().count(Outcome::Issued);
        world.create(&mail).await;
        let second = world.until("mail", "Ready without a seed", Gt::ready).await;
        assert_ne!(first.uid(), second.uid());
        assert_eq!(
            entra.journal().count(Outcome::Issued),
            exchanges,
            "the token that was kept is still good"
        );
        let kept = world.secrets().get(&credential("mail")).await.unwrap();
        let annotations = kept.metadata.annotations.clone().unwrap_or_default();
        assert_eq!(annotations["graphtoken.io/uid"], second.uid());
        assert!(!annotations.contains_key("graphtoken.io/delete-after"));
        refreshed(world, "mail", "the chain goes on").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_without_retention_goes_at_once() {
    World::run("no-retention", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let mut mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        mail["spec"]["credentialRetention"] = json!("0s");
        world.create(&mail).await;
        world.until("mail", "Ready", Gt::ready).await;
        let kept = world.secrets().get(&credential("mail")).await.unwrap();
        world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();
        let uid = kept.metadata.uid.unwrap();
        await_condition(world.secrets(), &credential("mail"), conditions::is_deleted(&uid)).await.unwrap();
    })
    .await;
}

/// A name, and a seed of that shape with a refresh token in it.
type Shape = (&'static str, fn(&str) -> String);

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_seed_is_understood() {
    World::run("seed-shapes", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        let shapes: [Shape; 4] = [
            ("bare", |token| format!("{token}\n")),
            ("o365-2-0", |token| {
                json!({"token_type": "Bearer", "scope": ["User.Read"], "expires_in": 3599, "ext_expires_in": 3599,
                       "access_token": "x", "refresh_token": token, "expires_at": 1_893_456_000.5})
                .to_string()
            }),
            ("msal", |token| {
                json!({"RefreshToken": {"k": {"credential_type": "RefreshToken", "secret": token, "client_id": CLIENT_ID,
                       "home_account_id": "o.t", "environment": "login.microsoftonline.com", "target": "User.Read",
                       "last_modification_time": "1893452400"}}})
                .to_string()
            }),
            ("go", |token| json!({"access_token": "x", "refresh_token": token, "expiry": "2030-01-01T00:00:00Z"}).to_string()),
        ];
        for (name, shape) in shapes {
            let token = entra.mint().unwrap();
            world.confidential.note(name, &token);
            world.seed(&format!("seed-{name}"), &shape(&token)).await;
            world.create(&delegated(name, &Issuer::entra(&entra, CLIENT_ID), &format!("seed-{name}"))).await;
            world.until(name, "Ready", Gt::ready).await;
            assert_eq!(sent(&entra.journal(), &token), 1, "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_graphtokens_on_one_seed_are_allowed_and_warned_about() {
    World::run("seed-shared", async |world| {
        let entra = world.entra(Config::default()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        for name in ["one", "other"] {
            world.create(&delegated(name, &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
            world.until(name, "Ready", Gt::ready).await;
        }
        let note = event(world, "SeedShared").await.expect("a warning").message.unwrap();
        assert!(note.contains("one"), "{note}");
    })
    .await;
}

const ANOTHER_CLIENT: &str = "99999999-2222-3333-4444-555555555555";
const GUEST: &str = "guest@contoso.com";
const GUEST_OID: &str = "0000eeee-aaaa-2222-bbbb-3333cccc4444";
const LIFE: Duration = Duration::from_secs(20);

/// A name, what is put into the seed in place of what works, and what the event says of it.
type Bad = (&'static str, fn(&Simulator) -> String, &'static str);

const BAD: [Bad; 4] = [
    (
        "another-client",
        |entra| entra.mint_refresh_token(None, Some(ANOTHER_CLIENT), &[]).unwrap(),
        "client_mismatch",
    ),
    ("single-page-app", |entra| entra.mint_of_a_single_page_app().unwrap(), "AADSTS9002327"),
    ("malformed", |_| "this is no refresh token".to_owned(), "spaces"),
    (
        "another-account",
        |entra| entra.mint_refresh_token(Some(GUEST), None, &[]).unwrap(),
        "for another account",
    ),
];

/// Watches what pods have for two lives of a token: it is good at any time.
async fn pods_hold_good_tokens(world: &World, entra: &Simulator) {
    let end = Instant::now() + 2 * LIFE + Duration::from_secs(2);
    let mut again = interval(Duration::from_millis(500));
    while Instant::now() < end {
        again.tick().await;
        for (name, ..) in BAD {
            let token = world.data(name).await["token"].clone();
            assert!(entra.is_active(&token), "{name}: {:?}", world.graphtoken(name).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_seed_of_any_kind_is_told_of_and_the_kept_sign_in_goes_on() {
    World::run("seeds-bad", async |world| {
        let clients = vec![Client::public(CLIENT_ID), Client::public(ANOTHER_CLIENT)];
        let entra = world.entra(Config { clients, token_lifetime: LIFE, ..Config::default() }).await;
        entra.put_user(User::new(GUEST_OID, GUEST));
        world.operator(Options::default()).await;
        for (name, ..) in BAD {
            world.seed(&format!("seed-{name}"), &entra.mint().unwrap()).await;
            world.create(&delegated(name, &Issuer::entra(&entra, CLIENT_ID), &format!("seed-{name}"))).await;
        }
        for (name, ..) in BAD {
            world.until(name, "Ready", Gt::ready).await;
        }
        let bad = BAD.map(|(_, seed, _)| seed(&entra));
        for ((name, ..), seed) in BAD.iter().zip(&bad) {
            put_into(world, &format!("seed-{name}"), seed).await;
        }
        pods_hold_good_tokens(world, &entra).await;

        let told = events(world).await;
        for ((name, _, why), seed) in BAD.iter().zip(&bad) {
            let of = |event: &&Event| {
                event.involved_object.name.as_deref() == Some(*name)
                    && event.reason.as_deref() == Some("SeedRejected")
            };
            let note = told.iter().find(of).and_then(|event| event.message.clone()).unwrap_or_default();
            assert!(note.contains(why), "{name}: {note:?}");
            assert!(!note.contains(seed.as_str()));
            let gt = refreshed(world, name, "beside a bad seed").await;
            assert_eq!(gt.condition("Refreshed"), Some(("True", "Succeeded")), "{name}");
            assert_eq!(gt.condition("Stalled"), None, "{name}");
            assert_eq!(sent(&entra.journal(), seed), usize::from(*name != "malformed"), "{name}");
        }

        // A controller that touches its labels makes nothing be sent again.
        let touched = json!({"metadata": {"labels": {"touched": "yes"}}});
        let touched = Patch::Merge(&touched);
        world.secrets().patch("seed-another-client", &PatchParams::default(), &touched).await.unwrap();
        refreshed(world, "another-client", "after its seed was touched").await;
        assert_eq!(sent(&entra.journal(), &bad[0]), 1);

        // With another spec it is worth another try.
        let account = json!({"spec": {"account": GUEST_OID}});
        let account = Patch::Merge(&account);
        world.graphtokens().patch("another-account", &PatchParams::default(), &account).await.unwrap();
        entra.journal_until(|journal| sent(journal, &bad[3]) == 2).await;
        let guest = |gt: &Gt| gt.ready() && *gt.status("/account/objectId") == json!(GUEST_OID);
        world.until("another-account", "signed in as the guest", guest).await;
    })
    .await;
}
