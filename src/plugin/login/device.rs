//! Signing in by a code, on whatever machine has a browser.

use jiff::SignedDuration;
use secrecy::ExposeSecret as _;
use tokio::time::sleep;

use super::{DEADLINE, Desk, in_words_of_login, unanswered};
use crate::failure::Answer;
use crate::grant::device_code::{self, Authorization, SLOW_DOWN};
use crate::grant::{GrantKind, Issued, Outcome};
use crate::plugin::{Failed, failed};

/// Asks for a code, shows it, and polls until somebody has entered it.
pub async fn sign_in(desk: &Desk<'_>) -> Result<Issued, Failed> {
    let began = desk.now();
    let code = ask(desk).await?;
    let life =
        SignedDuration::try_from(code.expires_in.min(desk.args.timeout)).unwrap_or(SignedDuration::MAX);
    let until = began.saturating_add(life).unwrap_or(jiff::Timestamp::MAX);
    desk.terminal.note(&format!("first copy your one-time code: {}", code.user_code));
    desk.terminal.say(&format!("  open {} and enter it, before {until:.0}", code.verification_uri));
    let client = &desk.sign_in.client;
    let mut interval = code.interval;
    loop {
        sleep(interval).await;
        if desk.now() >= until {
            return failed("the code ran out before anybody entered it: run kubectl graphtoken login again");
        }
        let request = device_code::poll(&client.client_id, &code.device_code, desk.proof().await?);
        match desk.redeem(GrantKind::DeviceCode, &request).await {
            Ok(Outcome::Issued(issued)) => return Ok(*issued),
            Ok(Outcome::Pending { slow_down: false }) => {}
            Ok(Outcome::Refused(failure)) if failure.is_transient() => interval += SLOW_DOWN,
            Ok(Outcome::Refused(failure) | Outcome::Unusable { failure, .. }) => {
                return Err(in_words_of_login(&failure));
            }
            // The code lives on: RFC 8628 section 3.5 has a client slow down where a connection failed, too.
            Ok(Outcome::Pending { slow_down: true }) | Err(_) => interval += SLOW_DOWN,
        }
    }
}

async fn ask(desk: &Desk<'_>) -> Result<Authorization, Failed> {
    let client = &desk.sign_in.client;
    let Some(url) = &client.device_url else {
        return failed(
            "the spec names no device authorization endpoint: set spec.endpoints.deviceAuthorization",
        );
    };
    // Entra wants the proof with the polls only; servers that want it here too get it (RFC 8628 section 3.1).
    let proof = if client.is_microsofts { crate::grant::Proof::Public } else { desk.proof().await? };
    let request = device_code::authorization(&client.client_id, &desk.sign_in.scopes, proof);
    let id = uuid::Uuid::new_v4().to_string();
    let received = desk.provider.post(url, &request, &id, DEADLINE).await;
    let received = received.map_err(|why| unanswered("device authorization endpoint", url, why))?;
    let body = received.body.expose_secret();
    let answer = Answer { status: received.status, retry_after: received.retry_after.as_deref(), body };
    device_code::read(&answer, desk.now(), &request)
        .map_err(|failure| in_words_of_login(&device_code::named(failure.masked(request.secrets()))))
}
