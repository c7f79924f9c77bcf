//! The Secret that pods mount, as the spec wants it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Client, DesiredTarget, Grant, SpecError};
use crate::api::names::{CREDENTIAL_SUFFIX, GROUP, LOGIN_SUFFIX};
use crate::api::spec::{DataEntry, Format, Target};
use crate::grant::Account;
use crate::render::{RenderError, TokenView, layout_digest, render, template};

/// A token of Entra has some two kilobytes. What would not fit with such a one is refused before one is got.
const TYPICAL_TOKEN: usize = 2048;
/// More scopes are granted than were asked for, where all that was consented to comes back.
const MANY_SCOPES: usize = 64;
/// The API server takes 256 KiB of annotations; the operator's own are among them.
const MAX_ANNOTATIONS: usize = 200 * 1024;
/// Of a label's or an annotation's key: a DNS name, a slash, a name (Kubernetes, "Labels and Selectors").
const MAX_PREFIX: usize = 253;
const MAX_NAME: usize = 63;

pub(super) fn target(
    name: &str,
    target: Option<&Target>,
    grant: &Grant,
    client: &Client,
    scopes: &[String],
) -> Result<DesiredTarget, SpecError> {
    let absent = Target::default();
    let asked = target.unwrap_or(&absent);
    let include_refresh_token = asked.include_refresh_token.unwrap_or(false);
    if include_refresh_token && *grant == Grant::ClientCredentials {
        return Err(SpecError::NoRefreshToken);
    }
    let entries = asked.data.clone().unwrap_or_else(default_data);
    let desired = DesiredTarget {
        layout: layout_digest(&entries, include_refresh_token),
        secret_name: secret_name(name, asked, grant, client)?,
        deletion_policy: asked.deletion_policy.unwrap_or_default(),
        data: entries,
        labels: asked.labels.clone().unwrap_or_default(),
        annotations: asked.annotations.clone().unwrap_or_default(),
        include_refresh_token,
        restart: asked.restart.clone().unwrap_or_default(),
    };
    free("labels", &desired.labels)?;
    if let Some((key, _)) = desired.labels.iter().find(|(_, value)| !is_label_value(value)) {
        let problem = "has a value that is no label's: at most 63 letters, digits, '-', '_' and '.'";
        return Err(SpecError::TargetMetadata { field: "labels", key: key.clone(), problem });
    }
    free("annotations", &desired.annotations)?;
    let bytes = desired.annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    if let Some(key) = desired.annotations.keys().next().filter(|_| bytes > MAX_ANNOTATIONS) {
        let problem = "and the others are more than 200 KiB together, which the API server would not take";
        return Err(SpecError::TargetMetadata { field: "annotations", key: key.clone(), problem });
    }
    data(&desired, client, scopes)?;
    Ok(desired)
}

fn secret_name(name: &str, asked: &Target, grant: &Grant, client: &Client) -> Result<String, SpecError> {
    let secret_name = asked.secret_name.clone().unwrap_or_else(|| name.to_owned());
    let taken = |taken_by| Err(SpecError::TargetName { name: secret_name.clone(), taken_by });
    if secret_name.ends_with(CREDENTIAL_SUFFIX) || secret_name.ends_with(LOGIN_SUFFIX) {
        return taken("reserved for the operator's own Secrets");
    }
    if matches!(grant, Grant::RefreshToken { seed } if seed.name == secret_name) {
        return taken("the seed Secret, which the operator never writes");
    }
    // A ClusterGraphClient's are in another namespace, or are its owner's to look after.
    let proof = client.proof.secret_name().filter(|_| client.secrets_namespace.is_none());
    if proof.is_some_and(|proof| proof == secret_name) {
        return taken("the Secret of spec.clientAuth, which the operator never writes");
    }
    Ok(secret_name)
}

fn default_data() -> Vec<DataEntry> {
    let entry = |key: &str, format| DataEntry { key: key.to_owned(), format: Some(format), template: None };
    vec![entry("token", Format::AccessToken), entry("o365_token.txt", Format::O365)]
}

