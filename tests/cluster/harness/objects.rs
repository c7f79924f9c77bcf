//! What a user writes, and what a user reads: `GraphToken`s as JSON, so that the tests see the names that users see.

use entra_simulator::Control;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

/// The kind under test.
pub fn graphtoken_resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("graphtoken.io", "v1alpha1", "GraphToken"),
        "graphtokens",
    )
}

/// The kind of clients for many namespaces.
pub fn clustergraphclient_resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("graphtoken.io", "v1alpha1", "ClusterGraphClient"),
        "clustergraphclients",
    )
}

/// The name of the Secret in which the operator keeps the sign-in of a `GraphToken`.
pub fn credential(name: &str) -> String {
    format!("{name}-graphtoken-credential")
}

/// A client at a provider, as a spec names it.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Tenant.
    pub tenant: String,
    /// Client id.
    pub client_id: String,
    /// Token endpoint.
    pub token_url: String,
}

impl Issuer {
    /// A client of the Entra simulator.
    pub fn entra(simulator: &Control, client_id: &str) -> Self {
        Self {
            tenant: simulator.tenant().id,
            client_id: client_id.to_owned(),
            token_url: simulator.token_url(),
        }
    }
}

/// A `GraphToken` that starts from key `token` of a seed Secret. Tests change what they are about by its members.
pub fn delegated(name: &str, issuer: &Issuer, seed: &str) -> Value {
    graphtoken(
        name,
        issuer,
        &json!({"refreshToken": {"secretRef": {"name": seed, "key": "token"}}}),
        json!(["Mail.Read", "User.Read"]),
    )
}

/// A `GraphToken` of an app that proves itself with key `client-secret` of a Secret.
pub fn app_only(name: &str, issuer: &Issuer, secret: &str) -> Value {
    let mut object = graphtoken(name, issuer, &json!({"clientCredentials": {}}), Value::Null);
    object["spec"]["clientAuth"] = secret_ref(secret);
    object
}

/// The client's proof: key `client-secret` of a Secret.
pub fn secret_ref(secret: &str) -> Value {
    json!({"secretRef": {"name": secret, "key": "client-secret"}})
}

fn graphtoken(name: &str, issuer: &Issuer, grant: &Value, scopes: Value) -> Value {
    let mut object = json!({
        "apiVersion": "graphtoken.io/v1alpha1",
        "kind": "GraphToken",
        "metadata": {"name": name},
        "spec": {
            "tenant": issuer.tenant,
            "clientId": issuer.client_id,
            "endpoints": {"token": issuer.token_url},
            "grant": grant,
        },
    });
    if !scopes.is_null() {
        object["spec"]["scopes"] = scopes;
    }
    object
}

/// A `GraphToken` as it was read.
#[derive(Clone, Debug)]
pub struct Gt(pub DynamicObject);

impl Gt {
    /// A value of its status, by JSON pointer; null where there is none.
    pub fn status(&self, pointer: &str) -> &Value {
        static NULL: Value = Value::Null;
        self.0.data.get("status").and_then(|status| status.pointer(pointer)).unwrap_or(&NULL)
    }

    /// Status and reason of a condition.
    pub fn condition(&self, kind: &str) -> Option<(&str, &str)> {
        let conditions = self.status("/conditions").as_array()?;
        let condition = conditions.iter().find(|condition| condition["type"] == kind)?;
        Some((condition["status"].as_str()?, condition["reason"].as_str()?))
    }

    /// Whether pods have a token for the present spec.
    pub fn ready(&self) -> bool {
        self.condition("Ready") == Some(("True", "TokenValid")) && self.observed()
    }

    /// Whether the status speaks of the present spec.
    pub fn observed(&self) -> bool {
        self.status("/observedGeneration").as_i64() == self.0.metadata.generation
    }

    /// How many exchanges have succeeded.
    pub fn refresh_count(&self) -> u64 {
        self.status("/refreshCount").as_u64().unwrap_or_default()
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        self.0.metadata.uid.as_deref().unwrap_or_default()
    }
}
