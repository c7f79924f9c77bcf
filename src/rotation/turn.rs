//! The latter half of a rotating exchange: an answer is there, and what it brought is committed before anything else.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::time::{Instant, sleep};

use super::{Cut, InHand, Job, Progress, Report, stored_token};
use crate::api::status::{SignInSource, SignedIn};
use crate::api::{Reason, Time};
use crate::cache::Epoch;
use crate::credential::{Commit, Settle, Spent, settle};
use crate::failure::Failure;
use crate::grant::{Account, Issued, Outcome};
use crate::observed::{ChainClient, Credential, Device, Record, RejectedSignIn, Tokens};
use crate::plan::{Source, account_matches, chain_is_usable};
use crate::slot::Slot;
use crate::state::Key;
use crate::store::StoreError;

/// The longest pause between two tries to store what an exchange brought. Well below [`crate::plan::PENDING_STANDS`]: when the
/// API server is back after an outage, who holds the answer stores it before a standby takes the exchange for abandoned.
const MAX_COMMIT_PAUSE: Duration = Duration::from_secs(1);
/// An exchange that another process began has ended after this, one way or the other: its deadline is at most
/// [`super::MAX_DEADLINE`], and what it may wait for beforehand is less.
const RIVAL_ENDS: Duration = Duration::from_secs(30);
/// A commit that stays rejected is logged this often.
const LOG_AGAIN: Duration = Duration::from_mins(1);
/// How many digests of adopted seeds are remembered; 64 bytes each in a Secret of at most 1 MiB.
const MAX_SEED_DIGESTS: usize = 4096;

/// The latter half of a rotating exchange: an answer is there, and the write-ahead record stands.
pub(super) struct Turn<'a> {
    pub(super) job: &'a Job,
    pub(super) begun: &'a Credential,
    pub(super) tokens: &'a Tokens,
    pub(super) attempt: &'a str,
    pub(super) sent_at: Timestamp,
    pub(super) progress: &'a Progress,
    pub(super) slot: &'a Slot,
}

/// What came of one try to store what an exchange brought.
enum Settled {
    /// It is stored.
    Stored(Box<Credential>),
    /// What is stored is newer.
    Outrun,
    /// This exchange of somebody else's is to end first.
    Rival(String),
}

impl Settled {
    fn stored(credential: Credential) -> Self {
        Self::Stored(Box::new(credential))
    }
}

