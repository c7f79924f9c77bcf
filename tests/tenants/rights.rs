//! Least privilege, on the real authorizer: a release's service account may do what is listed here and nothing else; an operator that has just these rights does everything, is refused nothing, and uses every one of them.

use std::collections::BTreeSet;

use entra_simulator::{
    CLIENT_ID, Certificate, Client, Config, DeviceFlow, FederatedCredential, Jwks, Simulator, USER_UPN,
};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::runtime::wait::await_condition;
use kube::{Api, Client as Kube};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::harness::cluster::{Cluster, reach};
use crate::harness::objects::{clustergraphclient_resource, credential, secret_ref};
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated};
use crate::pki::{CLIENT, CLIENT_KEY};
use crate::plane::Plane;
use crate::release::{EVERYWHERE, Release, Right, create_namespace, qualified, rights_of};

const TENANT: &str = "tenant";
const CLIENTS: &str = "graph-clients";
/// Nothing of it is anybody's.
const OTHER: &str = "other";
const PATIENCE: Duration = Duration::from_secs(60);
// === What is granted ===

/// What serves the `GraphToken`s of a place.
const SERVES: [(&str, &[&str]); 4] = [
    ("graphtokens.graphtoken.io", &["get", "list", "watch"]),
    ("graphtokens.graphtoken.io/status", &["patch"]),
    ("secrets", &["create", "delete", "get", "list", "patch", "watch"]),
    ("events.events.k8s.io", &["create"]),
];
/// `rbac.restart`.
const RESTARTS: [(&str, &[&str]); 3] = [
    ("deployments.apps", &["get", "patch"]),
    ("statefulsets.apps", &["get", "patch"]),
    ("daemonsets.apps", &["get", "patch"]),
];
/// `ClusterGraphClient`s.
const SERVES_CLIENTS: [(&str, &[&str]); 2] =
    [("clustergraphclients.graphtoken.io", &["list", "watch"]), ("namespaces", &["list", "watch"])];
/// Their Secrets.
const CLIENTS_SECRETS: [(&str, &[&str]); 1] = [("secrets", &["get", "list", "watch"])];

fn rights(place: &str, of: &[(&str, &[&str])], name: Option<&str>) -> Vec<Right> {
    let right = |resource: &str, verb: &str| Right {
        place: place.to_owned(),
        verb: verb.to_owned(),
        resource: resource.to_owned(),
        name: name.map(str::to_owned),
    };
    of.iter().flat_map(|(resource, verbs)| verbs.iter().map(move |verb| right(resource, verb))).collect()
}

/// The Lease of whoever works.
fn leads(place: &str) -> Vec<Right> {
    let mut all = rights(place, &[("leases.coordination.k8s.io", &["create"])], None);
    all.extend(rights(
        place,
        &[("leases.coordination.k8s.io", &["get", "update"])],
        Some("graphtoken-operator"),
    ));
    all
}

/// A token of this service account.
fn is_proved_by(place: &str, name: &str) -> Vec<Right> {
    let account: [(&str, &[&str]); 2] =
        [("serviceaccounts", &["get"]), ("serviceaccounts/token", &["create"])];
    rights(place, &account, Some(name))
}

/// Values, and what they grant.
struct Case {
    release: &'static str,
    values: &'static [&'static str],
    granted: Vec<Right>,
}

fn cases() -> Vec<Case> {
    let all = |parts: Vec<Vec<Right>>| parts.concat();
    let (all_of, tenants) = (
        |of: &[(&str, &[&str])]| rights(EVERYWHERE, of, None),
        |of: &[(&str, &[&str])]| rights(TENANT, of, None),
    );
    vec![
        Case {
            release: "graphtoken-all",
            values: &[],
            granted: all(vec![all_of(&SERVES), all_of(&SERVES_CLIENTS), leads("graphtoken-all")]),
        },
        Case {
            release: "graphtoken-all-on",
            values: &[
                "clientNamespace=graph-clients",
                "rbac.restart=true",
                "rbac.workloadIdentity[0].namespace=tenant",
                "rbac.workloadIdentity[0].name=etl",
            ],
            granted: all(vec![
                all_of(&SERVES),
                all_of(&RESTARTS),
                all_of(&SERVES_CLIENTS),
                is_proved_by(TENANT, "etl"),
                leads("graphtoken-all-on"),
            ]),
        },
        Case {
            release: "graphtoken-some",
            values: &["watchNamespaces={tenant}"],
            granted: all(vec![tenants(&SERVES), leads("graphtoken-some")]),
        },
        Case {
            release: "graphtoken-some-on",
            values: &[
                "watchNamespaces={tenant}",
                "clientNamespace=graph-clients",
                "rbac.restart=true",
                "rbac.workloadIdentity[0].namespace=tenant",
                "rbac.workloadIdentity[0].name=etl",
                "rbac.workloadIdentity[1].namespace=graph-clients",
                "rbac.workloadIdentity[1].name=app",
            ],
            granted: all(vec![
                tenants(&SERVES),
                tenants(&RESTARTS),
                all_of(&SERVES_CLIENTS),
                rights(CLIENTS, &CLIENTS_SECRETS, None),
                is_proved_by(TENANT, "etl"),
                is_proved_by(CLIENTS, "app"),
                leads("graphtoken-some-on"),
            ]),
        },
    ]
}

