//! `GraphToken`s as they are watched: what a look needs of them, and no more.

use std::borrow::Cow;

use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::reflector::Store;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::secrets::KeptMeta;
use crate::api::names::ANNOTATION_REQUESTED_AT;
use crate::api::{GraphToken, GraphTokenStatus, Time};

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

/// Who goes first where many are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody waits for it: it is new, or was changed, or asked for.
    New,
    /// The token in its target ends then, in seconds since the epoch.
    ExpiresAt(i64),
    /// It has no token, and there was time to tell why.
    Failing,
}

/// Of a status what tells how urgent it is.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Urgent {
    observed_generation: i64,
    expires_at: Option<Time>,
    last_handled_request: Option<String>,
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

    /// How urgent a look at it is. It takes no decoding of the whole.
    pub fn urgency(&self) -> Urgency {
        let status = self.status.as_deref().map(|status| serde_json::from_str(status.get()));
        let Some(Ok(Urgent { observed_generation, expires_at, last_handled_request })) = status else {
            return Urgency::New;
        };
        let annotations = self.meta.annotations.as_ref();
        let requested = annotations.and_then(|all| all.get(ANNOTATION_REQUESTED_AT));
        let handled = requested.is_none_or(|requested| last_handled_request.as_ref() == Some(requested));
        match expires_at {
            _ if Some(observed_generation) != self.meta.generation || !handled => Urgency::New,
            Some(at) => Urgency::ExpiresAt(at.epoch()),
            None => Urgency::Failing,
        }
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
    use rstest::rstest;
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

    #[rstest]
    #[case::new(json!({"observedGeneration": -1}), Urgency::New)]
    #[case::served(json!({"observedGeneration": 2, "lastHandledRequest": "x", "expiresAt": "1970-01-01T00:01:00Z"}), Urgency::ExpiresAt(60))]
    #[case::edited(json!({"observedGeneration": 1, "lastHandledRequest": "x", "expiresAt": "1970-01-01T00:01:00Z"}), Urgency::New)]
    #[case::asked_for(json!({"observedGeneration": 2, "lastHandledRequest": "w", "expiresAt": "1970-01-01T00:01:00Z"}), Urgency::New)]
    #[case::failing(json!({"observedGeneration": 2, "lastHandledRequest": "x"}), Urgency::Failing)]
    #[case::undecodable(json!(5), Urgency::New)]
    fn urgent_is_what_somebody_waits_for_and_then_what_ends_first(
        #[case] status: serde_json::Value,
        #[case] expected: Urgency,
    ) {
        let mut object = sent(&json!({"grant": {"clientCredentials": {}}}));
        object["status"] = status;
        let watched: Watched = serde_json::from_str(&object.to_string()).unwrap();
        assert_eq!(watched.urgency(), expected);
    }

    #[test]
    fn who_waits_goes_before_who_expires_and_both_before_who_fails() {
        assert!(Urgency::New < Urgency::ExpiresAt(i64::MIN) && Urgency::ExpiresAt(1) < Urgency::ExpiresAt(2));
        assert!(Urgency::ExpiresAt(i64::MAX) < Urgency::Failing);
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
