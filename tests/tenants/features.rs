//! An operator that has just the rights of its release does everything, is refused nothing, and uses every one of them.

use entra_simulator::{
    CLIENT_ID, Certificate, Client, Config, DeviceFlow, FederatedCredential, Jwks, Simulator, USER_UPN,
};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::harness::cluster::Cluster;
use crate::harness::objects::{clustergraphclient_resource, credential, secret_ref};
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};
use crate::pki::{CLIENT, CLIENT_KEY};
use crate::plane::Plane;
use crate::release::{EVERYWHERE, Release, Right, qualified};
use crate::rights::{CLIENTS, PATIENCE, TENANT, case, namespaces, until_granted, values_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_all_namespaces_does_everything_with_its_rights_and_needs_each_of_them() {
    Box::pin(does_everything("graphtoken-all-on", Options::everywhere)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_one_namespace_does_everything_with_its_rights_and_needs_each_of_them() {
    Box::pin(does_everything("graphtoken-some-on", |options| options)).await;
}

const APP: &str = "99999999-2222-3333-4444-555555555555";
const SHARED: &str = "44444444-5555-6666-7777-888888888888";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";

/// The operator as its pods are, with the rights of one of the cases.
async fn does_everything(release: &str, scope: impl Fn(Options) -> Options) {
    let plane = Plane::up().await;
    let client = plane.cluster.client.clone();
    namespaces(&client).await;
    let case = case(release);
    let release = Release::install(&plane.cluster, case.release, &values_of(&case)).await;
    until_granted(&client, &release.user(), &case.granted).await;
    World::run_in(plane.cluster.clone(), TENANT.to_owned(), case.release, async |world| {
        let folder = tempfile::tempdir().unwrap();
        let (kubeconfig, token) = release.kubeconfig(&plane.cluster.kubeconfig, folder.path()).await;
        world.confidential.note("the operator's own token", &token);
        let mark = world.audit.mark();
        let options = Options::default().kubeconfig(&kubeconfig).lease_namespace(case.release);
        let options = scope(options).flag("--client-namespace").flag(CLIENTS);
        let operator = world.operator(options).await;
        let entra = provider(world).await;
        every_feature(world, &entra, &plane.cluster).await;
        world.stop(&operator).await;

        // A watch is in the log once it has ended.
        let began = Instant::now();
        let asked = loop {
            let asked = world.audit.entries(mark, &format!("\"username\":\"{}\"", release.user()));
            let unused = unused(&case.granted, &asked);
            if unused.is_empty() {
                break asked;
            }
            assert!(began.elapsed() < PATIENCE, "granted for nothing: {unused:#?}");
            sleep(Duration::from_millis(200)).await;
        };
        let refused: Vec<_> = asked.iter().filter(|entry| entry["responseStatus"]["code"] == 403).collect();
        assert!(refused.is_empty(), "{refused:#?}");
    })
    .await;
}

/// What was granted and not used. (The account of the clients' namespace has the rights that the tenant's has: one of them shows that
/// they suffice.)
fn unused<'a>(granted: &'a [Right], asked: &[Value]) -> Vec<&'a Right> {
    let unused = granted.iter().filter(|right| !asked.iter().any(|entry| uses(entry, right)));
    unused.filter(|right| right.name.as_deref() != Some("app")).collect()
}

/// Whether a request is one that this right is for.
fn uses(entry: &Value, right: &Right) -> bool {
    let of = |member: &str| entry["objectRef"][member].as_str().unwrap_or_default();
    let sub = of("subresource");
    let resource =
        if sub.is_empty() { of("resource").to_owned() } else { format!("{}/{sub}", of("resource")) };
    let namespace = of("namespace");
    let here = right.place == EVERYWHERE || namespace == right.place;
    let named = right.name.as_deref().is_none_or(|name| name == of("name"));
    here && named
        && entry["verb"] == right.verb.as_str()
        && qualified(&resource, of("apiGroup")) == right.resource
}

async fn provider(world: &World) -> Simulator {
    let raw = |path: &str| http::Request::get(path).body(Vec::new()).unwrap();
    let client = &world.cluster.client;
    let issuer: Value = client.request(raw("/.well-known/openid-configuration")).await.unwrap();
    let jwks: Value = client.request(raw("/openid/v1/jwks")).await.unwrap();
    let subject = format!("system:serviceaccount:{TENANT}:etl");
    let trusted =
        FederatedCredential::new(issuer["issuer"].as_str().unwrap(), &subject, Jwks::Inline { jwks });
    let app =
        Client::public(APP).with_federated(trusted).with_certificate(Certificate::from_pem(CLIENT).unwrap());
    let shared = Client::confidential(SHARED, CLIENT_SECRET);
    let device = DeviceFlow { interval: Some(Duration::from_secs(1)), ..DeviceFlow::default() };
    // So begins every token that this API server signs, and every assertion of ours.
    world.confidential.note("a service account's token", "eyJhbGciOiJSUzI1NiIsImtpZCI6");
    let clients = vec![Client::public(CLIENT_ID), app, shared];
    world.entra(Config { clients, device, ..Config::default() }).await
}

async fn every_feature(world: &World, entra: &Simulator, cluster: &Cluster) {
    let issuer = Issuer::entra(entra, CLIENT_ID);
    let app = Issuer::entra(entra, APP);
    world.seed("seed", &entra.mint().unwrap()).await;
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        workload(world, kind).await;
    }
    let mut mail = delegated("mail", &issuer, "seed");
    mail["spec"]["credentialRetention"] = json!("0s");
    let restarted =
        ["Deployment", "StatefulSet", "DaemonSet"].map(|kind| json!({"kind": kind, "name": "reader"}));
    mail["spec"]["target"] = json!({"restart": restarted});
    mail["spec"]["endpoints"]["graph"] = json!(entra.url());
    world.create(&mail).await;
    let certificate = json!({
        "metadata": {"name": "cert"}, "stringData": {"tls.crt": CLIENT, "tls.key": CLIENT_KEY},
    });
    let certificate: Secret = serde_json::from_value(certificate).unwrap();
    world.secrets().create(&PostParams::default(), &certificate).await.unwrap();
    let mut by_certificate = app_only("by-certificate", &app, "unused");
    by_certificate["spec"]["clientAuth"] = json!({"certificateRef": {"name": "cert"}});
    world.create(&by_certificate).await;
    by_service_account(world, &app).await;
    on_shared_client(world, entra, cluster).await;
    let mut by_code = delegated("by-code", &issuer, "unused");
    by_code["spec"]["grant"] = json!({"deviceCode": {}});
    by_code["spec"]["endpoints"]["deviceAuthorization"] = json!(entra.device_authorization_url());
    world.create(&by_code).await;
    let shown =
        world.until("by-code", "showing a code", |gt| gt.status("/deviceCode/userCode").is_string()).await;
    entra
        .approve_device_code(shown.status("/deviceCode/userCode").as_str().unwrap(), Some(USER_UPN))
        .unwrap();
    for name in ["mail", "by-certificate", "by-account", "shared", "by-code"] {
        world.until(name, "Ready", Gt::ready).await;
    }

    // A login takes the sign-in's place, and goes; each workload is rolled out for the token that it brings.
    world.secret("mail-graphtoken-login", "refresh_token", &entra.mint().unwrap()).await;
    world.until("mail", "signed in anew", |gt| *gt.status("/signedIn/source") == json!("Login")).await;
    await_condition(world.secrets(), "mail-graphtoken-login", is_gone).await.unwrap();
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        let rolled = |object: Option<&DynamicObject>| {
            object.is_some_and(|object| object.metadata.generation > Some(1))
        };
        await_condition(workloads(world, kind), "reader", rolled).await.unwrap();
    }
    // Another target, an edit of it, and the end of all.
    let patch = json!({"spec": {"target": {"secretName": "other", "data": [{"key": "bearer", "format": "AccessToken"}]}}});
    world.graphtokens().patch("mail", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    world
        .until("mail", "Ready elsewhere", |gt| gt.ready() && *gt.status("/secretName") == json!("other"))
        .await;
    await_condition(world.secrets(), "mail", is_gone).await.unwrap();
    world.graphtokens().delete("mail", &DeleteParams::default()).await.unwrap();
    await_condition(world.secrets(), &credential("mail"), is_gone).await.unwrap();
}

