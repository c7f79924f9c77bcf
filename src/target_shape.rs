//! The metadata that the target has besides its data: what is written, and whether what is there still holds. Pure.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::api::Time;
use crate::api::names::{ANNOTATION_EXPIRES_AT, ANNOTATION_REFRESHED_AT, ANNOTATION_TOKEN, ANNOTATION_UID};
use crate::api::spec::DeletionPolicy;
use crate::desired::{Desired, DesiredTarget};
use crate::observed::{Meta, Observed, Published, labels};
use crate::seed::hex;

/// The labels of a target: the operator's own win.
pub fn target_labels(desired: &DesiredTarget, observed: &Observed) -> BTreeMap<String, String> {
    let mut all = desired.labels.clone();
    all.extend(labels(&observed.identity.name, &observed.secret_labels));
    all
}

/// The annotations of a target that holds a token: the operator's own win.
pub fn target_annotations(
    desired: &DesiredTarget,
    uid: &str,
    published: &Published,
) -> BTreeMap<String, String> {
    let mut all = desired.annotations.clone();
    all.extend(own_annotations(uid, published));
    all
}

fn own_annotations(uid: &str, published: &Published) -> [(String, String); 4] {
    let record = serde_json::to_string(published).unwrap_or_default();
    [
        (ANNOTATION_UID.to_owned(), uid.to_owned()),
        (ANNOTATION_EXPIRES_AT.to_owned(), Time::from(published.facts.expires_at).to_string()),
        (ANNOTATION_REFRESHED_AT.to_owned(), Time::from(published.facts.issued_at).to_string()),
        (ANNOTATION_TOKEN.to_owned(), record),
    ]
}

/// Digest of the labels and annotations that the spec asks for; empty: none. What was asked for before and is not any more is
/// to go, which the target itself does not tell.
pub fn extras(desired: &DesiredTarget) -> String {
    if desired.labels.is_empty() && desired.annotations.is_empty() {
        return String::new();
    }
    let mut hash = Sha256::new();
    for map in [&desired.labels, &desired.annotations] {
        hash.update(map.len().to_be_bytes());
        for part in map.iter().flat_map(|(key, value)| [key, value]) {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
    }
    hex(&hash.finalize()[..8])
}

/// Whether a target still has the labels, annotations and owner that it was written with. What others add is theirs. Of
/// annotations only the operator's own are cached: which others were asked for, its note tells.
pub fn metadata_holds(desired: &Desired, observed: &Observed, meta: &Meta) -> bool {
    let identity = &observed.identity;
    let target = &desired.target;
    // What is left out cannot be compared. A target with so many labels is not repaired rather than written again and again.
    let labelled = meta.labels_cut
        || target_labels(target, observed).iter().all(|(key, value)| meta.labels.get(key) == Some(value));
    let annotated = observed.target().and_then(|view| view.published.as_ref()).is_some_and(|published| {
        published.extras == extras(target)
            && own_annotations(&identity.uid, published)
                .iter()
                .all(|(key, value)| meta.annotations.get(key) == Some(value))
    });
    let owned = meta.owners.contains(&identity.uid);
    labelled && annotated && owned == (desired.target.deletion_policy == DeletionPolicy::Delete)
}
