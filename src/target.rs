//! The target Secret that pods mount: created once, then kept by server-side apply.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::api::names::{GROUP, MANAGER, VERSION};
use crate::api::spec::DeletionPolicy;
use crate::desired::{Desired, Grant};
use crate::exchange::is_guid;
use crate::grant::Account;
use crate::observed::{Meta, Observed, Published, StoredToken, TargetState, TargetView, target};
use crate::render::{RenderError, TokenView, content_digest, render};
use crate::store::{StoreError, meta};
use crate::target_shape::{extras, metadata_holds, target_annotations, target_labels};

/// A token with what rendering it needs.
#[derive(Debug, Clone, Copy)]
pub struct Material<'a> {
    /// Which token.
    pub stored: &'a StoredToken,
    /// The token itself.
    pub access_token: &'a SecretString,
    /// The refresh token that goes with it, where pods are to have it.
    pub refresh_token: Option<&'a SecretString>,
    /// Whom it speaks for.
    pub account: Option<&'a Account>,
}

/// What a target is to hold.
pub struct Content {
    /// What the annotation says of it.
    pub published: Published,
    /// Keys and bytes.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl Content {
    /// Renders a token.
    pub fn render(desired: &Desired, material: Material<'_>) -> Result<Self, RenderError> {
        let client = &desired.client;
        let app_only = desired.grant == Grant::ClientCredentials;
        let facts = &material.stored.facts;
        let view = TokenView {
            access_token: material.access_token,
            refresh_token: material.refresh_token.filter(|_| desired.target.include_refresh_token),
            token_type: &material.stored.token_type,
            issued_at: facts.issued_at,
            expires_at: facts.expires_at,
            granted_scopes: &material.stored.granted_scopes,
            client_id: &client.client_id,
            tenant_id: realm(&client.tenant, material.account),
            account: material.account.filter(|_| !app_only),
            environment: client.environment,
            app_only,
        };
        let data = render(&desired.target.data, &view)?;
        let published = Published {
            facts: facts.clone(),
            layout: desired.target.layout.clone(),
            content: content_digest(&data),
            extras: extras(&desired.target),
            first: false,
            since: None,
        };
        Ok(Self { published, data })
    }
}

/// The tenant that the token was issued in, which is MSAL's realm: the one asked for if that is a GUID, else the one where
/// a guest is, else the user's own.
fn realm<'a>(asked_for: &'a str, account: Option<&'a Account>) -> &'a str {
    let issued_in = account.and_then(|account| account.guest_in.as_deref().or(account.tenant_id.as_deref()));
    if is_guid(asked_for) { asked_for } else { issued_in.unwrap_or(asked_for) }
}

/// Whether the bytes of a Secret are those that its annotation speaks of.
pub fn is_intact(desired: &Desired, published: &Published, data: &BTreeMap<String, Vec<u8>>) -> bool {
    let keys = desired.target.data.iter().map(|entry| &entry.key);
    let ours: BTreeMap<String, Vec<u8>> =
        keys.filter_map(|key| Some((key.clone(), data.get(key)?.clone()))).collect();
    content_digest(&ours) == published.content
}

/// Reads the target's bytes, live.
pub async fn read(
    client: &kube::Client,
    observed: &Observed,
    name: &str,
) -> Result<Option<(Meta, BTreeMap<String, Vec<u8>>)>, StoreError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &observed.identity.namespace);
    let secret = api.get_opt(name).await?;
    Ok(secret.map(|secret| {
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        (meta(&secret.metadata), data)
    }))
}

/// Writes the target: the first write is a create, later ones carry the UID, so a foreign Secret is never merged into.
pub async fn publish(
    client: &kube::Client,
    desired: &Desired,
    observed: &Observed,
    content: &Content,
) -> Result<Meta, StoreError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &observed.identity.namespace);
    match observed.target() {
        None => create(&api, desired, observed, content).await,
        Some(view) => {
            if drops_fields(desired, observed, view) {
                claim_fields(&api, &desired.target.secret_name, &view.meta.uid).await?;
            }
            apply(&api, desired, observed, content, &view.meta.uid).await
        }
    }
}

/// Deletes a target that `spec.target.secretName` named before, if it is still this `GraphToken`'s and would go with it.
pub async fn retire(
    client: &kube::Client,
    observed: &Observed,
    name: &str,
    former: Meta,
) -> Result<(), StoreError> {
    let identity = &observed.identity;
    if !matches!(target(Some(former.clone()), identity, true), TargetState::Ours(_))
        || !former.owners.contains(&identity.uid)
    {
        return Ok(());
    }
    delete(client, &identity.namespace, name, former).await
}

/// Deletes a Secret, if it is still as it was seen.
pub async fn delete(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    seen: Meta,
) -> Result<(), StoreError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let preconditions = Preconditions { uid: Some(seen.uid), resource_version: Some(seen.resource_version) };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    api.delete(name, &params).await?;
    Ok(())
}

