//! The credential Secret: sole home of refresh tokens, written by compare-and-swap only.
//!
//! [`settle`] decides, purely, what becomes of a refresh token whose commit was not confirmed.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::api::names::{
    ANNOTATION_DELETE_AFTER, ANNOTATION_RETENTION, ANNOTATION_UID, KEY_DEVICE, KEY_PENDING, KEY_RECORD,
    KEY_REFRESH_TOKEN, MANAGER, credential_name,
};
use crate::api::{GraphToken, Time};
use crate::observed::{
    Credential, Device, Identity, KEY_ACCESS_TOKEN, Meta, Pending, Record, Tokens, credential, labels,
};
use crate::store::{StoreError, meta};

/// Whose credential it is, and how it is to be labelled.
#[derive(Debug, Clone)]
pub struct Holder {
    /// The `GraphToken`.
    pub identity: Identity,
    /// How long the credential outlives it, as its spec says.
    pub retention: String,
    /// Labels that the operator's settings put on every Secret.
    pub secret_labels: BTreeMap<String, String>,
}

/// The credential Secret of one `GraphToken`.
#[derive(Clone)]
pub struct CredentialStore {
    client: kube::Client,
    api: Api<Secret>,
    name: String,
    holder: Holder,
}

/// What an exchange brought, to be committed.
#[derive(Clone)]
pub struct Commit {
    /// The record as it is to be.
    pub record: Record,
    /// The refresh token as it is to be; `None` leaves the one that is there.
    pub refresh_token: Option<SecretString>,
    /// The access token; `None` removes the one that is there.
    pub access_token: Option<SecretString>,
    /// Whether a sign-in was made, so that no code waits for one any more.
    pub signed_in: bool,
}

impl CredentialStore {
    /// The credential of a `GraphToken`.
    pub fn new(client: &kube::Client, holder: Holder) -> Self {
        let api = Api::namespaced(client.clone(), &holder.identity.namespace);
        Self { client: client.clone(), api, name: credential_name(&holder.identity.name), holder }
    }

    /// Reads it, live.
    pub async fn read(&self) -> Result<Option<(Credential, Tokens)>, StoreError> {
        Ok(self.api.get_opt(&self.name).await?.map(|secret| parse(&secret)))
    }

    /// Reads it to write to it: what is not ours, or does not parse, is not to be written to.
    pub async fn read_ours(&self) -> Result<Option<Credential>, StoreError> {
        let Some((found, _)) = self.read().await? else { return Ok(None) };
        match found.unusable(&self.holder.identity.name) {
            Some(whose) => Err(StoreError::Foreign(whose)),
            None => Ok(Some(found)),
        }
    }

    /// Step 1 of an exchange: notes that it is about to begin. That this succeeds proves that the store takes writes, and
    /// orders rivals, before a single-use token is spent.
    pub async fn begin(
        &self,
        seen: Option<&Credential>,
        pending: &Pending,
    ) -> Result<Credential, StoreError> {
        let text = json!(pending).to_string();
        let Some(seen) = seen else {
            let data = BTreeMap::from([(KEY_PENDING.to_owned(), ByteString(text.into_bytes()))]);
            return self.create(data).await;
        };
        let meta = self.patch(&seen.meta, json!({KEY_PENDING: base64(&text)})).await?;
        Ok(Credential { meta, pending: Some(pending.clone()), ..seen.clone() })
    }

    /// Commits what an exchange brought, and so ends it.
    pub async fn commit(&self, seen: &Credential, commit: &Commit) -> Result<Credential, StoreError> {
        let mut data = json!({
            KEY_RECORD: base64(&json!(commit.record).to_string()),
            KEY_ACCESS_TOKEN: commit.access_token.as_ref().map(|token| base64(token.expose_secret())),
            KEY_PENDING: Value::Null,
        });
        if commit.signed_in {
            data[KEY_DEVICE] = Value::Null;
        }
        let mut digest = seen.refresh_token_digest.clone();
        if let Some(token) = &commit.refresh_token {
            data[KEY_REFRESH_TOKEN] = base64(token.expose_secret());
            digest = Some(crate::seed::digest(token.expose_secret()));
        }
        let meta = self.patch(&seen.meta, data).await?;
        Ok(Credential {
            meta,
            record: commit.record.clone(),
            pending: None,
            device: seen.device.clone().filter(|_| !commit.signed_in),
            refresh_token_digest: digest,
            has_access_token: commit.access_token.is_some(),
            damaged: None,
        })
    }