// === What the API server says ===

/// Whether somebody may do something; `place` may be [`EVERYWHERE`].
async fn may(client: &Kube, user: &str, right: &Right) -> bool {
    let (resource, sub) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let namespace = if right.place == EVERYWHERE { "" } else { &right.place };
    let of = user.split(':').nth(2).unwrap();
    let review = json!({"spec": {
        "user": user,
        "groups": ["system:authenticated", "system:serviceaccounts", format!("system:serviceaccounts:{of}")],
        "resourceAttributes": {
            "namespace": namespace, "verb": right.verb, "group": group, "resource": resource, "subresource": sub,
            "name": right.name.as_deref().unwrap_or_default(),
        },
    }});
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let review = serde_json::from_value(review).unwrap();
    api.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
}

/// All that somebody may do in a namespace, by the authorizer's own list: asked by impersonation, as `kubectl auth can-i --list` does.
async fn allowed(client: &Kube, user: &str, namespace: &str) -> BTreeSet<Right> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace},
    });
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews")
        .header("Impersonate-User", user)
        .header("Content-Type", "application/json")
        .body(review.to_string().into_bytes())
        .unwrap();
    let answer: Value = client.request(request).await.unwrap();
    assert_eq!(answer["status"]["incomplete"], json!(false), "{answer:#}");
    let rules = answer["status"]["resourceRules"].as_array().unwrap();
    let mut all: BTreeSet<Right> = rules.iter().flat_map(|rule| rights_of(rule, namespace)).collect();
    // Paths, such as those of discovery.
    for rule in answer["status"]["nonResourceRules"].as_array().into_iter().flatten() {
        all.insert(Right {
            place: namespace.to_owned(),
            verb: rule["verbs"].to_string(),
            resource: rule["nonResourceURLs"].to_string(),
            name: None,
        });
    }
    all
}

async fn until_granted(client: &Kube, user: &str, granted: &[Right]) {
    let began = Instant::now();
    for right in granted {
        while !may(client, user, right).await {
            assert!(began.elapsed() < PATIENCE, "{user} may not: {right:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn namespaces(client: &Kube) {
    for namespace in [TENANT, CLIENTS, OTHER] {
        create_namespace(client, namespace).await;
    }
}

fn values_of(case: &Case) -> Vec<String> {
    case.values.iter().map(|value| (*value).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_may_do_what_is_listed_here_and_nothing_else() {
    let plane = Plane::up().await;
    let client = &plane.cluster.client;
    namespaces(client).await;
    for case in cases() {
        let release = Release::install(&plane.cluster, case.release, &values_of(&case)).await;
        let user = release.user();
        let granted: BTreeSet<Right> = case.granted.iter().cloned().collect();
        assert_eq!(release.rights(), granted, "the roles of {:?}", case.values);
        until_granted(client, &user, &case.granted).await;
        for namespace in [TENANT, CLIENTS, OTHER, "default", "kube-system", case.release] {
            let here = granted.iter().filter(|right| right.place == EVERYWHERE || right.place == namespace);
            let here: BTreeSet<Right> =
                here.map(|right| Right { place: namespace.to_owned(), ..right.clone() }).collect();
            // Whoever is signed in may ask what the API server serves, and what they may do themselves.
            let anybody = allowed(client, "system:serviceaccount:other:nobody", namespace).await;
            let found = allowed(client, &user, namespace).await;
            let own: BTreeSet<Right> = found.difference(&anybody).cloned().collect();
            assert_eq!(own, here, "{:?} in {namespace}", case.values);
        }

        // What is for one object is for no other.
        for right in case.granted.iter().filter(|right| right.name.is_some()) {
            let other = Right { name: Some("another".to_owned()), ..right.clone() };
            assert!(!may(client, &user, &other).await, "{other:?}");
            let elsewhere = Right { place: OTHER.to_owned(), ..right.clone() };
            assert!(!may(client, &user, &elsewhere).await, "{elsewhere:?}");
        }
    }
}

/// The same by its token, and the API server's own words.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stolen_token_of_the_operator_does_not_open() {
    let plane = Plane::up().await;
    let admin = &plane.cluster.client;
    namespaces(admin).await;
    let case = cases().remove(3);
    let release = Release::install(&plane.cluster, case.release, &values_of(&case)).await;
    until_granted(admin, &release.user(), &case.granted).await;
    let folder = tempfile::tempdir().unwrap();
    let (kubeconfig, _) = release.kubeconfig(&plane.cluster.kubeconfig, folder.path()).await;
    let thief = reach(&kubeconfig).await.unwrap();

    let all = ListParams::default();
    let secrets = |namespace| Api::<Secret>::namespaced(thief.clone(), namespace);
    secrets(TENANT).list(&all).await.unwrap();
    for namespace in [OTHER, "kube-system", "default", case.release] {
        forbidden(&format!("secrets of {namespace}"), secrets(namespace).list(&all).await);
    }
    forbidden("all secrets", Api::<Secret>::all(thief.clone()).list(&all).await);
    let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "planted"}})).unwrap();
    forbidden("a client's secret", secrets(CLIENTS).create(&PostParams::default(), &secret).await);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    forbidden("a pod", Api::namespaced(thief.clone(), TENANT).create(&PostParams::default(), &pod).await);
    forbidden("config maps", Api::<ConfigMap>::namespaced(thief.clone(), TENANT).list(&all).await);
    let accounts = Api::<ServiceAccount>::namespaced(thief.clone(), TENANT);
    let token = serde_json::from_value(json!({"spec": {"audiences": ["x"]}})).unwrap();
    forbidden(
        "another's token",
        accounts.create_token_request("default", &PostParams::default(), &token).await,
    );
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "more"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": case.release, "namespace": case.release}],
    }))
    .unwrap();
    forbidden(
        "a binding",
        Api::namespaced(thief.clone(), TENANT).create(&PostParams::default(), &binding).await,
    );
    let request = http::Request::get("/api/v1/namespaces")
        .header("Impersonate-User", "admin")
        .body(Vec::new())
        .unwrap();
    forbidden("to be another", thief.request::<Value>(request).await);
}

