//! The requests of one first token and of one refresh, made one after another.

use std::collections::BTreeMap;
use std::time::Duration;

use graphtoken::api::GraphToken;
use graphtoken::api::names::{
    ANNOTATION_DELETE_AFTER, ANNOTATION_EXPIRES_AT, ANNOTATION_REFRESHED_AT, ANNOTATION_RETENTION,
    ANNOTATION_TOKEN, ANNOTATION_UID, KEY_PENDING, KEY_RECORD, KEY_REFRESH_TOKEN, MANAGER, credential_name,
};
use graphtoken::desired::Desired;
use graphtoken::exchange::Provider;
use graphtoken::grant::{Proof, TokenRequest, client_credentials, refresh_token};
use graphtoken::observed::{KEY_ACCESS_TOKEN, Meta, labels};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::population::{Grant, Kind, Served, target_meta};
use crate::provider::CLIENT_SECRET;
use crate::{Failed, wall_clock};

/// As many as the operator lets wait for one client's answers.
const IN_FLIGHT: usize = 4;
const DEADLINE: Duration = Duration::from_secs(15);

/// What makes the requests.
pub struct Requests {
    kind: Kind,
    secrets: Api<Secret>,
    graphtokens: Api<GraphToken>,
    events: Api<Event>,
    provider: Provider,
    gate: Semaphore,
    client_secret: SecretString,
}

/// A first token whose Secret is there.
pub struct Published {
    desired: Desired,
    answer: Answer,
    target: ObjectMeta,
}

/// A token answer.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    refresh_token: Option<String>,
    expires_in: i64,
}

impl Requests {
    /// The operator's two clients, unpaced.
    pub fn new(client: Client, kind: &Kind) -> Result<Self, Failed> {
        let namespace = &kind.namespace;
        Ok(Self {
            kind: kind.clone(),
            secrets: Api::namespaced(client.clone(), namespace),
            graphtokens: Api::namespaced(client.clone(), namespace),
            events: Api::namespaced(client, namespace),
            provider: Provider::new(0.0, Vec::new())?,
            gate: Semaphore::new(IN_FLIGHT),
            client_secret: SecretString::from(CLIENT_SECRET),
        })
    }

    async fn post(&self, desired: &Desired, stored: Option<&str>) -> Result<Answer, Failed> {
        let proof = Proof::Secret(&self.client_secret);
        let client_id = &desired.client.client_id;
        let request: TokenRequest = match stored {
            Some(token) => {
                refresh_token::request(client_id, &SecretString::from(token), &desired.scopes, proof)
            }
            None => client_credentials::request(client_id, &desired.scopes, proof),
        };
        let _turn = self.gate.acquire().await;
        let id = uuid::Uuid::new_v4().to_string();
        let received = self.provider.post(&desired.client.token_url, &request, &id, DEADLINE).await;
        let received = received.map_err(|_| Failed::new("the provider did not answer"))?;
        Ok(serde_json::from_slice(received.body.expose_secret())?)
    }

    /// A refresh of what the population was served with.
    pub async fn refresh(&self, served: &Served) -> Result<(), Failed> {
        let (desired, identity) = (&served.desired, &served.observed.identity);
        let attempt = uuid::Uuid::new_v4().to_string();
        let answer = match served.credential() {
            None => self.post(desired, None).await?,
            Some(credential) => {
                let name = credential_name(&identity.name);
                let stored = self.secrets.get(&name).await?;
                let token = stored.data.as_ref().and_then(|data| data.get(KEY_REFRESH_TOKEN));
                let token = token.ok_or_else(|| Failed::new("there is no refresh token"))?;
                let token = String::from_utf8_lossy(&token.0).into_owned();
                let pending = json!({"attempt": attempt, "holder": "bare"}).to_string();
                let version = stored.metadata.resource_version.unwrap_or_default();
                let version =
                    self.patch(&name, served, &version, &json!({KEY_PENDING: base64(&pending)})).await?;
                let answer = self.post(desired, Some(&token)).await?;
                let mut record = json!(credential.record);
                record["generation"] = json!(credential.record.generation + 1);
                record["lastAttempt"] = json!(attempt);
                dated(&mut record["token"], &attempt, &answer);
                let data = json!({
                    KEY_RECORD: base64(&record.to_string()),
                    KEY_ACCESS_TOKEN: base64(&answer.access_token),
                    KEY_REFRESH_TOKEN: base64(answer.refresh_token.as_deref().unwrap_or(&token)),
                    KEY_PENDING: Value::Null,
                });
                self.patch(&name, served, &version, &data).await?;
                answer
            }
        };
        let version = self.apply(served, &attempt, &answer).await?;
        let mut status = json!(served.observed.status);
        status["refreshCount"] = json!(served.observed.status.refresh_count + 1);
        self.status(&identity.name, &identity.uid, status, &version, &answer).await
    }

