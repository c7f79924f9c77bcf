//! Clients that a platform team states once: who may use them, where their secrets come from, and that a change of them is
//! seen at once by those that are on them.

use std::collections::BTreeMap;

use entra_simulator::{Client, Config, Outcome, Simulator};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::harness::objects::{clustergraphclient_resource, secret_ref};
use crate::harness::{Gt, Issuer, Options, World, app_only, delegated, repository};
use crate::lost_rights::{SERVICE_ACCOUNT, grant_secrets, service_account};

const APP: &str = "44444444-5555-6666-7777-888888888888";
const CLIENT_SECRET: &str = "Dq8~kV2xR.tW9mB-example-client-secret";
const WRONG_SECRET: &str = "Wx1~zL5yN.aH3pQ-not-the-clients-secret";

/// The platform team's side of a world: a namespace for Secrets, and a client. Both go with it.
struct Platform<'a> {
    world: &'a World,
    namespace: String,
    client: String,
}

impl<'a> Platform<'a> {
    /// A namespace of clients, and a client's name.
    async fn new(world: &'a World, client: &str) -> Self {
        let platform =
            Self { world, namespace: format!("{}-clients", world.namespace), client: client.to_owned() };
        let metadata = ObjectMeta { name: Some(platform.namespace.clone()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        platform.namespaces().create(&PostParams::default(), &namespace).await.unwrap();
        platform
    }

    fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.world.cluster.client.clone())
    }

    fn clients(&self) -> Api<DynamicObject> {
        Api::all_with(self.world.cluster.client.clone(), &clustergraphclient_resource())
    }

    /// States the client, whatever was stated before.
    async fn state(&self, spec: &Value) {
        let object = json!({
            "apiVersion": "graphtoken.io/v1alpha1", "kind": "ClusterGraphClient",
            "metadata": {"name": self.client}, "spec": spec,
        });
        let params = PatchParams::apply("platform-team").force();
        self.clients().patch(&self.client, &params, &Patch::Apply(&object)).await.unwrap();
    }

    async fn withdraw(&self) {
        self.clients().delete(&self.client, &DeleteParams::default()).await.unwrap();
    }

    /// Puts a client secret where clients' secrets are.
    async fn secret(&self, name: &str, value: &str) {
        self.world.confidential.note(&format!("the client secret in {name}"), value);
        put_secret(self.world, &self.namespace, name, value).await;
    }

    /// Labels the team's namespace.
    async fn label(&self, label: &str, value: Option<&str>) {
        let patch = json!({"metadata": {"labels": {label: value}}});
        let name = &self.world.namespace;
        self.namespaces().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    fn options(&self) -> Options {
        Options::default().flag("--client-namespace").flag(&self.namespace)
    }

    async fn clean_up(self) {
        let _ = self.clients().delete(&self.client, &DeleteParams::default()).await;
        let _ = self.namespaces().delete(&self.namespace, &DeleteParams::background()).await;
    }
}

async fn put_secret(world: &World, namespace: &str, name: &str, value: &str) {
    let secrets: Api<Secret> = Api::namespaced(world.cluster.client.clone(), namespace);
    let data = BTreeMap::from([("client-secret", value)]);
    let patch = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    secrets.patch(name, &PatchParams::apply("somebody").force(), &Patch::Apply(&patch)).await.unwrap();
}

fn config() -> Config {
    Config { clients: vec![Client::confidential(APP, CLIENT_SECRET)], ..Config::default() }
}

/// A client of the simulator that these may use.
fn shared(entra: &Simulator, world: &World, grants: &[&str]) -> Value {
    let issuer = Issuer::entra(entra, APP);
    json!({
        "tenant": issuer.tenant, "clientId": issuer.client_id, "endpoints": {"token": issuer.token_url},
        "clientAuth": secret_ref("app"),
        "allow": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
            "grants": grants,
        },
    })
}

/// A `GraphToken` without a client of its own.
fn on_client(mut graphtoken: Value, client: Option<&str>) -> Value {
    let spec = graphtoken["spec"].as_object_mut().unwrap();
    for member in ["tenant", "clientId", "endpoints", "clientAuth"] {
        spec.remove(member);
    }
    if let Some(name) = client {
        spec.insert("clientRef".to_owned(), json!({"name": name}));
    }
    graphtoken
}

fn message(gt: &Gt, kind: &str) -> String {
    let conditions = gt.status("/conditions").as_array().cloned().unwrap_or_default();
    let condition = conditions.iter().find(|c| c["type"] == kind);
    condition.and_then(|c| c["message"].as_str()).unwrap_or_default().to_owned()
}

/// Waits until a `GraphToken` is refused in these words, and a person must act.
async fn refused(world: &World, name: &str, says: &[&str]) -> Gt {
    let refused = |gt: &Gt| {
        gt.condition("Stalled") == Some(("True", "InvalidConfiguration"))
            && gt.observed()
            && says.iter().all(|word| message(gt, "Stalled").contains(word))
    };
    world.until(name, &format!("refused, saying {says:?}"), refused).await
}

