//! How a client proves who it is: from what the spec names to the proof that goes into one request.
//!
//! Secrets are read once a version. Assertions and service accounts' tokens are made afresh for every request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use secrecy::{ExposeSecret as _, SecretString};

use crate::api::Reason;
use crate::api::names::ANNOTATION_EXPIRES_AT;
use crate::certificate::{ClientCertificate, KEY_CERTIFICATE, KEY_PRIVATE_KEY};
use crate::context::Context;
use crate::desired::{Client, ClientProof};
use crate::failure::Failure;
use crate::grant::{Proof, assertion};
use crate::observed::{Identity, Meta, ProofState, hash_of};
use crate::state::{End, Key};
use crate::store::StoreError;

/// By this annotation the owner of a service account lets a client be used with it, as Microsoft's webhook
/// for workload identity has it.
const ANNOTATION_CLIENT_ID: &str = "azure.workload.identity/client-id";
/// The least that the API server takes.
const TOKEN_SECONDS: i64 = 600;
/// Service accounts are not watched: what is wrong with one is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// What a referenced Secret holds.
#[derive(Debug, Clone)]
pub enum Held {
    /// A client secret.
    Secret(SecretString),
    /// A certificate with its key.
    Certificate(Arc<ClientCertificate>),
}

/// What makes a fresh proof for each request.
#[derive(Debug, Clone)]
pub enum Prover {
    /// Nothing: a public client.
    Public,
    /// What a Secret holds.
    Held(Held),
    /// A service account, whose tokens an identity provider takes for the client.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The tokens' audience.
        audience: String,
    },
}

impl Prover {
    /// Whether its proofs are good for one request, and for a short while.
    pub const fn makes_assertions(&self) -> bool {
        matches!(self, Self::Held(Held::Certificate(_)) | Self::ServiceAccount { .. })
    }

    /// A proof for one request to the client's token endpoint.
    pub async fn prove(
        &self,
        api: &kube::Client,
        client: &Client,
        now: Timestamp,
    ) -> Result<Proof<'_>, Failure> {
        match self {
            Self::Public => Ok(Proof::Public),
            Self::Held(Held::Secret(secret)) => Ok(Proof::Secret(secret)),
            Self::Held(Held::Certificate(certificate)) => {
                let id = uuid::Uuid::new_v4().to_string();
                let signed = assertion::signed(certificate, &client.client_id, &client.token_url, &id, now);
                signed.map(Proof::Assertion).ok_or_else(|| Failure {
                    message: "the system gives no random numbers, without which nothing can be signed; the operator tries \
                              again by itself"
                        .to_owned(),
                    ..Failure::of(Reason::ProviderUnavailable)
                })
            }
            Self::ServiceAccount { namespace, name, audience } => {
                let shared = client.stated_by.is_some();
                let account = Account { namespace, name, client_id: &client.client_id, shared };
                account.token(api, audience).await.map(Proof::Assertion)
            }
        }
    }
}

/// A service account, and the client that is to be used with it.
struct Account<'a> {
    namespace: &'a str,
    name: &'a str,
    client_id: &'a str,
    /// Whether a `ClusterGraphClient` names it.
    shared: bool,
}

