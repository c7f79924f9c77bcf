//! What came of an acquisition or a verification goes into the picture and the status.

use super::Look;
use super::sign_in::sign_in_event;
use super::trouble::{storage_failure, unstored};
use crate::api::Reason;
use crate::api::status::AccountStatus;
use crate::events::EventReason;
use crate::failure::Failure;
use crate::observe::poll_at;
use crate::observed::{Credential, CredentialState, Observed};
use crate::plan::probe::noted;
use crate::plan::{Source, keeps_a_sign_in};
use crate::rotation::{Attempt, Finished, InHand, Report};
use crate::state::KeptCredential;
use crate::status;

impl Look<'_> {
    /// Takes over what a task brought; `None`: it panicked.
    pub(super) fn apply(&mut self, finished: Option<Finished>, mut observed: Observed) -> Observed {
        match finished {
            Some(Finished::Acquired { attempt, report }) => {
                if !matches!(report, Report::Stale) {
                    self.memory.stale = 0;
                }
                if self.handles_the_request(&report, attempt.source, &observed) {
                    observed.status.last_handled_request.clone_from(&attempt.request);
                }
                match report {
                    Report::Failed(failure) => self.failed(failure, &attempt, observed),
                    Report::Storage(error) => {
                        let mut observed = self.storage_failed(observed, storage_failure(&error));
                        if let Some(failure) = &mut observed.status.last_storage_failure {
                            failure.inputs = Some(attempt.made_with);
                        }
                        observed
                    }
                    report => self.acquired(report, attempt.source, observed),
                }
            }
            Some(Finished::Verified { trial, facts, verdict }) => {
                // Stored before anything is done about it, a rejection leads to one token request, also if this process ends.
                self.ends = verdict.reason() == Reason::TokenRejected;
                observed.status = noted(observed.status, trial, &facts, verdict, self.ctx.now());
                observed
            }
            None => {
                self.storage_failed(observed, unstored("the acquisition broke off; see the operator's log"))
            }
        }
    }

    /// Whether a request for a refresh is handled by this acquisition, or by the retry of one that failed. A new sign-in that failed
    /// leaves it to the one that is kept.
    fn handles_the_request(&self, report: &Report, source: Source, observed: &Observed) -> bool {
        let is_new = matches!(source, Source::Seed | Source::Login);
        match report {
            Report::Stale | Report::NotNow | Report::SignInRejected(_) => false,
            Report::Failed(_) | Report::Storage(_) => !(is_new && keeps_a_sign_in(&self.desired, observed)),
            Report::Issued { .. } | Report::DeviceStarted(_) | Report::DevicePending { .. } => true,
        }
    }

    /// Notes a failure under what the attempt was made with, which may have changed meanwhile.
    fn failed(&mut self, failure: Failure, attempt: &Attempt, mut observed: Observed) -> Observed {
        let now = self.ctx.now();
        if let Some(polls) = self.memory.polls.as_mut().filter(|_| attempt.source == Source::DevicePoll) {
            polls.made(false, now);
        }
        tracing::info!(
            namespace = observed.identity.namespace, name = observed.identity.name, reason = failure.reason.as_str(),
            error = failure.error, codes = ?failure.codes, correlation_id = failure.correlation_id,
            "token request failed"
        );
        let client = &attempt.desired.client;
        // What a person must act on before anything can be sent stands in the way of any sign-in.
        let before_sending = !failure.answered && failure.reason.needs_a_person();
        let made_with = if before_sending { &attempt.inputs } else { &attempt.made_with };
        observed.status = status::with_refusal(observed.status, failure, client, made_with, now);
        if let Some(failure) = &observed.status.last_failure {
            self.ctx.exchanger.throttle.note(failure, now);
        }
        self.memory.read_live.credential = true;
        observed
    }

    fn acquired(&mut self, report: Report, source: Source, mut observed: Observed) -> Observed {
        let identity = observed.identity.clone();
        match report {
            Report::Issued { credential, in_hand, adopted, warnings } => {
                for warning in warnings {
                    if self.memory.said.insert(format!("{warning:?}")) {
                        self.ctx.events.warning(&identity, EventReason::OddAnswer, &warning.to_string());
                    }
                }
                if let Some(source) = adopted {
                    let (reason, note) = sign_in_event(source);
                    self.ctx.events.normal(&identity, reason, note);
                }
                tracing::info!(
                    namespace = identity.namespace, name = identity.name,
                    expires_at = %in_hand.stored.facts.expires_at, "token issued"
                );
                self.issued(credential, &in_hand, &mut observed);
                self.memory.in_hand = Some(in_hand);
                observed
            }
            Report::SignInRejected(failure) => {
                // Of a seed `say` tells, by what the record has.
                if source == Source::Login {
                    let note = format!(
                        "the login was refused, and the sign-in that is kept goes on: {}",
                        failure.message
                    );
                    self.ctx.events.warning(&identity, EventReason::LoginRejected, &note);
                }
                self.memory.read_live.credential = true;
                observed
            }
            Report::DeviceStarted(credential) => {
                let note = "a user is to sign in: the status of this GraphToken has the page (deviceCode.verificationUri) and \
                            the code to enter there (deviceCode.userCode)";
                self.ctx.events.normal(&identity, EventReason::DeviceCodeIssued, note);
                status::forget_failures(&mut observed.status);
                self.memory.credential = Some(KeptCredential::new(&credential));
                observed.credential = CredentialState::Present(credential);
                observed.poll_at = poll_at(self.ctx, &observed, self.memory);
                observed
            }
            Report::DevicePending { slow_down } => {
                if let Some(polls) = &mut self.memory.polls {
                    polls.made(slow_down, self.ctx.now());
                    observed.poll_at = Some(polls.next);
                }
                status::forget_failures(&mut observed.status);
                observed
            }
            Report::Stale => {
                // Everything that it rested on is read live. Where that does not help, the next attempt waits a second.
                self.memory.read_live.credential = true;
                (self.memory.seed, self.memory.login) = (None, None);
                self.memory.stale = self.memory.stale.saturating_add(1);
                self.ends = self.memory.stale > 1;
                observed
            }
            Report::NotNow => {
                self.ends = true;
                observed
            }
            // See above.
            Report::Failed(_) | Report::Storage(_) => observed,
        }
    }

    fn issued(&mut self, credential: Option<Box<Credential>>, in_hand: &InHand, observed: &mut Observed) {
        let status = std::mem::take(&mut observed.status);
        let mut status = status::with_token(status, &in_hand.stored);
        status.refresh_count += 1;
        status::forget_failures(&mut status);
        if let Some(credential) = credential {
            self.memory.credential = Some(KeptCredential::new(&credential));
            observed.credential = CredentialState::Present(credential);
        } else {
            let tenant_id = in_hand.account.as_ref().and_then(|account| account.tenant_id.clone());
            status.account = tenant_id.map(|id| AccountStatus { object_id: None, tenant_id: Some(id) });
            observed.in_hand = Some(in_hand.stored.facts.clone());
        }
        observed.status = status;
    }
}
