//! A resource server that takes the tokens that the strict provider takes: what Graph is to Entra.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Router, response::IntoResponse};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::oidc::Control;

/// A running resource server. It stops when it is dropped.
pub struct Graph {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Graph {
    /// Starts one that asks the provider about each token.
    pub async fn start(provider: Control) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/v1.0/me", get(me)).with_state(provider);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, server }
    }

    /// Its address, without `/v1.0`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn me(State(provider): State<Control>, headers: HeaderMap) -> impl IntoResponse {
    let authorization =
        headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
    let status = if provider.accepts(token).await { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
    let body = json!({"userPrincipalName": "a user of this provider"}).to_string();
    (status, [("content-type", "application/json")], body)
}
