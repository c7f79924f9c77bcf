//! The control plane that is measured on: its CRDs, namespaces, and what is put into them and taken away again.

use std::sync::Arc;

use futures::StreamExt as _;
use graphtoken::api::GraphToken;
use graphtoken::kubeclient::{self, Clients};
use graphtoken::metrics::Metrics;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{conditions, wait::await_condition};
use kube::{Api, Client};

use crate::Failed;

/// Where the operator works.
pub const NAMESPACE: &str = "bench";
/// Where the bare loop does.
pub const LOOP_NAMESPACE: &str = "bench-loop";
/// Field manager of what users would write.
const MANAGER: &str = "graphtoken-bench";
/// Requests at once where the bench prepares something.
pub const PREPARING: usize = 24;

/// The way to the API server: a client as the operator makes it, the one without a time limit on answers, for thousands of objects
/// are taken away by one request.
pub async fn connect() -> Result<Client, Failed> {
    let config = kubeclient::infer().await?;
    if !matches!(config.cluster_url.host(), Some("127.0.0.1" | "localhost" | "[::1]")) {
        return Err(Failed::new(
            "KUBECONFIG names an API server that is not on this machine: use `make bench`",
        ));
    }
    Ok(Clients::new(&config, 0.0, &Metrics::default())?.watches)
}

/// Installs the CRDs and makes the namespaces.
pub async fn prepare(client: &Client) -> Result<(), Failed> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in graphtoken::crds::all() {
        let name = crd["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        crds.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&crd)).await?;
        await_condition(crds.clone(), &name, conditions::is_crd_established()).await.map_err(Failed::new)?;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in [NAMESPACE, LOOP_NAMESPACE] {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await?;
    }
    Ok(())
}

/// Creates Secrets of a kind that is nobody's business here, each with one value of this many bytes.
pub async fn foreign_secrets(client: &Client, count: usize, bytes: usize) -> Result<(), Failed> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let value = ByteString((0..bytes).map(|n| u8::try_from(n * 31 % 251).unwrap_or_default()).collect());
    let value = Arc::new(value);
    each(0..count, 4, |number| {
        let (api, value) = (api.clone(), Arc::clone(&value));
        async move {
            let metadata = ObjectMeta { name: Some(format!("foreign-{number:03}")), ..ObjectMeta::default() };
            let data = Some([("blob".to_owned(), (*value).clone())].into());
            api.create(&PostParams::default(), &Secret { metadata, data, ..Secret::default() }).await?;
            Ok(())
        }
    })
    .await
}

/// Creates a Secret with one key.
pub async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
    key: &str,
    value: &str,
) -> Result<(), Failed> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let data = Some([(key.to_owned(), ByteString(value.as_bytes().to_vec()))].into());
    api.create(&PostParams::default(), &Secret { metadata, data, ..Secret::default() }).await?;
    Ok(())
}

/// Takes everything of the operator's and the bench's away again, but foreign Secrets and the client's own.
pub async fn purge(client: &Client, namespace: &str) -> Result<(), Failed> {
    let graphtokens: Api<GraphToken> = Api::namespaced(client.clone(), namespace);
    graphtokens.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for labels in ["app.kubernetes.io/managed-by=graphtoken-operator", "bench=seed"] {
        secrets.delete_collection(&DeleteParams::default(), &ListParams::default().labels(labels)).await?;
    }
    let events: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &events());
    events.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    Ok(())
}

fn events() -> kube::api::ApiResource {
    kube::api::ApiResource::erase::<k8s_openapi::api::events::v1::Event>(&())
}

/// Does something for each of them, so many at once, and stops at the first failure.
pub async fn each<T, F>(
    items: impl IntoIterator<Item = T>,
    at_once: usize,
    act: impl Fn(T) -> F,
) -> Result<(), Failed>
where
    F: Future<Output = Result<(), Failed>>,
{
    let mut running = futures::stream::iter(items.into_iter().map(act)).buffer_unordered(at_once);
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}

/// A seed as a user makes it.
pub fn seed_secret(name: &str, refresh_token: &str) -> Secret {
    let labels = [("bench".to_owned(), "seed".to_owned())].into();
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    let data = Some([("token".to_owned(), ByteString(refresh_token.as_bytes().to_vec()))].into());
    Secret { metadata, data, ..Secret::default() }
}