impl Account<'_> {
    /// A new token, if the account's owner lets this client be used with it.
    async fn token(&self, api: &kube::Client, audience: &str) -> Result<SecretString, Failure> {
        let api: Api<ServiceAccount> = Api::namespaced(api.clone(), self.namespace);
        let found = api.get_metadata_opt(self.name).await.map_err(|e| self.not_reached(&e.into()))?;
        let meta = found.ok_or_else(|| self.refused(&self.missing()))?.metadata;
        let named = meta.annotations.as_ref().and_then(|all| all.get(ANNOTATION_CLIENT_ID));
        if named.map(String::as_str) != Some(self.client_id) {
            return Err(self.refused(&self.not_allowed(named.is_some())));
        }
        let request = TokenRequest {
            // Of the very account that was looked at, though another of its name took its place.
            metadata: ObjectMeta { uid: meta.uid, ..ObjectMeta::default() },
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![audience.to_owned()]),
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            }),
            status: None,
        };
        let made = api.create_token_request(self.name, &PostParams::default(), &request).await;
        let made = made.map_err(|error| match StoreError::from(error) {
            StoreError::Gone => self.refused(&self.missing()),
            error => self.not_reached(&error),
        })?;
        let token = made.status.and_then(|status| status.token).filter(|token| !token.is_empty());
        let token = token.ok_or(StoreError::Unanswered("its answer holds no token".into()));
        token.map(SecretString::from).map_err(|error| self.not_reached(&error))
    }

    fn missing(&self) -> String {
        format!(
            "is not there in namespace {}; create it, annotated {ANNOTATION_CLIENT_ID}={}",
            self.namespace, self.client_id
        )
    }

    fn not_allowed(&self, for_another: bool) -> String {
        let wrong =
            if for_another { "is annotated for another client" } else { "is not annotated for a client" };
        format!(
            "{wrong}, and nobody may use an identity that its owner did not give them; its owner may annotate it: kubectl -n \
             {} annotate --overwrite serviceaccount {} {ANNOTATION_CLIENT_ID}={}",
            self.namespace, self.name, self.client_id
        )
    }

    fn refused(&self, why: &str) -> Failure {
        let field = if self.shared { "the ClusterGraphClient's clientAuth" } else { "spec.clientAuth" };
        Failure {
            message: format!("{field} names service account {}, which {why}", self.name),
            retry_after: Some(LOOK_AGAIN),
            ..Failure::of(Reason::InvalidConfiguration)
        }
    }

    fn not_reached(&self, error: &StoreError) -> Failure {
        let todo = if error.is_transient() {
            "the operator tries again by itself".to_owned()
        } else {
            format!(
                "let whoever runs the operator give it the rights get serviceaccounts and create serviceaccounts/token in \
                 namespace {}; it tries again by itself",
                self.namespace
            )
        };
        Failure {
            message: format!("no token of service account {} could be had: {error}; {todo}", self.name),
            administrator: error.needs_administrator(),
            ..Failure::of(Reason::StorageUnavailable)
        }
    }
}

/// The namespace of a client's Secrets and service accounts.
pub fn home<'a>(client: &'a Client, identity: &'a Identity) -> &'a str {
    client.secrets_namespace.as_deref().unwrap_or(&identity.namespace)
}

/// The Secret that a client's proof is in.
pub fn secret(client: &Client, identity: &Identity) -> Option<Key> {
    client.proof.secret_name().map(|name| Key::new(home(client, identity), name))
}

/// What the client proves itself with, or why that cannot be used now.
pub async fn prover(
    ctx: &Context,
    client: &Client,
    identity: &Identity,
) -> Result<Result<Prover, ProofState>, StoreError> {
    let graphtoken = Key::new(&identity.namespace, &identity.name);
    let Some(secret) = secret(client, identity) else {
        ctx.state.note_end(&graphtoken, None);
        return Ok(Ok(match &client.proof {
            ClientProof::WorkloadIdentity { service_account, audience } => Prover::ServiceAccount {
                namespace: home(client, identity).to_owned(),
                name: service_account.clone(),
                audience: audience.clone(),
            },
            _ => Prover::Public,
        }));
    };
    let Some(meta) = ctx.secrets.get(&secret.namespace, &secret.name) else {
        ctx.state.note_end(&graphtoken, None);
        return Ok(Err(ProofState::Unusable(missing(client, &secret))));
    };
    let held = held(ctx, client, &secret, &meta).await?;
    let end = held.as_ref().ok().and_then(|held| end(held, &meta));
    let end = end.map(|(what, at)| End { secret, what, at });
    ctx.state.note_end(&graphtoken, end);
    Ok(held.map_err(ProofState::Unusable).and_then(|held| valid(client, held, ctx.now())))
}

/// Hash of what a Secret holds for the client. It gets into statuses, so it is salted with the Secret's UID, which only those know
/// who can read the Secret: a weak client secret cannot be guessed from it.
pub fn content_hash(ctx: &Context, client: &Client, identity: &Identity, prover: &Prover) -> Option<String> {
    let Prover::Held(held) = prover else { return None };
    let secret = secret(client, identity)?;
    let uid = ctx.secrets.get(&secret.namespace, &secret.name)?.uid;
    let content = match held {
        Held::Secret(secret) => secret.expose_secret(),
        Held::Certificate(certificate) => certificate.thumbprint(),
    };
    Some(hash_of([Some(uid.as_str()), Some(content)]))
}