    /// Creates the Secret with a commit in it, where it went missing meanwhile.
    pub async fn recreate(&self, commit: &Commit) -> Result<Credential, StoreError> {
        let mut data = BTreeMap::from([(KEY_RECORD.to_owned(), bytes(&json!(commit.record).to_string()))]);
        for (key, token) in
            [(KEY_REFRESH_TOKEN, &commit.refresh_token), (KEY_ACCESS_TOKEN, &commit.access_token)]
        {
            if let Some(token) = token {
                data.insert(key.to_owned(), bytes(token.expose_secret()));
            }
        }
        self.create(data).await
    }

    /// Stores a device code, so that a restart goes on with it; or, without its secret, that it came to nothing.
    pub async fn put_device(
        &self,
        seen: Option<&Credential>,
        device: &Device,
        device_code: Option<&SecretString>,
    ) -> Result<Credential, StoreError> {
        let text = device.to_json(device_code);
        let Some(seen) = seen else {
            return self.create(BTreeMap::from([(KEY_DEVICE.to_owned(), bytes(&text))])).await;
        };
        let meta = self.patch(&seen.meta, json!({KEY_DEVICE: base64(&text)})).await?;
        Ok(Credential { meta, device: Some(device.clone()), ..seen.clone() })
    }

    /// Makes it this `GraphToken`'s: after one of the same name before it, or with another retention.
    pub async fn take_over(&self, seen: &Credential) -> Result<Credential, StoreError> {
        let meta = self.patch(&seen.meta, json!({})).await?;
        Ok(Credential { meta, ..seen.clone() })
    }

    /// Whether the `GraphToken` is still there, by a live read.
    pub async fn graphtoken_lives(&self) -> Result<bool, StoreError> {
        let identity = &self.holder.identity;
        let api: Api<GraphToken> = Api::namespaced(self.client.clone(), &identity.namespace);
        let found = api.get_metadata_opt(&identity.name).await?;
        Ok(found.is_some_and(|g| g.metadata.uid.as_ref() == Some(&identity.uid)))
    }

    async fn create(&self, data: BTreeMap<String, ByteString>) -> Result<Credential, StoreError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels(&self.holder.identity.name, &self.holder.secret_labels)),
                annotations: Some(BTreeMap::from([
                    (ANNOTATION_UID.to_owned(), self.holder.identity.uid.clone()),
                    (ANNOTATION_RETENTION.to_owned(), self.holder.retention.clone()),
                ])),
                ..ObjectMeta::default()
            },
            data: Some(data),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let created = self.api.create(&params, &secret).await?;
        Ok(parse(&created).0)
    }

    /// A merge patch at the resourceVersion that was seen: stale → 409, and no body comes back (measured on 1.37).
    async fn patch(&self, seen: &Meta, data: Value) -> Result<Meta, StoreError> {
        let patch = json!({
            "metadata": {
                "uid": seen.uid,
                "resourceVersion": seen.resource_version,
                "labels": labels(&self.holder.identity.name, &self.holder.secret_labels),
                "annotations": {
                    ANNOTATION_UID: self.holder.identity.uid,
                    ANNOTATION_RETENTION: self.holder.retention,
                    ANNOTATION_DELETE_AFTER: null,
                },
            },
            "data": data,
        });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patched = self.api.patch_metadata(&self.name, &params, &Patch::Merge(&patch)).await?;
        Ok(meta(&patched.metadata))
    }
}

fn parse(secret: &Secret) -> (Credential, Tokens) {
    let data =
        secret.data.clone().unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
    credential(meta(&secret.metadata), &data)
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

fn base64(text: &str) -> Value {
    json!(bytes(text))
}

/// An exchange that was answered, as [`settle`] sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// The attempt.
    pub attempt: String,
    /// The record's generation that it spent.
    pub generation: u64,
    /// When the sign-in was made that it goes on from.
    pub signed_in: Option<Time>,
}

