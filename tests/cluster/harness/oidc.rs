//! The certified provider of `tests/providers/oidc` as a child process: used refresh tokens are dead, and replays kill.

use std::process::Stdio;

use entra_simulator::digest;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::objects::Issuer;
use super::{http as client, repository};

/// A running provider. It ends with the test, also with one that was killed: its stdin closes then.
pub struct Oidc {
    info: Value,
    control: Control,
    _child: Child,
}

/// Its controls.
#[derive(Clone)]
pub struct Control(String);

impl Oidc {
    /// Starts one whose access tokens live so many seconds.
    pub async fn start(access_token_ttl: u32) -> Self {
        let folder = repository().join("tests/providers/oidc");
        assert!(
            folder.join("node_modules/oidc-provider").exists(),
            "{} has no node_modules: run `npm ci` there, or `make test`, which does",
            folder.display()
        );
        let mut child = Command::new("node")
            .args(["server.mjs", "--exit-with-stdin", "--access-token-ttl", &access_token_ttl.to_string()])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed (`make test` says what is needed)");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("the provider says where it listens");
        let info: Value = serde_json::from_str(&line).unwrap();
        let control = Control(info["control"].as_str().unwrap().to_owned());
        Self { info, control, _child: child }
    }

    /// The public client, as a spec names it.
    pub fn issuer(&self) -> Issuer {
        let text = |pointer: &str| self.info.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        Issuer {
            tenant: text("/tenant"),
            client_id: text("/clients/public/id"),
            token_url: text("/token_endpoint"),
        }
    }

    /// The client that proves itself by `tests/pki`'s certificate.
    pub fn by_certificate(&self) -> Issuer {
        Issuer { client_id: "certificate-client".to_owned(), ..self.issuer() }
    }

    /// The client that users sign in to with a code.
    pub fn by_code(&self) -> Issuer {
        Issuer { client_id: "device-client".to_owned(), ..self.issuer() }
    }

    /// Where a device code is asked for.
    pub fn device_authorization_url(&self) -> &str {
        self.info["device_authorization_endpoint"].as_str().unwrap()
    }

    /// Who signs in.
    pub fn account(&self) -> &str {
        self.info["account"].as_str().unwrap()
    }

    /// Its controls.
    pub fn control(&self) -> &Control {
        &self.control
    }
}

impl Control {
    /// Signs the account in for these scopes, and returns the refresh token.
    pub async fn mint(&self, scopes: &[&str]) -> String {
        self.minted(&json!({"scopes": scopes})).await
    }

    /// The same for a client that is not the public one.
    pub async fn mint_for(&self, client: &Issuer, scopes: &[&str]) -> String {
        self.minted(&json!({"scopes": scopes, "client_id": client.client_id})).await
    }

    async fn minted(&self, body: &Value) -> String {
        let answer = self.post("/refresh-tokens", body).await;
        let token = answer["refresh_token"].as_str().unwrap().to_owned();
        assert_eq!(answer["sha256"], digest(&token));
        token
    }

    /// Whether an access token is accepted now.
    pub async fn accepts(&self, access_token: &str) -> bool {
        self.post("/introspect", &json!({"token": access_token})).await["active"] == true
    }

    /// Signs the account in with a code.
    pub async fn approve(&self, user_code: &str) {
        self.post("/device-codes/approve", &json!({"user_code": user_code})).await;
    }

    /// Refuses to sign in with a code.
    pub async fn decline(&self, user_code: &str) {
        self.post("/device-codes/decline", &json!({"user_code": user_code})).await;
    }

    /// Sets how many seconds a device code lives from now on.
    pub async fn set_device_lifetime(&self, seconds: u32) {
        self.send(Method::PUT, "/settings", &json!({"device_lifetime_seconds": seconds})).await;
    }

    /// All requests to the token endpoint.
    pub async fn journal(&self) -> Vec<Value> {
        self.journal_of("requests").await
    }

    /// All requests for a device code.
    pub async fn device_journal(&self) -> Vec<Value> {
        self.journal_of("device").await
    }

    async fn journal_of(&self, what: &str) -> Vec<Value> {
        let mut answer = self.send(Method::GET, "/journal", &Value::Null).await;
        serde_json::from_value(answer[what].take()).unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        self.send(Method::POST, path, body).await
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Value {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = client().request(method.clone(), format!("{}{path}", self.0)).body(text);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{method} {path}: {}", answer.status());
        serde_json::from_str(&answer.text().await.unwrap()).unwrap()
    }
}
