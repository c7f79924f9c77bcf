//! Gathers what is: caches first, and a live read only for what changed since it was last read.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::api::names::{ANNOTATION_REQUESTED_AT, KEY_REFRESH_TOKEN, credential_name, login_name};
use crate::api::spec::SecretKeyRef;
use crate::api::{GraphToken, GraphTokenStatus};
use crate::cache::Epoch;
use crate::context::Context;
use crate::credential::{CredentialStore, Holder};
use crate::desired::{Desired, Grant};
use crate::observed::{
    Credential, CredentialState, Identity, Meta, Observed, ProofState, SeedState, TargetState, inputs, target,
};
use crate::plan::PENDING_STANDS;
use crate::proof;
use crate::seed;
use crate::state::{KeptCredential, Key, Live, Login, Memory, Polls, Version, newer};
use crate::store::StoreError;
use tokio::time::Instant;

/// The part of the picture that takes no request: what is done when even reading fails.
pub fn sketch(
    ctx: &Context,
    identity: &Identity,
    object: &GraphToken,
    desired: &Desired,
    memory: &mut Memory,
) -> Observed {
    let namespace = &identity.namespace;
    let graphtoken = Key::new(namespace, &identity.name);
    ctx.state.refer(&graphtoken, referenced(identity, desired));
    let status = status(object.status.as_ref(), memory);
    let meta = ctx.secrets.get(namespace, &desired.target.secret_name);
    let intact = meta.as_ref().is_some_and(|meta| is_as_written(meta, &status, memory) == Some(true));
    let in_hand = memory.in_hand.as_ref().filter(|_| desired.grant == Grant::ClientCredentials);
    Observed {
        requested_at: object
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(ANNOTATION_REQUESTED_AT))
            .cloned(),
        credential: known_credential(memory).map_or(CredentialState::Absent, CredentialState::Present),
        target: target(meta, identity, intact),
        seed: SeedState::Unneeded,
        login: SeedState::Unneeded,
        poll_at: None,
        proof: ProofState::Usable,
        // What the Secrets hold is not known yet.
        inputs: String::new(),
        in_hand: in_hand.map(|token| token.stored.facts.clone()),
        holder: ctx.exchanger.holder.clone(),
        pending_stood: false,
        silence: ctx.exchanger.throttle.silence(&desired.client, ctx.now()),
        unrenderable: memory.unrenderable.as_deref().cloned(),
        secret_labels: ctx.secret_labels.clone(),
        identity: identity.clone(),
        status,
    }
}

/// The whole picture.
pub async fn fill(
    ctx: &Context,
    desired: &Desired,
    memory: &mut Memory,
    mut observed: Observed,
) -> Result<Observed, StoreError> {
    observed.credential = credential(ctx, desired, &observed.identity, memory).await?;
    observed.pending_stood = pending_stood(&observed, memory);
    observed.target = target_state(ctx, desired, &observed, memory).await?;
    observed.seed = seed_state(ctx, desired, &observed.identity, memory).await?;
    observed.login = login_state(ctx, desired, &observed.identity, memory).await?;
    observed.poll_at = poll_at(ctx, &observed, memory);
    let prover = proof::prover(ctx, &desired.client, &observed.identity).await?;
    let credential = prover
        .as_ref()
        .ok()
        .and_then(|prover| proof::content_hash(ctx, &desired.client, &observed.identity, prover));
    observed.inputs = inputs(desired, credential.as_deref());
    observed.proof = prover.err().unwrap_or(ProofState::Usable);
    observed.silence = ctx.exchanger.throttle.silence(&desired.client, ctx.now());
    memory.read_live = Live::default();
    Ok(observed)
}

fn seed_ref(desired: &Desired) -> Option<&SecretKeyRef> {
    match &desired.grant {
        Grant::RefreshToken { seed } => Some(seed),
        Grant::DeviceCode | Grant::ClientCredentials => None,
    }
}