impl Turn<'_> {
    /// Commits, and says what came of it.
    pub(super) async fn conclude(&self, outcome: Outcome, sent: SecretString) -> Result<Report, Cut> {
        match outcome {
            Outcome::Issued(issued) => self.issued(*issued, sent).await,
            Outcome::Unusable { failure, rotated, account } => {
                if let Some(rotated) = rotated.filter(|_| self.account_problem(account.as_ref()).is_none()) {
                    let mut record = self.next_record(account);
                    record.token = self.begun.record.token.clone();
                    let access_token = self.tokens.access_token.clone();
                    let commit = Commit {
                        record,
                        refresh_token: Some(rotated),
                        access_token,
                        signed_in: self.adopts(),
                    };
                    self.settle(commit).await?;
                    return Ok(Report::Failed(failure));
                }
                self.refused(failure).await
            }
            Outcome::Refused(failure) => self.refused(failure).await,
            // Only a poll is told to wait: see `device.rs`.
            Outcome::Pending { .. } => Err(Cut::Stale),
        }
    }

    /// A token came back. Of a chain it is committed before anything is judged; a seed of another account is not adopted.
    async fn issued(&self, issued: Issued, sent: SecretString) -> Result<Report, Cut> {
        let problem = self.account_problem(issued.account.as_ref());
        let adopts = self.adopts();
        if adopts && let Some(problem) = problem {
            return self.reject(problem).await;
        }
        let stored = stored_token(self.job, self.attempt, &issued, self.sent_at);
        // An answer for somebody else binds nobody.
        let answered = issued.account.clone().filter(|_| problem.is_none());
        let mut record = self.next_record(answered);
        record.token = problem.is_none().then(|| stored.clone());
        let account = record.account.clone();
        let is_sent_one = adopts && self.job.exchange.source != Source::DevicePoll;
        let refresh_token = issued.refresh_token.clone().or(is_sent_one.then_some(sent));
        let access_token = problem.is_none().then(|| issued.access_token.clone());
        let commit = Commit { record, refresh_token, access_token, signed_in: adopts };
        let credential = self.settle(commit).await?;
        if let Some(problem) = problem {
            return Ok(Report::Failed(problem));
        }
        let in_hand = InHand { stored, access_token: issued.access_token, account };
        let warnings = issued.warnings;
        Ok(Report::Issued {
            credential: Some(Box::new(credential)),
            in_hand: Box::new(in_hand),
            adopted: self.sign_in_source(),
            warnings,
        })
    }

    fn adopts(&self) -> bool {
        self.sign_in_source().is_some()
    }

    /// What brought the sign-in, if this exchange adopts one.
    fn sign_in_source(&self) -> Option<SignInSource> {
        match self.job.exchange.source {
            Source::Seed => Some(SignInSource::Seed),
            Source::Login => Some(SignInSource::Login),
            Source::DevicePoll => Some(SignInSource::DeviceCode),
            Source::Chain | Source::Client | Source::DeviceStart => None,
        }
    }

    /// No token came back. A new sign-in is rejected by anything that a person must act on: what it is made with may be at fault as well,
    /// which the next refresh of the one that is kept will tell. Where none is kept, only what speaks of the refresh token is final.
    async fn refused(&self, failure: Failure) -> Result<Report, Cut> {
        let of_the_token = failure.reason == Reason::AuthorizationRequired;
        let final_beside_a_chain = failure.reason.needs_a_person() && self.is_beside_a_chain();
        if failure.answered && self.adopts() && (of_the_token || final_beside_a_chain) {
            return self.reject(failure).await;
        }
        // Polls have no write-ahead record.
        if failure.answered && self.job.exchange.source != Source::DevicePoll {
            let _ = self.end(&self.begun.record).await;
        }
        Ok(Report::Failed(failure))
    }

    /// Notes that the new sign-in was rejected. Beside a chain, nothing else tells that it is not to be sent again: if it cannot be
    /// noted, that is a failure of the store, with its back-off.
    async fn reject(&self, failure: Failure) -> Result<Report, Cut> {
        if self.job.exchange.source == Source::DevicePoll {
            self.end_device().await;
            return Ok(Report::Failed(failure));
        }
        let mut record = self.begun.record.clone();
        let rejected = self.job.seed_digest.clone().map(|digest| RejectedSignIn {
            digest,
            made_with_hash: self.job.inputs.clone(),
            time: self.sent_at,
            reason: failure.reason.into(),
            message: failure.message.clone(),
        });
        match self.job.exchange.source {
            Source::Login => record.rejected_login = rejected,
            _ => record.rejected_seed = rejected,
        }
        let noted = self.end(&record).await;
        if !self.is_beside_a_chain() {
            return Ok(Report::Failed(failure));
        }
        // Stale would be decided again, and sent again, at once.
        noted.map(|()| Report::SignInRejected(failure)).map_err(Cut::Storage)
    }

    /// What is rejected beside a chain costs nothing; what a device code came to is told all the same, for nothing else is
    /// under way.
    fn is_beside_a_chain(&self) -> bool {
        self.chain_goes_on() && self.job.exchange.source != Source::DevicePoll
    }

    /// Whether the chain that is kept is this client's and goes on if the seed is rejected.
    fn chain_goes_on(&self) -> bool {
        chain_is_usable(&self.job.desired, self.begun)
    }

    /// What is wrong with the account that the answer speaks for. The first one binds, if the spec names none.
    fn account_problem(&self, answered: Option<&Account>) -> Option<Failure> {
        let record = &self.begun.record;
        let bound = record.account.as_ref().filter(|_| self.chain_goes_on());
        let from_chain = self.job.exchange.source == Source::Chain;
        let answered = answered.or(bound.filter(|_| from_chain));
        let right = match (&self.job.desired.account, answered) {
            (Some(wanted), Some(account)) => {
                account_matches(wanted, account) || same_user(bound, account, wanted)
            }
            (Some(_), None) => false,
            (None, Some(account)) => bound.is_none_or(|bound| bound.object_id == account.object_id),
            (None, None) => true,
        };
        (!right).then(|| wrong_account(self.job.desired.account.is_some()))
    }

    fn next_record(&self, account: Option<Account>) -> Record {
        let spent = &self.begun.record;
        let mut record = Record {
            generation: spent.generation.saturating_add(1),
            last_attempt: Some(self.attempt.to_owned()),
            client: Some(ChainClient::from(&self.job.desired.client)),
            account: merged(account, spent.account.clone().filter(|_| self.chain_goes_on())),
            token: None,
            ..spent.clone()
        };
        if let Some(source) = self.sign_in_source() {
            record.signed_in = Some(SignedIn { time: Time::from(self.sent_at), source: source.into() });
            record.seed_digests.extend(self.job.seed_digest.clone());
            let surplus = record.seed_digests.len().saturating_sub(MAX_SEED_DIGESTS);
            record.seed_digests.drain(..surplus);
            record.rejected_seed = None;
            record.rejected_login = None;
        }
        record
    }

    fn epoch(&self) -> Epoch {
        self.job.secrets.epoch(&self.job.identity.namespace)
    }

    /// Takes the write-ahead record away after a refusal. If that fails it stays, which costs nothing: it is our own.
    async fn end(&self, record: &Record) -> Result<(), StoreError> {
        let access_token = self.tokens.access_token.clone();
        let commit = Commit { record: record.clone(), refresh_token: None, access_token, signed_in: false };
        let epoch = self.epoch();
        match self.job.store.commit(self.begun, &commit).await {
            Ok(credential) => {
                self.job.shown(&credential, epoch);
                Ok(())
            }
            Err(error) => {
                let Key { namespace, name } = self.progress.key();
                tracing::debug!(
                    namespace, name, %error, "the write-ahead record of a rejected request stays until the next one"
                );
                Err(error)
            }
        }
    }

    /// A code that was refused for good is not polled again, not after a restart either.
    async fn end_device(&self) {
        let Some(device) = self.begun.device.clone() else { return };
        let ended = Device { ended: true, ..device };
        let epoch = self.epoch();
        match self.job.store.put_device(Some(self.begun), &ended, None).await {
            Ok(credential) => self.job.shown(&credential, epoch),
            Err(error) => {
                let Key { namespace, name } = self.progress.key();
                tracing::debug!(
                    namespace, name, %error, "the end of a device code is not noted yet; the next poll tells it again"
                );
            }
        }
    }

    /// Stores what the exchange brought, however long that takes: until then it is in memory only.
    async fn settle(&self, commit: Commit) -> Result<Credential, Cut> {
        let begun = &self.begun.record;
        let spent = Spent {
            attempt: self.attempt.to_owned(),
            generation: begun.generation,
            signed_in: begun.signed_in.as_ref().map(|signed_in| signed_in.time),
        };
        self.progress.holds_a_token();
        let Key { namespace, name } = self.progress.key();
        let mut epoch = self.epoch();
        let mut tried = self.job.store.commit(self.begun, &commit).await.map(Settled::stored);
        let mut pause = Duration::from_millis(200);
        let mut rival: Option<(String, Instant)> = None;
        let mut logged = None;
        loop {
            match tried {
                Ok(Settled::Stored(credential)) => {
                    self.job.shown(&credential, epoch);
                    return Ok(*credential);
                }
                Ok(Settled::Outrun) => {
                    tracing::info!(
                        namespace,
                        name,
                        "a newer refresh token is stored already; this one is dropped"
                    );
                    return Err(Cut::Stale);
                }
                Ok(Settled::Rival(attempt)) => {
                    tracing::info!(
                        namespace,
                        name,
                        "a new sign-in is under way; what came of the old one waits for its end"
                    );
                    rival = rival.filter(|(known, _)| *known == attempt).or(Some((attempt, Instant::now())));
                }
                Err(error) => self.not_stored(&error, &mut logged),
            }
            // From here on it holds the entry of its own GraphToken and nothing else.
            self.slot.release();
            sleep(pause).await;
            pause = (pause * 2).min(MAX_COMMIT_PAUSE);
            epoch = self.epoch();
            let dead = rival.as_ref().filter(|(_, since)| since.elapsed() >= RIVAL_ENDS);
            tried = self.try_to_settle(&commit, &spent, dead.map(|(attempt, _)| attempt.as_str())).await;
        }
    }

    /// Reports an error once, and logs it when it is new and then each minute.
    fn not_stored(&self, error: &StoreError, logged: &mut Option<Instant>) {
        let is_new = self.progress.unstored(error);
        if is_new || logged.is_none_or(|at| at.elapsed() >= LOG_AGAIN) {
            let Key { namespace, name } = self.progress.key();
            tracing::warn!(
                namespace, name, %error,
                "a new refresh token could not be stored yet; it is kept in memory and tried again"
            );
            *logged = Some(Instant::now());
        }
    }

    /// One try. The exchange that `dead` began is taken for one that will not end.
    async fn try_to_settle(
        &self,
        commit: &Commit,
        spent: &Spent,
        dead: Option<&str>,
    ) -> Result<Settled, StoreError> {
        let stored = match self.job.store.read_ours().await {
            // Somebody else's Secret came into its place. It is waited for as long as there is a GraphToken to keep the sign-in for.
            Err(StoreError::Foreign(_)) if !self.job.store.graphtoken_lives().await? => {
                return Ok(Settled::Outrun);
            }
            stored => stored?,
        };
        let lives = stored.is_some() || self.job.store.graphtoken_lives().await?;
        let pending = stored.as_ref().and_then(|c| c.pending.as_ref()).map(|p| p.attempt.clone());
        let rival = pending.filter(|attempt| attempt != self.attempt && Some(attempt.as_str()) != dead);
        let verdict = settle(stored.as_ref().map(|c| &c.record), spent, rival.is_some(), lives);
        Ok(match (verdict, stored, rival) {
            (Settle::Done, Some(stored), _) => Settled::stored(stored),
            (Settle::Write, Some(stored), _) => {
                Settled::stored(self.job.store.commit(&stored, commit).await?)
            }
            (Settle::Create, ..) => Settled::stored(self.job.store.recreate(&self.whole(commit)).await?),
            (Settle::Wait, _, Some(rival)) => Settled::Rival(rival),
            (Settle::Drop | Settle::Done | Settle::Write | Settle::Wait, ..) => Settled::Outrun,
        })
    }

    /// A commit that stands by itself: where the answer brought no refresh token, the one that was used goes on.
    fn whole(&self, commit: &Commit) -> Commit {
        let refresh_token = commit.refresh_token.clone().or_else(|| self.tokens.refresh_token.clone());
        Commit { refresh_token, ..commit.clone() }
    }
}

/// A later answer may leave out what an earlier one told of the same user.
fn merged(answered: Option<Account>, bound: Option<Account>) -> Option<Account> {
    match (answered, bound) {
        (Some(answered), Some(bound)) if answered.object_id == bound.object_id => Some(Account {
            tenant_id: answered.tenant_id.or(bound.tenant_id),
            guest_in: answered.guest_in.or(bound.guest_in),
            username: answered.username.or(bound.username),
            object_id: answered.object_id,
        }),
        (answered, bound) => answered.or(bound),
    }
}

/// Whether the answer, which tells no name, speaks for the bound user whose name is the wanted one.
fn same_user(bound: Option<&Account>, answered: &Account, wanted: &str) -> bool {
    bound.is_some_and(|bound| bound.object_id == answered.object_id && account_matches(wanted, bound))
}

fn wrong_account(named: bool) -> Failure {
    let expected = if named { "spec.account" } else { "the account that signed in first" };
    Failure {
        message: format!(
            "The sign-in is for another account than {expected}: sign in as {expected} and put that refresh token into the \
             seed Secret, or set spec.account to the new one's UPN or object id."
        ),
        answered: true,
        ..Failure::of(Reason::WrongAccount)
    }
}
