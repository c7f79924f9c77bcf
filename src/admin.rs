//! The HTTP server for the kubelet and Prometheus: `/livez`, `/readyz`, `/metrics`. It serves nothing else and
//! knows no secret.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{
    FutureExt as _,
    future::{Either, select},
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, time::sleep};

mod scrape;

use scrape::{Format, scrape};

/// What prometheus-client encodes: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The format before it, for whoever asks for text and not for that: `promtool check metrics`, older collectors.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
const CLASSIC_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long open connections may hold up the end of the process.
const GRACE: Duration = Duration::from_secs(2);

/// What the endpoints report; asked at each request.
pub struct Admin {
    /// `/livez`: the main loop still turns. False makes the kubelet restart the container.
    pub live: Box<dyn Fn() -> bool + Send + Sync>,
    /// `/readyz`: the API server was reached and the caches are filled; true on standbys.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
    /// `/metrics`.
    pub registry: Registry,
}

/// Serves until `shutdown` resolves, then ends within 2 s. An error means that it could not serve.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
    let shutdown = shutdown.shared();
    let server = axum::serve(listener, router(admin)).with_graceful_shutdown(shutdown.clone());
    let deadline = Box::pin(async move {
        shutdown.await;
        sleep(GRACE).await;
    });
    match select(Box::pin(server.into_future()), deadline).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Ok(()),
    }
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(admin))
}

async fn livez(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    verdict((admin.live)(), "the main loop has stopped")
}

async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    verdict((admin.ready)(), "the API server was not reached yet")
}

fn verdict(good: bool, otherwise: &'static str) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise) }
}

async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let (format, kind) = if wants_classic_text(&headers) {
        (Format::Classic, CLASSIC_TEXT)
    } else {
        (Format::OpenMetrics, OPEN_METRICS)
    };
    match scrape(admin, format, |admin| &admin.registry).await {
        Some(text) => ([(CONTENT_TYPE, kind)], text).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn wants_classic_text(headers: &HeaderMap) -> bool {
    let accepted: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let names = |kind: &str| accepted.iter().any(|value| value.contains(kind));
    names("text/plain") && !names("application/openmetrics-text") && !names("*/*")
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use rstest::rstest;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
        task::JoinHandle,
        time::{Instant, timeout},
    };

    use super::*;
    use crate::metrics::Metrics;

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        task: JoinHandle<io::Result<()>>,
    }

    async fn start(live: bool, ready: impl Fn() -> bool + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Metrics::default().registry(|| true, Arc::new(Vec::new));
        let admin = Admin { live: Box::new(move || live), ready: Box::new(ready), registry };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, admin, stopped.map(drop)));
        Server { address, stop, task }
    }

    impl Server {
        async fn get(&self, path: &str) -> String {
            self.get_as(path, "*/*").await
        }

        async fn get_as(&self, path: &str, accept: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[rstest]
    #[case::alive("/livez", true, true, "200 OK", "ok")]
    #[case::stalled("/livez", false, true, "503 Service Unavailable", "the main loop has stopped")]
    #[case::ready("/readyz", true, true, "200 OK", "ok")]
    #[case::starting("/readyz", true, false, "503 Service Unavailable", "the API server was not reached yet")]
    #[case::alive_while_it_starts("/livez", true, false, "200 OK", "ok")]
    #[case::nothing_else("/", true, true, "404 Not Found", "")]
    #[tokio::test]
    async fn probes_answer(
        #[case] path: &str,
        #[case] live: bool,
        #[case] ready: bool,
        #[case] status: &str,
        #[case] body: &str,
    ) {
        let answer = start(live, move || ready).await.get(path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
    }

    #[tokio::test]
    async fn readiness_is_asked_at_each_request() {
        let ready = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ready);
        let server = start(true, move || asked.load(Relaxed)).await;
        assert!(server.get("/readyz").await.starts_with("HTTP/1.1 503"));
        ready.store(true, Relaxed);
        assert!(server.get("/readyz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn metrics_are_open_metrics() {
        let answer = start(true, || true).await.get("/metrics").await;
        assert!(
            answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
            "{answer}"
        );
        assert!(answer.contains("graphtoken_leader 1\n") && answer.ends_with("# EOF\n"), "{answer}");
    }

    #[rstest]
    #[case::prometheus("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", true)]
    #[case::anything("text/plain, */*", true)]
    #[case::plain_text("text/plain;version=0.0.4", false)]
    #[tokio::test]
    async fn metrics_are_plain_text_for_whom_that_is_all(#[case] accept: &str, #[case] open: bool) {
        let answer = start(true, || true).await.get_as("/metrics", accept).await;
        let kind = if open { OPEN_METRICS } else { CLASSIC_TEXT };
        assert!(answer.contains(&format!("content-type: {kind}")), "{answer}");
        assert_eq!(answer.ends_with("# EOF\n"), open, "{answer}");
    }

    #[tokio::test]
    async fn a_client_that_never_finishes_its_request_does_not_hold_up_the_end() {
        let server = start(true, || true).await;
        let mut stuck = TcpStream::connect(server.address).await.unwrap();
        stuck.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        server.get("/livez").await;
        let asked = Instant::now();
        server.stop.send(()).unwrap();
        timeout(GRACE * 3, server.task).await.expect("ends in time").unwrap().unwrap();
        assert!(asked.elapsed() <= GRACE * 2);
    }
}
