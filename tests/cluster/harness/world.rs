//! A test's world: its namespace, its operators, and what is checked at the end of every test.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entra_simulator::{Config, Simulator};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Event, Namespace, Secret};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::audit::Audit;
use super::cluster::{Cluster, MANAGER};
use super::leaks::{Leak, Secrets};
use super::objects::{Gt, graphtoken_resource};
use super::operator::{Metrics, Operator, Options, tail};

/// What is waited for comes well within this, or never.
const PATIENCE: Duration = Duration::from_secs(90);
/// How the operator marks what it writes.
const MANAGED: &str = "app.kubernetes.io/managed-by=graphtoken-operator";

/// Everything that one test has to itself.
pub struct World {
    /// The way to the API server.
    pub cluster: Cluster,
    /// What the operator asked of the API server.
    pub audit: Audit,
    /// The test's namespace.
    pub namespace: String,
    /// Values that may show up nowhere.
    pub confidential: Secrets,
    topic: &'static str,
    operators: Mutex<Vec<Arc<Operator>>>,
    scrapes: Mutex<Vec<Metrics>>,
    command_lines: Mutex<Vec<String>>,
    watch: JoinHandle<()>,
}

impl World {
    /// Runs a test in a world of its own, and afterwards looks for secrets that got out. `topic` names namespace and logs.
    pub async fn run(topic: &'static str, test: impl AsyncFnOnce(&Self)) {
        Self::run_on(Cluster::connect().await, topic, test).await;
    }

    /// As [`World::run`], on a cluster of the test's choice.
    pub async fn run_on(cluster: Cluster, topic: &'static str, test: impl AsyncFnOnce(&Self)) {
        let api: Api<Namespace> = Api::all(cluster.client.clone());
        let metadata = ObjectMeta { generate_name: Some(format!("test-{topic}-")), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let namespace = api.create(&PostParams::default(), &namespace).await.unwrap().metadata.name.unwrap();
        Self::run_in(cluster, namespace, topic, test).await;
    }

    /// As [`World::run_on`], in a namespace that is there, and goes at the end.
    pub async fn run_in(
        cluster: Cluster,
        namespace: String,
        topic: &'static str,
        test: impl AsyncFnOnce(&Self),
    ) {
        let world = Self::new(cluster, namespace, topic);
        let outcome = AssertUnwindSafe(test(&world)).catch_unwind().await;
        let checks = AssertUnwindSafe(world.checks(outcome.is_ok())).catch_unwind().await;
        let failure = outcome.err().or(checks.err());
        if failure.is_some() {
            world.explain().await;
        }
        world.clean_up(failure.is_some()).await;
        if let Some(failure) = failure {
            resume_unwind(failure);
        }
    }

    fn new(cluster: Cluster, namespace: String, topic: &'static str) -> Self {
        let confidential = Secrets::default();
        let secrets = Api::namespaced(cluster.client.clone(), &namespace);
        Self {
            audit: Audit::beside(&cluster.kubeconfig),
            watch: tokio::spawn(note_all_tokens(secrets, confidential.clone())),
            cluster,
            namespace,
            confidential,
            topic,
            operators: Mutex::default(),
            scrapes: Mutex::default(),
            command_lines: Mutex::default(),
        }
    }

    // === Parties ===

    /// Starts an operator that works in this namespace.
    pub async fn operator(&self, options: Options) -> Arc<Operator> {
        let number = self.operators.lock().unwrap().len() + 1;
        let log = logs().join(format!("{}-{number}.log", self.topic));
        let operator = Operator::start(&self.cluster.kubeconfig, &self.namespace, log, &options).await;
        let operator = Arc::new(operator);
        self.operators.lock().unwrap().push(Arc::clone(&operator));
        operator
    }

    /// Starts an Entra simulator.
    pub async fn entra(&self, config: Config) -> Simulator {
        Simulator::start(config).await.unwrap()
    }

    /// Ends an operator, which must end well, and keeps its last metrics for the search.
    pub async fn stop(&self, operator: &Operator) {
        self.scrape(operator).await;
        let status = operator.stop().await;
        assert!(status.success(), "the operator ended with {status}\n{}", tail(operator.log()));
    }

    async fn scrape(&self, operator: &Operator) {
        let metrics = operator.metrics().await;
        self.scrapes.lock().unwrap().extend(metrics);
        // Not everywhere is there such a file.
        let line = std::fs::read_to_string(format!("/proc/{}/cmdline", operator.pid()));
        self.command_lines.lock().unwrap().extend(line);
    }

    // === What a user does ===

    /// Creates a Secret with one key.
    pub async fn secret(&self, name: &str, key: &str, value: &str) -> Secret {
        self.confidential.note(&format!("Secret {name}, key {key}"), value);
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            string_data: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
            ..Secret::default()
        };
        self.secrets().create(&PostParams::default(), &secret).await.unwrap()
    }

    /// Creates a seed Secret.
    pub async fn seed(&self, name: &str, refresh_token: &str) -> Secret {
        self.secret(name, "token", refresh_token).await
    }

    /// Creates a `GraphToken`.
    pub async fn create(&self, graphtoken: &Value) -> Gt {
        let object: DynamicObject = serde_json::from_value(graphtoken.clone()).unwrap();
        Gt(self.graphtokens().create(&PostParams::default(), &object).await.unwrap())
    }

    /// What the API server would make of a `GraphToken`.
    pub async fn dry_run(&self, graphtoken: &Value) -> kube::Result<Gt> {
        let object: DynamicObject = serde_json::from_value(graphtoken.clone()).unwrap();
        let params = PostParams { dry_run: true, ..PostParams::default() };
        self.graphtokens().create(&params, &object).await.map(Gt)
    }

