//! What tests decide on: a `GraphToken` whose Secrets are as the operator leaves them, to be damaged.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::names::{ANNOTATION_RETENTION, ANNOTATION_UID};
use crate::api::spec::DeletionPolicy;
use crate::api::{GraphTokenStatus, Reason, Time};
use crate::desired::{Desired, Guards};
use crate::observed::{
    ChainClient, Credential, CredentialState, Identity, Meta, Observed, Pending, ProofState, Published,
    Record, RejectedSignIn, SeedState, StoredToken, TargetState, TargetView, TokenFacts, labels, target,
};
use crate::plan::probe::{noted, trial};
use crate::plan::sign_in::new_sign_in;
use crate::plan::{Act, Exchange, Plan, Source, Why, made_with, plan};
use crate::target_shape::{extras, target_annotations, target_labels};
use crate::verdict::Verdict;

pub(crate) const UID: &str = "uid-1";
pub(crate) const HOLDER: &str = "me";
/// How long the tokens live and how old the one at hand is, in seconds.
pub(crate) const LIFE: i64 = 3600;
pub(crate) const AGE: i64 = 600;
/// Digests of refresh tokens.
pub(crate) const SEED: &str = "digest-of-the-seed";
pub(crate) const CHAIN: &str = "digest-of-the-chain";
pub(crate) const TENANT_ID: &str = "aaaaaaaa-0000-4000-8000-00000000000b";
pub(crate) const OBJECT_ID: &str = "cccccccc-0000-4000-8000-00000000000d";
/// A label that the operator's settings put on every Secret.
pub(crate) const LABEL: &str = "backup";

/// The moment of every decision, unless a test says otherwise.
pub(crate) fn now() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().unwrap()
}

