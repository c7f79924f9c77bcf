//! What is: metadata and bytes of the Secrets → [`Observed`]. Pure; the edges read, this understands.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::GraphTokenStatus;
use crate::api::names::{ANNOTATION_ADOPT, ANNOTATION_TOKEN, LABEL_MANAGED_BY, LABEL_NAME, MANAGER};
use crate::throttle::Silence;

mod credential;
mod inputs;

pub use credential::{
    ChainClient, Credential, Device, KEY_ACCESS_TOKEN, Pending, Record, RejectedSignIn, StoredToken,
    TokenFacts, Tokens, credential,
};
pub use inputs::{hash_of, inputs};

/// Which `GraphToken` this is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its namespace, and that of everything it refers to.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: another one of the same name is another `GraphToken`.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

/// What the operator needs of a Secret's metadata. As text it is short: the cache keeps it so, for each Secret there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// `metadata.uid`.
    #[serde(rename = "u")]
    pub uid: String,
    /// `metadata.resourceVersion`.
    #[serde(rename = "v")]
    pub resource_version: String,
    /// Labels: of a Secret that is not ours only the two that tell whose it is.
    #[serde(rename = "l", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it is ours and has more labels than are kept.
    #[serde(rename = "c", default, skip_serializing_if = "std::ops::Not::not")]
    pub labels_cut: bool,
    /// The operator's annotations: [`crate::api::names::SECRET_ANNOTATIONS`].
    #[serde(rename = "a", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// UIDs of the owners that are `GraphToken`s.
    #[serde(rename = "o", default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// Whether it is being deleted.
    #[serde(rename = "d", default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
}

impl Meta {
    fn belongs_to(&self, name: &str) -> bool {
        self.labels.get(LABEL_MANAGED_BY).is_some_and(|v| v == MANAGER)
            && self.labels.get(LABEL_NAME).is_some_and(|v| v == name)
    }
}

/// What the annotation on the target says of the token in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// Which token.
    #[serde(flatten)]
    pub facts: TokenFacts,
    /// Digest of the keys and formats it was rendered to.
    pub layout: String,
    /// Digest of the rendered bytes.
    pub content: String,
    /// Digest of the labels and annotations that the spec asks for; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub extras: String,
    /// Whether it is the first token that was ever written there: nobody can have read another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// Since when the target holds this content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// The target Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it lives for the length of one look")]
pub enum TargetState {
    /// It is not there.
    Absent,
    /// It exists and is not ours; the sentence says whose it is and what to do.
    Conflict(String),
    /// It is going; the next event tells when it has gone.
    Deleting,
    /// It is ours.
    Ours(TargetView),
}

/// A target that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetView {
    /// Its metadata.
    pub meta: Meta,
    /// What it was made to hold.
    pub published: Option<Published>,
    /// Whether its bytes are as they were written.
    pub intact: bool,
}

/// Decides whose a target is. `owner` is the UID that must own it under deletion policy `Delete`.
pub fn target(meta: Option<Meta>, identity: &Identity, intact: bool) -> TargetState {
    let Some(meta) = meta else { return TargetState::Absent };
    if meta.deleting {
        return TargetState::Deleting;
    }
    if meta.belongs_to(&identity.name) {
        let published =
            meta.annotations.get(ANNOTATION_TOKEN).and_then(|text| serde_json::from_str(text).ok());
        return TargetState::Ours(TargetView { meta, published, intact });
    }
    if meta.annotations.get(ANNOTATION_ADOPT) == Some(&identity.name) {
        return TargetState::Ours(TargetView { meta, published: None, intact: false });
    }
    let whose = match (meta.labels.get(LABEL_MANAGED_BY), meta.labels.get(LABEL_NAME)) {
        (Some(manager), Some(name)) if manager == MANAGER => format!("belongs to the GraphToken {name}"),
        _ => "exists and was not made by this operator".to_owned(),
    };
    TargetState::Conflict(format!(
        "the target Secret {whose}; choose another spec.target.secretName, delete that Secret, or annotate it \
         {ANNOTATION_ADOPT}={} to hand it over",
        identity.name
    ))
}

/// The credential as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialState {
    /// The grant needs none.
    Unneeded,
    /// There is none.
    Absent,
    /// It exists and can neither be used nor written: it is being deleted, the name is taken by a foreign Secret, or what it
    /// holds does not parse.
    Foreign(String),
    /// It is ours.
    Present(Box<Credential>),
}

