//! Accepts connections, and closes one without an answer when a fault says so.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use axum::routing::{any, get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use crate::answer::HangUp;
use crate::control::Control;
use crate::{authorize, control_http, device, discovery, graph, token};

/// How long to wait when the system has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn router(control: Control) -> Router {
    Router::new()
        .route("/{tenant}/oauth2/v2.0/token", post(token::endpoint))
        .route("/{tenant}/oauth2/v2.0/authorize", get(authorize::endpoint))
        .route("/{tenant}/oauth2/v2.0/devicecode", post(device::endpoint))
        .route("/{tenant}/v2.0/.well-known/openid-configuration", get(discovery::endpoint))
        .route("/v1.0/{*path}", any(graph::endpoint))
        .nest("/_sim", control_http::routes())
        .with_state(control)
}

/// Serves until it is dropped, and its connections with it.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(accept(stream, tls.clone(), router.clone())); }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What makes hyper drop a connection instead of answering.
#[derive(Debug)]
struct HungUp;

impl fmt::Display for HungUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hung up as a fault asked")
    }
}

impl std::error::Error for HungUp {}

async fn accept(stream: TcpStream, tls: Option<TlsAcceptor>, router: Router) {
    // Small answers should not wait for an acknowledgement. Without it they are only slower.
    let _ = stream.set_nodelay(true);
    match tls {
        None => connection(stream, router).await,
        Some(tls) => {
            // Whoever does not trust the certificate goes away.
            if let Ok(stream) = tls.accept(stream).await {
                connection(stream, router).await;
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        async move {
            let response: Response<Body> = router.call(request).await.unwrap_or_else(|never| match never {});
            if response.extensions().get::<HangUp>().is_some() { Err(HungUp) } else { Ok(response) }
        }
    });
    // A client that goes away, or a hang-up, is no error of the server's.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