/// What becomes of a commit that was not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// It arrived: nothing to do.
    Done,
    /// The store has moved on without it: what is there is newer.
    Drop,
    /// Write it at the resourceVersion that was read.
    Write,
    /// The Secret is gone and the `GraphToken` is not: create it.
    Create,
    /// The Secret was deleted or put back to an older state, and another exchange began on that: let it end. Written now, this
    /// one would take a newer sign-in's place.
    Wait,
}

/// Decides by what is stored. Pure; it is checked by a model of two replicas.
///
/// `rival`: whether the stored record says that somebody else's exchange is under way.
pub fn settle(stored: Option<&Record>, mine: &Spent, rival: bool, graphtoken_lives: bool) -> Settle {
    match stored {
        None if graphtoken_lives => Settle::Create,
        None => Settle::Drop,
        Some(record) if record.last_attempt.as_ref() == Some(&mine.attempt) => Settle::Done,
        // A later exchange, or an adopted seed, spent what this one spent, or what came of it.
        Some(record) if record.generation > mine.generation => Settle::Drop,
        // The Secret was deleted, and a later sign-in began another, whose generations count from the start again.
        Some(record) if record.signed_in.as_ref().map(|s| s.time) > mine.signed_in => Settle::Drop,
        Some(record) if rival && record.generation < mine.generation => Settle::Wait,
        // What is there is what was spent, or an older backup of it.
        Some(_) => Settle::Write,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rstest::rstest;

    use super::*;
    use crate::api::status::{SignInSource, SignedIn};

    fn at(second: i64) -> Time {
        Time::from(Timestamp::from_second(second).unwrap())
    }

    fn stored(generation: u64, last_attempt: &str) -> Record {
        Record { generation, last_attempt: Some(last_attempt.to_owned()), ..Record::default() }
    }

    fn signed_in(second: i64, record: Record) -> Record {
        let signed_in = SignedIn { time: at(second), source: SignInSource::Seed.into() };
        Record { signed_in: Some(signed_in), ..record }
    }

    #[rstest]
    #[case::the_answer_was_lost_but_the_write_was_not(Some(stored(8, "mine")), true, Settle::Done)]
    #[case::somebody_went_on(Some(stored(8, "other")), true, Settle::Drop)]
    #[case::nothing_was_written(Some(stored(7, "other")), true, Settle::Write)]
    #[case::an_old_backup_was_put_back(Some(stored(3, "other")), true, Settle::Write)]
    #[case::a_later_sign_in_began_anew(Some(signed_in(200, stored(1, "other"))), true, Settle::Drop)]
    #[case::a_backup_of_an_earlier_sign_in(Some(signed_in(50, stored(6, "other"))), true, Settle::Write)]
    #[case::the_same_sign_in(Some(signed_in(100, stored(7, "other"))), true, Settle::Write)]
    #[case::the_record_was_emptied(Some(Record::default()), true, Settle::Write)]
    #[case::the_graphtoken_went_but_the_credential_outlives_it(
        Some(stored(7, "other")),
        false,
        Settle::Write
    )]
    #[case::the_secret_was_deleted(None, true, Settle::Create)]
    #[case::both_were_deleted(None, false, Settle::Drop)]
    fn a_commit_is_settled_by_what_is_stored(
        #[case] stored: Option<Record>,
        #[case] lives: bool,
        #[case] then: Settle,
    ) {
        let mine = Spent { attempt: "mine".to_owned(), generation: 7, signed_in: Some(at(100)) };
        assert_eq!(settle(stored.as_ref(), &mine, false, lives), then);
    }

    #[rstest]
    #[case::a_new_sign_in_began_on_an_emptied_record(Record::default(), Settle::Wait)]
    #[case::somebody_recovers_an_old_backup(stored(3, "other"), Settle::Wait)]
    #[case::somebody_recovers_what_was_spent(stored(7, "other"), Settle::Write)]
    #[case::the_rival_is_a_newer_one(stored(8, "other"), Settle::Drop)]
    #[case::the_rival_came_after(stored(8, "mine"), Settle::Done)]
    fn an_exchange_on_an_older_record_is_let_end_first(#[case] stored: Record, #[case] then: Settle) {
        let mine = Spent { attempt: "mine".to_owned(), generation: 7, signed_in: Some(at(100)) };
        assert_eq!(settle(Some(&stored), &mine, true, true), then);
    }
}