    async fn patch(
        &self,
        name: &str,
        served: &Served,
        version: &str,
        data: &Value,
    ) -> Result<String, Failed> {
        let identity = &served.observed.identity;
        let uid = served.credential().map(|credential| &credential.meta.uid);
        let patch = json!({
            "metadata": {
                "uid": uid,
                "resourceVersion": version,
                "labels": labels(&identity.name, &BTreeMap::new()),
                "annotations": {
                    ANNOTATION_UID: identity.uid,
                    ANNOTATION_RETENTION: served.desired.credential_retention.0,
                    ANNOTATION_DELETE_AFTER: null,
                },
            },
            "data": data,
        });
        let patched = self.secrets.patch_metadata(name, &params(), &Patch::Merge(&patch)).await?;
        Ok(patched.metadata.resource_version.unwrap_or_default())
    }

    async fn apply(&self, served: &Served, attempt: &str, answer: &Answer) -> Result<String, Failed> {
        let identity = &served.observed.identity;
        let Meta { uid, .. } = target_meta(served).ok_or_else(|| Failed::new("there is no target"))?;
        let data: BTreeMap<&String, ByteString> = served
            .data
            .iter()
            .map(|(key, bytes)| {
                let text = String::from_utf8_lossy(bytes).replace(&served.access_token, &answer.access_token);
                (key, ByteString(text.into_bytes()))
            })
            .collect();
        let published = served.observed.target().and_then(|view| view.published.as_ref());
        let patch = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": served.desired.target.secret_name,
                "uid": uid,
                "labels": labels(&identity.name, &BTreeMap::new()),
                "annotations": annotations(&identity.uid, json!(published), attempt, answer),
                "ownerReferences": [owner(&identity.name, &identity.uid)],
            },
            "data": data,
        });
        let params = PatchParams::apply(MANAGER).force();
        let applied = self
            .secrets
            .patch_metadata(&served.desired.target.secret_name, &params, &Patch::Apply(&patch))
            .await?;
        Ok(applied.metadata.resource_version.unwrap_or_default())
    }

    async fn status(
        &self,
        name: &str,
        uid: &str,
        mut status: Value,
        version: &str,
        answer: &Answer,
    ) -> Result<(), Failed> {
        let now = at(0);
        status["target"]["resourceVersion"] = json!(version);
        status["lastRefreshTime"] = json!(now);
        status["expiresAt"] = json!(at(answer.expires_in));
        status["nextRefreshTime"] = json!(at(answer.expires_in / 2));
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]);
        let patch = Patch::Json::<()>(serde_json::from_value(patch)?);
        self.graphtokens.patch_status(name, &params(), &patch).await?;
        Ok(())
    }

    /// The first token of a `GraphToken` that was just applied.
    pub async fn first(&self, object: &GraphToken) -> Result<(), Failed> {
        let published = self.publish_first(object).await?;
        self.tell_first(object, published).await
    }

    /// Until its Secret is there.
    pub async fn publish_first(&self, object: &GraphToken) -> Result<Published, Failed> {
        let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
        let desired = Kind::desired(object)?;
        let attempt = uuid::Uuid::new_v4().to_string();
        let answer = match self.kind.grant {
            Grant::ClientCredentials => self.post(&desired, None).await?,
            Grant::RefreshToken => self.first_of_chain(&name, &uid, &desired, &attempt).await?,
        };
        let files =
            [("token", answer.access_token.clone()), ("o365_token.txt", cache_of(&answer.access_token))];
        let data = files.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
        let facts = json!({"issuedFor": desired.issued_for, "layout": desired.target.layout, "content": attempt, "first": true});
        let secret = json!({
            "metadata": {
                "name": name,
                "labels": labels(&name, &BTreeMap::new()),
                "annotations": annotations(&uid, facts, &attempt, &answer),
                "ownerReferences": [owner(&name, &uid)],
            },
            "type": "Opaque",
            "data": BTreeMap::from(data),
        });
        let created = self.secrets.create(&post_params(), &serde_json::from_value(secret)?).await?;
        Ok(Published { desired, answer, target: created.metadata })
    }

    /// What is told of it afterwards: an event, and the status.
    pub async fn tell_first(&self, object: &GraphToken, published: Published) -> Result<(), Failed> {
        let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
        let Published { desired, answer, target } = published;
        self.event(object, &name, &uid).await?;
        let condition = |kind: &str, reason: &str| {
            json!({"type": kind, "status": "True", "reason": reason, "message": "as it should be, for so many minutes from now",
                "lastTransitionTime": at(0), "observedGeneration": 1})
        };
        let status = json!({
            "observedGeneration": 1,
            "conditions": [condition("Ready", "TokenValid"), condition("Refreshed", "Succeeded")],
            "secretName": name,
            "target": {"uid": target.uid, "resourceVersion": ""},
            "refreshCount": 1,
            "consecutiveFailures": 0,
            "grantedScopes": desired.scopes,
            "grant": self.kind.grant.name(),
        });
        self.status(&name, &uid, status, &target.resource_version.unwrap_or_default(), &answer).await
    }

    async fn first_of_chain(
        &self,
        name: &str,
        uid: &str,
        desired: &Desired,
        attempt: &str,
    ) -> Result<Answer, Failed> {
        let seed = self.secrets.get(&format!("{name}-seed")).await?;
        let token = seed.data.as_ref().and_then(|data| data.get("token"));
        let token =
            String::from_utf8_lossy(&token.ok_or_else(|| Failed::new("there is no seed"))?.0).into_owned();
        let metadata = json!({
            "name": credential_name(name),
            "labels": labels(name, &BTreeMap::new()),
            "annotations": {ANNOTATION_UID: uid, ANNOTATION_RETENTION: desired.credential_retention.0},
        });
        let pending = base64(&json!({"attempt": attempt, "holder": "bare"}).to_string());
        let secret = json!({"metadata": metadata, "type": "Opaque", "data": {KEY_PENDING: pending}});
        let created = self.secrets.create(&post_params(), &serde_json::from_value(secret)?).await?;
        let answer = self.post(desired, Some(&token)).await?;
        let mut record = json!({"generation": 1, "lastAttempt": attempt, "seedDigests": [graphtoken::seed::digest(&token)],
            "token": {"issuedFor": desired.issued_for, "tokenType": "Bearer", "grantedScopes": desired.scopes}});
        dated(&mut record["token"], attempt, &answer);
        let patch = json!({
            "metadata": {
                "uid": created.metadata.uid,
                "resourceVersion": created.metadata.resource_version,
                "labels": metadata["labels"],
                "annotations": metadata["annotations"],
            },
            "data": {
                KEY_RECORD: base64(&record.to_string()),
                KEY_ACCESS_TOKEN: base64(&answer.access_token),
                KEY_REFRESH_TOKEN: base64(answer.refresh_token.as_deref().unwrap_or(&token)),
                KEY_PENDING: Value::Null,
            },
        });
        self.secrets.patch_metadata(&credential_name(name), &params(), &Patch::Merge(&patch)).await?;
        Ok(answer)
    }

    async fn event(&self, object: &GraphToken, name: &str, uid: &str) -> Result<(), Failed> {
        let event = json!({
            "metadata": {"name": format!("{name}.{}", uuid::Uuid::new_v4().simple())},
            "action": "Reconcile",
            "eventTime": jiff_micros(),
            "note": "the token is valid until then, and pods have it",
            "reason": "TokenValid",
            "type": "Normal",
            "regarding": {"apiVersion": "graphtoken.io/v1alpha1", "kind": "GraphToken", "name": name, "namespace": object.namespace(), "uid": uid},
            "reportingController": MANAGER,
            "reportingInstance": "bare",
        });
        self.events.create(&post_params(), &serde_json::from_value(event)?).await?;
        Ok(())
    }
}

