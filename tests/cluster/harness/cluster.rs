//! The way to the API server, and the CRDs on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{conditions, wait::await_condition};
use kube::{Api, Client, Config};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::repository;

/// Who the tests are to the API server, and the field manager of what they apply.
pub const MANAGER: &str = "graphtoken-tests";
/// A cluster that is up answers well within this, however busy the machine.
const ANSWER: Duration = Duration::from_secs(10);

/// A cluster that answers and knows the CRDs.
#[derive(Clone)]
pub struct Cluster {
    /// A client of this test's own: it lives on the runtime that made it.
    pub client: Client,
    /// The kubeconfig, for the operator.
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// The cluster that `KUBECONFIG` names, else this checkout's.
    pub async fn connect() -> Self {
        static CRDS: OnceCell<()> = OnceCell::const_new();
        let mut tried = Vec::new();
        for kubeconfig in candidates() {
            match reach(&kubeconfig).await {
                Ok(client) => {
                    CRDS.get_or_init(|| apply_crds(&client)).await;
                    return Self { client, kubeconfig };
                }
                Err(why) => tried.push(format!("{}: {why}", kubeconfig.display())),
            }
        }
        panic!("no cluster answers; start one with `make cluster-up` ({})", tried.join("; "));
    }
}

fn candidates() -> Vec<PathBuf> {
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut candidates: Vec<_> =
        named.into_iter().chain([repository().join(".cluster/kubeconfig")]).collect();
    candidates.dedup();
    candidates
}

/// A client of the cluster that a kubeconfig names, if it answers.
pub async fn reach(kubeconfig: &Path) -> Result<Client, String> {
    let read = Kubeconfig::read_from(kubeconfig).map_err(|e| e.to_string())?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(read, &options).await.map_err(|e| e.to_string())?;
    // The tests install CRDs, and their providers are on loopback too.
    if !matches!(config.cluster_url.host(), Some("127.0.0.1" | "localhost" | "[::1]")) {
        return Err("its API server is not on this machine".to_owned());
    }
    config.proxy_url = None;
    config.headers.push((USER_AGENT, HeaderValue::from_static(MANAGER)));
    let client = Client::try_from(config).map_err(|e| e.to_string())?;
    let answered = timeout(ANSWER, client.apiserver_version()).await.map_err(|_| "no answer".to_owned())?;
    answered.map_err(|e| e.to_string())?;
    Ok(client)
}

/// Installs the CRDs, and waits until they are known.
pub async fn apply_crds(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut files: Vec<_> =
        std::fs::read_dir(repository().join("crds")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for document in text.split("\n---\n").skip(1) {
            let crd: Value = serde_saphyr::from_str(document).unwrap();
            let name = crd["metadata"]["name"].as_str().unwrap().to_owned();
            let params = PatchParams::apply(MANAGER).force();
            api.patch(&name, &params, &Patch::Apply(&crd)).await.unwrap();
            let established = await_condition(api.clone(), &name, conditions::is_crd_established());
            timeout(ANSWER, established).await.expect("the CRD is established").unwrap();
        }
    }
}