/// The Secrets whose change concerns a `GraphToken`, beside those that are named after it.
fn referenced(identity: &Identity, desired: &Desired) -> Vec<Key> {
    let target = Some(&desired.target.secret_name).filter(|name| **name != identity.name);
    let here = target.into_iter().chain(seed_ref(desired).map(|seed| &seed.name));
    let here = here.map(|name| Key::new(&identity.namespace, name));
    here.chain(proof::secret(&desired.client, identity)).collect()
}

/// The newest status known: the mirror's, or what could not be written after it.
pub fn status(mirrored: Option<&GraphTokenStatus>, memory: &Memory) -> GraphTokenStatus {
    let unsaved = memory.unsaved.as_deref().map(|unsaved| &unsaved.status);
    unsaved.or(mirrored).cloned().unwrap_or_default()
}

/// The status that events have spoken of.
pub fn announced(mirrored: Option<&GraphTokenStatus>, memory: &Memory) -> GraphTokenStatus {
    let announced = memory.unsaved.as_deref().and_then(|unsaved| unsaved.announced.as_ref());
    announced.or(mirrored).cloned().unwrap_or_default()
}

/// Notes an own write of a Secret: in the mirror, and as nothing that is to enqueue its `GraphToken` again.
pub fn wrote(ctx: &Context, memory: &mut Memory, secret: &Key, seen: &Meta, epoch: Epoch) {
    memory.own.push(Version { uid: seen.uid.clone(), resource_version: seen.resource_version.clone() });
    if !ctx.secrets.wrote(secret, seen, epoch) {
        memory.read_live = Live { credential: true, target: true };
    }
}

/// Whether a target is at a version whose bytes are known: as written, or checked. `None`: it must be read.
fn is_as_written(meta: &Meta, status: &GraphTokenStatus, memory: &Memory) -> Option<bool> {
    let same = |uid: &str, version: &str| uid == meta.uid && version == meta.resource_version;
    if status.target.as_ref().is_some_and(|t| same(&t.uid, &t.resource_version)) {
        return Some(true);
    }
    let checked = memory.checked.as_deref().filter(|(version, _)| *version == meta.resource_version);
    checked.map(|(_, intact)| *intact)
}

/// The store that holds this `GraphToken`'s credential.
pub fn credential_store(ctx: &Context, identity: &Identity, desired: &Desired) -> CredentialStore {
    let holder = Holder {
        identity: identity.clone(),
        retention: desired.credential_retention.0.clone(),
        secret_labels: ctx.secret_labels.clone(),
    };
    CredentialStore::new(&ctx.exchanger.client, holder)
}

async fn credential(
    ctx: &Context,
    desired: &Desired,
    identity: &Identity,
    memory: &mut Memory,
) -> Result<CredentialState, StoreError> {
    if desired.grant == Grant::ClientCredentials {
        return Ok(CredentialState::Unneeded);
    }
    let store = credential_store(ctx, identity, desired);
    let secret = Key::new(&identity.namespace, &credential_name(&identity.name));
    let in_cache = ctx.secrets.get(&secret.namespace, &secret.name);
    let epoch = ctx.secrets.epoch(&secret.namespace);
    let (known, kept) = match (in_cache, known_credential(memory)) {
        (None, None) if !memory.read_live.credential => (None, None),
        (Some(meta), Some(known)) if !memory.read_live.credential && is_current(&known, &meta) => {
            (Some(known), memory.credential.take())
        }
        _ => {
            let found = store.read().await?.map(|(credential, _)| Box::new(credential));
            match &found {
                Some(found) => _ = ctx.secrets.wrote(&secret, &found.meta, epoch),
                None => ctx.secrets.absent(&secret, epoch),
            }
            (found, None)
        }
    };
    memory.credential = None;
    let Some(known) = known else { return Ok(CredentialState::Absent) };
    if let Some(message) = known.unusable(&identity.name) {
        return Ok(CredentialState::Foreign(message));
    }
    let ours = known.owner_uid() == Some(identity.uid.as_str())
        && known.retention() == Some(desired.credential_retention.0.as_str())
        && !known.marked_for_deletion();
    let (known, kept) = if ours {
        (known, kept)
    } else {
        let taken = take_over(&store, *known).await?;
        wrote(ctx, memory, &secret, &taken.meta, epoch);
        (Box::new(taken), None)
    };
    memory.credential = kept.or_else(|| Some(KeptCredential::new(&known)));
    Ok(CredentialState::Present(known))
}

