//! From `kubectl apply` to a Secret that pods use, at a provider that answers as Entra does.

use std::collections::BTreeMap;

use entra_simulator::{CLIENT_ID, Client, Config, Simulator, TENANT_ID, USER_OID, USER_UPN, digest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::harness::o365::{Mount, check};
use crate::harness::objects::{credential, secret_ref};
use crate::harness::world::text_of;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};

const CONFIDENTIAL: &str = "22222222-3333-4444-5555-666666666666";
const CLIENT_SECRET: &str = "Zq8~kV2xR.tW9mB-example-client-secret";

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_of_a_public_client_becomes_a_secret_that_python_o365_uses() {
    World::run("public", async |world| {
        let entra = world.entra(Config::default()).await;
        let issuer = Issuer::entra(&entra, CLIENT_ID);
        world.operator(Options::default()).await;
        let seed = world.seed("seed", &entra.mint().unwrap()).await;
        world.create(&delegated("mail", &issuer, "seed")).await;
        let gt = world.until("mail", "ready", Gt::ready).await;

        let token = assert_target(world, &entra, &gt).await;
        assert_delegated(world, &entra, &gt).await;
        let cache = o365_cache(world).await;
        assert_eq!(only(&cache["AccessToken"])["home_account_id"], format!("{USER_OID}.{TENANT_ID}"));

        let mount = Mount::of(world, "mail").await;
        let scopes = ["--scopes", "https://graph.microsoft.com/User.Read"];
        let report = check(mount.path(), &issuer, &entra.url(), &scopes).await;
        assert_o365(&report, &token);
        assert_eq!(report["upn"], USER_UPN, "{report:#}");

        let after = world.secrets().get("seed").await.unwrap();
        assert_eq!(
            after.metadata.resource_version, seed.metadata.resource_version,
            "a seed is never written"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confidential_client_proves_itself_with_its_secret() {
    World::run("confidential", async |world| {
        let client = Client::confidential(CONFIDENTIAL, CLIENT_SECRET);
        let entra = world.entra(Config { clients: vec![client], ..Config::default() }).await;
        let issuer = Issuer::entra(&entra, CONFIDENTIAL);
        world.operator(Options::default()).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.secret("app", "client-secret", CLIENT_SECRET).await;
        let mut object = delegated("mail", &issuer, "seed");
        object["spec"]["clientAuth"] = secret_ref("app");
        world.create(&object).await;
        let gt = world.until("mail", "ready", Gt::ready).await;

        let token = assert_target(world, &entra, &gt).await;
        assert_delegated(world, &entra, &gt).await;
        let mount = Mount::of(world, "mail").await;
        let report = check(mount.path(), &issuer, &entra.url(), &["--flow", "authorization"]).await;
        assert_o365(&report, &token);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_without_a_user_gets_a_token_and_no_credential_is_kept() {
    World::run("app-only", async |world| {
        let client = Client::confidential(CONFIDENTIAL, CLIENT_SECRET).with_app_role("User.Read.All");
        let entra = world.entra(Config { clients: vec![client], ..Config::default() }).await;
        let issuer = Issuer::entra(&entra, CONFIDENTIAL);
        world.operator(Options::default()).await;
        world.secret("app", "client-secret", CLIENT_SECRET).await;
        world.create(&app_only("mail", &issuer, "app")).await;
        let gt = world.until("mail", "ready", Gt::ready).await;

        let token = assert_target(world, &entra, &gt).await;
        assert_eq!(*gt.status("/refreshTokenExpiresAt"), Value::Null);
        assert_eq!(*gt.status("/signedIn"), Value::Null);
        assert!(world.secrets().get_opt(&credential("mail")).await.unwrap().is_none());
        let cache = o365_cache(world).await;
        assert_eq!(only(&cache["AccessToken"])["home_account_id"], Value::Null);
        assert!(cache.get("Account").is_none(), "there is no user");

        let mount = Mount::of(world, "mail").await;
        let arguments =
            ["--flow", "credentials", "--path", "/users", "--scopes", "https://graph.microsoft.com/.default"];
        let report = check(mount.path(), &issuer, &entra.url(), &arguments).await;
        assert_o365(&report, &token);
    })
    .await;
}

/// What every target has; returns the token in it.
async fn assert_target(world: &World, entra: &Simulator, gt: &Gt) -> String {
    let secret = world.secrets().get("mail").await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    assert_labelled(&secret, gt);
    let annotations = secret.metadata.annotations.clone().unwrap_or_default();
    let expires_at = time(&annotations["graphtoken.io/expires-at"]);
    let refreshed_at = time(&annotations["graphtoken.io/refreshed-at"]);
    assert_eq!(expires_at.as_second() - refreshed_at.as_second(), 3600, "the life that the provider gave it");
    assert_eq!(gt.status("/expiresAt"), &annotations["graphtoken.io/expires-at"]);
    assert_eq!(gt.status("/lastRefreshTime"), &annotations["graphtoken.io/refreshed-at"]);
    let due = time(gt.status("/nextRefreshTime").as_str().unwrap()).as_second() - refreshed_at.as_second();
    assert!((1600..=1801).contains(&due), "half of its life, or up to a tenth earlier: {due}");
    let owners = secret.metadata.owner_references.clone().unwrap_or_default();
    assert_eq!(owners.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>(), [gt.uid()]);
    assert_eq!(gt.status("/secretName"), "mail");
    assert_eq!(gt.status("/target/uid").as_str(), secret.metadata.uid.as_deref());
    assert_eq!(gt.status("/target/resourceVersion").as_str(), secret.metadata.resource_version.as_deref());
    assert_eq!(gt.status("/account/tenantId").as_str().unwrap_or(TENANT_ID), TENANT_ID);
    assert_eq!(gt.refresh_count(), 1);
    assert_eq!(gt.condition("Refreshed"), Some(("True", "Succeeded")));
    assert_eq!((gt.condition("Stalled"), gt.condition("Reconciling")), (None, None));

    let data = text_of(secret);
    assert_eq!(data.keys().collect::<Vec<_>>(), ["o365_token.txt", "token"]);
    assert!(data.values().all(|text| !text.contains("SimRefresh.")), "no refresh token in the target");
    let token = data["token"].clone();
    assert!(entra.is_active(&token), "the token alone, without a newline");
    let cache: Value = serde_json::from_str(&data["o365_token.txt"]).unwrap();
    let cached = only(&cache["AccessToken"]);
    assert_eq!(cached["secret"], token.as_str());
    assert_eq!(cached["expires_on"], expires_at.as_second().to_string());
    assert_eq!(cached["realm"], TENANT_ID);
    assert!(cache.get("RefreshToken").is_none());
    token
}

/// What a delegated grant has besides.
async fn assert_delegated(world: &World, entra: &Simulator, gt: &Gt) {
    let secret = world.secrets().get(&credential("mail")).await.unwrap();
    assert_labelled(&secret, gt);
    assert_eq!(secret.metadata.owner_references, None, "a sign-in outlives its GraphToken");
    let data = text_of(secret);
    let journal = entra.journal();
    assert_eq!(journal.token.len(), 1, "one exchange");
    let issued = journal.token[0].issued_sha256.as_deref();
    assert_eq!(Some(digest(&data["refresh_token"]).as_str()), issued, "the newest refresh token is kept");

    assert_eq!(gt.status("/account"), &json!({"objectId": USER_OID, "tenantId": TENANT_ID}));
    assert_eq!(gt.status("/signedIn/source"), "Seed");
    let last_use = time(gt.status("/lastRefreshTime").as_str().unwrap());
    let dies = time(gt.status("/refreshTokenExpiresAt").as_str().unwrap());
    assert_eq!(dies.as_second() - last_use.as_second(), 90 * 24 * 3600);
    let granted = ["https://graph.microsoft.com/Mail.Read", "https://graph.microsoft.com/User.Read"];
    assert_eq!(gt.status("/grantedScopes"), &json!(granted));
}

fn assert_labelled(secret: &Secret, gt: &Gt) {
    let expected = [("app.kubernetes.io/managed-by", "graphtoken-operator"), ("graphtoken.io/name", "mail")];
    let expected: BTreeMap<_, _> = expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(secret.metadata.labels, Some(expected));
    assert_eq!(secret.metadata.annotations.as_ref().unwrap()["graphtoken.io/uid"], gt.uid());
}

fn assert_o365(report: &Value, token: &str) {
    assert_eq!(report["error"], Value::Null, "{report:#}");
    assert_eq!(report["is_authenticated"], true, "{report:#}");
    assert_eq!(report["request_status"], 200, "{report:#}");
    assert_eq!(report["sent_bearer_sha256"], digest(token), "{report:#}");
    assert_eq!(report["refused_hosts"], json!([]), "{report:#}");
    if report["msal_sha256"] != Value::Null {
        assert_eq!(report["msal_sha256"], digest(token), "{report:#}");
    }
}

async fn o365_cache(world: &World) -> Value {
    serde_json::from_str(&world.data("mail").await["o365_token.txt"]).unwrap()
}

fn only(section: &Value) -> &Value {
    let entries = section.as_object().unwrap();
    assert_eq!(entries.len(), 1, "python-o365 takes the first of several: {section:#}");
    entries.values().next().unwrap()
}

fn time(text: &str) -> Timestamp {
    assert!(text.ends_with('Z'), "in UTC: {text}");
    text.parse().unwrap()
}
