//! The API server as the modules that write see it: objects' metadata, and errors sorted by what they mean to a write.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use kube::core::Status;
use thiserror::Error;

use crate::api::names::{GROUP, LABEL_MANAGED_BY, LABEL_NAME, MANAGER, SECRET_ANNOTATIONS};
use crate::observed::Meta;

/// The most that is kept of a Secret's labels, keys and values together: more than a spec and the operator's settings can ask
/// for. Kubernetes limits a label and not their number.
const MOST_LABELS: usize = 16 * 1024;
/// Kubernetes takes no longer value.
const MOST_LABEL_VALUE: usize = 63;
/// The most that is kept of a Secret's owners.
const MOST_OWNERS: usize = 16;
/// Longer than any UID.
const MOST_UID: usize = 64;

/// What the operator needs of a Secret's metadata. It is bounded, because everything but a fixed part of it may come from
/// whoever may write Secrets in a namespace.
pub fn meta(object: &ObjectMeta) -> Meta {
    let (labels, labels_cut) = object.labels.as_ref().map(labels).unwrap_or_default();
    let annotations = SECRET_ANNOTATIONS.iter().filter_map(|(key, most)| {
        let value = object.annotations.as_ref()?.get(*key).filter(|value| value.len() <= *most)?;
        Some(((*key).to_owned(), value.clone()))
    });
    Meta {
        uid: object.uid.clone().unwrap_or_default(),
        resource_version: object.resource_version.clone().unwrap_or_default(),
        labels,
        labels_cut,
        annotations: annotations.collect(),
        owners: owners(object.owner_references.as_deref().unwrap_or_default()),
        deleting: object.deletion_timestamp.is_some(),
    }
}

/// Of a Secret of ours all labels, because those that a spec asks for are compared; else the two that tell whose it is. And
/// whether some are left out that might be compared.
fn labels(all: &BTreeMap<String, String>) -> (BTreeMap<String, String>, bool) {
    let bytes = || all.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let ours =
        all.get(LABEL_MANAGED_BY).is_some_and(|manager| manager == MANAGER) && all.contains_key(LABEL_NAME);
    if ours && bytes() <= MOST_LABELS {
        return (all.clone(), false);
    }
    let label = |key: &str| {
        let value = all.get(key).filter(|value| value.len() <= MOST_LABEL_VALUE)?;
        Some((key.to_owned(), value.clone()))
    };
    ([LABEL_MANAGED_BY, LABEL_NAME].into_iter().filter_map(label).collect(), ours)
}

/// The UIDs of the owners that are `GraphToken`s.
fn owners(all: &[OwnerReference]) -> Vec<String> {
    let is_graphtoken = |owner: &&OwnerReference| {
        let group = owner.api_version.split_once('/').map(|(group, _)| group);
        owner.kind == "GraphToken" && group == Some(GROUP) && owner.uid.len() <= MOST_UID
    };
    all.iter().filter(is_graphtoken).take(MOST_OWNERS).map(|owner| owner.uid.clone()).collect()
}

/// A request to the API server that did not do what it should. Nothing of a request or response body is in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The object is not as it was read, or exists already: read it again.
    #[error("the object was changed meanwhile")]
    Conflict,
    /// It is not there.
    #[error("the object is not there")]
    Gone,
    /// The API server will not have it; the sentence says why.
    #[error("the API server refused: {0}")]
    Refused(String),
    /// Permissions, a quota or an admission policy forbid it: a cluster administrator must act. The sentence says which.
    #[error("the API server refused: {0}")]
    Forbidden(String),
    /// Somebody else's Secret is in the place; the sentence says what to do.
    #[error("{0}")]
    Foreign(String),
    /// No answer, or none that tells whether it was done.
    #[error("the API server did not answer: {0}")]
    Unanswered(Cow<'static, str>),
}

impl StoreError {
    /// Whether another attempt may do it without anybody's help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Conflict | Self::Gone | Self::Unanswered(_))
    }

    /// Whether a cluster administrator must act.
    pub const fn needs_administrator(&self) -> bool {
        matches!(self, Self::Forbidden(_))
    }
}