/// The seed as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeedState {
    /// The grant needs none.
    Unneeded,
    /// The Secret or its key is not there; the sentence says which.
    Missing(String),
    /// It holds nothing that can be used; the sentence says why.
    Malformed(String),
    /// It holds a refresh token.
    Found {
        /// Digest of the refresh token.
        digest: String,
    },
}

/// The client's proof as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProofState {
    /// Nothing is missing.
    Usable,
    /// The sentence says what is missing.
    Unusable(String),
    /// It is not valid before a time; the sentence says so.
    NotYet {
        /// What is wrong.
        message: String,
        /// From when it is valid.
        from: Timestamp,
    },
}

/// Everything that a decision rests on.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Which `GraphToken`.
    pub identity: Identity,
    /// Its status as last written: failures and times outlive a restart in it.
    pub status: GraphTokenStatus,
    /// Value of the annotation `graphtoken.io/requested-at`.
    pub requested_at: Option<String>,
    /// The credential Secret.
    pub credential: CredentialState,
    /// The target Secret.
    pub target: TargetState,
    /// The seed.
    pub seed: SeedState,
    /// The login Secret; `Unneeded`: there is none.
    pub login: SeedState,
    /// When the next poll for a device code may be made; `None`: at once.
    pub poll_at: Option<Timestamp>,
    /// The client's proof.
    pub proof: ProofState,
    /// Hash of the spec and the client credential: see [`inputs`].
    pub inputs: String,
    /// An app-only token that was got and is not published yet.
    pub in_hand: Option<TokenFacts>,
    /// This process, as it signs its write-ahead records.
    pub holder: String,
    /// Whether somebody else's write-ahead record stood unchanged long enough to be taken over.
    pub pending_stood: bool,
    /// The silence that the provider asked of the client, be it of this `GraphToken` or of another.
    pub silence: Option<Silence>,
    /// A token that could not be rendered.
    pub unrenderable: Option<Unrenderable>,
    /// Labels that the operator puts on every Secret it writes.
    pub secret_labels: BTreeMap<String, String>,
}

/// A token that could not be rendered as the spec wants it. It would not help to try again with the same two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrenderable {
    /// The attempt that brought it.
    pub attempt: String,
    /// [`crate::render::layout_digest`] of what it was to be rendered to.
    pub layout: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl Observed {
    /// The credential, if it is ours.
    pub fn credential(&self) -> Option<&Credential> {
        match &self.credential {
            CredentialState::Present(credential) => Some(credential),
            _ => None,
        }
    }

    /// The target, if it is ours.
    pub fn target(&self) -> Option<&TargetView> {
        match &self.target {
            TargetState::Ours(view) => Some(view),
            _ => None,
        }
    }

    /// Facts of the token that the target serves to pods, if its bytes are as written.
    pub fn served(&self) -> Option<&TokenFacts> {
        let view = self.target().filter(|view| view.intact)?;
        view.published.as_ref().map(|published| &published.facts)
    }

    /// Whether a request for a refresh waits to be handled.
    pub fn requested(&self) -> bool {
        self.requested_at.is_some() && self.requested_at != self.status.last_handled_request
    }
}