/// So many seconds after [`now`].
pub(crate) fn after(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

/// The change that is none.
pub(crate) const fn unchanged(_: &mut World) {}

pub(crate) fn exchange(why: Why, source: Source) -> Act {
    Act::Exchange(Exchange { why, source })
}

/// Annotations as the cache of Secrets keeps them.
fn cached(mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.retain(|key, _| key.starts_with("graphtoken.io/"));
    annotations
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub spec: Value,
    pub observed: Observed,
}

impl World {
    /// A delegated grant with a seed, of which nothing came yet.
    pub(crate) fn fresh() -> Self {
        let spec = json!({
            "tenant": "contoso.onmicrosoft.com",
            "clientId": "11111111-2222-3333-4444-555555555555",
            "grant": {"refreshToken": {"secretRef": {"name": "seed", "key": "token"}}},
            "scopes": ["Mail.Read"],
            // Tests of what is tried at Microsoft Graph ask for it: `World::verify`.
            "verify": {"interval": "0s"},
        });
        let identity =
            Identity { namespace: "ns".into(), name: "mail".into(), uid: UID.into(), generation: 3 };
        let observed = Observed {
            identity,
            status: GraphTokenStatus::default(),
            requested_at: None,
            credential: CredentialState::Absent,
            target: TargetState::Absent,
            seed: SeedState::Found { digest: SEED.into() },
            login: SeedState::Unneeded,
            poll_at: None,
            proof: ProofState::Usable,
            inputs: "inputs".into(),
            in_hand: None,
            holder: HOLDER.into(),
            pending_stood: false,
            silence: None,
            unrenderable: None,
            secret_labels: BTreeMap::from([(LABEL.to_owned(), "yes".to_owned())]),
        };
        Self { spec, observed }
    }

    /// The same, converged: the seed was adopted, and its token is served.
    pub(crate) fn delegated() -> Self {
        let mut world = Self::fresh();
        world.hold(world.token(-AGE, LIFE));
        world.serve(world.token(-AGE, LIFE));
        world
    }

    /// An app without a user, of which nothing came yet.
    pub(crate) fn fresh_app() -> Self {
        let mut world = Self::fresh();
        world.spec["grant"] = json!({"clientCredentials": {}});
        world.spec["scopes"] = json!([".default"]);
        world.spec["clientAuth"] = json!({"secretRef": {"name": "app", "key": "secret"}});
        world.observed.credential = CredentialState::Unneeded;
        world.observed.seed = SeedState::Unneeded;
        world
    }

    /// The same, converged.
    pub(crate) fn app_only() -> Self {
        let mut world = Self::fresh_app();
        world.serve(world.token(-AGE, LIFE));
        world
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn desired(&self) -> Desired {
        let guards = Guards {
            allowed_endpoint_hosts: vec!["idp.test".into()],
            allow_http_endpoints: true,
            ..Guards::default()
        };
        Desired::new("mail", &serde_json::from_value(self.spec.clone()).unwrap(), &guards, &|_| None).unwrap()
    }

    pub(crate) fn plan(&self) -> Plan {
        self.plan_at(0)
    }

    pub(crate) fn plan_at(&self, seconds: i64) -> Plan {
        plan(&self.desired(), &self.observed, after(seconds))
    }

    pub(crate) fn act(&self) -> Act {
        self.plan().act
    }

    /// A token for the present spec, asked for so many seconds from now.
    pub(crate) fn token(&self, issued: i64, life: i64) -> TokenFacts {
        TokenFacts {
            attempt: format!("attempt at {issued}"),
            issued_for: self.desired().issued_for,
            issued_at: after(issued),
            expires_at: after(issued + life),
            refresh_at: None,
        }
    }

    /// Puts a token, and the chain that it came of, into the credential.
    pub(crate) fn hold(&mut self, facts: TokenFacts) {
        let record = Record {
            generation: 1,
            last_attempt: Some(facts.attempt.clone()),
            client: Some(ChainClient::from(&self.desired().client)),
            account: Some(
                serde_json::from_value(json!({
                    "objectId": OBJECT_ID, "tenantId": TENANT_ID, "username": "etl@contoso.com",
                }))
                .unwrap(),
            ),
            token: Some(StoredToken {
                facts,
                token_type: "Bearer".into(),
                granted_scopes: vec!["Mail.Read".into()],
            }),
            seed_digests: vec![SEED.into()],
            ..Record::default()
        };
        let meta = Meta {
            uid: "credential-uid".into(),
            resource_version: "5".into(),
            labels: labels("mail", &self.observed.secret_labels),
            annotations: BTreeMap::from([
                (ANNOTATION_UID.to_owned(), UID.to_owned()),
                (ANNOTATION_RETENTION.to_owned(), "168h".to_owned()),
            ]),
            ..Meta::default()
        };
        self.observed.credential = CredentialState::Present(Box::new(Credential {
            meta,
            record,
            pending: None,
            device: None,
            refresh_token_digest: Some(CHAIN.into()),
            has_access_token: true,
            damaged: None,
        }));
    }

    /// Writes a token into the target, as the spec now would have it.
    pub(crate) fn serve(&mut self, facts: TokenFacts) {
        let target_spec = self.desired().target;
        let published = Published {
            facts,
            layout: target_spec.layout.clone(),
            content: "digest".into(),
            extras: extras(&target_spec),
            first: false,
            since: None,
        };
        let owned = target_spec.deletion_policy == DeletionPolicy::Delete;
        let meta = Meta {
            uid: "target-uid".into(),
            resource_version: "7".into(),
            labels: target_labels(&target_spec, &self.observed),
            annotations: cached(target_annotations(&target_spec, UID, &published)),
            owners: if owned { vec![UID.to_owned()] } else { Vec::new() },
            labels_cut: false,
            deleting: false,
        };
        self.observed.target = target(Some(meta), &self.observed.identity, true);
    }

    pub(crate) fn credential(&mut self) -> &mut Credential {
        let CredentialState::Present(credential) = &mut self.observed.credential else {
            unreachable!("this world has no credential")
        };
        credential
    }

    pub(crate) fn view(&mut self) -> &mut TargetView {
        let TargetState::Ours(view) = &mut self.observed.target else {
            unreachable!("this world has no target")
        };
        view
    }

    /// The last of `failures` attempts failed `ago` seconds ago. If there is a new sign-in, they were attempts of it.
    pub(crate) fn fail(&mut self, reason: Reason, ago: i64, failures: u32) {
        let source = new_sign_in(&self.desired(), &self.observed, self.observed.credential());
        self.fail_with(source.unwrap_or(Source::Chain), reason, ago, failures);
    }

    /// The same, with this one.
    pub(crate) fn fail_with(&mut self, source: Source, reason: Reason, ago: i64, failures: u32) {
        let inputs = made_with(&self.observed, source);
        let failure = json!({
            "time": Time::from(after(-ago)), "reason": reason, "message": "it failed", "inputs": inputs,
        });
        let status = &mut self.observed.status;
        if reason == Reason::StorageUnavailable {
            status.last_storage_failure = Some(serde_json::from_value(failure).unwrap());
        } else {
            status.last_failure = Some(serde_json::from_value(failure).unwrap());
        }
        status.consecutive_failures = failures;
    }

    /// Tokens are tried at Microsoft Graph, as by default: weekly.
    pub(crate) fn verify(&mut self) {
        self.spec["verify"] = json!({"path": "/me"});
    }

    /// The served token was tried so many seconds ago.
    pub(crate) fn tried(&mut self, verdict: Verdict, ago: i64) {
        let status = std::mem::take(&mut self.observed.status);
        let trial = trial(&self.desired(), &self.observed).unwrap();
        let token = self.observed.served().unwrap().clone();
        self.observed.status = noted(status, trial, &token, verdict, after(-ago));
    }

    pub(crate) fn request(&mut self) {
        self.observed.requested_at = Some("a new value".into());
    }

    /// A write-ahead record of another process.
    pub(crate) fn pending_of(&mut self, holder: &str, stood: bool) {
        self.credential().pending = Some(Pending { attempt: "begun".into(), holder: holder.into() });
        self.observed.pending_stood = stood;
    }

    pub(crate) fn new_seed(&mut self) {
        self.observed.seed = SeedState::Found { digest: "digest-of-another-seed".into() };
    }

    /// A sign-in with this digest was rejected `ago` seconds ago.
    pub(crate) fn rejected(&self, digest: &str, reason: Reason, ago: i64) -> RejectedSignIn {
        RejectedSignIn {
            digest: digest.into(),
            made_with_hash: self.observed.inputs.clone(),
            time: after(-ago),
            reason: reason.into(),
            message: "it was rejected".into(),
        }
    }

    pub(crate) fn no_seed(&mut self) {
        self.observed.seed = SeedState::Missing("the seed Secret is not there".into());
    }

    pub(crate) fn no_client_secret(&mut self) {
        self.observed.proof = ProofState::Unusable("the client secret is not there".into());
    }
}