    /// Asks for a refresh now.
    pub async fn request_refresh(&self, name: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {"graphtoken.io/requested-at": value}}});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.graphtokens().patch(name, &params, &Patch::Merge(&patch)).await.unwrap();
    }

    // === What a user sees ===

    /// The API of Secrets.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// The API of `GraphToken`s.
    pub fn graphtokens(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.cluster.client.clone(), &self.namespace, &graphtoken_resource())
    }

    /// A `GraphToken` as it is now.
    pub async fn graphtoken(&self, name: &str) -> Gt {
        Gt(self.graphtokens().get(name).await.unwrap())
    }

    /// A Secret's keys and text.
    pub async fn data(&self, name: &str) -> BTreeMap<String, String> {
        let secret = self.secrets().get(name).await.unwrap();
        self.confidential.note_tokens(&secret);
        text_of(secret)
    }

    /// Waits until a `GraphToken` is as wanted; `what` completes "it was not …".
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Gt) -> bool) -> Gt {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let condition = |object: Option<&DynamicObject>| object.is_some_and(|o| wanted(&Gt(o.clone())));
            match timeout_at(deadline, await_condition(self.graphtokens(), name, condition)).await {
                Ok(Ok(Some(object))) => return Gt(object),
                // A watch that broke off.
                Ok(_) => sleep(Duration::from_millis(200)).await,
                Err(_) => {
                    let last = self.graphtokens().get_opt(name).await;
                    let status = last.ok().flatten().map(|object| object.data["status"].clone());
                    panic!("GraphToken {name} was not {what} in {PATIENCE:?}: {:#}", json!(status));
                }
            }
        }
    }

    // === The end ===

    /// What holds after every test. (The operators of a failed one are just killed.)
    async fn checks(&self, passed: bool) {
        let operators = self.operators.lock().unwrap().clone();
        for operator in operators.iter().filter(|_| passed) {
            if operator.lives().await {
                self.stop(operator).await;
            }
        }
        if passed {
            let leaks = self.leaks().await;
            assert!(leaks.is_empty(), "secrets got out: {leaks:#?}");
        }
    }

    async fn leaks(&self) -> Vec<Leak> {
        let client = || self.cluster.client.clone();
        let (all, ours) = (ListParams::default(), ListParams::default().labels(MANAGED));
        let secrets = self.secrets().list(&ours).await.unwrap().items;
        for secret in &secrets {
            self.confidential.note_tokens(secret);
        }
        let search = self.confidential.search();

        let events = Api::<Event>::namespaced(client(), &self.namespace).list(&all).await.unwrap().items;
        let graphtokens = self.graphtokens().list(&all).await.unwrap().items;
        let metadata: Vec<_> = secrets.iter().map(|secret| &secret.metadata).collect();
        let mut leaks = search.in_text("the events", &json!(events).to_string());
        leaks.extend(search.in_text("the GraphTokens", &json!(graphtokens).to_string()));
        leaks.extend(search.in_text("the metadata of Secrets", &json!(metadata).to_string()));
        for metrics in self.scrapes.lock().unwrap().iter() {
            leaks.extend(search.in_text("the metrics", &metrics.0));
        }
        for line in self.command_lines.lock().unwrap().iter() {
            leaks.extend(search.in_text("the arguments", line));
        }
        let operators = self.operators.lock().unwrap().clone();
        for operator in operators {
            let log = String::from_utf8_lossy(&std::fs::read(operator.log()).unwrap()).into_owned();
            assert!(log.contains(" TRACE "), "the log is not at level trace: {}", operator.log().display());
            let panicked = log.contains(" panic location=");
            assert!(operator.panics() || !panicked, "the operator panicked\n{}", tail(operator.log()));
            leaks.extend(search.in_text("the log", &log));
        }
        leaks
    }

    #[expect(clippy::print_stderr, reason = "shown where a test failed")]
    async fn explain(&self) {
        for operator in self.operators.lock().unwrap().iter() {
            eprintln!("{}", tail(operator.log()));
        }
        if let Ok(found) = self.graphtokens().list(&ListParams::default()).await {
            for object in found.items {
                eprintln!("GraphToken {:?}: {:#}", object.metadata.name, object.data["status"]);
            }
        }
    }

    async fn clean_up(&self, failed: bool) {
        self.watch.abort();
        let operators = self.operators.lock().unwrap().clone();
        for operator in operators {
            operator.kill().await;
        }
        if failed && std::env::var_os("GRAPHTOKEN_TEST_KEEP").is_some() {
            return;
        }
        let api: Api<Namespace> = Api::all(self.cluster.client.clone());
        // Its content goes in the background; should it stay, it harms nobody.
        let _ = api.delete(&self.namespace, &DeleteParams::background()).await;
    }
}

/// A Secret's keys and text.
pub fn text_of(secret: Secret) -> BTreeMap<String, String> {
    let data = secret.data.unwrap_or_default().into_iter();
    data.map(|(key, value)| (key, String::from_utf8(value.0).unwrap())).collect()
}

/// Logs lie in the target folder, one a test and operator, and are written anew by each run.
fn logs() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cluster");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Notes every token that was ever stored, also those that were replaced since.
async fn note_all_tokens(api: Api<Secret>, confidential: Secrets) {
    let config = watcher::Config::default().labels(MANAGED);
    let stored = watcher(api, config).default_backoff().applied_objects();
    stored
        .for_each(|secret| {
            if let Ok(secret) = secret {
                confidential.note_tokens(&secret);
            }
            std::future::ready(())
        })
        .await;
}
