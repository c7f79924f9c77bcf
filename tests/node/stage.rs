//! What stands behind the pods: a provider that is graph.microsoft.com to them, an operator that knows it, and how pods run.

use std::path::PathBuf;
use std::time::Duration;

use entra_simulator::{CLIENT_ID, Config, Simulator, TENANT_ID};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, LogParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::o365::virtual_environment;
use crate::harness::tls::Authority;
use crate::harness::{Issuer, Options, World, delegated};

/// Where pods mount the Secret.
pub const MOUNTED: &str = "/var/run/graph";
pub const IMAGE: &str = "graphtoken.test/clients:local";
/// What pods do comes within this, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_mins(4);
const SCOPES: [&str; 3] = ["Mail.Read", "User.Read", "Files.Read"];
const NAMES: [&str; 2] = ["graph.microsoft.com", "login.microsoftonline.com"];
const AUTHORITY: &str = "/etc/graph-authority";
/// Key of the authority's certificate.
const CA: &str = "ca.crt";

/// A world with a node.
pub struct Stage<'a> {
    pub world: &'a World,
    pub entra: Simulator,
    address: String,
}

/// Runs a test on a stage of its own. `number` tells its provider from those of other tests, by a loopback address with a port
/// 443 of its own.
pub async fn on_stage(
    topic: &'static str,
    number: u8,
    token_lifetime: Duration,
    test: impl AsyncFnOnce(&Stage<'_>),
) {
    let run = World::run(topic, async |world| {
        let stage = Stage::set(world, number, token_lifetime).await;
        Box::pin(test(&stage)).await;
    });
    Box::pin(run).await;
}

impl<'a> Stage<'a> {
    async fn set(world: &'a World, number: u8, token_lifetime: Duration) -> Self {
        node(world).await;
        let address = format!("127.0.1.{number}");
        let authority = Authority::for_names(&NAMES, &address);
        let entra = world
            .entra(Config {
                listen: format!("{address}:443").parse().unwrap(),
                tls: Some(authority.server()),
                token_lifetime,
                ..Config::default()
            })
            .await;
        let bundle = std::fs::read_to_string(authority.bundle()).unwrap();
        let map = json!({"metadata": {"name": "authority"}, "data": {CA: bundle}});
        let maps: Api<ConfigMap> = Api::namespaced(world.cluster.client.clone(), &world.namespace);
        maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
        let flag = format!("--ca-bundle={}", authority.bundle().display());
        let host = format!("--allowed-endpoint-host={address}");
        world.operator(Options::default().flag(&flag).flag(&host)).await;
        Self { world, entra, address }
    }

    /// A `GraphToken` whose user has signed in, at this stage's provider.
    pub async fn graphtoken(&self, name: &str, target: &Value) -> Value {
        let seed = self.sign_in();
        self.world.seed(&format!("{name}-seed"), &seed).await;
        let issuer = Issuer::entra(&self.entra, CLIENT_ID);
        let mut object = delegated(name, &issuer, &format!("{name}-seed"));
        object["spec"]["scopes"] = json!(SCOPES);
        object["spec"]["target"] = target.clone();
        self.redirect(&mut object);
        object
    }

    /// The refresh token of a user who has signed in and consented.
    pub fn sign_in(&self) -> String {
        self.entra.mint_refresh_token(None, None, &SCOPES).unwrap()
    }

    /// Has a `GraphToken` talk to this stage's provider.
    pub fn redirect(&self, graphtoken: &mut Value) {
        let url = format!("https://{}", self.address);
        let token = format!("{url}/{TENANT_ID}/oauth2/v2.0/token");
        graphtoken["spec"]["endpoints"] = json!({"token": token, "graph": url});
    }

    /// Has pods see this stage's provider where Microsoft Graph is, and trust it. Nothing else of them is changed.
    pub fn furnish(&self, pod: &mut Value) {
        pod["hostNetwork"] = json!(true);
        pod["hostAliases"] = json!([{"ip": self.address, "hostnames": NAMES}]);
        pod["terminationGracePeriodSeconds"] = json!(5);
        append(&mut pod["volumes"], json!({"name": "authority", "configMap": {"name": "authority"}}));
        let bundle = format!("{AUTHORITY}/{CA}");
        for container in pod["containers"].as_array_mut().unwrap() {
            append(
                &mut container["volumeMounts"],
                json!({"name": "authority", "mountPath": AUTHORITY, "readOnly": true}),
            );
            for name in ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"] {
                append(&mut container["env"], json!({"name": name, "value": bundle}));
            }
            append(&mut container["env"], json!({"name": "PATH", "value": path()}));
        }
    }

    /// A pod that runs a program once on a mounted Secret, as a careful user's does.
    pub fn pod(&self, name: &str, secret: &str, command: &[&str]) -> Value {
        let mut spec = json!({
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsUser": 50000, "runAsGroup": 0, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "client", "image": IMAGE, "command": command,
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "graph", "mountPath": MOUNTED, "readOnly": true}, {"name": "tmp", "mountPath": "/tmp"},
                ],
            }],
            "volumes": [{"name": "graph", "secret": {"secretName": secret}}, {"name": "tmp", "emptyDir": {}}],
        });
        self.furnish(&mut spec);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    }

    /// Creates an object of any kind in the world's namespace.
    pub async fn create(&self, object: &Value) {
        let kind = object["kind"].as_str().unwrap();
        let parsed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        let api = self.api(object["apiVersion"].as_str().unwrap(), kind);
        api.create(&PostParams::default(), &parsed).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }

    pub fn api(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let plural = format!("{}s", kind.to_lowercase());
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural);
        Api::namespaced_with(self.world.cluster.client.clone(), &self.world.namespace, &resource)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.world.cluster.client.clone(), &self.world.namespace)
    }

    /// Waits until a pod has ended. Returns whether it succeeded, and what it printed.
    pub async fn ended(&self, name: &str, patience: Duration) -> (bool, String) {
        let phase =
            |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        let ended =
            |pod: Option<&Pod>| pod.is_some_and(|pod| ["Succeeded", "Failed"].contains(&&*phase(pod)));
        let Ok(pod) = timeout(patience, await_condition(self.pods(), name, ended)).await else {
            panic!("pod {name} did not end in {patience:?}: {}", self.state(name).await)
        };
        let pod = pod.unwrap().unwrap();
        (phase(&pod) == "Succeeded", self.log(name).await)
    }

    /// Waits until a pod's log is as wanted, and returns it.
    pub async fn until_logged(&self, name: &str, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log(name).await;
            if wanted(&log) {
                return log;
            }
            assert!(
                Instant::now() < deadline,
                "pod {name} logged no {what}: {log}\n{}",
                self.state(name).await
            );
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// What a pod has printed; empty while it has not begun.
    pub async fn log(&self, name: &str) -> String {
        self.pods().logs(name, &LogParams::default()).await.unwrap_or_default()
    }

    /// The pods with a label `app.kubernetes.io/name`, newest last, those that are going left out.
    pub async fn pods_of(&self, app: &str) -> Vec<String> {
        let params = ListParams::default().labels(&format!("app.kubernetes.io/name={app}"));
        let mut pods = self.pods().list(&params).await.unwrap().items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
        pods.into_iter().filter_map(|pod| pod.metadata.name).collect()
    }

    async fn state(&self, name: &str) -> Value {
        let pod = self.pods().get_opt(name).await.ok().flatten();
        json!(pod.and_then(|pod| pod.status))
    }
}

/// The last line of a log, which is a program's report.
pub fn report(log: &str) -> Value {
    let last = log.lines().rfind(|line| line.starts_with('{'));
    last.and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("there is no report in {log:?}"))
}

/// The Python of python-o365 2.1, and that of 2.0.
pub fn python() -> String {
    virtual_environment("venv-o365-2.1.10").join("bin/python").display().to_string()
}

pub fn python_of_2_0() -> String {
    virtual_environment("venv-o365-2.0.38").join("bin/python").display().to_string()
}

/// Images like the user's have their Python first.
fn path() -> String {
    let python = PathBuf::from(python());
    format!("{}:/usr/local/bin:/usr/bin:/bin", python.parent().unwrap().display())
}

fn append(list: &mut Value, item: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(item);
}

/// Whether there is a node that is ready.
async fn node(world: &World) {
    let nodes = Api::<Node>::all(world.cluster.client.clone()).list(&ListParams::default()).await.unwrap();
    let ready = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    assert!(
        nodes.items.iter().any(ready),
        "no node is ready; start one with `make node-up`, then run tests/node/images.sh"
    );
}
