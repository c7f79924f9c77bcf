//! The layer of a client that counts its requests and paces them.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Method, Request, Response, Uri};
use kube::client::Body;
use tower::{Layer, Service};

use crate::{metrics::Metrics, pace::Pacer};

/// A tower layer that counts and paces.
#[derive(Clone)]
pub(super) struct Observe {
    pub(super) metrics: Metrics,
    pub(super) pacer: Pacer,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observed { inner, observe: self.clone() }
    }
}

#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    observe: Observe,
}

impl<S, B> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let target = Target::of(request.method(), request.uri());
        let Observe { metrics, pacer } = self.observe.clone();
        // Nothing is sent before this future is polled: kube's stack and hyper's client are lazy.
        let response = self.inner.call(request);
        Box::pin(async move {
            // A leader that queues behind its own work would lose the Lease.
            if target.resource != "leases" {
                pacer.acquire().await;
            }
            let mut tally = Tally { metrics, target, code: None };
            let answer = response.await;
            tally.code = answer.as_ref().ok().map(|r| r.status().as_str().to_owned());
            answer
        })
    }
}

/// Counts a request when it is over, one that its caller gave up included.
struct Tally {
    metrics: Metrics,
    target: Target,
    code: Option<String>,
}

impl Drop for Tally {
    fn drop(&mut self) {
        let code = self.code.as_deref().unwrap_or("error");
        self.metrics.kube_request(&self.target.resource, self.target.verb, code);
    }
}

/// What a request is about, in Kubernetes' terms.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// `secrets`, `graphtokens/status`, …; `-` for paths that are no resource's.
    resource: String,
    verb: &'static str,
}

impl Target {
    /// By the rules of <https://kubernetes.io/docs/reference/access-authn-authz/authorization/>.
    fn of(method: &Method, uri: &Uri) -> Self {
        let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let (resource, named) = match parts.as_slice() {
            ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => resource(rest),
            _ => ("-".to_owned(), true),
        };
        Self { resource, verb: verb(method, named, uri) }
    }
}

/// The resource and whether one object of it is named, by the path after the version.
fn resource(path: &[&str]) -> (String, bool) {
    match path {
        // A namespace's own subresources look like resources in it.
        ["namespaces", _, sub @ ("status" | "finalize")] => (format!("namespaces/{sub}"), true),
        ["namespaces", _, resource, rest @ ..] | [resource, rest @ ..] => match rest {
            [_, sub, ..] => (format!("{resource}/{sub}"), true),
            _ => ((*resource).to_owned(), !rest.is_empty()),
        },
        [] => ("-".to_owned(), true),
    }
}

/// Whether a request asks for a watch.
pub(super) fn is_watch(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"))
}

