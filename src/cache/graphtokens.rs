//! `GraphToken`s as they are watched: what a look needs of them, and no more.

use std::borrow::Cow;

use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::reflector::Store;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::secrets::KeptMeta;
use crate::api::{GraphToken, GraphTokenStatus};

/// The cache of `GraphToken`s.
pub type GraphTokenStore = Store<Watched>;

/// A `GraphToken` as the API server sent it. Spec and status stay text until somebody looks, which takes less memory than
/// what they decode to; and one that does not decode does not blind the watch to the others.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Sent")]
pub struct Watched {
    meta: ObjectMeta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

/// Text can be taken over from a document that is read for the first time only: which is so, as the API server sends the
/// type of an event before the object.
#[derive(Deserialize)]
struct Sent {
    metadata: KeptMeta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

impl From<Sent> for Watched {
    fn from(sent: Sent) -> Self {
        Self { meta: sent.metadata.into(), spec: sent.spec, status: sent.status }
    }
}

impl Watched {
    /// The object, or what is wrong with it: as after a CRD and an operator of different versions met.
    pub fn decoded(&self) -> Result<GraphToken, Box<InvalidObject>> {
        let spec = self.spec.as_deref().map_or("{}", RawValue::get);
        let spec = serde_json::from_str(spec).map_err(|error| self.invalid("spec", &error))?;
        let status = self.status.as_deref().map(|status| serde_json::from_str(status.get()));
        let status = status.transpose().map_err(|error| self.invalid("status", &error))?;
        Ok(GraphToken { metadata: self.meta.clone(), spec, status })
    }

    /// The status, if it has one that decodes.
    pub fn status(&self) -> Option<GraphTokenStatus> {
        serde_json::from_str(self.status.as_deref()?.get()).ok()
    }

    /// Whether the status has something to say of a provider that asked for silence. Reading it takes much longer.
    pub fn may_tell_of_silence(&self) -> bool {
        self.status.as_deref().is_some_and(|status| status.get().contains("\"throttles\""))
    }

    fn invalid(&self, member: &str, error: &serde_json::Error) -> Box<InvalidObject> {
        Box::new(InvalidObject { error: format!("{member}: {error}"), metadata: self.meta.clone() })
    }
}

impl Resource for Watched {
    type DynamicType = ();
    type Scope = <GraphToken as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        GraphToken::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        GraphToken::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        GraphToken::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        GraphToken::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use kube::core::WatchEvent;
    use kube::core::object::ObjectList;
    use serde_json::json;

    use super::*;

    fn sent(spec: &serde_json::Value) -> serde_json::Value {
        json!({
            "apiVersion": "graphtoken.io/v1alpha1", "kind": "GraphToken",
            "metadata": {
                "name": "mail", "namespace": "ns", "uid": "u", "resourceVersion": "7", "generation": 2,
                "creationTimestamp": "2026-11-23T10:00:00Z", "finalizers": ["example.com/slow"],
                "annotations": {"graphtoken.io/requested-at": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
                "managedFields": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": spec,
            "status": {"observedGeneration": -1},
        })
    }

    #[test]
    fn a_list_and_an_event_are_kept_without_what_no_look_needs() {
        let object = sent(&json!({"grant": {"clientCredentials": {}}}));
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "9"}, "items": [object]});
        let list: ObjectList<Watched> = serde_json::from_str(&list.to_string()).unwrap();
        // As the API server writes it: the type first.
        let event = format!(r#"{{"type":"MODIFIED","object":{object}}}"#);
        let WatchEvent::Modified(event) = serde_json::from_str::<WatchEvent<Watched>>(&event).unwrap() else {
            panic!("another event");
        };
        for watched in [&list.items[0], &event] {
            let object = watched.decoded().unwrap();
            assert!(object.spec.grant.client_credentials.is_some());
            assert_eq!(object.status.unwrap().observed_generation, -1);
            let annotations = object.metadata.annotations.unwrap();
            assert_eq!(annotations.keys().collect::<Vec<_>>(), ["graphtoken.io/requested-at"]);
            assert_eq!((object.metadata.generation, object.metadata.managed_fields), (Some(2), None));
            assert_eq!(object.metadata.resource_version.as_deref(), Some("7"));
        }
    }

    #[test]
    fn one_that_does_not_decode_is_still_there_and_says_where() {
        let object = sent(&json!({"grant": {"clientCredentials": {}}, "scopes": 5}));
        let watched: Watched = serde_json::from_str(&object.to_string()).unwrap();
        let invalid = watched.decoded().unwrap_err();
        assert_eq!(invalid.metadata.name.as_deref(), Some("mail"));
        assert!(invalid.error.starts_with("spec: "), "{}", invalid.error);
    }
}
