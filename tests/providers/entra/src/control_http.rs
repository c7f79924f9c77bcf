//! The controls over HTTP, for scripts. The crate's documentation lists them.

mod device;

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Shared};
use axum::response::Response;
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::answer::Processed;
use crate::client_auth::{Certificate, FederatedCredential};
use crate::config::{Client, Rotation, User};
use crate::control::{Control, Unknown};
use crate::device::DevicePolicy;
use crate::fault::Fault;
use crate::random::digest;

pub(crate) fn routes() -> Router<Control> {
    Router::new()
        .route("/refresh-tokens", post(mint))
        .route("/refresh-tokens/revoke", post(revoke_refresh))
        .route("/access-tokens/lookup", post(lookup_access))
        .route("/access-tokens/revoke", post(revoke_access))
        .route("/access-tokens/revoke-all", post(revoke_all_access))
        .route("/settings", put(settings))
        .route("/clients/{id}", put(put_client))
        .route("/clients/{id}/secret", put(client_secret))
        .route("/clients/{id}/certificates", put(client_certificates))
        .route("/clients/{id}/federated", put(client_federated))
        .route("/users/{oid}", put(put_user))
        .route("/faults", post(queue_fault).get(pending_faults).delete(clear_faults))
        .route("/clock/advance", post(advance))
        .route("/journal", get(journal))
        .merge(device::routes())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mint {
    user: Option<String>,
    client_id: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    /// A token of the caller's choice, which is then not repeated.
    token: Option<String>,
}

/// A token by value or by digest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    token: Option<String>,
    sha256: Option<String>,
    /// All of a user's refresh tokens.
    user: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    token_lifetime_seconds: Option<u64>,
    /// 0: none.
    refresh_in_seconds: Option<u64>,
    numbers_as_strings: Option<bool>,
    rotation: Option<Rotation>,
    device_lifetime_seconds: Option<u64>,
    /// 0: none is answered.
    device_interval_seconds: Option<u64>,
    device_slow_down: Option<bool>,
    device_policy: Option<DevicePolicy>,
    graph_refuses: Option<bool>,
    rs256_assertions: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    secret: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificates {
    certificates: Vec<Certificate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Federated {
    federated: Vec<FederatedCredential>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    seconds: u64,
}

/// Where to begin.
#[derive(Deserialize)]
struct Window {
    #[serde(default, rename = "token_from")]
    token: usize,
    #[serde(default, rename = "device_from")]
    device: usize,
    #[serde(default, rename = "graph_from")]
    graph: usize,
}

async fn mint(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Mint>(&body).and_then(|mint| {
        let scopes: Vec<_> = mint.scopes.iter().map(String::as_str).collect();
        let (user, client) = (mint.user.as_deref(), mint.client_id.as_deref());
        if let Some(token) = &mint.token {
            control.seed_refresh_token(token, user, client, &scopes)?;
            return Ok(json!({"sha256": digest(token)}));
        }
        let token = control.mint_refresh_token(user, client, &scopes)?;
        Ok(json!({"refresh_token": token, "sha256": digest(&token)}))
    }))
}

async fn revoke_refresh(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Which>(&body).and_then(|which| {
        match which.user {
            Some(user) => control.revoke_user(&user)?,
            None => control.revoke_refresh_token_by_digest(&which.digest()?)?,
        }
        Ok(json!({}))
    }))
}

async fn lookup_access(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Which>(&body).and_then(|which| {
        let info = control.access_token_by_digest(&which.digest()?);
        Ok(info.map_or_else(|| json!({"active": false}), |info| json!(info)))
    }))
}

async fn revoke_access(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Which>(&body).and_then(|which| {
        control.revoke_access_token_by_digest(&which.digest()?)?;
        Ok(json!({}))
    }))
}

async fn revoke_all_access(Shared(control): Shared<Control>) -> Response {
    control.revoke_access_tokens();
    answer(Ok(json!({})))
}

