//! `GraphToken`s by the number: as users apply them, and as the operator leaves them when it has served them.
//!
//! What the operator would have written is written by its own functions. That it takes it for its own shows in the figure of a
//! restart: an operator that starts on such a population exchanges nothing before it is due.

use std::collections::BTreeMap;

use entra_simulator::{TENANT_ID, USER_OID, USER_UPN};
use graphtoken::api::status::{SignInSource, SignedIn};
use graphtoken::api::{GraphToken, GraphTokenStatus};
use graphtoken::credential::{Commit, CredentialStore, Holder};
use graphtoken::desired::{Desired, Guards};
use graphtoken::grant::Account;
use graphtoken::observed::{
    ChainClient, Credential, CredentialState, Identity, Meta, Observed, ProofState, Published, Record,
    SeedState, StoredToken, TargetState, TargetView, TokenFacts,
};
use graphtoken::target::{self, Content, Material};
use graphtoken::{plan, seed, status};
use jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Failed;
use crate::cluster::{self, secret};
use crate::provider::{CLIENT, CLIENT_SECRET, SCOPES, refresh_token};

/// The Secret of the client that all are on.
const CLIENT_NAME: &str = "app";
const CLIENT_KEY: &str = "client-secret";
/// As long as the simulator's.
const ACCESS_TOKEN_LENGTH: usize = 1210;

/// How the tokens are got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Grant {
    /// For the app: two writes a refresh.
    #[value(name = "clientCredentials")]
    ClientCredentials,
    /// For a user: one read and four writes a refresh.
    #[value(name = "refreshToken")]
    RefreshToken,
}

impl Grant {
    /// Its name in the spec.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientCredentials => "clientCredentials",
            Self::RefreshToken => "refreshToken",
        }
    }
}

/// What all of a population have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kind {
    /// Where they are.
    pub namespace: String,
    /// How their tokens are got.
    pub grant: Grant,
    /// The token endpoint.
    pub token_url: String,
    /// `spec.refresh.renewBefore` in seconds; `None`: the default.
    pub renew_before: Option<u64>,
    /// What their names begin with.
    pub prefix: String,
}

/// When the tokens of a converged population were issued and how long they live, in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Times {
    /// When they were issued.
    pub issued_at: Timestamp,
    /// How long they live.
    pub life: i64,
}

impl Times {
    /// When they end.
    pub fn expires_at(self) -> Timestamp {
        self.issued_at + SignedDuration::from_secs(self.life)
    }
}

/// A `GraphToken` with all that the operator wrote for it.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its spec, parsed.
    pub desired: Desired,
    /// It and its Secrets, as the operator sees them.
    pub observed: Observed,
    /// The access token that is in the target.
    pub access_token: String,
    /// What the target holds.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl Served {
    /// The credential as it is stored.
    pub fn credential(&self) -> Option<&Credential> {
        self.observed.credential()
    }
}

impl Kind {
    /// The name of one of them, by its number.
    pub fn name(&self, number: usize) -> String {
        format!("{}-{number:05}", self.prefix)
    }

    /// The name of its seed.
    pub fn seed_name(&self, number: usize) -> String {
        format!("{}-seed", self.name(number))
    }

    /// One of them as a user applies it.
    pub fn object(&self, number: usize) -> Result<GraphToken, Failed> {
        let grant = match self.grant {
            Grant::ClientCredentials => json!({"clientCredentials": {}}),
            Grant::RefreshToken => {
                json!({"refreshToken": {"secretRef": {"name": self.seed_name(number), "key": "token"}}})
            }
        };
        let mut object = json!({
            "apiVersion": "graphtoken.io/v1alpha1",
            "kind": "GraphToken",
            "metadata": {"name": self.name(number), "namespace": self.namespace},
            "spec": {
                "tenant": TENANT_ID,
                "clientId": CLIENT,
                "endpoints": {"token": self.token_url},
                "clientAuth": {"secretRef": {"name": CLIENT_NAME, "key": CLIENT_KEY}},
                "grant": grant,
            },
        });
        if self.grant == Grant::RefreshToken {
            object["spec"]["scopes"] = json!(SCOPES);
        }
        if let Some(seconds) = self.renew_before {
            object["spec"]["refresh"] = json!({"renewBefore": format!("{seconds}s")});
        }
        Ok(serde_json::from_value(object)?)
    }

    /// Creates the Secret of the client.
    pub async fn client_secret(client: &Client, namespace: &str) -> Result<(), Failed> {
        secret(client, namespace, CLIENT_NAME, CLIENT_KEY, CLIENT_SECRET).await
    }

    /// Creates the seed of one, if its grant has any.
    pub async fn seed(&self, client: &Client, number: usize) -> Result<(), Failed> {
        if self.grant != Grant::RefreshToken {
            return Ok(());
        }
        let api = Api::namespaced(client.clone(), &self.namespace);
        api.create(
            &PostParams::default(),
            &cluster::seed_secret(&self.seed_name(number), &refresh_token(number)),
        )
        .await?;
        Ok(())
    }

