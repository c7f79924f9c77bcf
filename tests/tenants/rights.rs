//! Least privilege, on the real authorizer: a release's service account may do what is listed here and nothing else.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client as Kube};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::harness::cluster::reach;
use crate::plane::Plane;
use crate::release::{EVERYWHERE, Release, Right, create_namespace, rights_of};

/// Whose `GraphToken`s are served.
pub const TENANT: &str = "tenant";
/// Where the Secrets of `ClusterGraphClient`s are.
pub const CLIENTS: &str = "graph-clients";
/// Nothing of it is anybody's.
const OTHER: &str = "other";
/// What is waited for comes well within this, or never.
pub const PATIENCE: Duration = Duration::from_mins(1);

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
pub struct Case {
    /// The release's name, and its namespace's.
    pub release: &'static str,
    values: &'static [&'static str],
    /// All of it.
    pub granted: Vec<Right>,
}

/// The case of a release.
pub fn case(release: &str) -> Case {
    cases().into_iter().find(|case| case.release == release).unwrap()
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

/// Waits until the authorizer knows of these rights.
pub async fn until_granted(client: &Kube, user: &str, granted: &[Right]) {
    let began = Instant::now();
    for right in granted {
        while !may(client, user, right).await {
            assert!(began.elapsed() < PATIENCE, "{user} may not: {right:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The namespaces that all of this is about.
pub async fn namespaces(client: &Kube) {
    for namespace in [TENANT, CLIENTS, OTHER] {
        create_namespace(client, namespace).await;
    }
}

/// As Helm's `--set` takes them.
pub fn values_of(case: &Case) -> Vec<String> {
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
    let case = case("graphtoken-some-on");
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
