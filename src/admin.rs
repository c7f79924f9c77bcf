//! The HTTP server for the kubelet and Prometheus: `/livez`, `/readyz`, `/metrics`. It serves nothing else and
//! knows no secret.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, CONNECTION, CONTENT_TYPE, RETRY_AFTER},
    },
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{
    FutureExt as _,
    future::{Either, select},
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

mod listener;
mod scrape;

use listener::{LimitedListener, Limits};
use scrape::{Format, scrape};

/// What prometheus-client encodes: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The format before it, for whoever asks for text and not for that: `promtool check metrics`, older collectors.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
const CLASSIC_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long open connections may hold up the end of the process.
const GRACE: Duration = Duration::from_secs(2);

/// A connection is for one request, so this is also for how long an answer may take. Prometheus waits 10 s by default.
const LIMITS: Limits = Limits { connections: 32, life: Duration::from_secs(15) };
/// How many scrapes are answered at once: Prometheus has at most two replicas.
const SCRAPES: usize = 2;
/// After how many seconds a scrape that found too many others may be tried again.
const SCRAPE_AGAIN: &str = "15";

/// What the endpoints report; asked at each request.
pub struct Admin {
    /// `/livez`: each loop has beaten within a minute. False makes the kubelet restart the container.
    pub live: Box<dyn Fn() -> bool + Send + Sync>,
    /// `/readyz`: the API server was reached, the leader is known and, on the leader, the objects were listed.
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
    serve_within(LIMITS, listener, admin, shutdown).await
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    admin: Admin,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
    let shutdown = shutdown.shared();
    let server = axum::serve(LimitedListener::new(listener, limits), router(admin))
        .with_graceful_shutdown(shutdown.clone());
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
        .layer(map_response(close))
        .with_state(Arc::new(Served { admin, scrapes: Arc::new(Semaphore::new(SCRAPES)) }))
}

struct Served {
    admin: Admin,
    scrapes: Arc<Semaphore>,
}

/// So no request is cut off because its connection was used before.
async fn close(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn livez(State(served): State<Arc<Served>>) -> (StatusCode, &'static str) {
    verdict((served.admin.live)(), "a loop of the operator has not beaten for a minute")
}

async fn readyz(State(served): State<Arc<Served>>) -> (StatusCode, &'static str) {
    verdict((served.admin.ready)(), "the API server was not reached yet, or its objects were not listed yet")
}

fn verdict(good: bool, otherwise: &'static str) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise) }
}

async fn metrics(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    let (format, kind) = if wants_classic_text(&headers) {
        (Format::Classic, CLASSIC_TEXT)
    } else {
        (Format::OpenMetrics, OPEN_METRICS)
    };
    let Ok(permit) = Arc::clone(&served.scrapes).try_acquire_owned() else {
        let header = [(RETRY_AFTER, SCRAPE_AGAIN)];
        return (StatusCode::SERVICE_UNAVAILABLE, header, "too many scrapes at once").into_response();
    };
    match scrape(served, format, |served| &served.admin.registry, permit).await {
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

    use prometheus_client::metrics::gauge::Gauge;
    use rstest::rstest;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpSocket, TcpStream},
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
        let registry = Metrics::default().registry(|| true, Arc::new(Vec::new));
        start_within(LIMITS, Admin { live: Box::new(move || live), ready: Box::new(ready), registry }).await
    }

    async fn start_within(limits: Limits, admin: Admin) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve_within(limits, listener, admin, stopped.map(drop)));
        Server { address, stop, task }
    }

    /// Answers `/metrics` with more than all buffers between it and its reader take.
    fn large() -> Admin {
        let mut registry = Registry::default();
        let help = "x".repeat(1024 * 1024);
        for n in 0..6 {
            registry.register(format!("a{n}"), help.clone(), Gauge::<i64>::default());
        }
        Admin { live: Box::new(|| true), ready: Box::new(|| true), registry }
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
    #[case::stalled(
        "/livez",
        false,
        true,
        "503 Service Unavailable",
        "a loop of the operator has not beaten for a minute"
    )]
    #[case::ready("/readyz", true, true, "200 OK", "ok")]
    #[case::starting(
        "/readyz",
        true,
        false,
        "503 Service Unavailable",
        "the API server was not reached yet, or its objects were not listed yet"
    )]
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

    async fn head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn slow_readers_are_few_and_do_not_keep_the_probes_waiting() {
        let server = start_within(Limits { life: Duration::from_secs(3), ..LIMITS }, large()).await;
        let mut readers = Vec::new();
        for _ in 0..30 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let mut stream = socket.connect(server.address).await.unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
            let head = head(&mut stream).await;
            readers.push((stream, head));
        }
        let (read, refused): (Vec<_>, Vec<_>) =
            readers.into_iter().partition(|(_, head)| head.starts_with("HTTP/1.1 200"));
        assert_eq!((read.len(), refused.len()), (SCRAPES, 28));
        for (_, head) in &refused {
            assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 15"), "{head}");
        }
        for path in ["/livez", "/readyz"] {
            assert!(server.get(path).await.starts_with("HTTP/1.1 200"));
        }
        // They are cut off, and others are answered.
        let answered = async {
            while !server.get("/metrics").await.contains("\n# EOF\n") {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_mins(1), answered).await.expect("the slow ones are cut off");
        for (mut stream, _) in read {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(!rest.ends_with(b"# EOF\n\r\n0\r\n\r\n"), "it has read the whole");
        }
    }

    #[tokio::test]
    async fn idle_connections_end_for_new_ones() {
        let server = start_within(Limits { connections: 4, life: Duration::from_mins(10) }, large()).await;
        let mut idle = Vec::new();
        for _ in 0..8 {
            idle.push(TcpStream::connect(server.address).await.unwrap());
        }
        assert!(server.get("/livez").await.starts_with("HTTP/1.1 200"));
        for stream in &mut idle[..5] {
            let ended = timeout(Duration::from_mins(1), stream.read_u8()).await.expect("it is closed");
            assert!(ended.is_err());
        }
        let mut last = idle.pop().unwrap();
        last.write_all(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        assert!(head(&mut last).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_connection_ends_after_its_answer() {
        let server = start(true, || true).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("connection: close\r\n"), "{answer}");
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