/// What a Secret holds for the client, read once a version.
async fn held(
    ctx: &Context,
    client: &Client,
    secret: &Key,
    meta: &Meta,
) -> Result<Result<Held, String>, StoreError> {
    let key = match &client.proof {
        ClientProof::Secret(reference) => reference.key.as_str(),
        _ => KEY_CERTIFICATE,
    };
    let what_for = (secret.clone(), format!("{key}/{}", client.proof.is_certificate()));
    if let Some(known) = ctx.state.proof(&what_for, meta) {
        return Ok(known);
    }
    let api: Api<Secret> = Api::namespaced(ctx.exchanger.client.clone(), &secret.namespace);
    let data = api.get_opt(&secret.name).await?.map(|secret| secret.data.unwrap_or_default());
    let held = match data {
        None => Err(missing(client, secret)),
        Some(data) if client.proof.is_certificate() => certificate(client, &data),
        Some(data) => client_secret(client, secret, key, &data),
    };
    ctx.state.keep_proof(what_for, meta, held.clone());
    Ok(held)
}

fn client_secret(
    client: &Client,
    secret: &Key,
    key: &str,
    data: &BTreeMap<String, ByteString>,
) -> Result<Held, String> {
    let bytes = data.get(key).ok_or_else(|| missing(client, secret))?;
    let usable = usable_secret(&bytes.0).map(Held::Secret);
    usable.ok_or_else(|| {
        format!(
            "{}, key {key}, does not hold a client secret: it must be one line of text; put the secret's value there",
            place(client)
        )
    })
}

/// A client secret, if it is one line of text.
pub fn usable_secret(bytes: &[u8]) -> Option<SecretString> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let usable = !text.is_empty() && text.len() <= 4096 && !text.contains(char::is_control);
    usable.then(|| text.into())
}

fn certificate(client: &Client, data: &BTreeMap<String, ByteString>) -> Result<Held, String> {
    let bytes = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
    let parsed = ClientCertificate::parse(bytes(KEY_CERTIFICATE), bytes(KEY_PRIVATE_KEY));
    parsed.map(|parsed| Held::Certificate(Arc::new(parsed))).map_err(|error| unfit(client, &error))
}

/// A certificate is not sent outside of its time.
fn valid(client: &Client, held: Held, now: Timestamp) -> Result<Prover, ProofState> {
    if let Held::Certificate(certificate) = &held
        && let Some(problem) = certificate.problem(now)
    {
        let message = unfit(client, &problem);
        let from = certificate.not_before();
        return Err(if from > now {
            ProofState::NotYet { message, from }
        } else {
            ProofState::Unusable(message)
        });
    }
    Ok(Prover::Held(held))
}

/// When what a Secret holds ends: the certificate says it itself, a client secret's owner may say it by an annotation.
fn end(held: &Held, meta: &Meta) -> Option<(&'static str, Timestamp)> {
    match held {
        Held::Certificate(certificate) => Some(("certificate", certificate.not_after())),
        Held::Secret(_) => {
            let at = meta.annotations.get(ANNOTATION_EXPIRES_AT)?.parse().ok()?;
            Some(("client secret", at))
        }
    }
}

fn unfit(client: &Client, error: &crate::certificate::CertificateError) -> String {
    format!("the certificate in {} cannot be used: {error}", place(client))
}

/// What is not there, and what to do about it.
fn missing(client: &Client, secret: &Key) -> String {
    let field = if client.stated_by.is_some() { "the ClusterGraphClient" } else { "spec.clientAuth" };
    let todo = "which is not there; create it with";
    match &client.proof {
        ClientProof::Secret(reference) => {
            format!(
                "{field} names {}, key {}, {todo} the client secret's value in it",
                place(client),
                reference.key
            )
        }
        _ => format!(
            "{field} names {}, {todo} {KEY_CERTIFICATE} and {KEY_PRIVATE_KEY} in it (kubectl -n {} create secret tls {} \
             --cert=… --key=…)",
            place(client),
            secret.namespace,
            secret.name
        ),
    }
}

/// The Secret as the reader of a message finds it.
fn place(client: &Client) -> String {
    let name = client.proof.secret_name().unwrap_or_default();
    match &client.secrets_namespace {
        Some(namespace) => format!("Secret {name} of namespace {namespace}"),
        None => format!("Secret {name}"),
    }
}