/// About the size of an MSAL token cache with this token.
fn cache_of(token: &str) -> String {
    json!({"AccessToken": {"key": {"secret": token, "target": "scope", "realm": "tenant", "environment": "login"}}}).to_string()
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

fn post_params() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn base64(text: &str) -> Value {
    json!(ByteString(text.as_bytes().to_vec()))
}

/// In whole seconds, as the API has it.
fn at(from_now: i64) -> String {
    let at = wall_clock() + SignedDuration::from_secs(from_now);
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

fn jiff_micros() -> String {
    format!("{:.6}", wall_clock())
}

fn dated(token: &mut Value, attempt: &str, answer: &Answer) {
    token["attempt"] = json!(attempt);
    token["issuedAt"] = json!(wall_clock());
    token["expiresAt"] = json!(wall_clock() + SignedDuration::from_secs(answer.expires_in));
}

fn annotations(uid: &str, mut published: Value, attempt: &str, answer: &Answer) -> Value {
    dated(&mut published, attempt, answer);
    json!({
        ANNOTATION_UID: uid,
        ANNOTATION_EXPIRES_AT: at(answer.expires_in),
        ANNOTATION_REFRESHED_AT: at(0),
        ANNOTATION_TOKEN: published.to_string(),
    })
}

fn owner(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "graphtoken.io/v1alpha1", "kind": "GraphToken", "name": name, "uid": uid})
}