fn is_gone(secret: Option<&Secret>) -> bool {
    secret.is_none()
}

async fn by_service_account(world: &World, app: &Issuer) {
    let accounts: Api<ServiceAccount> = Api::namespaced(world.cluster.client.clone(), TENANT);
    let account =
        json!({"metadata": {"name": "etl", "annotations": {"azure.workload.identity/client-id": APP}}});
    accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    let mut by_account = app_only("by-account", app, "unused");
    by_account["spec"]["clientAuth"] = json!({"workloadIdentity": {"serviceAccountName": "etl"}});
    world.create(&by_account).await;
}

async fn on_shared_client(world: &World, entra: &Simulator, cluster: &Cluster) {
    world.confidential.note("the client's secret", CLIENT_SECRET);
    let secret = json!({"metadata": {"name": "app"}, "stringData": {"client-secret": CLIENT_SECRET}});
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), CLIENTS);
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let issuer = Issuer::entra(entra, SHARED);
    let client = json!({
        "apiVersion": "graphtoken.io/v1alpha1", "kind": "ClusterGraphClient", "metadata": {"name": "platform"},
        "spec": {
            "tenant": issuer.tenant, "clientId": issuer.client_id, "endpoints": {"token": issuer.token_url},
            "clientAuth": secret_ref("app"),
            "allow": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": TENANT}},
                "grants": ["clientCredentials"],
            },
        },
    });
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &clustergraphclient_resource());
    api.create(&PostParams::default(), &serde_json::from_value(client).unwrap()).await.unwrap();
    let mut shared = app_only("shared", &issuer, "unused");
    for member in ["tenant", "clientId", "endpoints", "clientAuth"] {
        shared["spec"].as_object_mut().unwrap().remove(member);
    }
    shared["spec"]["clientRef"] = json!({"name": "platform"});
    world.create(&shared).await;
}

fn workloads(world: &World, kind: &str) -> Api<DynamicObject> {
    let plural = format!("{}s", kind.to_lowercase());
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("apps", "v1", kind), &plural);
    Api::namespaced_with(world.cluster.client.clone(), TENANT, &resource)
}

/// A workload that has the token in its environment.
async fn workload(world: &World, kind: &str) {
    let labels = json!({"app": kind.to_lowercase()});
    let token = json!({"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "mail", "key": "token"}}});
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "reader"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "reader", "image": "reader", "env": [token]}]},
            },
        },
    });
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = json!("reader");
    }
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    workloads(world, kind).create(&PostParams::default(), &object).await.unwrap();
}
