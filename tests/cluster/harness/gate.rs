//! A gate before the API server: a test holds a request of the operator's there, changes what it is about, and lets it go on. So what
//! happens between a look and the write that follows it is no matter of luck.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{AUTHORIZATION, HOST};
use http::{Method, StatusCode};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::cluster::Cluster;

/// No request of the operator's is longer.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// What is held comes well within this, or never.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running gate. It stops when it is dropped.
pub struct Gate {
    folder: TempDir,
    holds: Holds,
    server: JoinHandle<()>,
}

type Holds = Arc<Mutex<Vec<Hold>>>;

/// Which request is to be held, and the test's ends of it.
struct Hold {
    method: Method,
    path: String,
    reached: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
    answered: oneshot::Sender<StatusCode>,
}

/// A request that is held, or will be.
pub struct Held {
    reached: oneshot::Receiver<()>,
    go: oneshot::Sender<()>,
    answered: oneshot::Receiver<StatusCode>,
}

impl Gate {
    /// Puts one before the API server.
    pub async fn before(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let holds = Holds::default();
        let app = Router::new().fallback(pass).with_state((cluster.client.clone(), Arc::clone(&holds)));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(&cluster.kubeconfig).unwrap();
        let mut config: Value = serde_saphyr::from_str(&text).unwrap();
        config["clusters"][0]["cluster"] = json!({"server": url});
        config["users"][0]["user"] = json!({});
        std::fs::write(folder.path().join("kubeconfig"), config.to_string()).unwrap();
        Self { folder, holds, server }
    }

    /// The kubeconfig of those who are to come through it.
    pub fn kubeconfig(&self) -> PathBuf {
        Path::new(self.folder.path()).join("kubeconfig")
    }

    /// Holds the next request of this method whose path ends so.
    pub fn hold(&self, method: Method, path: &str) -> Held {
        let (here, reached) = oneshot::channel();
        let (go, released) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let hold = Hold { method, path: path.to_owned(), reached: here, go: released, answered: answer };
        self.holds.lock().unwrap().push(hold);
        Held { reached, go, answered }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Held {
    /// Waits until the request is there.
    pub async fn reached(&mut self) {
        let reached = timeout(PATIENCE, &mut self.reached).await;
        reached.expect("the request comes").unwrap();
    }

    /// Lets it go on; returns what the API server answers.
    pub async fn release(self) -> StatusCode {
        self.go.send(()).unwrap();
        timeout(PATIENCE, self.answered).await.expect("the API server answers").unwrap()
    }
}

async fn pass(State((client, holds)): State<(Client, Holds)>, request: Request) -> Response {
    let held = {
        let mut holds = holds.lock().unwrap();
        let (method, path) = (request.method(), request.uri().path());
        let found = holds.iter().position(|hold| hold.method == *method && path.ends_with(&hold.path));
        found.map(|at| holds.remove(at))
    };
    let (mut parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap();
    // Who asks is the test's own user from here on.
    parts.headers.remove(HOST);
    parts.headers.remove(AUTHORIZATION);
    let answered = match held {
        None => None,
        Some(Hold { reached, go, answered, .. }) => {
            let _ = reached.send(());
            let _ = go.await;
            Some(answered)
        }
    };
    let answer = client.send(http::Request::from_parts(parts, body.into())).await;
    let answer = answer.map_or_else(
        |_| Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).unwrap(),
        |answer| answer.map(Body::new),
    );
    if let Some(answered) = answered {
        let _ = answered.send(answer.status());
    }
    answer
}
