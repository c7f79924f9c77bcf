//! A user's sign-in by device code: the code is stored before anybody is told of it, polls write nothing, and what comes of
//! it is committed like any other new refresh token.

use jiff::SignedDuration;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use super::turn::Turn;
use super::{Cut, Exchanger, Job, Progress, Report, Sent, Waiting, version};
use crate::exchange::Received;
use crate::failure::Answer;
use crate::grant::Outcome;
use crate::grant::device_code;
use crate::metrics::TokenOutcome;
use crate::observed::{Credential, Device, Tokens};

impl Exchanger {
    /// Asks for a code. A crash before it is stored costs a code that nobody has seen.
    pub(super) async fn start_device(&self, job: &Job, waiting: &mut Waiting) -> Result<Report, Cut> {
        let client = &job.desired.client;
        let Some(url) = &client.device_url else { return Err(Cut::Stale) };
        let proof = self.prove(job).await.map_err(Cut::Failed)?;
        let (live, _) = self.live(job).await?;
        if !self.may_send(client) {
            return Err(Cut::NotNow);
        }
        let request = device_code::authorization(&client.client_id, &job.desired.scopes, proof);
        let id = uuid::Uuid::new_v4().to_string();
        let (at, began) = (self.clock.now(), Instant::now());
        let read = match self.post(waiting, url, &request, &id).await {
            Err(no_answer) => Err(no_answer.into()),
            Ok(Received { status, retry_after, body }) => {
                let answer =
                    Answer { status, retry_after: retry_after.as_deref(), body: body.expose_secret() };
                device_code::read(&answer, self.clock.now(), &request).map_err(|failure| *failure)
            }
        };
        let read = read.map_err(|failure| device_code::named(failure).masked(request.secrets()));
        let outcome = match &read {
            Ok(_) => TokenOutcome::Pending,
            Err(failure) => {
                self.heed(client, failure);
                super::label_of(failure)
            }
        };
        self.metrics.token_request(crate::grant::GrantKind::DeviceCode.as_str(), outcome, began.elapsed());
        let code = match read {
            Ok(code) => code,
            Err(failure) => return Ok(Report::Failed(failure)),
        };
        let lasts = SignedDuration::try_from(code.expires_in).unwrap_or(SignedDuration::ZERO);
        let device = Device {
            user_code: code.user_code,
            verification_uri: code.verification_uri,
            expires_at: at.saturating_add(lasts).unwrap_or(at),
            interval_seconds: code.interval.as_secs().max(1),
            issued_for: job.desired.issued_for.clone(),
            ended: false,
        };
        let epoch = job.secrets.epoch(&job.identity.namespace);
        let stored = job.store.put_device(live.as_ref(), &device, Some(&code.device_code)).await?;
        job.shown(&stored, epoch);
        Ok(Report::DeviceStarted(Box::new(stored)))
    }

    /// Asks whether the user has decided.
    pub(super) async fn poll_device(
        &self,
        job: &Job,
        waiting: &mut Waiting,
        progress: &Progress,
    ) -> Result<Report, Cut> {
        let proof = self.prove(job).await.map_err(Cut::Failed)?;
        let (live, tokens) = self.live(job).await?;
        let seen_at = Instant::now();
        let (Some(begun), Some(code)) = (live, tokens.device_code.clone()) else { return Err(Cut::Stale) };
        let request = device_code::poll(&job.desired.client.client_id, &code, proof);
        let Sent { attempt, at, outcome } = self.send(job, waiting, &request, seen_at).await?;
        if let Outcome::Pending { slow_down } = outcome {
            return Ok(Report::DevicePending { slow_down });
        }
        let turn = Turn {
            job,
            begun: &begun,
            tokens: &tokens,
            attempt: &attempt,
            sent_at: at,
            progress,
            slot: &waiting.slot,
        };
        turn.conclude(outcome, code).await
    }

    /// The credential, if it is still as it was when the exchange was decided.
    pub(super) async fn live(&self, job: &Job) -> Result<(Option<Credential>, Tokens), Cut> {
        let live = job.store.read().await?;
        let (live, tokens) = live.map_or((None, Tokens::default()), |(c, tokens)| (Some(c), tokens));
        if version(live.as_ref()) == version(job.planned_with.as_ref()) {
            Ok((live, tokens))
        } else {
            Err(Cut::Stale)
        }
    }
}