fn known_credential(memory: &Memory) -> Option<Box<Credential>> {
    memory.credential.as_ref().and_then(KeptCredential::open)
}

fn is_current(known: &Credential, meta: &Meta) -> bool {
    known.meta.uid == meta.uid && !newer(&meta.resource_version, &known.meta.resource_version)
}

/// The credential of a dead `GraphToken` of the same name is taken up by a living one, and only by a living one: the
/// cache may still show one that is dead itself.
async fn take_over(store: &CredentialStore, known: Credential) -> Result<Credential, StoreError> {
    if store.graphtoken_lives().await? { store.take_over(&known).await } else { Err(StoreError::Gone) }
}

fn pending_stood(observed: &Observed, memory: &mut Memory) -> bool {
    let pending =
        observed.credential().and_then(|c| c.pending.as_ref()).filter(|p| p.holder != observed.holder);
    let Some(pending) = pending else {
        memory.pending_since = None;
        return false;
    };
    let since = match memory.pending_since.as_deref() {
        Some((attempt, since)) if *attempt == pending.attempt => *since,
        _ => Instant::now(),
    };
    memory.pending_since = Some(Box::new((pending.attempt.clone(), since)));
    // Without leader election too: another process may run that should not.
    since.elapsed() >= PENDING_STANDS
}

async fn target_state(
    ctx: &Context,
    desired: &Desired,
    observed: &Observed,
    memory: &mut Memory,
) -> Result<TargetState, StoreError> {
    let identity = &observed.identity;
    let in_mirror = ctx.secrets.get(&identity.namespace, &desired.target.secret_name);
    let meta =
        if memory.read_live.target { live_target(ctx, desired, observed, memory).await? } else { in_mirror };
    let Some(meta) = meta else { return Ok(TargetState::Absent) };
    match is_as_written(&meta, &observed.status, memory) {
        Some(intact) => Ok(target(Some(meta), identity, intact)),
        None if !matches!(target(Some(meta.clone()), identity, false), TargetState::Ours(_)) => {
            Ok(target(Some(meta), identity, false))
        }
        None => {
            let meta = live_target(ctx, desired, observed, memory).await?;
            let intact =
                meta.as_ref().is_some_and(|m| is_as_written(m, &observed.status, memory) == Some(true));
            Ok(target(meta, identity, intact))
        }
    }
}

/// Reads the target and keeps whether its bytes are as they were written.
async fn live_target(
    ctx: &Context,
    desired: &Desired,
    observed: &Observed,
    memory: &mut Memory,
) -> Result<Option<Meta>, StoreError> {
    let secret = Key::new(&observed.identity.namespace, &desired.target.secret_name);
    let epoch = ctx.secrets.epoch(&secret.namespace);
    let found = crate::target::read(&ctx.exchanger.client, observed, &secret.name).await?;
    let Some((meta, data)) = found else {
        ctx.secrets.absent(&secret, epoch);
        return Ok(None);
    };
    ctx.secrets.wrote(&secret, &meta, epoch);
    let intact = match target(Some(meta.clone()), &observed.identity, true) {
        TargetState::Ours(view) => {
            view.published.is_some_and(|published| crate::target::is_intact(desired, &published, &data))
        }
        _ => false,
    };
    memory.checked = Some(Box::new((meta.resource_version.clone(), intact)));
    Ok(Some(meta))
}

