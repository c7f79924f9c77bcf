//! A request to the API server, understood.

use std::collections::HashMap;

use http::{Method, header};
use serde_json::{Value, json};

use super::objects::{Kind as What, Objects, Refusal};
use crate::Failed;

/// The longest that a watch lasts where none was asked for, in seconds.
const WATCH: u64 = 290;

#[expect(clippy::struct_excessive_bools, reason = "each is told by the request by itself")]
pub struct Asked {
    pub method: Method,
    pub what: What,
    pub name: String,
    status: bool,
    metadata_only: bool,
    apply: bool,
    pub watch: bool,
    pub version: u64,
    pub seconds: u64,
    manager: String,
    body: Value,
}

impl Asked {
    pub fn read(parts: &http::request::Parts, body: &[u8]) -> Result<Self, Failed> {
        let path: Vec<&str> =
            parts.uri.path().split('/').skip_while(|part| *part != "namespaces").skip(2).collect();
        let (what, rest) = match path.as_slice() {
            ["secrets", rest @ ..] => (What::Secret, rest),
            ["graphtokens", rest @ ..] => (What::GraphToken, rest),
            ["events", rest @ ..] => (What::Event, rest),
            _ => return Err(Failed::new(format!("nothing is known of {}", parts.uri.path()))),
        };
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default();
        let query: HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).collect();
        let number = |key: &str| query.get(key).and_then(|text| text.parse().ok());
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(body)? };
        let named = body["metadata"]["name"].as_str().unwrap_or_default();
        Ok(Self {
            method: parts.method.clone(),
            what,
            name: rest.first().map_or(named, |name| name).to_owned(),
            status: rest.get(1) == Some(&"status"),
            metadata_only: header(header::ACCEPT).contains("as=PartialObjectMetadata"),
            apply: header(header::CONTENT_TYPE).contains("apply-patch"),
            watch: query.get("watch").is_some_and(|value| value == "true"),
            version: number("resourceVersion").unwrap_or_default(),
            seconds: number("timeoutSeconds").unwrap_or(WATCH),
            manager: query.get("fieldManager").map(ToString::to_string).unwrap_or_default(),
            body,
        })
    }

    /// Whether this is a write of the status subresource.
    pub fn writes_status(&self) -> bool {
        self.status && self.method == Method::PATCH
    }

    pub fn act(&self, objects: &mut Objects) -> Result<Value, Refusal> {
        let (what, name) = (self.what, self.name.as_str());
        match self.method {
            Method::GET => objects.read(what, name),
            // Nobody reads them here.
            Method::POST if what == What::Event => Ok(self.body.clone()),
            Method::POST => objects.create(what, name, self.body.clone(), &self.manager),
            Method::PATCH if self.status => objects.replace_status(what, name, &self.body),
            Method::PATCH if self.apply => objects.apply(what, name, &self.body, &self.manager),
            Method::PATCH => objects.merge(what, name, &self.body, &self.manager),
            Method::DELETE => objects.delete(what, name, &self.body["preconditions"]),
            _ => Err(Refusal { code: 405, reason: "MethodNotAllowed" }),
        }
    }

    pub fn view(&self, object: &Value) -> Value {
        if self.metadata_only {
            return json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]});
        }
        object.clone()
    }

    pub fn list_kind(&self) -> (&'static str, &'static str) {
        match self.what {
            _ if self.metadata_only => ("meta.k8s.io/v1", "PartialObjectMetadataList"),
            What::GraphToken => ("graphtoken.io/v1alpha1", "GraphTokenList"),
            _ => ("v1", "SecretList"),
        }
    }

    pub fn describe(&self) -> String {
        let what = match self.what {
            What::Secret => "secrets",
            What::GraphToken if self.status => "graphtokens/status",
            What::GraphToken => "graphtokens",
            _ => "events",
        };
        let verb = match self.method {
            Method::GET if self.name.is_empty() => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PATCH => "patch",
            _ => "delete",
        };
        format!("{verb} {what}")
    }
}

/// An object as watches tell of it: Secrets by their metadata. Managed fields are left out, which the operator drops.
pub fn watched(what: What, object: &Value) -> Value {
    let mut metadata = object["metadata"].clone();
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("managedFields");
    }
    if what == What::Secret {
        return json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
    }
    let mut object = object.clone();
    object["metadata"] = metadata;
    object
}
