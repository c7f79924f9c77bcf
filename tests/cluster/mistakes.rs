//! Everything that users get wrong: the reason, the message that says what to do, and recovery when it is mended. Where no
//! back-off could bring it (a person must act), it is the watch that does.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use entra_simulator::{Action, CLIENT_ID, Client, Config, Fault, Simulator};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::interval;

use crate::harness::{Gt, Issuer, Options, World, app_only, delegated, objects::secret_ref};

/// Waits until a `GraphToken` fails for a reason, in words that say what to do.
async fn fails(world: &World, name: &str, reason: &str, says: &[&str]) -> Gt {
    let passing = ["ProviderUnavailable", "Throttled"].contains(&reason);
    let kind = if passing { "Reconciling" } else { "Stalled" };
    let what = format!("{kind} and Ready False for {reason}, saying {says:?}");
    let failing = |gt: &Gt| {
        gt.condition("Ready") == Some(("False", reason))
            && gt.condition(kind).is_some_and(|(status, _)| status == "True")
            && gt.observed()
            && says.iter().all(|word| message(gt, "Ready").contains(word))
    };
    world.until(name, &what, failing).await
}

fn message(gt: &Gt, kind: &str) -> String {
    let conditions = gt.status("/conditions").as_array().unwrap();
    let condition = conditions.iter().find(|c| c["type"] == kind).unwrap();
    condition["message"].as_str().unwrap().to_owned()
}

async fn heals(world: &World, name: &str) {
    let gt = world.until(name, "Ready", Gt::ready).await;
    assert_eq!(gt.condition("Stalled"), None);
    assert_eq!(gt.condition("Reconciling"), None);
    assert_eq!(gt.status("/consecutiveFailures"), 0);
    assert_eq!(*gt.status("/lastFailure"), Value::Null);
}

/// Puts bytes under a key of a Secret, which is made if need be.
async fn put(world: &World, secret: &str, key: &str, bytes: &[u8]) {
    let data = BTreeMap::from([(key.to_owned(), ByteString(bytes.to_vec()))]);
    let patch = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "data": data});
    let params = PatchParams::apply("user").force();
    world.secrets().patch(secret, &params, &Patch::Apply(&patch)).await.unwrap();
}

fn config() -> Config {
    Config {
        clients: vec![Client::public(CLIENT_ID), Client::confidential("app", "right-secret")],
        ..Config::default()
    }
}