    /// Applies one, as a user does.
    pub async fn apply(&self, client: &Client, number: usize) -> Result<GraphToken, Failed> {
        let api: Api<GraphToken> = Api::namespaced(client.clone(), &self.namespace);
        Ok(api.create(&PostParams::default(), &self.object(number)?).await?)
    }

    /// Its spec as the operator understands it.
    pub fn desired(object: &GraphToken) -> Result<Desired, Failed> {
        let guards = Guards {
            allowed_endpoint_hosts: vec!["127.0.0.1".to_owned()],
            allow_http_endpoints: true,
            ..Guards::default()
        };
        Desired::new(&object.name_any(), &object.spec, &guards, &|_| None).map_err(Failed::new)
    }

    /// Writes what the operator writes when it serves a first token with these times.
    pub async fn serve(
        &self,
        client: &Client,
        number: usize,
        object: &GraphToken,
        times: Times,
    ) -> Result<Served, Failed> {
        let desired = Self::desired(object)?;
        let token = stored_token(&desired, times);
        let (refresh_token, access_token) = (refresh_token(number), access_token(number));
        let secrets = [&refresh_token, &access_token].map(|text| SecretString::from(text.as_str()));
        let mut observed = unserved(object, times.issued_at);
        if self.grant == Grant::RefreshToken {
            let record = record(&desired, &token, &refresh_token, times.issued_at);
            let [refresh_token, access_token] = secrets.clone();
            let commit = Commit {
                record,
                refresh_token: Some(refresh_token),
                access_token: Some(access_token),
                signed_in: true,
            };
            let holder = Holder {
                identity: observed.identity.clone(),
                retention: desired.credential_retention.0.clone(),
                secret_labels: BTreeMap::new(),
            };
            let credential = CredentialStore::new(client, holder).recreate(&commit).await?;
            observed.credential = CredentialState::Present(Box::new(credential));
        }
        let account = Some(account()).filter(|_| self.grant == Grant::RefreshToken);
        let material = Material {
            stored: &token,
            access_token: &secrets[1],
            refresh_token: None,
            account: account.as_ref(),
        };
        let Content { published, data } = Content::render(&desired, material).map_err(Failed::new)?;
        let published = Published { first: true, since: Some(times.issued_at), ..published };
        let content = Content { published, data };
        let meta = target::publish(client, &desired, &observed, &content).await?;
        let view = TargetView { meta, published: Some(content.published), intact: true };
        observed.target = TargetState::Ours(view);
        observed.status =
            GraphTokenStatus { refresh_count: 1, ..status::with_token(observed.status, &token) };
        let plan = plan::plan(&desired, &observed, times.issued_at);
        observed.status = status::project(&desired, &observed, &plan, times.issued_at);
        status::write(client, &observed.identity, &observed.status).await?;
        Ok(Served { desired, observed, access_token, data: content.data })
    }
}

fn access_token(number: usize) -> String {
    format!(
        "{}bench-{number:07}-{}",
        entra_simulator::ACCESS_TOKEN_PREFIX,
        "y".repeat(ACCESS_TOKEN_LENGTH - 25)
    )
}

fn account() -> Account {
    Account {
        object_id: USER_OID.to_owned(),
        tenant_id: Some(TENANT_ID.to_owned()),
        guest_in: None,
        username: Some(USER_UPN.to_owned()),
    }
}

fn stored_token(desired: &Desired, times: Times) -> StoredToken {
    let facts = TokenFacts {
        attempt: uuid::Uuid::new_v4().to_string(),
        issued_for: desired.issued_for.clone(),
        issued_at: times.issued_at,
        expires_at: times.expires_at(),
        refresh_at: None,
    };
    StoredToken { facts, token_type: "Bearer".to_owned(), granted_scopes: desired.scopes.clone() }
}

fn record(desired: &Desired, token: &StoredToken, refresh_token: &str, at: Timestamp) -> Record {
    Record {
        generation: 1,
        last_attempt: Some(token.facts.attempt.clone()),
        client: Some(ChainClient::from(&desired.client)),
        account: Some(account()),
        signed_in: Some(SignedIn { time: at.into(), source: SignInSource::Seed.into() }),
        token: Some(token.clone()),
        seed_digests: vec![seed::digest(refresh_token)],
        ..Record::default()
    }
}

/// A `GraphToken` of which nothing came yet.
fn unserved(object: &GraphToken, at: Timestamp) -> Observed {
    let identity = Identity {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
    };
    Observed {
        identity,
        status: object.status.clone().unwrap_or_default(),
        requested_at: None,
        credential: CredentialState::Unneeded,
        target: TargetState::Absent,
        seed: SeedState::Unneeded,
        login: SeedState::Unneeded,
        poll_at: None,
        proof: ProofState::Usable,
        inputs: format!("at {at}"),
        in_hand: None,
        holder: "bench".to_owned(),
        pending_stood: false,
        silence: None,
        unrenderable: None,
        secret_labels: BTreeMap::new(),
    }
}

/// The metadata of the target.
pub fn target_meta(served: &Served) -> Option<&Meta> {
    served.observed.target().map(|view| &view.meta)
}