async fn create(
    api: &Api<Secret>,
    desired: &Desired,
    observed: &Observed,
    content: &Content,
) -> Result<Meta, StoreError> {
    let data = content.data.iter().map(|(key, bytes)| (key.clone(), ByteString(bytes.clone()))).collect();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(desired.target.secret_name.clone()),
            labels: Some(target_labels(&desired.target, observed)),
            annotations: Some(target_annotations(
                &desired.target,
                &observed.identity.uid,
                &content.published,
            )),
            owner_references: owner(desired, observed).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    Ok(meta(&api.create(&params, &secret).await?.metadata))
}

async fn apply(
    api: &Api<Secret>,
    desired: &Desired,
    observed: &Observed,
    content: &Content,
    uid: &str,
) -> Result<Meta, StoreError> {
    let data: BTreeMap<&String, ByteString> =
        content.data.iter().map(|(key, bytes)| (key, ByteString(bytes.clone()))).collect();
    let patch = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": desired.target.secret_name,
            "uid": uid,
            "labels": target_labels(&desired.target, observed),
            "annotations": target_annotations(&desired.target, &observed.identity.uid, &content.published),
            "ownerReferences": owner(desired, observed).into_iter().collect::<Vec<_>>(),
        },
        "data": data,
    });
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch_metadata(&desired.target.secret_name, &params, &Patch::Apply(&patch)).await?;
    Ok(meta(&applied.metadata))
}

/// No `controller` and no `blockOwnerDeletion`: an adopted Secret may have a controller already, and blocking needs a right
/// that least privilege does without.
fn owner(desired: &Desired, observed: &Observed) -> Option<OwnerReference> {
    (desired.target.deletion_policy == DeletionPolicy::Delete).then(|| OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "GraphToken".to_owned(),
        name: observed.identity.name.clone(),
        uid: observed.identity.uid.clone(),
        ..OwnerReference::default()
    })
}

/// Whether an apply must take fields away that an earlier write of ours put there.
fn drops_fields(desired: &Desired, observed: &Observed, view: &TargetView) -> bool {
    view.published.as_ref().is_none_or(|published| published.layout != desired.target.layout)
        || !metadata_holds(desired, observed, &view.meta)
}

/// Server-side apply takes away only what an earlier *apply* owned. The create was none, so what it wrote is first made
/// ours in that sense; the same move as client-go's `csaupgrade` makes for objects of client-side apply.
async fn claim_fields(api: &Api<Secret>, name: &str, uid: &str) -> Result<(), StoreError> {
    let found = api.get_metadata_opt(name).await?;
    // Another Secret that took its place is not ours to claim.
    let Some(found) = found.filter(|found| found.metadata.uid.as_deref() == Some(uid)) else { return Ok(()) };
    let Some(entries) = found.metadata.managed_fields.as_deref().and_then(claimed) else { return Ok(()) };
    let patch: Value = json!({
        "metadata": {"resourceVersion": found.metadata.resource_version, "managedFields": entries},
    });
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_metadata(name, &params, &Patch::Merge(&patch)).await?;
    Ok(())
}

/// The managed fields with our create turned into an apply, or dropped beside one; `None`: nothing to change.
fn claimed(entries: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let is = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some(operation)
    };
    let created = entries.iter().any(|entry| is(entry, "Update"));
    let applied = entries.iter().any(|entry| is(entry, "Apply"));
    created.then(|| {
        let kept = entries.iter().filter(|entry| !(applied && is(entry, "Update"))).cloned();
        kept.map(|entry| if is(&entry, "Update") { as_apply(entry) } else { entry }).collect()
    })
}

fn as_apply(entry: ManagedFieldsEntry) -> ManagedFieldsEntry {
    ManagedFieldsEntry { operation: Some("Apply".to_owned()), ..entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_token_belongs_to_the_tenant_that_issued_it() {
        let guid = "11111111-2222-3333-4444-555555555555";
        let guest = Account {
            object_id: "o".to_owned(),
            tenant_id: Some("home".to_owned()),
            guest_in: Some("host".to_owned()),
            username: None,
        };
        assert_eq!(realm("contoso.com", Some(&guest)), "host");
        assert_eq!(realm(guid, Some(&guest)), guid);
        let member = Account { guest_in: None, ..guest };
        assert_eq!(realm("contoso.com", Some(&member)), "home");
        assert_eq!(realm("contoso.com", None), "contoso.com");
    }

    fn entry(manager: &str, operation: &str) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            ..ManagedFieldsEntry::default()
        }
    }

    #[test]
    fn a_create_of_ours_becomes_an_apply_and_others_stay() {
        let entries = [entry(MANAGER, "Update"), entry("kubectl", "Update")];
        assert_eq!(claimed(&entries), Some(vec![entry(MANAGER, "Apply"), entry("kubectl", "Update")]));
    }

    #[test]
    fn a_create_beside_an_apply_goes() {
        let entries = [entry(MANAGER, "Update"), entry(MANAGER, "Apply")];
        assert_eq!(claimed(&entries), Some(vec![entry(MANAGER, "Apply")]));
        assert_eq!(claimed(&entries[1..]), None);
    }
}
