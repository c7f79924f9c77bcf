//! One trial of a token: a GET of Microsoft Graph.

use std::time::Duration;

use secrecy::SecretString;

use crate::observed::Identity;
use crate::plan::probe::Trial;
use crate::rotation::Exchanger;
use crate::verdict::Verdict;

/// The status waits for it, and with it who waits for the first token. Pods do not.
const DEADLINE: Duration = Duration::from_secs(10);

/// Tries a token.
pub async fn probe(
    exchanger: &Exchanger,
    identity: &Identity,
    trial: &Trial,
    token: &SecretString,
) -> Verdict {
    let request_id = uuid::Uuid::new_v4().to_string();
    let deadline = exchanger.deadline().min(DEADLINE);
    let verdict = match exchanger.provider.present(&trial.url, token, &request_id, deadline).await {
        Ok(answered) => Verdict::of(&answered, exchanger.clock.now()),
        Err(why) => Verdict::Unanswered(why),
    };
    exchanger.metrics.probe(verdict.outcome());
    tracing::info!(
        namespace = identity.namespace,
        name = identity.name,
        path = trial.path,
        client_request_id = request_id,
        outcome = verdict.outcome(),
        "token tried"
    );
    verdict
}
