//! What becomes of a sign-in whose `GraphToken` is gone: it waits to be taken up again, and is deleted when its time is over.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use crate::api::names::{
    ANNOTATION_DELETE_AFTER, ANNOTATION_RETENTION, CREDENTIAL_SUFFIX, LABEL_MANAGED_BY, LABEL_NAME, MANAGER,
};
use crate::api::{GraphToken, Time, duration};
use crate::cache::GraphTokenCache;
use crate::context::Context;
use crate::observed::Meta;
use crate::state::{Key, Version};
use crate::store::StoreError;

/// What is kept where the annotation does not say how long.
const DEFAULT_RETENTION: Duration = Duration::from_hours(168);

/// What becomes of a credential now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its `GraphToken` lives.
    Keep,
    /// Its `GraphToken` is gone: note when it is to be deleted.
    Mark(Timestamp),
    /// It waits until then.
    Wait(Timestamp),
    /// Its time is over.
    Delete,
}

/// Whether a Secret is a credential of the operator's.
pub fn is_credential(name: &str, labels: &BTreeMap<String, String>) -> bool {
    labels.get(LABEL_MANAGED_BY).is_some_and(|v| v == MANAGER)
        && labels.get(LABEL_NAME).is_some_and(|of| name.strip_suffix(CREDENTIAL_SUFFIX) == Some(of))
}

/// Decides the fate of a credential. Pure.
pub fn fate(meta: &Meta, graphtoken_lives: bool, now: Timestamp) -> Fate {
    if graphtoken_lives || meta.deleting {
        return Fate::Keep;
    }
    let retention = meta.annotations.get(ANNOTATION_RETENTION).and_then(|text| duration::parse(text).ok());
    let retention = retention.unwrap_or(DEFAULT_RETENTION);
    if retention.is_zero() {
        return Fate::Delete;
    }
    let marked =
        meta.annotations.get(ANNOTATION_DELETE_AFTER).and_then(|text| text.parse::<Timestamp>().ok());
    match marked {
        None => {
            let retention = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
            Fate::Mark(now.saturating_add(retention).unwrap_or(Timestamp::MAX))
        }
        Some(at) if at > now => Fate::Wait(at),
        Some(_) => Fate::Delete,
    }
}

/// Does what is due about a credential that has no `GraphToken`. Returns after how long it is due again, and what it wrote.
pub async fn look_after(
    credential: &Key,
    graphtokens: &GraphTokenCache,
    ctx: &Context,
) -> (Result<Option<Duration>, StoreError>, Vec<Version>) {
    let meta = ctx.secrets.get(&credential.namespace, &credential.name);
    let meta = meta.filter(|meta| is_credential(&credential.name, &meta.labels));
    match (meta, graphtoken_of(credential)) {
        (Some(meta), Some(graphtoken)) if !graphtokens.contains(&graphtoken) => {
            let mut own = Vec::new();
            (retain(ctx, credential, &graphtoken, meta, &mut own).await, own)
        }
        _ => (Ok(None), Vec::new()),
    }
}

/// The `GraphToken` that a credential is named after.
pub fn graphtoken_of(credential: &Key) -> Option<Key> {
    let name = credential.name.strip_suffix(CREDENTIAL_SUFFIX)?;
    Some(Key::new(&credential.namespace, name))
}

async fn retain(
    ctx: &Context,
    credential: &Key,
    graphtoken: &Key,
    meta: Meta,
    own: &mut Vec<Version>,
) -> Result<Option<Duration>, StoreError> {
    let (client, now) = (&ctx.exchanger.client, ctx.now());
    let Key { namespace, name } = credential;
    // Live: a mirror that is behind could cost a sign-in.
    let graphtokens: Api<GraphToken> = Api::namespaced(client.clone(), namespace);
    let lives = graphtokens.get_metadata_opt(&graphtoken.name).await?.is_some();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    match fate(&meta, lives, now) {
        Fate::Keep => Ok(None),
        Fate::Wait(at) => Ok(Some(until(at, now))),
        Fate::Mark(at) => {
            let epoch = ctx.secrets.epoch(namespace);
            let marked = mark(&secrets, name, &meta, at).await?;
            ctx.secrets.wrote(credential, &marked, epoch);
            own.push(Version { uid: marked.uid, resource_version: marked.resource_version });
            Ok(Some(until(at, now)))
        }
        Fate::Delete => {
            let preconditions =
                Preconditions { uid: Some(meta.uid), resource_version: Some(meta.resource_version) };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match secrets.delete(name, &params).await.map_err(StoreError::from) {
                Ok(_) => {
                    tracing::info!(namespace, name, "a sign-in was deleted: its retention has ended");
                }
                Err(StoreError::Gone) => {}
                Err(error) => return Err(error),
            }
            Ok(None)
        }
    }
}

async fn mark(secrets: &Api<Secret>, name: &str, meta: &Meta, at: Timestamp) -> Result<Meta, StoreError> {
    let patch = json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "annotations": {ANNOTATION_DELETE_AFTER: Time::from(at).to_string()},
    }});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let marked = secrets.patch_metadata(name, &params, &Patch::Merge(&patch)).await?;
    Ok(crate::store::meta(&marked.metadata))
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
    // A timer of months is cut into days: clocks are set meanwhile.
    (wait + Duration::from_secs(1)).min(Duration::from_hours(24))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T10:00:00Z".parse().unwrap()
    }

    fn credential(retention: &str, delete_after: &str) -> Meta {
        let mut meta = Meta::default();
        for (key, value) in [(ANNOTATION_RETENTION, retention), (ANNOTATION_DELETE_AFTER, delete_after)] {
            if !value.is_empty() {
                meta.annotations.insert(key.to_owned(), value.to_owned());
            }
        }
        meta
    }

    #[rstest]
    #[case::lives("1h", "", true, Fate::Keep)]
    #[case::lives_again("1h", "2020-01-01T00:00:00Z", true, Fate::Keep)]
    #[case::just_gone("1h", "", false, Fate::Mark("2026-11-23T11:00:00Z".parse().unwrap()))]
    #[case::no_word_of_how_long("", "", false, Fate::Mark("2026-11-30T10:00:00Z".parse().unwrap()))]
    #[case::unreadable_mark("1h", "soon", false, Fate::Mark("2026-11-23T11:00:00Z".parse().unwrap()))]
    #[case::waits("1h", "2026-11-23T10:30:00Z", false, Fate::Wait("2026-11-23T10:30:00Z".parse().unwrap()))]
    #[case::over("1h", "2026-11-23T09:59:59Z", false, Fate::Delete)]
    #[case::gone_at_once("0s", "", false, Fate::Delete)]
    fn a_credential_outlives_its_graphtoken_for_its_time(
        #[case] retention: &str,
        #[case] delete_after: &str,
        #[case] lives: bool,
        #[case] then: Fate,
    ) {
        assert_eq!(fate(&credential(retention, delete_after), lives, now()), then);
    }
}
