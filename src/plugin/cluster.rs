//! The way to the API server, as kubectl goes it, and what its refusals mean to a person.

use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use serde_json::Value;

use super::Failed;
use super::args::Connection;
use crate::api::{GraphToken, names};
use crate::kubeclient::describe;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("kubectl-graphtoken/", env!("CARGO_PKG_VERSION")));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Variables that name a proxy for https, and those that name who needs none.
const PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A cluster, and the namespace to work in.
pub struct Cluster {
    /// For requests: each ends.
    pub client: Client,
    /// For watches, which do not.
    pub watches: Client,
    /// The namespace that was asked for, else the context's.
    pub namespace: String,
}

impl Cluster {
    /// Finds the cluster that the flags and the kubeconfig name. It sends nothing yet.
    pub async fn connect(connection: &Connection) -> Result<Self, Failed> {
        let mut config = config(connection).await?;
        config.headers.push((USER_AGENT, AGENT));
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let mut bounded = config.clone();
        bounded.connect_timeout = Some(CONNECT_TIMEOUT);
        bounded.read_timeout = Some(REQUEST_TIMEOUT);
        bounded.write_timeout = Some(REQUEST_TIMEOUT);
        bounded.reset_reader_on_write = true;
        bounded.default_retry = false;
        let client = |config| {
            Client::try_from(config)
                .map_err(|e| Failed(format!("cannot make a client of the API server: {}", describe(&e))))
        };
        Ok(Self { client: client(bounded)?, watches: client(config)?, namespace })
    }

    /// The `GraphToken`s of the namespace.
    pub fn graphtokens(&self) -> Api<GraphToken> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One `GraphToken`, as it is now.
    pub async fn graphtoken(&self, name: &str) -> Result<GraphToken, Failed> {
        let found = self.graphtokens().get_opt(name).await;
        let found =
            found.map_err(|e| refused(&format!("get graphtokens in namespace {}", self.namespace), &e))?;
        found.ok_or_else(|| absent(name, &self.namespace))
    }

    /// The same for another namespace.
    #[must_use]
    pub fn at(&self, namespace: &str) -> Self {
        Self { client: self.client.clone(), watches: self.watches.clone(), namespace: namespace.to_owned() }
    }
}

/// That a `GraphToken` is not there.
pub fn absent(name: &str, namespace: &str) -> Failed {
    Failed(format!(
        "there is no GraphToken {name} in namespace {namespace}; see which there are: kubectl graphtoken status -A"
    ))
}

/// The kind as the API server has it, where objects are wanted that may not decode.
pub fn resource() -> kube::api::ApiResource {
    kube::api::ApiResource::from_gvk_with_plural(
        &kube::api::GroupVersionKind::gvk(names::GROUP, names::VERSION, "GraphToken"),
        "graphtokens",
    )
}

/// What a refusal of the API server means, and what to do next. `doing` is what was refused: a verb, a resource, a place.
pub fn refused(doing: &str, error: &kube::Error) -> Failed {
    let what = describe(error);
    let next = match error {
        kube::Error::Api(status) => match status.code {
            401 => "the cluster does not take your credentials: log in to it again".to_owned(),
            403 => format!("you may not {doing}: ask whoever runs the cluster for that right"),
            404 => {
                "is the CRD installed, and is the namespace there? kubectl graphtoken doctor tells".to_owned()
            }
            409 => "somebody else changed it at the same time: try again".to_owned(),
            _ => "try again, or ask whoever runs the cluster".to_owned(),
        },
        kube::Error::Auth(_) => "log in to the cluster again".to_owned(),
        kube::Error::SerdeError(_) => {
            "the CRD and this plugin are of different versions: use the plugin of the operator's version"
                .to_owned()
        }
        _ => "check the context, and that the API server can be reached: kubectl cluster-info".to_owned(),
    };
    Failed(format!("cannot {doing}: {what}; {next}"))
}

async fn config(connection: &Connection) -> Result<Config, Failed> {
    let options = KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
    let found = match &connection.kubeconfig {
        Some(path) => match Kubeconfig::read_from(path) {
            Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
            Err(error) => Err(error),
        },
        None => Config::from_kubeconfig(&options).await,
    };
    let chosen = connection.kubeconfig.is_some() || connection.context.is_some();
    let mut config = match found {
        Ok(config) => config,
        // In a pod there is no kubeconfig; whoever named one does not mean the pod.
        Err(error) => Config::incluster().ok().filter(|_| !chosen).ok_or_else(|| {
            Failed(format!(
                "the kubeconfig cannot be used: {}; name another with --kubeconfig, or a context of it with --context",
                explain(&error)
            ))
        })?,
    };
    let host = config.cluster_url.host().unwrap_or_default().to_owned();
    if config.proxy_url.is_some()
        && first_set(PROXY).is_some()
        && bypasses(first_set(NO_PROXY).as_deref(), &host)
    {
        config.proxy_url = None;
    }
    Ok(config)
}

fn first_set(names: [&str; 2]) -> Option<String> {
    names.into_iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// Whether a host is reached without the environment's proxy, as kubectl has it: this machine, and what `NO_PROXY` names by name,
/// by domain or by `*`.
fn bypasses(no_proxy: Option<&str>, host: &str) -> bool {
    let bare = host.trim_matches(['[', ']']);
    let loopback = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let named = |entry: &str| {
        let entry = entry.trim().trim_start_matches("*.").trim_start_matches('.');
        !entry.is_empty()
            && (entry == "*"
                || bare == entry
                || bare.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.')))
    };
    loopback || no_proxy.unwrap_or_default().split(',').any(named)
}

fn explain(error: &KubeconfigError) -> String {
    match error {
        // The parser's error quotes the lines around, with whatever credentials they hold.
        KubeconfigError::Parse(_) => "it does not parse".to_owned(),
        other => other.to_string(),
    }
}

/// An object as JSON, whatever it is.
pub fn json(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, "127.0.0.1", true)]
    #[case(None, "[::1]", true)]
    #[case(None, "api.corp", false)]
    #[case(Some("api.corp"), "api.corp", true)]
    #[case(Some(" .corp ,x"), "api.corp", true)]
    #[case(Some("corp"), "apicorp", false)]
    #[case(Some("*"), "api.corp", true)]
    #[case(Some(","), "api.corp", false)]
    fn a_proxy_is_passed_by_where_the_environment_says_so(
        #[case] no_proxy: Option<&str>,
        #[case] host: &str,
        #[case] expected: bool,
    ) {
        assert_eq!(bypasses(no_proxy, host), expected);
    }

    #[test]
    fn a_refusal_says_what_to_do_next() {
        for (code, reason, next) in [
            (401, "Unauthorized", "log in"),
            (403, "Forbidden", "you may not list graphtokens"),
            (404, "NotFound", "doctor"),
        ] {
            let error = kube::Error::Api(Status::failure("s3cret", reason).with_code(code).boxed());
            let Failed(text) = refused("list graphtokens", &error);
            assert!(text.contains(next) && !text.contains("s3cret"), "{text}");
        }
    }
}
