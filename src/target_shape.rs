//! The metadata that the target has besides its data: what is written, and whether what is there still holds. Pure.

use std::collections::BTreeMap;

use crate::api::Time;
use crate::api::names::{ANNOTATION_EXPIRES_AT, ANNOTATION_REFRESHED_AT, ANNOTATION_TOKEN, ANNOTATION_UID};
use crate::api::spec::DeletionPolicy;
use crate::desired::Desired;
use crate::observed::{Meta, Observed, Published, labels};

/// The annotations of a target that holds a token.
pub fn annotations(uid: &str, published: &Published) -> BTreeMap<String, String> {
    let record = serde_json::to_string(published).unwrap_or_default();
    BTreeMap::from([
        (ANNOTATION_UID.to_owned(), uid.to_owned()),
        (ANNOTATION_EXPIRES_AT.to_owned(), Time::from(published.facts.expires_at).to_string()),
        (ANNOTATION_REFRESHED_AT.to_owned(), Time::from(published.facts.issued_at).to_string()),
        (ANNOTATION_TOKEN.to_owned(), record),
    ])
}

/// Whether a target still has the labels, annotations and owner that it was written with. What others add is theirs.
pub fn metadata_holds(desired: &Desired, observed: &Observed, meta: &Meta) -> bool {
    let identity = &observed.identity;
    let labelled = labels(&identity.name, &observed.secret_labels)
        .iter()
        .all(|(key, value)| meta.labels.get(key) == Some(value));
    let annotated = observed.target().and_then(|view| view.published.as_ref()).is_some_and(|published| {
        annotations(&identity.uid, published)
            .iter()
            .all(|(key, value)| meta.annotations.get(key) == Some(value))
    });
    let owned = meta.owners.contains(&identity.uid);
    labelled && annotated && owned == (desired.target.deletion_policy == DeletionPolicy::Delete)
}