impl From<kube::Error> for StoreError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => refused(&status),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::Unanswered("its answer could not be read".into())
            }
            kube::Error::Service(_) | kube::Error::HyperError(_) => {
                Self::Unanswered("connection failed or timed out".into())
            }
            _ => Self::Unanswered("the request could not be made".into()),
        }
    }
}

fn refused(status: &Status) -> StoreError {
    match (status.code, status.reason.as_str()) {
        (409, "AlreadyExists" | "Conflict") => StoreError::Conflict,
        (404, _) => StoreError::Gone,
        // Nobody need act.
        (403, _) if status.message.contains("because it is being terminated") => {
            StoreError::Refused("the namespace is being terminated".to_owned())
        }
        // A message of 403 speaks of rights, quotas and policies; others may quote the object, and so a token.
        // What a webhook says of the object may quote it.
        (403, _) if let Some(name) = named(&status.message, WEBHOOK) => {
            StoreError::Forbidden(format!("403 Forbidden: denied by admission webhook {name}"))
        }
        (403, _) => StoreError::Forbidden(bounded(&status.message)),
        (408 | 429 | 500.., _) => {
            StoreError::Unanswered(named(&status.message, FAILING_WEBHOOK).map_or_else(
                || "it is overloaded or failing".into(),
                |name| {
                    format!(
                        "admission webhook {name} fails; a cluster administrator must repair or remove it"
                    )
                    .into()
                },
            ))
        }
        (code, reason) => match denied_by(&status.message) {
            Some(who) => StoreError::Forbidden(format!("{code} {}: denied by {who}", bounded(reason))),
            None if code == 422 => {
                StoreError::Refused("422 Invalid: the object as it is does not take this write".to_owned())
            }
            None => StoreError::Refused(format!("{code} {}", bounded(reason))),
        },
    }
}