/// Name, what the seed holds, and what the message says.
type Case<'a> = (&'a str, Option<&'a [u8]>, &'a [&'a str]);

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_cannot_be_used_says_why_and_is_taken_when_mended() {
    World::run("seed-mistakes", async |world| {
        let entra = world.entra(config()).await;
        world.operator(Options::default()).await;
        let issuer = Issuer::entra(&entra, CLIENT_ID);
        let megabyte = vec![b'x'; 1024 * 1024 - 2048];
        let cases: [Case; 6] = [
            ("absent", None, &["Secret absent-seed", "key token", "create it"]),
            ("empty", Some(b""), &["seed Secret empty-seed"]),
            ("binary", Some(&[0xff, 0xfe, 0x00, 0x01]), &["seed Secret binary-seed"]),
            ("huge", Some(&megabyte), &["seed Secret huge-seed"]),
            (
                "tokenless",
                Some(br#"{"access_token":"only"}"#),
                &["seed Secret tokenless-seed", "offline_access"],
            ),
            ("broken", Some(br#"{"refresh_token":"#), &["seed Secret broken-seed", "JSON"]),
        ];
        for (name, bytes, _) in &cases {
            if let Some(bytes) = bytes {
                put(world, &format!("{name}-seed"), "token", bytes).await;
            }
            world.create(&delegated(name, &issuer, &format!("{name}-seed"))).await;
        }
        // The Secret is there, its key is not.
        put(world, "keyless-seed", "other", b"x").await;
        world.create(&delegated("keyless", &issuer, "keyless-seed")).await;
        fails(world, "keyless", "InvalidConfiguration", &["key token", "create it"]).await;
        for (name, _, says) in &cases {
            fails(world, name, "InvalidConfiguration", says).await;
        }
        assert!(entra.journal().token.is_empty(), "nothing is sent without a seed");
        for name in cases.iter().map(|(name, ..)| *name).chain(["keyless"]) {
            put(world, &format!("{name}-seed"), "token", entra.mint().unwrap().as_bytes()).await;
            heals(world, name).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_client_secret_says_so_and_the_right_one_is_seen_at_once() {
    World::run("client-mistakes", async |world| {
        let entra = world.entra(config()).await;
        world.operator(Options::default()).await;
        let issuer = Issuer::entra(&entra, "app");
        world.create(&app_only("app", &issuer, "proof")).await;
        fails(world, "app", "InvalidConfiguration", &["Secret proof", "client-secret", "create it"]).await;
        put(world, "proof", "client-secret", b"").await;
        fails(world, "app", "InvalidConfiguration", &["one line of text"]).await;
        put(world, "proof", "client-secret", b"wrong-secret").await;
        let gt = fails(world, "app", "InvalidConfiguration", &["client secret is wrong"]).await;
        assert_eq!(*gt.status("/lastFailure/error"), json!("invalid_client"));
        assert_eq!(*gt.status("/lastFailure/codes"), json!([7_000_215]));
        assert!(gt.status("/lastFailure/correlationId").is_string());

        // A controller that touches its labels makes it be read again, and nothing be sent again.
        let (sent, mark) = (entra.journal().token.len(), world.audit.mark());
        let touched = json!({"metadata": {"labels": {"touched": "yes"}}});
        world.secrets().patch("proof", &PatchParams::default(), &Patch::Merge(&touched)).await.unwrap();
        let mut again = interval(Duration::from_millis(50));
        while world.audit.since(mark, &world.namespace).reads().is_empty() {
            again.tick().await;
        }
        put(world, "proof", "client-secret", b"right-secret\n").await;
        heals(world, "app").await;
        assert_eq!(entra.journal().token.len(), sent + 1);

        // A client that the tenant does not know.
        world
            .create(&app_only("stranger", &Issuer { client_id: "nobody".into(), ..issuer.clone() }, "proof"))
            .await;
        let gt = fails(world, "stranger", "InvalidConfiguration", &["spec.clientId"]).await;
        assert_eq!(*gt.status("/lastFailure/codes"), json!([700_016]));
        entra.put_client(Client::confidential("nobody", "right-secret"));
        world.request_refresh("stranger", "registered").await;
        heals(world, "stranger").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_or_answers_nonsense_is_tried_again() {
    World::run("provider-mistakes", async |world| {
        let entra = world.entra(config()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        entra.queue_fault(
            Fault::token(Action::html(200, "<html>Sign in</html>")).for_client(CLIENT_ID).forever(),
        );
        world.create(&delegated("html", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        world.secret("proof", "client-secret", "right-secret").await;
        let token_url = format!("http://{address}/{}/oauth2/v2.0/token", entra.tenant().id);
        let down = Issuer { token_url, ..Issuer::entra(&entra, "app") };
        world.create(&app_only("down", &down, "proof")).await;

        fails(world, "html", "ProviderUnavailable", &["token endpoint"]).await;
        fails(world, "down", "ProviderUnavailable", &["cannot be reached", "DNS"]).await;
        entra.clear_faults();
        let _up = Simulator::start(Config { listen: address, ..config() }).await.unwrap();
        heals(world, "html").await;
        heals(world, "down").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_allowed_is_refused_before_anything_is_sent() {
    World::run("endpoint-mistakes", async |world| {
        let entra = world.entra(config()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let issuer = Issuer::entra(&entra, CLIENT_ID);
        let elsewhere = issuer.token_url.replace("127.0.0.1", "localhost");
        world.create(&delegated("mail", &Issuer { token_url: elsewhere, ..issuer.clone() }, "seed")).await;
        let says = ["spec.endpoints.token", "localhost", "--allowed-endpoint-host=localhost"];
        fails(world, "mail", "InvalidConfiguration", &says).await;
        assert!(entra.journal().token.is_empty());
        let patch = json!({"spec": {"endpoints": {"token": issuer.token_url}}});
        world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        heals(world, "mail").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_target_is_never_overwritten_and_blocks_before_an_exchange() {
    World::run("target-mistakes", async |world| {
        let entra = world.entra(config()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        for name in ["taken", "handed-over"] {
            world.secret(name, "token", "somebody-elses").await;
            world.create(&delegated(name, &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
            let says = ["not made by this operator", "spec.target.secretName", "graphtoken.io/adopt"];
            fails(world, name, "TargetConflict", &says).await;
            assert_eq!(world.data(name).await["token"], "somebody-elses");
        }
        assert!(entra.journal().token.is_empty(), "no token is spent that could not be published");

        // Mended by its owner's deleting it, or by handing it over.
        world.secrets().delete("taken", &DeleteParams::default()).await.unwrap();
        heals(world, "taken").await;
        let adopt = json!({"metadata": {"annotations": {"graphtoken.io/adopt": "handed-over"}}});
        world.secrets().patch("handed-over", &PatchParams::default(), &Patch::Merge(&adopt)).await.unwrap();
        heals(world, "handed-over").await;
        assert!(entra.is_active(&world.data("handed-over").await["token"]));

        // Two GraphTokens cannot share a target either.
        let mut second = delegated("second", &Issuer::entra(&entra, CLIENT_ID), "seed");
        second["spec"]["target"] = json!({"secretName": "taken"});
        world.create(&second).await;
        fails(world, "second", "TargetConflict", &["belongs to the GraphToken taken"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_than_the_one_asked_for_is_refused() {
    World::run("account-mistakes", async |world| {
        let entra = world.entra(config()).await;
        entra.put_user(entra_simulator::User::new(
            "99990000-aaaa-2222-bbbb-3333cccc4444",
            "other@contoso.com",
        ));
        world.operator(Options::default()).await;
        let others =
            entra.mint_refresh_token(Some("other@contoso.com"), Some(CLIENT_ID), &["User.Read"]).unwrap();
        world.seed("seed", &others).await;
        let mut mail = delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed");
        mail["spec"]["account"] = json!(entra_simulator::USER_OID);
        mail["spec"]["scopes"] = json!(["User.Read"]);
        world.create(&mail).await;
        fails(world, "mail", "WrongAccount", &["spec.account", "sign in"]).await;
        assert!(world.secrets().get_opt("mail").await.unwrap().is_none(), "nothing is published");
        put(world, "seed", "token", entra.mint().unwrap().as_bytes()).await;
        heals(world, "mail").await;
        let bound = world.graphtoken("mail").await;
        assert_eq!(*bound.status("/account/objectId"), json!(entra_simulator::USER_OID));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_secret_in_the_credentials_place_is_left_alone() {
    World::run("credential-mistakes", async |world| {
        let entra = world.entra(config()).await;
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        let name = "mail-graphtoken-credential";
        let foreign = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([("mine".to_owned(), ByteString(b"mine".to_vec()))])),
            ..Secret::default()
        };
        world.secrets().create(&PostParams::default(), &foreign).await.unwrap();
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        fails(world, "mail", "InvalidConfiguration", &[name, "delete it"]).await;
        assert_eq!(world.data(name).await["mine"], "mine");
        world.secrets().delete(name, &DeleteParams::default()).await.unwrap();
        heals(world, "mail").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confidential_client_without_its_proof_is_told_to_give_one() {
    World::run("proof-mistakes", async |world| {
        let entra = world.entra(config()).await;
        world.operator(Options::default()).await;
        let seed = entra.mint_refresh_token(None, Some("app"), &["User.Read"]).unwrap();
        world.seed("seed", &seed).await;
        let mut mail = delegated("mail", &Issuer::entra(&entra, "app"), "seed");
        mail["spec"]["scopes"] = json!(["User.Read"]);
        world.create(&mail).await;
        fails(world, "mail", "InvalidConfiguration", &["spec.clientAuth"]).await;
        world.secret("proof", "client-secret", "right-secret").await;
        let patch = json!({"spec": {"clientAuth": secret_ref("proof")}});
        world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        heals(world, "mail").await;
    })
    .await;
}
