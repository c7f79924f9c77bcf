//! How clients prove who they are: certificates at a strict server and at Entra, service accounts at Entra.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use entra_simulator::{
    Action, AssertionEntry, Certificate, Client, Config, Fault, FederatedCredential, Jwks, Simulator,
};
use graphtoken::api::ClusterGraphClient;
use k8s_openapi::api::core::v1::{Event, Namespace, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client as Kube};
use serde_json::{Value, json};

use crate::harness::oidc::Oidc;
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};
use crate::pki::{
    CLIENT, CLIENT_KEY, CLIENT_KEY_ENCRYPTED, CLIENT_KEY_PKCS1, CURVE, CURVE_KEY, EXPIRED, FUTURE, ISSUED,
    OTHER, OTHER_KEY, SHORT, SHORT_KEY,
};

const CERTIFICATE_SCOPES: [&str; 3] = ["openid", "offline_access", "https://graph.microsoft.com/Mail.Read"];

/// Puts a certificate and a key into a Secret, which is made if need be.
async fn put(world: &World, secret: &str, certificates: &str, key: &str) {
    put_into(world, &world.secrets(), secret, certificates, key).await;
}

async fn put_into(world: &World, secrets: &Api<Secret>, secret: &str, certificates: &str, key: &str) {
    // Its first line is every key's.
    for line in key.lines().skip(1).filter(|line| !line.contains("PRIVATE KEY")) {
        world.confidential.note("a private key", line);
    }
    // Header and claims of every assertion begin so.
    world.confidential.note("an assertion", "eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCIs");
    let data = BTreeMap::from([("tls.crt", certificates), ("tls.key", key)]);
    let patch =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "stringData": data});
    let params = PatchParams::apply("user").force();
    secrets.patch(secret, &params, &Patch::Apply(&patch)).await.unwrap();
}

/// Waits until a `GraphToken` cannot go on for a reason of its owner's, in words that say what to do.
async fn refused(world: &World, name: &str, says: &[&str]) -> Gt {
    let wanted = |gt: &Gt| {
        let message = gt.status("/conditions").as_array().and_then(|all| {
            all.iter().find(|c| c["type"] == "Stalled").and_then(|c| c["message"].as_str().map(str::to_owned))
        });
        gt.condition("Stalled") == Some(("True", "InvalidConfiguration"))
            && message.is_some_and(|message| says.iter().all(|word| message.contains(word)))
    };
    world.until(name, &format!("Stalled, saying {says:?}"), wanted).await
}

fn by_certificate(mut object: Value, secret: &str) -> Value {
    object["spec"]["clientAuth"] = json!({"certificateRef": {"name": secret}});
    object
}

fn once_each<T: std::hash::Hash + Eq>(all: impl IntoIterator<Item = T>) -> usize {
    let all: Vec<T> = all.into_iter().collect();
    let count = all.len();
    assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), count, "something was sent twice");
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_server_takes_each_assertion_once_and_a_new_certificate_is_seen_at_once() {
    World::run("certificate", async |world| {
        let oidc = Oidc::start(10).await;
        let issuer = oidc.by_certificate();
        world.seed("seed", &oidc.control().mint_for(&issuer, &CERTIFICATE_SCOPES).await).await;
        world.operator(Options::default()).await;
        put(world, "app-cert", OTHER, OTHER_KEY).await;
        let mut mail = by_certificate(delegated("mail", &issuer, "seed"), "app-cert");
        mail["spec"]["scopes"] = json!(["openid", "Mail.Read"]);
        world.create(&mail).await;
        world.create(&by_certificate(app_only("app", &issuer, "unused"), "app-cert")).await;
        for name in ["mail", "app"] {
            let gt = refused(world, name, &["invalid_client", "spec.clientAuth"]).await;
            assert_eq!(gt.refresh_count(), 0);
        }
        put(world, "app-cert", CLIENT, CLIENT_KEY_PKCS1).await;
        for name in ["mail", "app"] {
            world.until(name, "refreshed three times", |gt| gt.ready() && gt.refresh_count() >= 3).await;
        }
        // A client secret takes the place of the certificate, and back.
        world.secret("proof", "client-secret", "not-what-this-client-has").await;
        let other = json!({"spec": {"clientAuth": {"certificateRef": null, "secretRef": {"name": "proof", "key": "client-secret"}}}});
        let params = PatchParams::default();
        world.graphtokens().patch("app", &params, &Patch::Merge(&other)).await.unwrap();
        world.request_refresh("app", "with a secret").await;
        refused(world, "app", &["invalid_client"]).await;
        let back = json!({"spec": {"clientAuth": {"certificateRef": {"name": "app-cert"}, "secretRef": null}}});
        world.graphtokens().patch("app", &params, &Patch::Merge(&back)).await.unwrap();
        world.until("app", "healed", |gt| gt.ready() && gt.condition("Stalled").is_none()).await;

        let journal = oidc.control().journal().await;
        let sent = journal.iter().filter_map(|entry| entry["assertion_sha256"].as_str());
        assert!(once_each(sent) >= 8);
        let strange: Vec<_> = journal
            .iter()
            .filter(|entry| entry["outcome"] == "refused" && entry["error"] != "invalid_client")
            .collect();
        assert!(strange.is_empty(), "{strange:#?}");
    })
    .await;
}