async fn ready(world: &World, name: &str) -> Gt {
    world.until(name, "Ready", |gt| gt.ready() && gt.condition("Stalled").is_none()).await
}

fn example(file: &str) -> Value {
    let path = repository().join("examples/cluster-client").join(file);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The only test that uses the client `default`, of which a cluster has one.
#[tokio::test(flavor = "multi_thread")]
async fn a_team_uses_the_default_client_and_each_rule_that_refuses_it_is_named() {
    World::run("default-client", async |world| {
        let entra = world.entra(config()).await;
        let platform = Platform::new(world, "default").await;
        let operator = world.operator(platform.options()).await;
        world.seed("seed", &entra.mint_refresh_token(None, Some(APP), &[]).unwrap()).await;
        // Of the same name as the client's, in the team's namespace: it is nobody's.
        world.confidential.note("the team's own Secret", WRONG_SECRET);
        put_secret(world, &world.namespace, "mail-app", WRONG_SECRET).await;
        world.create(&example("graphtoken.yaml")).await;
        refused(world, "mail-etl", &["ClusterGraphClient default is not there", "spec.tenant"]).await;

        let mut client = example("clustergraphclient.yaml")["spec"].clone();
        let issuer = Issuer::entra(&entra, APP);
        client["tenant"] = json!(issuer.tenant);
        client["clientId"] = json!(APP);
        client["endpoints"] = json!({"token": issuer.token_url});
        let allow = client.as_object_mut().unwrap().remove("allow").unwrap();
        platform.state(&client).await;
        refused(world, "mail-etl", &["default", "spec.allow is absent", "nobody"]).await;
        client["allow"] = json!({"grants": ["clientCredentials"]});
        platform.state(&client).await;
        refused(world, "mail-etl", &["namespaceSelector is absent"]).await;
        client["allow"]["namespaceSelector"] = allow["namespaceSelector"].clone();
        platform.state(&client).await;
        refused(world, "mail-etl", &["namespaceSelector does not select"]).await;
        platform.label("graph-access", Some("mail")).await;
        refused(world, "mail-etl", &["spec.allow.grants does not name refreshToken"]).await;
        client["allow"] = allow;
        platform.state(&client).await;
        let missing = ["Secret mail-app", &platform.namespace, "create it"];
        refused(world, "mail-etl", &missing).await;
        assert!(entra.journal().token.is_empty(), "nothing is sent without the client's own secret");
        platform.secret("mail-app", WRONG_SECRET).await;
        refused(world, "mail-etl", &["client secret is wrong"]).await;
        platform.secret("mail-app", CLIENT_SECRET).await;
        let gt = ready(world, "mail-etl").await;
        assert_eq!(gt.refresh_count(), 1);
        let labels = [("name", "mail-etl"), ("tenant", &*issuer.tenant), ("client_id", APP)];
        operator.metrics_until(|metrics| metrics.sum("graphtoken_info", &labels) == 1).await;

        // What pods have stays while the client is away, and the way back costs no exchange.
        let data = world.data("mail-etl").await;
        platform.withdraw().await;
        refused(world, "mail-etl", &["ClusterGraphClient default is not there"]).await;
        assert_eq!(world.data("mail-etl").await, data);
        platform.state(&client).await;
        assert_eq!(ready(world, "mail-etl").await.refresh_count(), 1);
        platform.label("graph-access", None).await;
        refused(world, "mail-etl", &["namespaceSelector does not select"]).await;
        platform.label("graph-access", Some("mail")).await;
        assert_eq!(ready(world, "mail-etl").await.refresh_count(), 1);
        assert_eq!(world.data("mail-etl").await, data);
        platform.clean_up().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_client_is_seen_by_all_that_are_on_it() {
    World::run("client-change", async |world| {
        const OTHER: &str = "99999999-8888-7777-6666-555555555555";
        let entra = world.entra(config()).await;
        let platform = Platform::new(world, &world.namespace).await;
        world.operator(platform.options()).await;
        let mut client = shared(&entra, world, &["clientCredentials"]);
        platform.state(&client).await;
        platform.secret("app", WRONG_SECRET).await;
        let apps = ["one", "two", "three"];
        let object =
            |name| on_client(app_only(name, &Issuer::entra(&entra, APP), "app"), Some(&platform.client));
        for name in apps {
            world.create(&object(name)).await;
        }
        for name in apps {
            refused(world, name, &["client secret is wrong"]).await;
        }
        platform.secret("app", CLIENT_SECRET).await;
        for name in apps {
            assert_eq!(ready(world, name).await.refresh_count(), 1);
        }
        // Another Secret, then another client: the token is not for it, and is got anew.
        platform.secret("renewed", WRONG_SECRET).await;
        client["clientAuth"] = secret_ref("renewed");
        platform.state(&client).await;
        entra.put_client(Client::confidential(OTHER, WRONG_SECRET));
        client["clientId"] = json!(OTHER);
        platform.state(&client).await;
        for name in apps {
            let renewed = |gt: &Gt| gt.ready() && gt.refresh_count() == 2;
            world.until(name, "ready with a token of the other client", renewed).await;
        }
        let journal = entra.journal();
        let of_other = journal.token.iter().filter(|entry| entry.client_id == OTHER);
        assert_eq!(
            of_other.filter(|entry| entry.outcome == Outcome::Issued).count(),
            3,
            "{:#?}",
            journal.token
        );
        platform.clean_up().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_single_namespaces_serves_no_clients_unless_it_is_told_where_their_secrets_are() {
    World::run("no-clients", async |world| {
        let entra = world.entra(config()).await;
        let platform = Platform::new(world, &world.namespace).await;
        let mut client = shared(&entra, world, &["refreshToken"]);
        client.as_object_mut().unwrap().remove("clientAuth");
        platform.state(&client).await;
        entra.put_client(Client::public(APP));
        world.seed("seed", &entra.mint_refresh_token(None, Some(APP), &[]).unwrap()).await;
        let inline = delegated("inline", &Issuer::entra(&entra, APP), "seed");
        let mut shared = on_client(inline.clone(), Some(&platform.client));
        shared["metadata"]["name"] = json!("shared");

        let operator = world.operator(Options::default()).await;
        world.create(&inline).await;
        world.create(&shared).await;
        refused(world, "shared", &["serves no ClusterGraphClients", "--client-namespace"]).await;
        ready(world, "inline").await;
        let metrics = operator.metrics_until(|_| true).await;
        for resource in ["clustergraphclients", "namespaces"] {
            let asked = metrics.sum("graphtoken_kube_requests_total", &[("resource", resource)]);
            assert_eq!(asked, 0, "nobody granted {resource}");
        }
        world.stop(&operator).await;
        world.operator(platform.options()).await;
        ready(world, "shared").await;
        platform.clean_up().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_forbidden_stops_only_those_that_need_it_and_heals() {
    World::run("client-rights", async |world| {
        let entra = world.entra(config()).await;
        let platform = Platform::new(world, &world.namespace).await;
        let mut client = shared(&entra, world, &["refreshToken"]);
        client.as_object_mut().unwrap().remove("clientAuth");
        platform.state(&client).await;
        entra.put_client(Client::public(APP));
        world.seed("seed", &entra.mint_refresh_token(None, Some(APP), &[]).unwrap()).await;
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = service_account(world, folder.path().join("kubeconfig")).await;
        grant_secrets(world).await;
        world.operator(platform.options().kubeconfig(&kubeconfig)).await;
        let inline = delegated("inline", &Issuer::entra(&entra, APP), "seed");
        let mut shared = on_client(inline.clone(), Some(&platform.client));
        shared["metadata"]["name"] = json!("shared");
        world.create(&shared).await;
        world.create(&inline).await;
        ready(world, "inline").await;
        let forbidden = |gt: &Gt| {
            gt.condition("Refreshed") == Some(("False", "StorageUnavailable"))
                && ["ClusterGraphClients cannot be watched", "403 Forbidden"]
                    .iter()
                    .all(|word| message(gt, "Refreshed").contains(word))
        };
        let gt = world.until("shared", "held up by a watch that is forbidden", forbidden).await;
        assert_eq!(gt.condition("Reconciling").map(|(status, _)| status), Some("True"));
        assert_eq!(gt.condition("Stalled"), None);

        let role = grant_clients(world).await;
        ready(world, "shared").await;
        revoke(world, &role).await;
        platform.clean_up().await;
    })
    .await;
}

/// What `ClusterGraphClient`s take beyond a namespace.
async fn grant_clients(world: &World) -> String {
    let name = format!("clients-of-{}", world.namespace);
    let role = json!({"metadata": {"name": name}, "rules": [
        {"apiGroups": ["graphtoken.io"], "resources": ["clustergraphclients"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
    ]});
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": world.namespace}],
    });
    let client = || world.cluster.client.clone();
    let (role, binding) = (serde_json::from_value(role).unwrap(), serde_json::from_value(binding).unwrap());
    Api::<ClusterRole>::all(client()).create(&PostParams::default(), &role).await.unwrap();
    Api::<ClusterRoleBinding>::all(client()).create(&PostParams::default(), &binding).await.unwrap();
    name
}

async fn revoke(world: &World, name: &str) {
    let client = || world.cluster.client.clone();
    Api::<ClusterRoleBinding>::all(client()).delete(name, &DeleteParams::default()).await.unwrap();
    Api::<ClusterRole>::all(client()).delete(name, &DeleteParams::default()).await.unwrap();
}
