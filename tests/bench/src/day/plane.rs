//! The API server of the day, in memory: objects under compare-and-swap, lists and watches.

mod asked;
#[path = "../../../crash/objects.rs"]
#[expect(dead_code, reason = "it is the API server of the crash tests, which ask for more")]
mod objects;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body as AnswerBody, Bytes};
use futures::StreamExt as _;
use futures::channel::mpsc;
use graphtoken::api::names::ANNOTATION_EXPIRES_AT;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use tower::BoxError;

use self::asked::Asked;
use self::objects::{Kind as What, Objects, Refusal};
use super::Day;
use super::time::Time;
use crate::Failed;
use crate::cluster::seed_secret;
use crate::population::Kind;
use crate::provider::CLIENT_SECRET;
use crate::stats::covered;

/// The one namespace. (The objects' own code knows it too.)
pub const NAMESPACE: &str = "ns";

/// Clones share it.
#[derive(Clone)]
pub struct Plane {
    state: Arc<Mutex<State>>,
    time: Time,
}

#[derive(Default)]
struct State {
    objects: Objects,
    /// What was changed, in order, for watches that begin before the end of it.
    log: Vec<(u64, What, Bytes)>,
    watches: Vec<(What, mpsc::UnboundedSender<Bytes>)>,
    requests: BTreeMap<String, u64>,
    /// Whether status writes are rejected.
    rejects: bool,
    /// When the token in each target ends, in milliseconds since the epoch.
    ends: HashMap<String, i64>,
    expired: Vec<(i64, i64)>,
}

impl Plane {
    /// An API server without objects, but for the client's Secret.
    pub fn new(time: &Time) -> Self {
        let plane = Self { state: Arc::default(), time: time.clone() };
        let secret = seed_secret("app", CLIENT_SECRET);
        let mut secret = json!(secret);
        let value = secret["data"]["token"].take();
        secret["data"] = json!({"client-secret": value});
        let _ = plane.lock().objects.create(What::Secret, "app", secret, "kubectl");
        plane
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One `GraphToken` as a user applies it, with its seed.
    pub fn put(&self, kind: &Kind, number: usize) -> Result<(), Failed> {
        let mut state = self.lock();
        let refused = |refusal: Refusal| Failed::new(refusal.reason);
        let seed = kind.seed_name(number);
        let secret = json!(seed_secret(&seed, &kind.name(number)));
        state.objects.create(What::Secret, &seed, secret, "kubectl").map_err(refused)?;
        let object = serde_json::to_value(kind.object(number)?)?;
        state.objects.create(What::GraphToken, &kind.name(number), object, "kubectl").map_err(refused)?;
        Ok(())
    }

    /// One `GraphToken` for which nothing is asked of a provider, ever: its status says so.
    #[cfg(test)]
    pub fn put_suspended(&self, kind: &Kind, number: usize) -> Result<(), Failed> {
        let mut object = serde_json::to_value(kind.object(number)?)?;
        object["spec"]["suspend"] = json!(true);
        let created = self.lock().objects.create(What::GraphToken, &kind.name(number), object, "kubectl");
        created.map(drop).map_err(|refusal| Failed::new(refusal.reason))
    }

    /// From now on status writes are rejected, or accepted again.
    #[cfg(test)]
    pub fn reject_statuses(&self, rejects: bool) {
        self.lock().rejects = rejects;
    }

    /// How many status writes there were, the rejected ones among them.
    #[cfg(test)]
    pub fn status_writes(&self) -> u64 {
        self.lock().requests.get("patch graphtokens/status").copied().unwrap_or_default()
    }

    /// How many `GraphToken`s have a status.
    #[cfg(test)]
    pub fn with_status(&self) -> usize {
        self.lock().objects.all(What::GraphToken).filter(|object| object["status"].is_object()).count()
    }

    /// A client of it.
    pub fn client(&self) -> kube::Client {
        let plane = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let plane = plane.clone();
            async move { plane.serve(request).await }
        });
        kube::Client::new(service, NAMESPACE)
    }

    async fn serve(&self, request: Request<Body>) -> Result<Response<AnswerBody>, BoxError> {
        self.time.moves();
        let (parts, body) = request.into_parts();
        let asked = Asked::read(&parts, &body.collect_bytes().await?)?;
        if asked.watch {
            return Ok(self.watch(&asked));
        }
        let mut state = self.lock();
        *state.requests.entry(asked.describe()).or_default() += 1;
        if asked.name.is_empty() && asked.method == http::Method::GET {
            return Ok(answer(200, state.list(&asked).to_string()));
        }
        if state.rejects && asked.writes_status() {
            return Ok(rejection(&asked.name));
        }
        let changes = state.objects.changes;
        let done = asked.act(&mut state.objects);
        if let Ok(object) = &done
            && state.objects.changes > changes
        {
            state.tell(&asked, object, self.time.now());
        }
        Ok(match done {
            Ok(object) => answer(200, asked.view(&object).to_string()),
            Err(Refusal { code, reason }) => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code});
                answer(code, status.to_string())
            }
        })
    }

    /// What happened since a version, and happens until the time that was asked for is over.
    fn watch(&self, asked: &Asked) -> Response<AnswerBody> {
        let (send, lines) = mpsc::unbounded();
        let mut state = self.lock();
        let later =
            state.log.iter().filter(|(version, what, _)| *what == asked.what && *version > asked.version);
        for (_, _, line) in later {
            let _ = send.unbounded_send(line.clone());
        }
        state.watches.retain(|(_, watch)| !watch.is_closed());
        state.watches.push((asked.what, send));
        let over = tokio::time::sleep(Duration::from_secs(asked.seconds));
        let lines = lines.map(Ok::<_, std::convert::Infallible>).take_until(over);
        Response::new(AnswerBody::from_stream(lines))
    }

    /// What it has seen.
    pub fn tell(&self, day: &mut Day, now: Timestamp) {
        let mut state = self.lock();
        let now = now.as_millisecond();
        let still: Vec<_> = state.ends.values().filter(|end| **end < now).map(|end| (*end, now)).collect();
        state.expired.extend(still);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a day")]
        let seconds = covered(&state.expired) as f64 / 1000.0;
        day.expired_seconds = seconds;
        day.expired_tokens = state.expired.len() as u64;
        day.targets = state.ends.len();
        day.requests = state.requests.clone();
    }
}

