//! The bytes of the credential Secret, the target's record and a status as they might be after a restore or by hand →
//! `observed` → `plan`. The pieces of an input: `record.json`, `pending.json`, `refresh_token`, `access_token`, the
//! target's annotation, the status, the annotation of the `GraphToken`, `device.json`, and the login.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use graphtoken::api::names::{
    ANNOTATION_TOKEN, ANNOTATION_UID, KEY_DEVICE, KEY_PENDING, KEY_RECORD, KEY_REFRESH_TOKEN,
};
use graphtoken::desired::{Desired, Grant, Guards};
use graphtoken::observed::{
    Credential, CredentialState, Identity, KEY_ACCESS_TOKEN, Meta, Observed, ProofState, SeedState,
    TargetState, TokenFacts, Tokens, credential, labels, target,
};
use graphtoken::plan::{Act, Plan, due, plan, policy_warning, refresh_token_warning};
use graphtoken::render::{TokenView, render};
use graphtoken::{seed, target_shape};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

const UID: &str = "uid-1";
const HOLDER: &str = "me";
/// A status's message is no longer, whatever the Secrets hold.
const MAX_MESSAGE: usize = 1024;
/// Who only waits looks at most once in the three seconds for which somebody else's write-ahead record must stand, and
/// once each for a token that runs out and for an exchange that comes due.
const WATCHED: SignedDuration = SignedDuration::from_mins(1);
const MAX_LOOKS: usize = 22;

pub fn check(input: &[u8]) {
    let pieces = super::pieces::<9>(input);
    let [record, pending, refresh_token, access_token, _, _, _, device, _] = pieces;
    let keys = [KEY_RECORD, KEY_PENDING, KEY_REFRESH_TOKEN, KEY_ACCESS_TOKEN, KEY_DEVICE];
    let data: BTreeMap<String, Vec<u8>> = keys
        .into_iter()
        .zip([record, pending, refresh_token, access_token, device])
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|(key, bytes)| (key.to_owned(), bytes.to_vec()))
        .collect();
    let (credential, tokens) = credential(meta(None), &data);
    tells_of_the_token_by_digest(&credential, &tokens);
    if let (Some(stored), Some(access_token)) = (&credential.record.token, &tokens.access_token) {
        renders_within_bounds(&credential, &stored.facts, access_token, input.len());
    }
    for desired in [&*DELEGATED, &*BY_CODE, &*APP_ONLY] {
        let mut observed = observed(desired, &credential, &pieces);
        for now in [super::now(), Timestamp::MIN, Timestamp::MAX] {
            decides(desired, &observed, now);
        }
        waits_long_enough(desired, &observed);
        if credential.pending.is_some() {
            observed.pending_stood = true;
            decides(desired, &observed, super::now());
        }
    }
}

static DELEGATED: LazyLock<Desired> = LazyLock::new(|| {
    desired(&json!({
        "tenant": "contoso.example", "clientId": "the-client", "scopes": ["Mail.Read"], "account": "etl@contoso.example",
        "grant": {"refreshToken": {"secretRef": {"name": "seed", "key": "token"}}}, "refresh": {"renewBefore": "20m"},
    }))
});

static BY_CODE: LazyLock<Desired> = LazyLock::new(|| {
    desired(&json!({
        "tenant": "contoso.example", "clientId": "the-client", "scopes": ["Mail.Read"], "grant": {"deviceCode": {}},
    }))
});

static APP_ONLY: LazyLock<Desired> = LazyLock::new(|| {
    desired(&json!({
        "tenant": "contoso.example", "clientId": "the-client", "grant": {"clientCredentials": {}},
        "clientAuth": {"secretRef": {"name": "app", "key": "secret"}},
    }))
});

fn desired(spec: &serde_json::Value) -> Desired {
    let spec = serde_json::from_value(spec.clone()).expect("a spec");
    Desired::new("mail", &spec, &Guards::default(), &|_| None).expect("a right one")
}

fn meta(token: Option<&[u8]>) -> Meta {
    let mut annotations = BTreeMap::from([(ANNOTATION_UID.to_owned(), UID.to_owned())]);
    if let Some(token) = token {
        annotations.insert(ANNOTATION_TOKEN.to_owned(), String::from_utf8_lossy(token).into_owned());
    }
    Meta {
        uid: "secret-uid".into(),
        resource_version: "5".into(),
        labels: labels("mail", &BTreeMap::new()),
        labels_cut: false,
        annotations,
        owners: vec![UID.to_owned()],
        deleting: false,
    }
}