fn verb(method: &Method, named: bool, uri: &Uri) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD if is_watch(uri) => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc, time::Duration};

    use http::StatusCode;
    use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
    use kube::{Api, Client, client::ClientBuilder};
    use prometheus_client::encoding::text::encode;
    use rstest::rstest;
    use tokio::time::{Instant, timeout};
    use tower::{BoxError, service_fn};

    use super::*;

    #[rstest]
    #[case(Method::GET, "/api/v1/namespaces/a/secrets/s", "secrets", "get")]
    #[case(Method::GET, "/api/v1/namespaces/a/secrets?&limit=500", "secrets", "list")]
    #[case(Method::GET, "/api/v1/secrets?&watch=true&resourceVersion=3", "secrets", "watch")]
    #[case(Method::GET, "/api/v1/secrets?labelSelector=watch%3Dtrue", "secrets", "list")]
    #[case(Method::POST, "/api/v1/namespaces/a/secrets?", "secrets", "create")]
    #[case(
        Method::PATCH,
        "/apis/graphtoken.io/v1alpha1/namespaces/a/graphtokens/g/status?&force=true",
        "graphtokens/status",
        "patch"
    )]
    #[case(
        Method::PATCH,
        "/apis/graphtoken.io/v1alpha1/namespaces/a/graphtokens/status",
        "graphtokens",
        "patch"
    )]
    #[case(
        Method::GET,
        "/apis/graphtoken.io/v1alpha1/clustergraphclients/default",
        "clustergraphclients",
        "get"
    )]
    #[case(
        Method::PUT,
        "/apis/coordination.k8s.io/v1/namespaces/a/leases/graphtoken-operator",
        "leases",
        "update"
    )]
    #[case(Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events", "events", "create")]
    #[case(Method::DELETE, "/api/v1/namespaces/a/secrets/s", "secrets", "delete")]
    #[case(Method::DELETE, "/api/v1/namespaces/a/secrets", "secrets", "deletecollection")]
    #[case(Method::POST, "/api/v1/namespaces/a/serviceaccounts/s/token", "serviceaccounts/token", "create")]
    #[case(Method::GET, "/api/v1/namespaces/a", "namespaces", "get")]
    #[case(Method::GET, "/api/v1/namespaces", "namespaces", "list")]
    #[case(Method::PUT, "/api/v1/namespaces/a/finalize", "namespaces/finalize", "update")]
    #[case(Method::GET, "/version", "-", "get")]
    #[case(Method::GET, "/apis/graphtoken.io/v1alpha1", "-", "get")]
    fn a_request_is_named_in_kubernetes_terms(
        #[case] method: Method,
        #[case] uri: &str,
        #[case] resource: &str,
        #[case] verb: &'static str,
    ) {
        let target = Target::of(&method, &uri.parse().unwrap());
        assert_eq!(target, Target { resource: resource.to_owned(), verb });
    }

    fn observed<F, A>(qps: f64, metrics: &Metrics, answer: F) -> Client
    where
        F: FnMut(Request<Body>) -> A + Send + 'static,
        A: Future<Output = Result<Response<Body>, BoxError>> + Send + 'static,
    {
        let observe = Observe { metrics: metrics.clone(), pacer: Pacer::new(qps) };
        ClientBuilder::new(service_fn(answer), "default").with_layer(&observe).build()
    }

    async fn not_found(_: Request<Body>) -> Result<Response<Body>, BoxError> {
        let body = Body::from(br#"{"kind":"Status","reason":"NotFound","code":404}"#.to_vec());
        Ok(Response::builder().status(StatusCode::NOT_FOUND).body(body)?)
    }

    fn counted(metrics: &Metrics) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, &metrics.registry(|| true, Arc::new(Vec::new))).unwrap();
        text.lines()
            .filter_map(|l| l.strip_prefix("graphtoken_kube_requests_total"))
            .map(str::to_owned)
            .collect()
    }

    #[tokio::test]
    async fn an_answer_is_counted_by_its_status() {
        let metrics = Metrics::default();
        let secrets: Api<Secret> = Api::default_namespaced(observed(0.0, &metrics, not_found));
        assert!(secrets.get_opt("s").await.unwrap().is_none());
        assert_eq!(counted(&metrics), [r#"{resource="secrets",verb="get",code="404"} 1"#]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_counted_as_an_error_and_so_is_one_not_waited_for() {
        let metrics = Metrics::default();
        let broken = observed(0.0, &metrics, async |_| Err(io::Error::other("refused").into()));
        assert!(Api::<Secret>::default_namespaced(broken).get("s").await.is_err());
        let hanging = observed(0.0, &metrics, |_| std::future::pending());
        let secrets = Api::<Secret>::default_namespaced(hanging);
        assert!(timeout(Duration::from_secs(1), secrets.get("s")).await.is_err());
        assert_eq!(counted(&metrics), [r#"{resource="secrets",verb="get",code="error"} 2"#]);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_paced_and_those_for_leases_are_not() {
        let client = observed(1.0, &Metrics::default(), not_found);
        let (secrets, leases): (Api<Secret>, Api<Lease>) =
            (Api::default_namespaced(client.clone()), Api::default_namespaced(client));
        let start = Instant::now();
        for _ in 0..3 {
            secrets.get_opt("s").await.unwrap();
            leases.get_opt("l").await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }
}
