//! The faces of the world: the API server as a tower service, the provider on loopback. Each request is one call on the tape.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use axum::body::Body as ProviderBody;
use axum::extract::{Path, State as Shared};
use axum::response::{AppendHeaders, IntoResponse as _};
use graphtoken::api::names::{KEY_DEVICE, KEY_PENDING, KEY_RECORD};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use kube::client::Body;
use serde_json::{Map, Value, json};
use tower::BoxError;

use crate::idp::{Canned, Reach};
use crate::objects::{CONFLICT, Kind, Refusal};
use crate::state::State;
use crate::tape::Broken;
use crate::world::World;

// === The API server ===

/// A request, understood.
struct Asked {
    method: Method,
    kind: Kind,
    name: String,
    subresource: Option<String>,
    metadata_only: bool,
    apply: bool,
    manager: String,
    body: Value,
}

/// A client of the world's API server.
pub fn client(world: &Arc<World>) -> kube::Client {
    let world = Arc::clone(world);
    let service = tower::service_fn(move |request: Request<Body>| serve(Arc::clone(&world), request));
    kube::Client::new(service, "ns")
}

async fn serve(world: Arc<World>, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let (parts, body) = request.into_parts();
    let asked = Asked::read(&parts, &body.collect_bytes().await?);
    let what = asked.describe();
    let act = |state: &mut State| match state.refuses {
        Some((calls, refusal)) if what.contains(calls) => Err(refusal),
        _ => asked.act(state),
    };
    // Events are written beside the reconcile, by a task on which nothing depends: they have no place in the order of calls.
    let done = if asked.kind == Kind::Event {
        Ok(act(&mut world.lock()))
    } else {
        world.call(what.clone(), act).await
    };
    Ok(match done {
        Ok(Ok(object)) => answer(200, &asked.view(object)),
        Ok(Err(Refusal { code, reason })) => answer(code, &failure(code, reason)),
        Err(Broken::Refused) => answer(503, &failure(503, "ServiceUnavailable")),
        Err(Broken::AnswerLost) => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
    })
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code})
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string().into_bytes()));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response
}

impl Asked {
    fn read(parts: &http::request::Parts, body: &[u8]) -> Self {
        let path: Vec<&str> =
            parts.uri.path().split('/').skip_while(|p| *p != "namespaces").skip(2).collect();
        let (kind, rest) = match path.as_slice() {
            ["secrets", rest @ ..] => (Kind::Secret, rest),
            ["graphtokens", rest @ ..] => (Kind::GraphToken, rest),
            ["serviceaccounts", rest @ ..] => (Kind::ServiceAccount, rest),
            ["deployments", rest @ ..] => (Kind::Deployment, rest),
            ["events", rest @ ..] => (Kind::Event, rest),
            other => unreachable!("the operator has asked for something new: {other:?}"),
        };
        let header = |name| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let query: HashMap<String, String> =
            url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let named = body["metadata"]["name"].as_str().unwrap_or_default();
        Self {
            method: parts.method.clone(),
            kind,
            name: rest.first().map_or(named, |name| name).to_owned(),
            subresource: rest.get(1).map(|sub| (*sub).to_owned()),
            metadata_only: header(header::ACCEPT).contains("as=PartialObjectMetadata"),
            apply: header(header::CONTENT_TYPE).contains("apply-patch"),
            manager: query.get("fieldManager").cloned().unwrap_or_default(),
            body,
        }
    }

    fn act(&self, state: &mut State) -> Result<Value, Refusal> {
        if self.subresource.as_deref() == Some("token") {
            return self.service_account_token(state);
        }
        let (kind, name, objects) = (self.kind, self.name.as_str(), &mut state.objects);
        let changes = objects.changes;
        let done = match (&self.method, self.subresource.as_deref()) {
            (&Method::GET, None) => objects.read(kind, name),
            (&Method::POST, None) => objects.create(kind, name, self.body.clone(), &self.manager),
            (&Method::PATCH, None) if self.apply => objects.apply(kind, name, &self.body, &self.manager),
            (&Method::PATCH, None) => objects.merge(kind, name, &self.body, &self.manager),
            (&Method::PATCH, Some("status")) => objects.replace_status(kind, name, &self.body),
            (&Method::DELETE, None) => objects.delete(kind, name, &self.body["preconditions"]),
            other => unreachable!("the operator has done something new: {other:?}"),
        };
        if state.objects.changes > changes {
            state.note(&(kind, self.name.clone()));
        }
        done
    }

    /// The `TokenRequest` API: each answer holds another token.
    fn service_account_token(&self, state: &mut State) -> Result<Value, Refusal> {
        let account = state.objects.read(self.kind, &self.name)?;
        if account["metadata"]["uid"] != self.body["metadata"]["uid"] {
            return Err(CONFLICT);
        }
        assert_eq!(self.body["spec"]["audiences"], json!(["api://AzureADTokenExchange"]));
        assert_eq!(self.body["spec"]["expirationSeconds"], 600);
        state.service_account_tokens += 1;
        let mut made = self.body.clone();
        let token = format!("service-account-token-{}", state.service_account_tokens);
        made["status"] = json!({"token": token, "expirationTimestamp": "2026-11-23T12:00:00Z"});
        Ok(made)
    }

    fn view(&self, object: Value) -> Value {
        if !self.metadata_only {
            return object;
        }
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
    }

