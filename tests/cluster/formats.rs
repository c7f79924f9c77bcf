//! What the target holds: formats, templates, labels and annotations, and what of it is refused before an exchange.

use entra_simulator::{
    Action, CLIENT_ID, Canned, Client, Config, Fault, Outcome, Simulator, TENANT_ID, USER_OID,
};
use kube::api::{Patch, PatchParams};
use rstest::rstest;
use serde_json::{Value, json};

use crate::device::message;
use crate::harness::objects::credential;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

async fn provider(world: &World) -> Simulator {
    let clients = vec![Client::public(CLIENT_ID), Client::confidential("app", "right-secret")];
    world.entra(Config { clients, ..Config::default() }).await
}

/// Creates a user's `GraphToken` with this target.
async fn create(world: &World, entra: &Simulator, target: Value) {
    world.seed("seed", &entra.mint().unwrap()).await;
    let mut mail = delegated("mail", &Issuer::entra(entra, CLIENT_ID), "seed");
    mail["spec"]["target"] = target;
    world.create(&mail).await;
}

async fn set_target(world: &World, name: &str, target: &Value) {
    let patch = json!({"spec": {"target": target}});
    world.graphtokens().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    world.until(name, "Ready with the new target", Gt::ready).await;
}

fn every_format() -> Value {
    json!([
        {"key": "token", "format": "AccessToken"},
        {"key": "o365_token.txt", "format": "O365"},
        {"key": "oauth2.json", "format": "OAuth2"},
        {"key": "header", "format": "AuthorizationHeader"},
        {"key": "graph.env", "template": "MSGRAPH_TOKEN={{ access_token }}\nOF={{ account_id }}@{{ tenant }}\nFOR={{ scopes }}\nUNTIL={{ expires_at }} {{ expires_on }}\n"},
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_tells_of_the_same_token() {
    World::run("formats", async |world| {
        let entra = provider(world).await;
        world.operator(Options::default()).await;
        create(world, &entra, json!({"data": every_format()})).await;
        let mail = world.until("mail", "Ready", Gt::ready).await;
        let data = world.data("mail").await;

        let token = &data["token"];
        let parsed = |key: &str| serde_json::from_str::<Value>(&data[key]).unwrap();
        let (cache, oauth2) = (parsed("o365_token.txt"), parsed("oauth2.json"));
        let cached = cache["AccessToken"].as_object().unwrap().values().next().unwrap();
        assert!(cached["secret"] == **token && oauth2["access_token"] == **token);
        assert_eq!(data["header"], format!("Authorization: Bearer {token}\n"));
        let expires_at = mail.status("/expiresAt").as_str().unwrap();
        assert_eq!(oauth2["expiry"], expires_at);
        assert_eq!(cached["expires_on"], oauth2["expires_at"].to_string());
        assert!(cache.get("RefreshToken").is_none() && oauth2.get("refresh_token").is_none());
        let file = format!(
            "MSGRAPH_TOKEN={token}\nOF={USER_OID}@{TENANT_ID}\nFOR={}\nUNTIL={expires_at} {}\n",
            oauth2["scope"].as_str().unwrap(),
            oauth2["expires_at"],
        );
        assert!(data["graph.env"] == file, "the template is filled in");

        // Another layout needs no other token.
        set_target(world, "mail", &json!({"data": [{"key": "t", "template": "{{ access_token }}"}]})).await;
        let again = world.data("mail").await;
        assert!(again.len() == 1 && again["t"] == *token);
        assert_eq!(entra.journal().count(Outcome::Issued), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_annotations_come_and_go_with_the_spec_and_never_cost_an_exchange() {
    World::run("extras", async |world| {
        let entra = provider(world).await;
        world.operator(Options::default()).await;
        create(world, &entra, json!({})).await;
        world.secret("proof", "client-secret", "right-secret").await;
        world.create(&app_only("app", &Issuer::entra(&entra, "app"), "proof")).await;
        for name in ["mail", "app"] {
            world.until(name, "Ready", Gt::ready).await;
        }
        let extras = json!({"labels": {"team": "etl", "b": "1"}, "annotations": {"example.com/owner": "ü"}});
        for name in ["mail", "app"] {
            set_target(world, name, &extras).await;
            let meta = world.secrets().get(name).await.unwrap().metadata;
            let (labels, annotations) = (meta.labels.unwrap(), meta.annotations.unwrap());
            assert_eq!((&*labels["team"], &*annotations["example.com/owner"]), ("etl", "ü"));
            assert_eq!(labels["graphtoken.io/name"], name);
            let healthy = |gt: &Gt| gt.condition("Refreshed") == Some(("True", "Succeeded"));
            let gt = world.until(name, "healthy", healthy).await;
            assert_eq!(gt.status("/consecutiveFailures"), 0, "it is written once");
            // It is refreshed as any other.
            world.request_refresh(name, "labelled").await;
            world.until(name, "refreshed", |gt| gt.ready() && gt.refresh_count() == 2).await;
            let token = world.data(name).await["token"].clone();

            set_target(world, name, &json!({"labels": {"team": "web", "b": null}, "annotations": null}))
                .await;
            let meta = world.secrets().get(name).await.unwrap().metadata;
            let labels = meta.labels.unwrap();
            assert_eq!((labels["team"].as_str(), labels.get("b")), ("web", None));
            assert!(!meta.annotations.unwrap().contains_key("example.com/owner"));
            assert!(world.data(name).await["token"] == token, "it is the same token");
        }
        assert_eq!(entra.journal().count(Outcome::Issued), 4, "the two requests and the two first");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_the_refresh_token_where_the_spec_says_so_and_only_there() {
    World::run("opt-in", async |world| {
        let entra = provider(world).await;
        world.operator(Options::default()).await;
        create(world, &entra, json!({"includeRefreshToken": true, "data": every_format()})).await;
        world.until("mail", "Ready", Gt::ready).await;
        for count in [1, 2] {
            let kept = world.data(&credential("mail")).await["refresh_token"].clone();
            let data = world.data("mail").await;
            let parsed = |key: &str| serde_json::from_str::<Value>(&data[key]).unwrap();
            let cache = parsed("o365_token.txt");
            let cached = cache["RefreshToken"].as_object().unwrap().values().next().unwrap();
            assert!(parsed("oauth2.json")["refresh_token"] == *kept && cached["secret"] == *kept);
            let elsewhere = ["token", "header", "graph.env"].map(|key| data[key].contains(&kept));
            assert_eq!(elsewhere, [false; 3]);
            assert_eq!(entra.journal().count(Outcome::Issued), count);
            if count == 1 {
                world.request_refresh("mail", "once").await;
                world.until("mail", "refreshed", |gt| gt.ready() && gt.refresh_count() == 2).await;
            }
        }
        set_target(world, "mail", &json!({"includeRefreshToken": false})).await;
        let kept = world.data(&credential("mail")).await["refresh_token"].clone();
        assert!(world.data("mail").await.values().all(|text| !text.contains(&kept)));
        assert_eq!(entra.journal().count(Outcome::Issued), 2);
    })
    .await;
}

#[rstest]
#[case::unknown_name(
    "no-name",
    "T={{ access_token }}\nR={{ refresh_token }}\n",
    "line 2, column 6: unknown name refresh_token"
)]
#[case::unknown_name_in_a_branch(
    "no-branch",
    "{% if false %}{{ x }}{% endif %}",
    "line 1, column 18: unknown name x"
)]
#[case::too_large("large", &"{{ access_token }}".repeat(900), "1 MiB")]
#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_cannot_be_filled_in_is_refused_before_an_exchange(
    #[case] topic: &'static str,
    #[case] template: &str,
    #[case] says: &str,
) {
    World::run(topic, async |world| {
        let entra = provider(world).await;
        world.operator(Options::default()).await;
        create(world, &entra, json!({"data": [{"key": "graph.env", "template": template}]})).await;
        let stalled = |gt: &Gt| gt.condition("Stalled") == Some(("True", "InvalidConfiguration"));
        let refused = world.until("mail", "Stalled", stalled).await;
        let message = message(&refused, "Stalled");
        assert!(message.contains(says), "{message}");
        assert_eq!(refused.condition("Ready"), Some(("False", "InvalidConfiguration")));
        assert!(entra.journal().token.is_empty(), "nothing was sent");
        assert!(world.secrets().get_opt("mail").await.unwrap().is_none());

        set_target(
            world,
            "mail",
            &json!({"data": [{"key": "graph.env", "template": "T={{ access_token }}\n"}]}),
        )
        .await;
        assert_eq!(entra.journal().count(Outcome::Issued), 1);
    })
    .await;
}

/// Longer than what was tried beforehand: nothing is lost, and the message says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_does_not_fit_is_kept_and_written_once_there_is_room() {
    World::run("no-room", async |world| {
        let entra = provider(world).await;
        let operator = world.operator(Options::default()).await;
        // There is room for a typical token, and not for one of 8 KiB.
        let long = format!("long-access-token-vR7t{}", "x".repeat(8192));
        world.confidential.note("the long access token", &long);
        let body =
            json!({"access_token": long, "token_type": "Bearer", "expires_in": 3600, "scope": "Mail.Read"});
        let answer = Canned { status: 200, body, content_type: None, headers: Vec::new() };
        entra.queue_fault(Fault::token(Action::Respond(answer)));
        create(world, &entra, json!({"data": [{"key": "a", "template": "{{ access_token }}".repeat(500)}]}))
            .await;
        let stalled = |gt: &Gt| gt.condition("Stalled") == Some(("True", "InvalidConfiguration"));
        let refused = world.until("mail", "Stalled", stalled).await;
        assert!(message(&refused, "Stalled").contains("1 MiB"));
        let looks = |metrics: &crate::harness::operator::Metrics| {
            metrics.sum("graphtoken_reconcile_duration_seconds_count", &[])
        };
        // A loop would show in the meantime.
        let before = looks(&operator.metrics().await.unwrap());
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert!(looks(&operator.metrics().await.unwrap()) - before <= 1, "it is not tried again and again");
        set_target(world, "mail", &json!({"data": [{"key": "a", "template": "{{ access_token }}"}]})).await;
        assert_eq!(entra.journal().token.len(), 1, "it was kept");
        assert!(world.data("mail").await["a"] == long);
    })
    .await;
}