const APP: &str = "99999999-2222-3333-4444-555555555555";

fn entra_config() -> Config {
    let certificates = [CLIENT, ISSUED].map(|pem| Certificate::from_pem(pem).unwrap());
    let app = certificates.into_iter().fold(Client::public(APP), Client::with_certificate);
    Config { clients: vec![app], ..Config::default() }
}

fn assertions(entra: &Simulator) -> Vec<AssertionEntry> {
    entra.journal().token.iter().filter_map(|entry| entry.assertion.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_certificate_is_told_and_nothing_is_sent_until_it_is_mended() {
    World::run("bad-certificates", async |world| {
        let entra = world.entra(entra_config()).await;
        let operator = world.operator(Options::default()).await;
        let issuer = Issuer::entra(&entra, APP);
        let cases: [(&str, &str, &str, &[&str]); 8] = [
            ("expired", EXPIRED, CLIENT_KEY, &["expired at 2019-01-01T00:00:00Z", "make a new one"]),
            ("future", FUTURE, CLIENT_KEY, &["not valid before 2070-01-01T00:00:00Z"]),
            ("mismatched", CLIENT, OTHER_KEY, &["not the private key"]),
            ("curve", CURVE, CURVE_KEY, &["elliptic-curve", "RSA key of 2048"]),
            ("short", SHORT, SHORT_KEY, &["only 1024 bits"]),
            ("encrypted", CLIENT, CLIENT_KEY_ENCRYPTED, &["is encrypted"]),
            ("junk", "junk", "junk", &["tls.crt holds no certificate"]),
            ("keyless", CLIENT, "", &["tls.key holds no private key"]),
        ];
        for (name, certificates, key, _) in &cases {
            put(world, &format!("{name}-cert"), certificates, key).await;
            world.create(&by_certificate(app_only(name, &issuer, "unused"), &format!("{name}-cert"))).await;
        }
        world.create(&by_certificate(app_only("absent", &issuer, "unused"), "absent-cert")).await;
        refused(world, "absent", &["Secret absent-cert", "is not there", "kubectl -n"]).await;
        for (name, _, _, says) in &cases {
            refused(world, name, says).await;
        }
        assert!(assertions(&entra).is_empty(), "nothing is sent with what cannot be used");
        // A chain, the client's first.
        for name in cases.iter().map(|(name, ..)| *name).chain(["absent"]) {
            put(world, &format!("{name}-cert"), &[ISSUED, OTHER].concat(), CLIENT_KEY).await;
            world.until(name, "ready", Gt::ready).await;
        }
        assert_eq!(once_each(assertions(&entra).into_iter().map(|a| a.sha256)), cases.len() + 1);
        let series = format!(
            "graphtoken_client_credential_expiration_timestamp_seconds{{namespace=\"{}\",secret=\"absent-cert\"}} 2398377600",
            world.namespace
        );
        operator.metrics_until(|metrics| metrics.0.lines().any(|line| line == series)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_clients_certificate_is_read_where_it_is_and_its_change_seen_at_once() {
    World::run("shared-certificate", async |world| {
        let namespaces: Api<Namespace> = Api::all(world.cluster.client.clone());
        let clients = json!({"metadata": {"generateName": "test-clients-"}});
        let clients: Namespace = serde_json::from_value(clients).unwrap();
        let clients = namespaces.create(&PostParams::default(), &clients).await.unwrap().metadata.name.unwrap();
        let secrets: Api<Secret> = Api::namespaced(world.cluster.client.clone(), &clients);
        let entra = world.entra(entra_config()).await;
        let operator = world.operator(Options::default().flag("--client-namespace").flag(&clients)).await;
        // One of the same name in the GraphToken's own namespace is nothing to it.
        put(world, "app-cert", CLIENT, CLIENT_KEY).await;
        let issuer = Issuer::entra(&entra, APP);
        let shared: ClusterGraphClient = serde_json::from_value(json!({
            "apiVersion": "graphtoken.io/v1alpha1", "kind": "ClusterGraphClient", "metadata": {"name": clients},
            "spec": {
                "tenant": issuer.tenant, "clientId": issuer.client_id, "endpoints": {"token": issuer.token_url},
                "clientAuth": {"certificateRef": {"name": "app-cert"}},
                "allow": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
                    "grants": ["clientCredentials"],
                },
            },
        }))
        .unwrap();
        let api: Api<ClusterGraphClient> = Api::all(world.cluster.client.clone());
        api.create(&PostParams::default(), &shared).await.unwrap();
        let mut object = app_only("app", &issuer, "unused");
        for member in ["tenant", "clientId", "endpoints", "clientAuth"] {
            object["spec"].as_object_mut().unwrap().remove(member);
        }
        object["spec"]["clientRef"] = json!({"kind": "ClusterGraphClient", "name": clients});
        world.create(&object).await;
        let place = format!("Secret app-cert of namespace {clients}");
        refused(world, "app", &[&place, "is not there"]).await;
        put_into(world, &secrets, "app-cert", EXPIRED, CLIENT_KEY).await;
        refused(world, "app", &[&place, "expired at"]).await;
        assert!(assertions(&entra).is_empty());
        put_into(world, &secrets, "app-cert", CLIENT, CLIENT_KEY).await;
        world.until("app", "ready", Gt::ready).await;
        let series = [("namespace", clients.as_str()), ("secret", "app-cert")];
        let name = "graphtoken_client_credential_expiration_timestamp_seconds";
        operator.metrics_until(|metrics| metrics.sum(name, &series) > 0).await;
        api.delete(&clients, &DeleteParams::default()).await.unwrap();
        namespaces.delete(&clients, &DeleteParams::background()).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_has_an_assertion_of_its_own() {
    World::run("fresh-assertions", async |world| {
        let entra = world.entra(entra_config()).await;
        entra.queue_fault(
            Fault::token(Action::error("invalid_client", 700_024)).for_grant("client_credentials"),
        );
        entra.queue_fault(Fault::token(Action::error("invalid_client", 700_024)).for_grant("refresh_token"));
        put(world, "app-cert", CLIENT, CLIENT_KEY).await;
        world.seed("seed", &entra.mint().unwrap()).await;
        world.operator(Options::default()).await;
        let issuer = Issuer::entra(&entra, APP);
        world.create(&by_certificate(app_only("app", &issuer, "unused"), "app-cert")).await;
        world.create(&by_certificate(delegated("mail", &issuer, "seed"), "app-cert")).await;
        for name in ["app", "mail"] {
            let gt = world.until(name, "ready", Gt::ready).await;
            assert_eq!(*gt.status("/lastFailure"), Value::Null, "the retry belongs to the exchange");
        }
        assert_eq!(once_each(assertions(&entra).into_iter().map(|a| a.jti_sha256)), 4);
        // What is passing for personal accounts is tried once more as well.
        entra.queue_fault(Fault::token(Action::error("invalid_grant", 70000)).for_grant("refresh_token"));
        world.request_refresh("mail", "again").await;
        world.until("mail", "refreshed", |gt| gt.refresh_count() == 2).await;
        let sent = assertions(&entra);
        assert_eq!(once_each(sent.iter().map(|a| &a.sha256)), 6);
        let certificate = Certificate::from_pem(CLIENT).unwrap();
        assert!(
            sent.iter().all(|a| a.key == Some(certificate.thumbprint()) && a.lifetime_seconds == Some(600))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_client_secret_ends_soon_is_told_once_and_shown() {
    World::run("ending-secret", async |world| {
        let entra = world
            .entra(Config { clients: vec![Client::confidential("app", "right-secret")], ..Config::default() })
            .await;
        let operator = world.operator(Options::default()).await;
        let secret = |at: &str| Secret {
            metadata: ObjectMeta {
                name: Some("proof".to_owned()),
                annotations: Some(BTreeMap::from([("graphtoken.io/expires-at".to_owned(), at.to_owned())])),
                ..ObjectMeta::default()
            },
            string_data: Some(BTreeMap::from([("client-secret".to_owned(), "right-secret".to_owned())])),
            ..Secret::default()
        };
        let soon = jiff_now() + Duration::from_hours(72);
        let soon = soon.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        world.secrets().create(&PostParams::default(), &secret(&soon)).await.unwrap();
        world.create(&app_only("app", &Issuer::entra(&entra, "app"), "proof")).await;
        for count in 1..=2 {
            world.until("app", "refreshed", |gt| gt.ready() && gt.refresh_count() == count).await;
            world.request_refresh("app", &format!("after {count}")).await;
        }
        world.until("app", "refreshed", |gt| gt.refresh_count() == 3).await;
        let events: Api<Event> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let told: Vec<_> = events
            .iter()
            .filter(|event| event.reason.as_deref() == Some("ClientCredentialExpiring"))
            .map(|event| event.message.clone().unwrap_or_default())
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("Secret proof") && told[0].contains(&soon), "{told:?}");
        let name = "graphtoken_client_credential_expiration_timestamp_seconds";
        operator.metrics_until(|metrics| metrics.sum(name, &[("secret", "proof")]) > 1_700_000_000).await;
        world.graphtokens().delete("app", &DeleteParams::default()).await.unwrap();
        operator.metrics_until(|metrics| metrics.sum(name, &[]) == 0).await;
    })
    .await;
}

#[expect(clippy::disallowed_methods, reason = "the operator reads the system's clock")]
fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// What the API server says of itself as an issuer of tokens.
async fn issuer_of(client: &Kube, path: &str) -> Value {
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    client.request(request).await.unwrap()
}

const CLIENT_ID: &str = "azure.workload.identity/client-id";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_proves_the_client_that_it_is_annotated_for_and_no_other() {
    World::run("workload-identity", async |world| {
        let client = &world.cluster.client;
        let issuer = issuer_of(client, "/.well-known/openid-configuration").await;
        let issuer = issuer["issuer"].as_str().unwrap();
        let jwks = issuer_of(client, "/openid/v1/jwks").await;
        let subject = format!("system:serviceaccount:{}:etl", world.namespace);
        let credential = FederatedCredential::new(issuer, &subject, Jwks::Inline { jwks: jwks.clone() });
        let app = Client::public(APP).with_federated(credential);
        let entra = world.entra(Config { clients: vec![app], ..Config::default() }).await;
        // So begins every token that this API server signs.
        world.confidential.note("a service account's token", "eyJhbGciOiJSUzI1NiIsImtpZCI6");

        world.seed("seed", &entra.mint().unwrap()).await;
        world.operator(Options::default()).await;
        let proof = json!({"workloadIdentity": {"serviceAccountName": "etl"}});
        for mut object in [
            app_only("app", &Issuer::entra(&entra, APP), "unused"),
            delegated("mail", &Issuer::entra(&entra, APP), "seed"),
        ] {
            object["spec"]["clientAuth"] = proof.clone();
            world.create(&object).await;
        }
        for name in ["app", "mail"] {
            refused(world, name, &["service account etl, which is not there"]).await;
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &world.namespace);
        let account = json!({"metadata": {"name": "etl"}});
        let account: ServiceAccount = serde_json::from_value(account).unwrap();
        accounts.create(&PostParams::default(), &account).await.unwrap();
        world.request_refresh("app", "it is there").await;
        refused(world, "app", &["is not annotated", "kubectl -n", CLIENT_ID]).await;
        annotate(&accounts, "another-client").await;
        world.request_refresh("app", "it is annotated").await;
        refused(world, "app", &["annotated for another client"]).await;
        assert!(assertions(&entra).is_empty(), "nobody borrows an identity");
        // Nobody asks: it is looked at again within a minute.
        annotate(&accounts, APP).await;
        for name in ["app", "mail"] {
            world.until(name, "ready", Gt::ready).await;
            world.request_refresh(name, "another token").await;
            world.until(name, "refreshed", |gt| gt.refresh_count() == 2).await;
        }
        let sent = assertions(&entra);
        assert_eq!(once_each(sent.iter().map(|a| &a.sha256)), 4, "a token of its own for every exchange");
        for assertion in &sent {
            assert_eq!(assertion.subject.as_ref(), Some(&subject));
            assert_eq!(assertion.audience, ["api://AzureADTokenExchange"]);
            assert_eq!(assertion.key.as_deref(), jwks["keys"][0]["kid"].as_str());
        }
    })
    .await;
}

async fn annotate(accounts: &Api<ServiceAccount>, client_id: &str) {
    let patch = json!({"metadata": {"annotations": {CLIENT_ID: client_id}}});
    accounts.patch("etl", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}