    /// As it stands on the tape.
    fn describe(&self) -> String {
        let plural = match self.kind {
            Kind::Secret => "secrets",
            Kind::GraphToken => "graphtokens",
            Kind::ServiceAccount => "serviceaccounts",
            Kind::Deployment => "deployments",
            // Their names are random.
            Kind::Event => {
                return format!("{} events {}", self.method, self.body["reason"].as_str().unwrap_or("-"));
            }
        };
        let resource =
            self.subresource.as_ref().map_or_else(|| plural.to_owned(), |sub| format!("{plural}/{sub}"));
        let data = &self.body["data"];
        let what = match self.method {
            Method::GET if self.metadata_only => " (metadata)",
            Method::GET | Method::DELETE => "",
            _ if data[KEY_PENDING].is_string() => " (pending)",
            _ if data[KEY_RECORD].is_string() => " (commit)",
            _ if data[KEY_DEVICE].is_string() => " (device)",
            _ if data.is_object() && self.apply => " (publish)",
            _ if data.as_object().is_some_and(Map::is_empty) => " (take over)",
            _ if data.is_object() => " (publish)",
            _ if self.subresource.is_some() => "",
            _ if self.kind == Kind::Deployment => " (roll)",
            _ if self.body["metadata"]["managedFields"].is_array() => " (claim fields)",
            _ => " (mark)",
        };
        format!("{} {resource} {}{what}", self.method, self.name)
    }
}

// === The provider ===

/// Serves the world's provider on the current runtime, and dies with it.
pub async fn serve_provider(world: Arc<World>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(world.listener.try_clone()?)?;
    let routes = axum::Router::new()
        .route("/token", axum::routing::post(token))
        .route("/device", axum::routing::post(device))
        .route("/graph/v1.0/{*path}", axum::routing::get(graph))
        .with_state(world);
    axum::serve(listener, routes).await
}

async fn token(Shared(world): Shared<Arc<World>>, body: String) -> axum::response::Response {
    let form: HashMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let reach = {
        let mut state = world.lock();
        let now = state.now;
        state.idp.attempts.push(now);
        state.tape.moved();
        state.idp.reach
    };
    match reach {
        Reach::Up => {}
        Reach::Broken => return broken(),
        Reach::Silent => world.hold().await,
        Reach::Canned(answer) => return canned(answer),
    }
    let grant = form.get("grant_type").map_or("-", String::as_str);
    let done = world.call(format!("POST token {grant}"), |state| redeem(state, &form)).await;
    let (code, body) = match done {
        Ok(done) => done,
        Err(Broken::Refused) => (503, json!({"error": "temporarily_unavailable"})),
        Err(Broken::AnswerLost) => return broken(),
    };
    world.lock().tape.moved();
    let code = StatusCode::from_u16(code).expect("a status");
    // One connection a request: none must outlive the process, whose runtime it belongs to.
    (code, [(header::CONNECTION, "close")], body.to_string()).into_response()
}

async fn device(Shared(world): Shared<Arc<World>>) -> axum::response::Response {
    world.lock().tape.moved();
    let done = world.call("POST device".to_owned(), |state| state.idp.authorize_device(state.now)).await;
    let (code, body) = match done {
        Ok(done) => done,
        Err(Broken::Refused) => (503, json!({"error": "temporarily_unavailable"})),
        Err(Broken::AnswerLost) => return broken(),
    };
    world.lock().tape.moved();
    let code = StatusCode::from_u16(code).expect("a status");
    (code, [(header::CONNECTION, "close")], body.to_string()).into_response()
}

async fn graph(
    Shared(world): Shared<Arc<World>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> axum::response::Response {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let bearer = bearer.strip_prefix("Bearer ").unwrap_or_default().to_owned();
    let done = world.call(format!("GET graph {path}"), |state| {
        let now = state.now;
        state.idp.graph(&bearer, now)
    });
    let code = match done.await {
        Ok(code) => code,
        Err(Broken::Refused) => 503,
        Err(Broken::AnswerLost) => return broken(),
    };
    world.lock().tape.moved();
    (StatusCode::from_u16(code).expect("a status"), [(header::CONNECTION, "close")], "{}").into_response()
}

/// An answer that breaks off.
fn broken() -> axum::response::Response {
    let reset = Err::<Vec<u8>, _>(io::Error::from(io::ErrorKind::ConnectionReset));
    ProviderBody::from_stream(futures::stream::iter([reset])).into_response()
}

fn canned(answer: Canned) -> axum::response::Response {
    let status = StatusCode::from_u16(answer.status).expect("a status");
    let mut headers = vec![(header::CONNECTION, "close")];
    headers.extend(answer.retry_after.map(|text| (header::RETRY_AFTER, text)));
    (status, AppendHeaders(headers), answer.body.0.repeat(answer.body.1)).into_response()
}

fn redeem(state: &mut State, form: &HashMap<String, String>) -> (u16, Value) {
    if let Some(sent) = form.get("refresh_token") {
        let newer =
            state.idp.descendants(sent).into_iter().find(|token| state.stored.iter().any(|s| s == token));
        if let Some(newer) = newer {
            let violation = format!("{sent} was sent though {newer}, which came of it, had been stored");
            state.violations.push(violation);
        }
    }
    if let Some(assertion) = form.get("client_assertion")
        && !state.assertions.insert(assertion.clone())
    {
        state.violations.push("an assertion was sent twice".to_owned());
    }
    let now = state.now;
    state.idp.redeem(form, now)
}
