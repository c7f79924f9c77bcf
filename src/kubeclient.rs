//! The two clients of the API server: one for watches, one for requests, both counted, the latter paced.

mod limit;
mod observe;
mod pages;
mod transport;

use std::{fmt::Write as _, time::Duration};

use http::{HeaderValue, Uri, header::USER_AGENT};
use kube::{
    Client, Config,
    client::AuthError,
    config::{KubeConfigOptions, KubeconfigError},
};

use self::observe::Observe;
use crate::{metrics::Metrics, pace::Pacer};

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("graphtoken-operator/", env!("CARGO_PKG_VERSION")));
const NO_CREDENTIALS: &str = "no credentials for the API server";
/// From sending a request to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a page of a list before a watch; of a watch, to the first byte.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Where no client could be made. Never quotes a kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a kubeconfig nor a service account could be used.
    #[error("no access to an API server: kubeconfig: {kubeconfig}; in-cluster: {in_cluster}")]
    Infer {
        /// What is wrong with the kubeconfig.
        kubeconfig: String,
        /// What is missing of a service account.
        in_cluster: String,
    },
    /// The configuration does not make a client.
    #[error("cannot make a client of the API server: {0}")]
    Build(String),
}

/// The configuration of kubectl, else that of the pod's service account, with our user agent.
///
/// `HTTPS_PROXY` is for the providers: kube takes it for the API server too where it finds a kubeconfig, but
/// neither in a cluster nor with regard to `NO_PROXY` as to the server's name.
pub async fn infer() -> Result<Config, Error> {
    let mut config = match Config::from_kubeconfig(&KubeConfigOptions::default()).await {
        Ok(config) => config,
        Err(error) => Config::incluster()
            .map_err(|e| Error::Infer { kubeconfig: explain(&error), in_cluster: e.to_string() })?,
    };
    let environment = ["HTTPS_PROXY", "https_proxy"].map(|name| std::env::var(name).ok());
    if from_environment(config.proxy_url.as_ref(), &environment) {
        tracing::debug!("HTTPS_PROXY is not used for the API server");
        config.proxy_url = None;
    }
    config.headers.push((USER_AGENT, AGENT));
    Ok(config)
}

fn explain(error: &KubeconfigError) -> String {
    match error {
        // The parser's error quotes the lines around, with whatever credentials they hold.
        KubeconfigError::Parse(_) => "it does not parse".to_owned(),
        other => other.to_string(),
    }
}

fn from_environment(proxy: Option<&Uri>, environment: &[Option<String>]) -> bool {
    let same = |value: &String| value.parse::<Uri>().ok().as_ref() == proxy;
    proxy.is_some() && environment.iter().flatten().any(same)
}

/// The clients. Both are cheap to clone.
#[derive(Clone)]
pub struct Clients {
    /// For watches, the lists before them included: 30 s for a list and for the start of a watch, no limit on an open watch
    /// (kube's watcher has one for idle streams), unpaced.
    pub watches: Client,
    /// For everything else: 10 s for the whole of an answer, paced except for Leases.
    pub requests: Client,
}

impl Clients {
    /// `kube_qps` paces `requests`; 0 means no limit. Neither client ever retries: the watcher's back-off and the
    /// reconciler's are the only ones.
    pub fn new(config: &Config, kube_qps: f64, metrics: &Metrics) -> Result<Self, Error> {
        let watches = Observe { metrics: metrics.clone(), pacer: Pacer::unbounded() };
        let requests = Observe { metrics: metrics.clone(), pacer: Pacer::new(kube_qps) };
        Ok(Self {
            watches: transport::client(config, LIST_TIMEOUT, &watches)?,
            requests: transport::client(config, REQUEST_TIMEOUT, &requests)?,
        })
    }
}

/// One line for logs and status that holds no body, sent or received. (Some of kube's errors do: a foreign
/// answer is an `Api` error's message, a decoder's error quotes a value, an exec plugin's its output.)
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.reason.is_empty() || status.reason.contains(' ') => {
            format!("the API server answered {}", status.code)
        }
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        kube::Error::SerdeError(e) => {
            format!(
                "an object did not decode: {:?} error at line {} column {}",
                e.classify(),
                e.line(),
                e.column()
            )
        }
        kube::Error::Auth(_) => NO_CREDENTIALS.to_owned(),
        kube::Error::InferKubeconfig(_) | kube::Error::InferConfig(_) => {
            "the kubeconfig is not usable".to_owned()
        }
        kube::Error::HyperError(e) => chain("request to the API server failed", e),
        kube::Error::Service(e) => chain("request to the API server failed", e.as_ref()),
        kube::Error::ReadEvents(e) => chain("watch was cut off", e),
        other => chain("request to the API server failed", other),
    }
}

/// hyper's errors say what went wrong only in their sources ("client error (Connect)").
fn chain(what: &str, error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = what.to_owned();
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<AuthError>() {
            return NO_CREDENTIALS.to_owned();
        }
        let part = error.to_string();
        if !line.ends_with(&part) {
            let _ = write!(line, ": {part}");
        }
        next = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use kube::{config::Kubeconfig, core::Status};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::none(None, false)]
    #[case::from_the_environment(Some("http://proxy.corp:3128"), true)]
    #[case::as_kube_normalises_it(Some("http://proxy.corp:3128/"), true)]
    #[case::of_the_kubeconfig(Some("http://bastion:1080"), false)]
    fn a_proxy_is_told_by_where_it_comes_from(#[case] proxy: Option<&str>, #[case] expected: bool) {
        let proxy = proxy.map(|p| p.parse().unwrap());
        assert_eq!(
            from_environment(proxy.as_ref(), &[None, Some("http://proxy.corp:3128".into())]),
            expected
        );
    }

    #[tokio::test]
    async fn the_user_agent_names_us() {
        let mut config = Config::new("http://127.0.0.1:1".parse().unwrap());
        config.headers.push((USER_AGENT, AGENT));
        assert!(Clients::new(&config, 0.0, &Metrics::default()).is_ok());
        assert_eq!(AGENT, format!("graphtoken-operator/{}", env!("CARGO_PKG_VERSION")));
    }

    #[tokio::test]
    async fn an_error_is_described_without_what_was_received() {
        let page = Status::failure("<html>s3cret</html>", "Failed to parse error data").with_code(502);
        let decode = serde_json::from_str::<u8>(r#""s3cret""#).unwrap_err();
        let conflict = Status::failure("Operation cannot be fulfilled", "Conflict").with_code(409);
        for (error, expected) in [
            (kube::Error::Api(page.boxed()), "the API server answered 502"),
            (kube::Error::Api(conflict.boxed()), "the API server answered 409 Conflict"),
            (kube::Error::SerdeError(decode), "an object did not decode: Data error at line 1 column 8"),
            (
                kube::Error::Service(io::Error::other("connection refused").into()),
                "request to the API server failed: connection refused",
            ),
            (kube::Error::Service(AuthError::AuthExec("s3cret".into()).into()), NO_CREDENTIALS),
        ] {
            assert_eq!(describe(&error), expected);
        }
    }

    #[test]
    fn a_kubeconfig_that_does_not_parse_is_not_quoted() {
        let text = "apiVersion: v1\nusers:\n- name: a\n  user:\n    token: s3cret\n    token-data: [\n";
        let Err(error) = Kubeconfig::from_yaml(text) else { panic!("it is invalid") };
        assert!(error.to_string().contains("s3cret"), "kube does not quote it any more: {error}");
        assert_eq!(explain(&error), "it does not parse");
    }
}