fn observed(desired: &Desired, credential: &Credential, pieces: &[&[u8]; 9]) -> Observed {
    let [_, _, _, _, annotation, status, requested, _, login] = *pieces;
    let identity = Identity { namespace: "ns".into(), name: "mail".into(), uid: UID.into(), generation: 3 };
    let target = target((!annotation.is_empty()).then(|| meta(Some(annotation))), &identity, true);
    let is_app = desired.grant == Grant::ClientCredentials;
    let state = if is_app {
        CredentialState::Unneeded
    } else if credential.refresh_token_digest.is_none()
        && credential.pending.is_none()
        && credential.device.is_none()
    {
        CredentialState::Absent
    } else if let Some(message) = credential.unusable("mail") {
        CredentialState::Foreign(message)
    } else {
        CredentialState::Present(Box::new(credential.clone()))
    };
    Observed {
        identity,
        status: serde_json::from_slice(status).unwrap_or_default(),
        requested_at: std::str::from_utf8(requested).ok().filter(|text| !text.is_empty()).map(str::to_owned),
        credential: state,
        target,
        seed: match desired.grant {
            Grant::RefreshToken { .. } => SeedState::Found { digest: seed::digest("1.Obviously-Fake-Seed") },
            _ => SeedState::Unneeded,
        },
        login: match seed::parse(login, &desired.client.client_id) {
            _ if is_app || login.is_empty() => SeedState::Unneeded,
            Ok(login) => SeedState::Found { digest: login.digest },
            Err(error) => SeedState::Malformed(error.to_string()),
        },
        poll_at: None,
        proof: ProofState::Usable,
        inputs: "inputs".into(),
        in_hand: None,
        holder: HOLDER.into(),
        pending_stood: false,
        silence: None,
        unrenderable: None,
        secret_labels: BTreeMap::new(),
    }
}

fn tells_of_the_token_by_digest(credential: &Credential, tokens: &Tokens) {
    let digest = tokens.refresh_token.as_ref().map(|token| seed::digest(token.expose_secret()));
    assert_eq!(credential.refresh_token_digest, digest);
    assert_eq!(credential.has_access_token, tokens.access_token.is_some());
    let shown = format!("{tokens:?}");
    for token in [&tokens.refresh_token, &tokens.access_token].into_iter().flatten() {
        let token = token.expose_secret();
        assert!(!token.is_empty() && token.trim() == token);
        assert!(token.len() < 24 || !shown.contains(token));
    }
}

/// Six bytes at most for each, in a few places.
fn renders_within_bounds(
    credential: &Credential,
    facts: &TokenFacts,
    access_token: &SecretString,
    input: usize,
) {
    let stored = credential.record.token.as_ref().expect("it was there");
    let desired = &*DELEGATED;
    let data = render(
        &desired.target.data,
        &TokenView {
            refresh_token: None,
            access_token,
            token_type: &stored.token_type,
            issued_at: facts.issued_at,
            expires_at: facts.expires_at,
            granted_scopes: &stored.granted_scopes,
            client_id: &desired.client.client_id,
            tenant_id: "the-tenant",
            account: credential.record.account.as_ref(),
            environment: desired.client.environment,
            app_only: false,
        },
    );
    // What does not fit a Secret is refused as a whole.
    let Ok(data) = data else { return };
    let size: usize = data.values().map(Vec::len).sum();
    assert!(size <= 4096 + 40 * input, "{size} bytes are rendered of {input}");
    assert_eq!(data["token"], access_token.expose_secret().as_bytes());
    serde_json::from_slice::<serde_json::Value>(&data["o365_token.txt"]).expect("it is JSON");
}

fn decides(desired: &Desired, observed: &Observed, now: Timestamp) {
    let Plan { act, look_at, next_exchange, problem } = plan(desired, observed, now);
    assert_eq!(plan(desired, observed, now).act, act);
    if act == Act::Wait {
        assert!(look_at.is_none_or(|at| at > now) && next_exchange.is_none_or(|at| at > now));
    }
    // What the provider was said to have answered is repeated as it stands in the status.
    let told = observed.status.last_failure.as_ref().map(|failure| failure.message.as_str());
    assert!(problem.is_none_or(|p| p.message.len() <= MAX_MESSAGE || Some(p.message.as_str()) == told));
    assert!(refresh_token_warning(observed, now).is_none_or(|warning| warning.len() <= MAX_MESSAGE));
    assert!(policy_warning(desired, observed).is_none_or(|warning| warning.len() <= MAX_MESSAGE));
    let tokens =
        [observed.served(), observed.credential().and_then(|c| Some(&c.record.token.as_ref()?.facts))];
    for facts in tokens.into_iter().flatten() {
        let at = due(desired.refresh, facts, UID);
        assert!(at >= facts.issued_at && at <= facts.expires_at.max(facts.issued_at), "{at} for {facts:?}");
    }
    if let TargetState::Ours(view) = &observed.target {
        let _ = target_shape::metadata_holds(desired, observed, &view.meta);
    }
}

/// Looks as the controller would have it, with nothing changing in between.
fn waits_long_enough(desired: &Desired, observed: &Observed) {
    let mut now = super::now();
    let end = now + WATCHED;
    let mut looks = 0;
    while now < end {
        looks += 1;
        assert!(looks <= MAX_LOOKS, "a hot loop");
        match plan(desired, observed, now) {
            Plan { act: Act::Wait, look_at: Some(at), .. } => now = at,
            _ => return,
        }
    }
}