/// What stands before and after a name in a message.
type Quoted = (&'static str, char);
const POLICY: Quoted = ("ValidatingAdmissionPolicy '", '\'');
const WEBHOOK: Quoted = ("admission webhook \"", '"');
const FAILING_WEBHOOK: Quoted = ("failed calling webhook \"", '"');

/// The admission policy or webhook that a message names. Only its name: what it says of the object may quote it, and so a token.
pub fn denied_by(message: &str) -> Option<String> {
    [POLICY, WEBHOOK].into_iter().find_map(|quoted| {
        let kind = quoted.0.trim_end_matches([' ', '"', '\'']);
        named(message, quoted).map(|name| format!("{kind} {name}"))
    })
}

/// The name in a message, if it can be one.
fn named(message: &str, (before, after): Quoted) -> Option<&str> {
    let (name, _) = message.split_once(before)?.1.split_once(after)?;
    let is_name = name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    is_name.then_some(name)
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn many(prefix: &str) -> BTreeMap<String, String> {
        let value = "x".repeat(63);
        (0..10_000).map(|n| (format!("{prefix}{n:030}"), value.clone())).collect()
    }

    fn owner(api_version: &str, uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: api_version.to_owned(),
            kind: "GraphToken".to_owned(),
            name: "n".repeat(200),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }
    }

    #[rstest]
    #[case::of_others(&[(LABEL_MANAGED_BY, "Helm")], 1024)]
    #[case::that_looks_like_ours(&[(LABEL_MANAGED_BY, MANAGER), (LABEL_NAME, "mail")], 8 * 1024)]
    fn little_is_kept_of_a_secret_whatever_is_written_on_it(
        #[case] labels: &[(&str, &str)],
        #[case] most: usize,
    ) {
        let mut all = many("graphtoken.io/label-");
        all.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let mut annotations = many("graphtoken.io/annotation-");
        let long = SECRET_ANNOTATIONS.iter().map(|(key, most)| ((*key).to_owned(), "x".repeat(most + 1)));
        annotations.extend(long);
        let owners = (0..10_000).map(|n| owner("graphtoken.io/v1alpha1", &format!("{n:036}")));
        let object = ObjectMeta {
            labels: Some(all),
            annotations: Some(annotations),
            owner_references: Some(owners.collect()),
            ..ObjectMeta::default()
        };
        let kept = meta(&object);
        assert_eq!(kept.labels, labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        assert_eq!((kept.labels_cut, kept.annotations.len()), (labels.len() == 2, 0));
        assert!(serde_json::to_string(&kept).unwrap().len() <= most);
    }

    #[test]
    fn a_secret_of_ours_is_kept_with_all_that_is_compared() {
        let mut labels: BTreeMap<_, _> = (0..32).map(|n| (format!("{n:0317}"), "v".repeat(63))).collect();
        labels.extend([(LABEL_MANAGED_BY, MANAGER), (LABEL_NAME, "mail")].map(|(k, v)| (k.into(), v.into())));
        let annotations: BTreeMap<_, _> =
            SECRET_ANNOTATIONS.iter().map(|(key, most)| ((*key).to_owned(), "x".repeat(*most))).collect();
        let owners = vec![owner("graphtoken.io/v1beta1", "g"), owner("apps/v1", "other"), owner("v1", "pod")];
        let object = ObjectMeta {
            labels: Some(labels.clone()),
            annotations: Some(annotations.clone()),
            owner_references: Some(owners),
            ..ObjectMeta::default()
        };
        let kept = meta(&object);
        assert_eq!((kept.labels, kept.labels_cut), (labels, false));
        assert_eq!((kept.annotations, kept.owners), (annotations, vec!["g".to_owned()]));
    }

    #[rstest]
    #[case(409, "Conflict", StoreError::Conflict)]
    #[case(409, "AlreadyExists", StoreError::Conflict)]
    #[case(404, "NotFound", StoreError::Gone)]
    #[case(403, "Forbidden", StoreError::Forbidden("tok".into()))]
    #[case(503, "ServiceUnavailable", StoreError::Unanswered("it is overloaded or failing".into()))]
    fn each_answer_means_one_thing(#[case] code: u16, #[case] reason: &str, #[case] means: StoreError) {
        let status = Status { code, ..Status::failure("tok", reason) };
        assert_eq!(StoreError::from(kube::Error::Api(Box::new(status))), means);
    }

    #[rstest]
    #[case(
        422,
        "secrets \"mail\" is forbidden: ValidatingAdmissionPolicy 'no-secrets' with binding 'all' denied request: tok",
        "the API server refused: 422 Invalid: denied by ValidatingAdmissionPolicy no-secrets"
    )]
    #[case(
        400,
        "admission webhook \"validate.example.com\" denied the request: tok",
        "the API server refused: 400 Invalid: denied by admission webhook validate.example.com"
    )]
    #[case(400, "admission webhook \"tok tok\" denied", "the API server refused: 400 Invalid")]
    #[case(
        500,
        "Internal error occurred: failed calling webhook \"validate.example.com\": failed to call webhook: tok",
        "the API server did not answer: admission webhook validate.example.com fails; a cluster administrator must repair or remove it"
    )]
    #[case(
        500,
        "failed calling webhook \"tok tok\": tok",
        "the API server did not answer: it is overloaded or failing"
    )]
    fn who_denied_it_is_named_and_what_it_says_is_not(
        #[case] code: u16,
        #[case] message: &str,
        #[case] says: &str,
    ) {
        let status = Status { code, ..Status::failure(message, "Invalid") };
        assert_eq!(StoreError::from(kube::Error::Api(Box::new(status))).to_string(), says);
    }

    #[test]
    fn an_invalid_object_is_not_quoted() {
        let status = Status { code: 422, ..Status::failure("Invalid value: \"tok\"", "Invalid") };
        assert!(!StoreError::from(kube::Error::Api(Box::new(status))).to_string().contains("tok"));
    }
}