impl State {
    fn list(&self, asked: &Asked) -> Value {
        let items: Vec<Value> = self.objects.all(asked.what).map(|object| asked.view(object)).collect();
        let (version, kind) = asked.list_kind();
        let metadata = json!({"resourceVersion": self.objects.changes.to_string()});
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "items": items})
    }

    /// Tells the watches, and keeps the books of targets.
    fn tell(&mut self, asked: &Asked, object: &Value, now: Timestamp) {
        if asked.what == What::Event {
            return;
        }
        let kind = match asked.method {
            http::Method::POST => "ADDED",
            http::Method::DELETE => "DELETED",
            _ => "MODIFIED",
        };
        let mut line = json!({"type": kind, "object": asked::watched(asked.what, object)}).to_string();
        line.push('\n');
        let line = Bytes::from(line);
        self.log.push((self.objects.changes, asked.what, line.clone()));
        if self.log.len() > 200_000 {
            self.log.drain(..100_000);
        }
        for (_, watch) in self.watches.iter().filter(|(what, _)| *what == asked.what) {
            let _ = watch.unbounded_send(line.clone());
        }
        let ends = object["metadata"]["annotations"][ANNOTATION_EXPIRES_AT].as_str();
        if let Some(ends) = ends.and_then(|text| text.parse::<Timestamp>().ok()) {
            let former = self.ends.insert(asked.name.clone(), ends.as_millisecond());
            let now = now.as_millisecond();
            self.expired.extend(former.filter(|former| *former < now).map(|former| (former, now)));
        }
    }
}

/// By an admission policy, or for every second object by the schema of another version's CRD: neither is by a name in the answer.
fn rejection(name: &str) -> Response<AnswerBody> {
    let by_schema = name.ends_with(['1', '3', '5', '7', '9']);
    let (code, reason) = if by_schema { (422, "Invalid") } else { (403, "Forbidden") };
    let causes = json!([{
        "reason": "FieldValueNotSupported",
        "message": "Unsupported value: \"Later\"",
        "field": "status.conditions[0].reason",
    }]);
    let details = json!({"name": name, "group": "graphtoken.io", "kind": "graphtokens", "causes": causes});
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code,
        "details": if by_schema { details } else { json!({}) },
    });
    answer(code, status.to_string())
}

fn answer(code: u16, body: String) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