async fn seed_state(
    ctx: &Context,
    desired: &Desired,
    identity: &Identity,
    memory: &mut Memory,
) -> Result<SeedState, StoreError> {
    let Some(seed) = seed_ref(desired) else { return Ok(SeedState::Unneeded) };
    let Some(meta) = ctx.secrets.get(&identity.namespace, &seed.name) else {
        return Ok(SeedState::Missing(missing("spec.grant.refreshToken", seed, "a refresh token")));
    };
    let (uid, version) = (meta.uid, meta.resource_version);
    let what_for = format!("{}/{}/{version}", seed.key, desired.client.client_id);
    match memory.seed.as_deref() {
        Some((got_uid, got, state)) if *got_uid == uid && *got == what_for => return Ok(state.clone()),
        _ => {}
    }
    let state = match read_key(ctx, &identity.namespace, seed).await? {
        // The Secret is there: who deleted an adopted seed would have deleted that.
        None => SeedState::Malformed(missing("spec.grant.refreshToken", seed, "a refresh token")),
        Some(bytes) => match seed::parse(&bytes, &desired.client.client_id) {
            Ok(seed) => SeedState::Found { digest: seed.digest },
            Err(error) => {
                SeedState::Malformed(format!("seed Secret {}, key {}: {error}", seed.name, seed.key))
            }
        },
    };
    memory.seed = Some(Box::new((uid, what_for, state.clone())));
    Ok(state)
}

/// The login Secret, which any delegated grant takes up.
fn login_meta(ctx: &Context, identity: &Identity, desired: &Desired) -> Option<Meta> {
    let delegated = desired.grant.kind().is_delegated();
    delegated.then(|| ctx.secrets.get(&identity.namespace, &login_name(&identity.name))).flatten()
}

async fn login_state(
    ctx: &Context,
    desired: &Desired,
    identity: &Identity,
    memory: &mut Memory,
) -> Result<SeedState, StoreError> {
    let Some(meta) = login_meta(ctx, identity, desired).filter(|meta| !meta.deleting) else {
        memory.login = None;
        return Ok(SeedState::Unneeded);
    };
    let client_id = &desired.client.client_id;
    match &memory.login {
        Some(known) if known.meta == meta && known.client_id == *client_id => return Ok(known.state.clone()),
        _ => {}
    }
    let name = login_name(&identity.name);
    let login = SecretKeyRef { name: name.clone(), key: KEY_REFRESH_TOKEN.to_owned() };
    let state = match read_key(ctx, &identity.namespace, &login).await? {
        None => SeedState::Malformed(format!(
            "the login Secret {name} has no key {KEY_REFRESH_TOKEN}: put the refresh token there, or delete the Secret"
        )),
        Some(bytes) => match seed::parse(&bytes, client_id) {
            Ok(seed) => SeedState::Found { digest: seed.digest },
            Err(error) => {
                SeedState::Malformed(format!("login Secret {name}, key {KEY_REFRESH_TOKEN}: {error}"))
            }
        },
    };
    memory.login = Some(Box::new(Login { meta, client_id: client_id.clone(), state: state.clone() }));
    Ok(state)
}

/// When the next poll may be made. A restart counts from the moment it first sees the code.
pub fn poll_at(ctx: &Context, observed: &Observed, memory: &mut Memory) -> Option<Timestamp> {
    let device = observed.credential().and_then(|c| c.device.as_ref()).filter(|device| !device.ended);
    let Some(device) = device else {
        memory.polls = None;
        return None;
    };
    let known = memory.polls.as_ref().filter(|polls| polls.user_code == device.user_code);
    if known.is_none() {
        let interval = Duration::from_secs(device.interval_seconds);
        memory.polls = Some(Box::new(Polls::new(device.user_code.clone(), interval, ctx.now())));
    }
    memory.polls.as_ref().map(|polls| polls.next)
}

fn missing(field: &str, reference: &SecretKeyRef, what: &str) -> String {
    format!(
        "{field} names Secret {}, key {}, which is not there; create it with {what} in it",
        reference.name, reference.key
    )
}

async fn read_key(ctx: &Context, namespace: &str, key: &SecretKeyRef) -> Result<Option<Vec<u8>>, StoreError> {
    let api: Api<Secret> = Api::namespaced(ctx.exchanger.client.clone(), namespace);
    let secret = api.get_opt(&key.name).await?;
    Ok(secret.and_then(|secret| secret.data?.remove(&key.key)).map(|bytes| bytes.0))
}