/// The keys, and, where there are templates, that they can be rendered and are not too large.
fn data(desired: &DesiredTarget, client: &Client, scopes: &[String]) -> Result<(), SpecError> {
    let mut keys = std::collections::BTreeSet::new();
    for entry in &desired.data {
        let wrong = |problem| Err(SpecError::TargetKey { key: entry.key.clone(), problem });
        if !is_secret_key(&entry.key) {
            return wrong(
                "is no name of a file: at most 253 letters, digits, '-', '_' and '.', and neither . nor .. in front",
            );
        }
        if !keys.insert(&entry.key) {
            return wrong("is there twice");
        }
        match (entry.format, &entry.template) {
            (Some(_), None) => {}
            (None, Some(source)) => template::check(source)
                .map_err(|error| RenderError::Template { key: entry.key.clone(), error })?,
            _ => return wrong("needs either a format or a template"),
        }
    }
    if desired.data.iter().any(|entry| entry.template.is_some()) {
        rendered_with_a_typical_token(desired, client, scopes)?;
    }
    Ok(())
}

fn rendered_with_a_typical_token(
    desired: &DesiredTarget,
    client: &Client,
    scopes: &[String],
) -> Result<(), RenderError> {
    let object_id = "00000000-0000-0000-0000-000000000000".to_owned();
    let account = Account { object_id, tenant_id: None, guest_in: None, username: None };
    let access_token = "x".repeat(TYPICAL_TOKEN).into();
    let more = (scopes.len()..MANY_SCOPES).map(|n| format!("{}/Scope.{n}", client.scope_prefix));
    let scopes: Vec<String> = scopes.iter().cloned().chain(more).collect();
    let token = TokenView {
        access_token: &access_token,
        refresh_token: desired.include_refresh_token.then_some(&access_token),
        token_type: "Bearer",
        issued_at: Timestamp::UNIX_EPOCH,
        expires_at: Timestamp::UNIX_EPOCH,
        granted_scopes: &scopes,
        client_id: &client.client_id,
        tenant_id: &client.tenant,
        account: Some(&account),
        environment: client.environment,
        app_only: false,
    };
    render(&desired.data, &token).map(drop)
}

/// Whether a Secret may have it as a key, and the kubelet make a file of it.
fn is_secret_key(key: &str) -> bool {
    let of_file = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=253).contains(&key.len()) && key.bytes().all(of_file) && key != "." && !key.starts_with("..")
}

/// Whether all keys may be set by users.
fn free(field: &'static str, map: &BTreeMap<String, String>) -> Result<(), SpecError> {
    for key in map.keys() {
        let wrong = |problem| Err(SpecError::TargetMetadata { field, key: key.clone(), problem });
        let (prefix, name) =
            key.rsplit_once('/').map_or((None, &**key), |(prefix, name)| (Some(prefix), name));
        if !is_name(name, MAX_NAME) || prefix.is_some_and(|prefix| !is_dns_name(prefix)) {
            return wrong(
                "is no key of Kubernetes': at most 63 letters, digits, '-', '_' and '.', after a DNS name and a slash if you like",
            );
        }
        let reserved =
            |prefix: &str| prefix == GROUP || prefix == "kubernetes.io" || prefix.ends_with(".kubernetes.io");
        if prefix.is_some_and(reserved) {
            return wrong(
                "is reserved: keys of graphtoken.io, kubernetes.io and *.kubernetes.io are not yours to set",
            );
        }
    }
    Ok(())
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name(value, MAX_NAME)
}

fn is_name(name: &str, most: usize) -> bool {
    let within = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edges = [name.bytes().next(), name.bytes().last()];
    name.len() <= most
        && name.bytes().all(within)
        && edges.into_iter().all(|edge| edge.is_some_and(|byte| byte.is_ascii_alphanumeric()))
}

fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        is_name(label, MAX_PREFIX) && !label.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    name.len() <= MAX_PREFIX && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests;