async fn settings(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Settings>(&body).map(|settings| {
        if let Some(seconds) = settings.token_lifetime_seconds {
            control.set_token_lifetime(Duration::from_secs(seconds));
        }
        if let Some(seconds) = settings.refresh_in_seconds {
            control.set_refresh_in((seconds > 0).then(|| Duration::from_secs(seconds)));
        }
        if let Some(strings) = settings.numbers_as_strings {
            control.set_numbers_as_strings(strings);
        }
        if let Some(rotation) = settings.rotation {
            control.set_rotation(rotation);
        }
        if let Some(seconds) = settings.device_lifetime_seconds {
            control.set_device_lifetime(Duration::from_secs(seconds));
        }
        if let Some(seconds) = settings.device_interval_seconds {
            control.set_device_interval((seconds > 0).then(|| Duration::from_secs(seconds)));
        }
        if let Some(slow_down) = settings.device_slow_down {
            control.set_device_slow_down(slow_down);
        }
        if let Some(policy) = settings.device_policy {
            control.set_device_policy(policy);
        }
        if let Some(refuses) = settings.graph_refuses {
            control.set_graph_refuses(refuses);
        }
        if let Some(allowed) = settings.rs256_assertions {
            control.set_rs256_assertions(allowed);
        }
        json!({})
    }))
}

async fn put_client(Shared(control): Shared<Control>, Path(id): Path<String>, body: Bytes) -> Response {
    answer(parse::<Client>(&body).map(|client| {
        control.put_client(Client { id, ..client });
        json!({})
    }))
}

async fn client_secret(Shared(control): Shared<Control>, Path(id): Path<String>, body: Bytes) -> Response {
    answer(parse::<Secret>(&body).and_then(|new| {
        control.set_client_secret(&id, new.secret.as_deref())?;
        Ok(json!({}))
    }))
}

async fn client_certificates(
    Shared(control): Shared<Control>,
    Path(id): Path<String>,
    body: Bytes,
) -> Response {
    answer(parse::<Certificates>(&body).and_then(|new| {
        control.change_client(&id, |client| client.certificates = new.certificates)?;
        Ok(json!({}))
    }))
}

async fn client_federated(Shared(control): Shared<Control>, Path(id): Path<String>, body: Bytes) -> Response {
    answer(parse::<Federated>(&body).and_then(|new| {
        control.change_client(&id, |client| client.federated = new.federated)?;
        Ok(json!({}))
    }))
}

async fn put_user(Shared(control): Shared<Control>, Path(oid): Path<String>, body: Bytes) -> Response {
    answer(parse::<User>(&body).map(|user| {
        control.put_user(User { oid, ..user });
        json!({})
    }))
}

async fn queue_fault(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Fault>(&body).map(|fault| {
        control.queue_fault(fault);
        json!({})
    }))
}

async fn pending_faults(Shared(control): Shared<Control>) -> Response {
    answer(Ok(json!({"faults": control.pending_faults()})))
}

async fn clear_faults(Shared(control): Shared<Control>) -> Response {
    control.clear_faults();
    answer(Ok(json!({})))
}

async fn advance(Shared(control): Shared<Control>, body: Bytes) -> Response {
    answer(parse::<Advance>(&body).map(|by| {
        control.clock().advance(Duration::from_secs(by.seconds));
        json!({"now_ms": control.clock().now_ms()})
    }))
}

async fn journal(Shared(control): Shared<Control>, Query(window): Query<Window>) -> Response {
    let journal = control.journal();
    let token = journal.token.get(window.token..).unwrap_or_default();
    let device = journal.device.get(window.device..).unwrap_or_default();
    let graph = journal.graph.get(window.graph..).unwrap_or_default();
    answer(Ok(json!({"counts": journal.counts(), "token": token, "device": device, "graph": graph})))
}

/// Why a control call did not work.
enum Refused {
    Unreadable(String),
    Unknown(Unknown),
}

impl From<Unknown> for Refused {
    fn from(unknown: Unknown) -> Self {
        Self::Unknown(unknown)
    }
}

impl Which {
    fn digest(self) -> Result<String, Refused> {
        let sha256 = self.sha256.or_else(|| self.token.as_deref().map(digest));
        sha256.ok_or_else(|| Refused::Unreadable("either token or sha256 is needed".to_owned()))
    }
}

/// Reads JSON whatever its content type says: scripts use `curl -d`. No body is `{}`.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| Refused::Unreadable(error.to_string()))
}

fn answer(result: Result<Value, Refused>) -> Response {
    match result {
        Ok(body) => Processed::json(200, &body),
        Err(Refused::Unreadable(why)) => Processed::json(400, &json!({"error": why})),
        Err(Refused::Unknown(unknown)) => Processed::json(404, &json!({"error": unknown.to_string()})),
    }
    .send()
}