/// The labels of every Secret that the operator writes for a `GraphToken`.
pub fn labels(name: &str, configured: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = configured.clone();
    labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.insert(LABEL_NAME.to_owned(), name.to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::api::names::{KEY_DEVICE, KEY_PENDING, KEY_RECORD, KEY_REFRESH_TOKEN};
    use crate::seed;

    fn identity() -> Identity {
        Identity { namespace: "ns".into(), name: "mail".into(), uid: "u1".into(), generation: 1 }
    }

    fn owned_by(name: &str) -> Meta {
        Meta { labels: labels(name, &BTreeMap::new()), ..Meta::default() }
    }

    #[test]
    fn a_secret_of_that_name_is_ours_only_by_both_labels() {
        assert!(matches!(target(Some(owned_by("mail")), &identity(), true), TargetState::Ours(_)));
        let mut half = owned_by("mail");
        half.labels.remove(LABEL_MANAGED_BY);
        assert!(matches!(target(Some(half), &identity(), true), TargetState::Conflict(_)));
    }

    #[test]
    fn a_conflict_says_whose_the_secret_is_and_how_to_hand_it_over() {
        let TargetState::Conflict(message) = target(Some(owned_by("other")), &identity(), true) else {
            unreachable!("another GraphToken's target is a conflict")
        };
        assert!(
            message.contains("GraphToken other") && message.contains("graphtoken.io/adopt=mail"),
            "{message}"
        );
    }

    #[test]
    fn an_annotated_foreign_secret_is_adopted_and_rewritten() {
        let mut meta = Meta::default();
        meta.annotations.insert(ANNOTATION_ADOPT.into(), "mail".into());
        let TargetState::Ours(view) = target(Some(meta.clone()), &identity(), true) else {
            unreachable!("it was handed over")
        };
        assert!(!view.intact && view.published.is_none());
        meta.annotations.insert(ANNOTATION_ADOPT.into(), "somebody-else".into());
        assert!(matches!(target(Some(meta), &identity(), true), TargetState::Conflict(_)));
    }

    #[test]
    fn a_refresh_token_without_a_record_is_still_a_chain() {
        let data = BTreeMap::from([(KEY_REFRESH_TOKEN.to_owned(), b"rt-1\n".to_vec())]);
        let (credential, tokens) = credential(Meta::default(), &data);
        assert_eq!(credential.refresh_token_digest, Some(seed::digest("rt-1")));
        assert_eq!(credential.record, Record::default());
        assert!(tokens.refresh_token.is_some());
    }

    const RECORD: &str = r#"{
        "generation": 3, "seedDigests": ["d"], "rejectedLogin": {
            "digest": "x", "madeWithHash": "h", "time": "2026-11-23T10:00:00Z", "reason": "OfALaterVersion", "message": "m"
        },
        "signedIn": {"time": "2026-11-23T10:00:00Z", "source": "Passkey"}, "sealedWith": {"key": "k1"}
    }"#;

    fn read(key: &str, text: &str) -> Credential {
        let token = (KEY_REFRESH_TOKEN.to_owned(), b"rt-1".to_vec());
        let meta = Meta { labels: labels("mail", &BTreeMap::new()), ..Meta::default() };
        credential(meta, &BTreeMap::from([token, (key.to_owned(), text.into())])).0
    }

    #[test]
    fn a_record_of_this_format_keeps_what_another_version_wrote_in_it() {
        let credential = read(KEY_RECORD, RECORD);
        assert_eq!((credential.record.generation, credential.unusable("mail")), (3, None));
        let mut written: serde_json::Value = serde_json::from_str(RECORD).unwrap();
        written["format"] = 1.into();
        assert_eq!(serde_json::json!(credential.record), written);
        let kept: Credential = serde_json::from_value(serde_json::json!(credential)).unwrap();
        assert_eq!(kept, credential);
    }

    #[rstest]
    #[case::no_json(KEY_RECORD, "{\"generation\": 3")]
    #[case::emptied(KEY_RECORD, "")]
    #[case::another_type(KEY_RECORD, "{\"generation\": \"three\"}")]
    #[case::a_later_format(KEY_RECORD, "{\"format\": 2, \"generation\": 3}")]
    #[case::pending(KEY_PENDING, "{\"attempt\": 5}")]
    #[case::device(KEY_DEVICE, "[]")]
    fn what_does_not_parse_is_never_taken_for_absent(#[case] key: &str, #[case] text: &str) {
        let message = read(key, text).unusable("mail").unwrap();
        assert!(message.starts_with(&format!("{key} in Secret mail-graphtoken-credential")), "{message}");
        assert!(message.contains("kubectl graphtoken login mail"), "{message}");
    }

    #[test]
    fn a_rejection_with_an_overlong_message_is_still_one() {
        let long = json!({"rejectedSeed": {
            "digest": "d", "madeWithHash": "h", "time": "2026-11-23T10:00:00Z", "reason": "WrongAccount",
            "message": "é".repeat(4096),
        }});
        let data = BTreeMap::from([(KEY_RECORD.to_owned(), long.to_string().into_bytes())]);
        let rejected = credential(Meta::default(), &data).0.record.rejected_seed.unwrap();
        assert!(rejected.digest == "d" && rejected.message.len() <= 768);
    }

    proptest! {
        #[test]
        fn no_bytes_in_a_credential_secret_make_it_panic(
            record in proptest::collection::vec(any::<u8>(), 0..200),
            pending in proptest::collection::vec(any::<u8>(), 0..200),
            token in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let data = BTreeMap::from([
                (KEY_RECORD.to_owned(), record),
                (KEY_PENDING.to_owned(), pending),
                (KEY_REFRESH_TOKEN.to_owned(), token),
            ]);
            let _ = credential(Meta::default(), &data);
        }
    }
}
