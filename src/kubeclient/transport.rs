//! The connections of a client: kube's stack without its retries, on TCP that notices a dead peer.
//!
//! kube's own builder makes its connector out of reach, so the few layers of it that are used are put together here.

use std::time::Duration;

use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Config,
    client::{Body, ClientBuilder, ConfigExt as _},
};
use tower::{BoxError, ServiceBuilder};

use super::{Error, describe, limit::Limit, observe::Observe};

/// Of the TCP connection; TLS counts as the answer does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is probed after this idle time, then at each interval, and given up after the last probe: a peer
/// that is gone is noticed within half a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_PROBES: u32 = 3;
/// The same for a connection on which something was sent that is not acknowledged.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(25);

/// A client that waits for an answer no longer than `limit`, and never retries.
pub(super) fn client(config: &Config, limit: Duration, observe: &Observe) -> Result<kube::Client, Error> {
    let built = |e: kube::Error| Error::Build(describe(&e));
    if config.proxy_url.is_some() {
        // The URL may hold a password.
        return Err(Error::Build(
            "a proxy between the operator and the API server is not supported".to_owned(),
        ));
    }
    let https = config.rustls_https_connector_with_connector(tcp()).map_err(built)?;
    let hyper = HyperClient::builder(TokioExecutor::new()).build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(built)?)
        .layer(config.extra_headers_layer().map_err(built)?)
        .layer(Limit::new(limit))
        .map_err(BoxError::from)
        .service(hyper);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).with_layer(observe).build())
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEP_ALIVE_PROBES));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    tcp
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use k8s_openapi::api::core::v1::Secret;
    use kube::{
        Api,
        api::{ListParams, WatchParams},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::{kubeclient::Clients, metrics::Metrics};

    /// An API server that is unavailable, and how many times it was asked.
    async fn unavailable() -> (Clients, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_head(&mut stream).await;
                count.fetch_add(1, Relaxed);
                stream.write_all(UNAVAILABLE.as_bytes()).await.unwrap();
            }
        });
        (Clients::new(&config, 0.0, &Metrics::default()).unwrap(), asked)
    }

    async fn read_head(stream: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    }

    const UNAVAILABLE: &str = concat!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\r\n",
        r#"{"kind":"Status","status":"Failure","reason":"ServiceUnavailable","code":503}"#
    );
    const WATCH: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";

    #[tokio::test]
    async fn no_client_retries_below_the_watcher() {
        let (Clients { watches, requests }, asked) = unavailable().await;
        for client in [watches, requests] {
            let before = asked.load(Relaxed);
            let secrets: Api<Secret> = Api::default_namespaced(client);
            let list = timeout(Duration::from_secs(10), secrets.list(&ListParams::default())).await;
            assert!(matches!(list, Ok(Err(kube::Error::Api(status))) if status.code == 503));
            assert_eq!(asked.load(Relaxed) - before, 1);
        }
    }

    /// The keep-alive timer of a connection in `/proc/net/tcp`: it is armed, and with which wait.
    #[cfg(target_os = "linux")]
    fn keep_alive(server: u16) -> Option<Duration> {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let peer = format!(":{server:04X}");
        table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let timer = fields.get(5)?.split_once(':').filter(|(kind, _)| *kind == "02")?;
            let hundredths = u64::from_str_radix(timer.1, 16).ok()?;
            (fields.get(2)?.ends_with(&peer)).then(|| Duration::from_millis(hundredths * 10))
        })
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_connection_of_an_idle_watch_is_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Config::new(format!("http://127.0.0.1:{port}").parse().unwrap());
        let watches = Clients::new(&config, 0.0, &Metrics::default()).unwrap().watches;
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(WATCH.as_bytes()).await.unwrap();
            stream
        });
        let secrets: Api<Secret> = Api::default_namespaced(watches);
        let _open = secrets.watch(&WatchParams::default(), "1").await.unwrap();
        let _stream = answering.await.unwrap();
        let armed = async {
            loop {
                if let Some(wait) = keep_alive(port) {
                    break wait;
                }
                tokio::task::yield_now().await;
            }
        };
        let wait = timeout(Duration::from_secs(10), armed).await.expect("its keep-alive timer is armed");
        assert!(wait <= KEEP_ALIVE, "{wait:?}");
        assert!(KEEP_ALIVE + KEEP_ALIVE_INTERVAL * KEEP_ALIVE_PROBES <= Duration::from_secs(30));
    }
}
