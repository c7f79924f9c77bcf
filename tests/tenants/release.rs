//! A release of the chart, as far as rights go: its service account, roles and bindings are those that Helm renders.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::repository;

/// What stands for all namespaces.
pub const EVERYWHERE: &str = "*";

/// What a role lets do somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// A namespace, or [`EVERYWHERE`].
    pub place: String,
    /// The verb.
    pub verb: String,
    /// `resource.group`, with the subresource behind a slash.
    pub resource: String,
    /// The only object that it is for.
    pub name: Option<String>,
}

/// An installed release.
pub struct Release {
    client: Client,
    /// Its namespace, which is named as the release is, and so is its service account: cluster roles of two do not meet.
    pub namespace: String,
    /// What Helm rendered.
    objects: Vec<Value>,
}

impl Release {
    /// Installs a release's rights into a namespace of its own. The values are Helm's `--set`.
    pub async fn install(cluster: &Cluster, namespace: &str, values: &[String]) -> Self {
        let client = cluster.client.clone();
        create_namespace(&client, namespace).await;
        let objects = render(namespace, values).await;
        for object in &objects {
            apply(&client, object).await;
        }
        Self { client, namespace: namespace.to_owned(), objects }
    }

    /// Its user's name.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{0}:{0}", self.namespace)
    }

    /// All that its roles let its service account do, by what Helm rendered.
    pub fn rights(&self) -> BTreeSet<Right> {
        let bindings = self.objects.iter().filter(|object| is_binding(object));
        let mut rights = BTreeSet::new();
        for binding in bindings {
            let account =
                json!({"kind": "ServiceAccount", "name": self.namespace, "namespace": self.namespace});
            assert_eq!(binding["subjects"], json!([account]));
            let namespace = &binding["metadata"]["namespace"];
            let place = namespace.as_str().unwrap_or(EVERYWHERE);
            let role = self.objects.iter().find(|object| {
                object["kind"] == binding["roleRef"]["kind"]
                    && object["metadata"]["name"] == binding["roleRef"]["name"]
                    && (object["kind"] == "ClusterRole" || object["metadata"]["namespace"] == *namespace)
            });
            for rule in role.expect("the role of a binding")["rules"].as_array().unwrap() {
                rights.extend(rights_of(rule, place));
            }
        }
        rights
    }

    /// A kubeconfig of its service account, by a token as its pods have it; and the token.
    pub async fn kubeconfig(&self, of_admin: &Path, folder: &Path) -> (PathBuf, String) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let asked = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(3_600), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let token =
            accounts.create_token_request(&self.namespace, &PostParams::default(), &asked).await.unwrap();
        let token = token.status.unwrap().token.unwrap();
        let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(of_admin).unwrap()).unwrap();
        config["users"][0]["user"] = json!({"token": token});
        let path = folder.join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        (path, token)
    }
}

fn is_binding(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding"))
}

/// What a rule of a role lets do in a place.
pub fn rights_of(rule: &Value, place: &str) -> Vec<Right> {
    let texts = |member: &str| -> Vec<String> {
        let list = rule[member].as_array().into_iter().flatten();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let names: Vec<_> = texts("resourceNames").into_iter().map(Some).collect();
    let names = if names.is_empty() { vec![None] } else { names };
    let mut rights = Vec::new();
    for group in texts("apiGroups") {
        for resource in texts("resources") {
            for verb in texts("verbs") {
                rights.extend(names.iter().map(|name| Right {
                    place: place.to_owned(),
                    verb: verb.clone(),
                    resource: qualified(&resource, &group),
                    name: name.clone(),
                }));
            }
        }
    }
    rights
}

/// `deployments.apps/scale` of a resource with its subresource, and a group.
pub fn qualified(resource: &str, group: &str) -> String {
    let (resource, sub) = resource.split_once('/').map_or((resource, None), |(r, s)| (r, Some(s)));
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    let sub = sub.map(|sub| format!("/{sub}")).unwrap_or_default();
    format!("{resource}{group}{sub}")
}

async fn render(namespace: &str, values: &[String]) -> Vec<Value> {
    let mut helm = Command::new(repository().join("hack/chart/helm.sh"));
    helm.args(["template", namespace]).arg(repository().join("charts/graphtoken-operator"));
    helm.args(["--namespace", namespace, "--set", "crds.install=false"]);
    helm.args(["--show-only", "templates/rbac.yaml", "--show-only", "templates/serviceaccount.yaml"]);
    for value in values {
        helm.args(["--set", value]);
    }
    let output = tokio::task::spawn_blocking(move || helm.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let objects: Vec<Value> = objects.into_iter().filter(Value::is_object).collect();
    assert!(objects.len() >= 5, "{text}");
    objects
}

async fn apply(client: &Client, object: &Value) {
    let parsed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    let kind = object["kind"].as_str().unwrap();
    let version = object["apiVersion"].as_str().unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, &format!("{}s", kind.to_lowercase()));
    let name = object["metadata"]["name"].as_str().unwrap();
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.patch(name, &PatchParams::apply("helm"), &Patch::Apply(&parsed)).await.unwrap();
}

/// A namespace, if it is not there yet.
pub async fn create_namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    api.patch(name, &PatchParams::apply("admin"), &Patch::Apply(&namespace)).await.unwrap();
}