fn forbidden<T>(what: &str, answer: kube::Result<T>) {
    match answer {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{what}: {}", status.message),
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what} is open"),
    }
}

/// For people: who may edit a namespace may have `GraphToken`s in it, and writes no status.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_edit_or_view_a_namespace_may_do_likewise_with_its_graphtokens() {
    let plane = Plane::up().await;
    let client = &plane.cluster.client;
    namespaces(client).await;
    Release::install(&plane.cluster, "graphtoken-people", &[]).await;
    for role in ["edit", "view"] {
        let binding: RoleBinding = serde_json::from_value(json!({
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": role, "namespace": TENANT}],
        }))
        .unwrap();
        let api: Api<RoleBinding> = Api::namespaced(client.clone(), TENANT);
        api.create(&PostParams::default(), &binding).await.unwrap();
    }
    let gt = "graphtokens.graphtoken.io";
    let (reads, writes): (&[&str], &[&str]) =
        (&["get", "list", "watch"], &["create", "delete", "deletecollection", "patch", "update"]);
    let [editor, viewer] = ["edit", "view"].map(|name| format!("system:serviceaccount:{TENANT}:{name}"));
    until_granted(client, &editor, &rights(TENANT, &[(gt, reads), (gt, writes)], None)).await;
    until_granted(client, &viewer, &rights(TENANT, &[(gt, reads)], None)).await;
    let status = "graphtokens.graphtoken.io/status";
    let mut none = rights(TENANT, &[(status, &["patch", "update"])], None);
    none.extend(rights(OTHER, &[(gt, reads)], None));
    none.extend(rights(EVERYWHERE, &[("clustergraphclients.graphtoken.io", writes)], None));
    for right in &none {
        assert!(!may(client, &editor, right).await, "{right:?}");
    }
    for right in rights(TENANT, &[(gt, writes), ("secrets", &["get", "list"])], None).iter().chain(&none) {
        assert!(!may(client, &viewer, right).await, "{right:?}");
    }
}

// === What they suffice for ===

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_all_namespaces_does_everything_with_its_rights_and_needs_each_of_them() {
    Box::pin(does_everything(1, |options| options.everywhere())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_one_namespace_does_everything_with_its_rights_and_needs_each_of_them() {
    Box::pin(does_everything(3, |options| options)).await;
}

const APP: &str = "99999999-2222-3333-4444-555555555555";
const SHARED: &str = "44444444-5555-6666-7777-888888888888";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";

/// The operator as its pods are, with the rights of one of the cases.
async fn does_everything(case: usize, scope: impl Fn(Options) -> Options) {
    let plane = Plane::up().await;
    let client = plane.cluster.client.clone();
    namespaces(&client).await;
    let case = cases().remove(case);
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
