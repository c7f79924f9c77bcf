//! `login`: a person signs in here, and the refresh token goes to the operator by the login Secret.

pub mod browser;
pub mod device;
pub mod hand_over;
pub mod loopback;
pub mod pending;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};

use super::args::LoginArgs;
use super::client::{self, SignIn};
use super::cluster::Cluster;
use super::say::Terminal;
use super::{Ended, Failed, failed};
use crate::clock::Clock;
use crate::exchange::Provider;
use crate::failure::{Answer, Failure, NoAnswer};
use crate::grant::{GrantKind, Issued, Outcome, TokenRequest, read};
use crate::proof::Prover;

/// One request to a provider.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What a sign-in works with.
pub struct Desk<'a> {
    /// The flags.
    pub args: &'a LoginArgs,
    /// The cluster, at the `GraphToken`'s namespace.
    pub cluster: &'a Cluster,
    /// Where the person is talked to.
    pub terminal: &'a Terminal,
    /// The time.
    pub clock: &'a Clock,
    /// The way to the provider.
    pub provider: Arc<Provider>,
    /// Whom it is for.
    pub sign_in: SignIn,
    /// What the client proves itself with.
    pub prover: Prover,
}

/// Runs the command.
pub async fn run(
    args: &LoginArgs,
    cluster: &Cluster,
    terminal: &Terminal,
    clock: &Clock,
) -> Result<Ended, Failed> {
    match &args.name {
        Some(name) => one(args, name, cluster, terminal, clock).await,
        None => pending::run(args, cluster, terminal, clock).await,
    }
}

/// Signs in to one `GraphToken`.
pub async fn one(
    args: &LoginArgs,
    name: &str,
    cluster: &Cluster,
    terminal: &Terminal,
    clock: &Clock,
) -> Result<Ended, Failed> {
    let graphtoken = cluster.graphtoken(name).await?;
    if graphtoken.spec.suspend == Some(true) {
        return failed(format!(
            "{name} is suspended, and nothing is taken up for it: set spec.suspend to false first"
        ));
    }
    let sign_in = client::of(cluster, &graphtoken, args.device, args.client_namespace.as_deref()).await?;
    let prover = sign_in.prover(cluster).await?;
    let provider = Provider::new(10.0, Vec::new())
        .map_err(|error| Failed(format!("cannot make a client of the provider: {error}")))?;
    let provider = Arc::new(provider);
    let desk = Desk { args, cluster, terminal, clock, provider, sign_in, prover };
    if let Some(wanted) = desk.sign_in.wanted() {
        terminal.say(&format!("sign in as {wanted}"));
    }
    if !desk.sign_in.client.is_microsofts {
        terminal.note(&format!(
            "{} is where this GraphToken signs in, and not Microsoft",
            desk.sign_in.client.token_origin
        ));
    }
    let issued = if args.device { device::sign_in(&desk).await? } else { browser::sign_in(&desk).await? };
    let refresh_token = desk.accept(issued)?;
    hand_over::run(&desk, name, &refresh_token).await
}

impl Desk<'_> {
    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A proof for one request.
    pub async fn proof(&self) -> Result<crate::grant::Proof<'_>, Failed> {
        let proof = self.prover.prove(&self.cluster.client, &self.sign_in.client, self.now()).await;
        proof.map_err(|failure| Failed(failure.message))
    }

    /// One request to the token endpoint.
    pub async fn redeem(&self, grant: GrantKind, request: &TokenRequest) -> Result<Outcome, NoAnswer> {
        let id = uuid::Uuid::new_v4().to_string();
        let received = self.provider.post(&self.sign_in.client.token_url, request, &id, DEADLINE).await?;
        let body = received.body.expose_secret();
        let answer = Answer { status: received.status, retry_after: received.retry_after.as_deref(), body };
        Ok(read(grant, &answer, self.now()).masked(request))
    }

    /// The refresh token, if it is the right account's. Nothing has been written yet.
    fn accept(&self, issued: Issued) -> Result<SecretString, Failed> {
        let account = issued.account.as_ref();
        let who = account.map(|account| account.username.as_ref().unwrap_or(&account.object_id).clone());
        if !self.sign_in.takes(account) {
            let wanted = self.sign_in.wanted().unwrap_or_default();
            let who = who.unwrap_or_else(|| "an account that the provider did not name".to_owned());
            return failed(format!(
                "you signed in as {who}, and this GraphToken is for {wanted}: nothing was written; sign in again as the right one, \
                 or set spec.account to the one that is to be used from now on"
            ));
        }
        let Some(refresh_token) = issued.refresh_token else {
            return failed(
                "the provider gave no refresh token, without which the operator cannot go on: let the app have the permission \
                 offline_access",
            );
        };
        self.terminal.done(&match who {
            Some(who) => format!("signed in as {who}"),
            None => "signed in".to_owned(),
        });
        if !issued.granted_scopes.is_empty() {
            self.terminal.say(&format!("  granted: {}", issued.granted_scopes.join(" ")));
        }
        Ok(refresh_token)
    }
}

/// A failure in words for a person who is signing in: the advice is written for who keeps a seed or reads a status.
pub fn in_words_of_login(failure: &Failure) -> Failed {
    const AGAIN: &str = "run kubectl graphtoken login again";
    let mut said = failure.message.clone();
    for (theirs, ours) in [
        (
            "ask for a new code by a new value of the annotation graphtoken.io/requested-at, and sign in with it",
            AGAIN,
        ),
        (" with a new code, which a new value of the annotation graphtoken.io/requested-at asks for", ""),
        ("use grant refreshToken with a refresh token of a sign-in in a browser", "sign in without --device"),
    ] {
        said = said.replace(theirs, ours);
    }
    for which in ["the new", "the", "that", "its"] {
        said = said.replace(&format!(" and put {which} refresh token into the seed Secret"), "");
    }
    Failed(said)
}

/// That a provider gave no answer.
pub fn unanswered(what: &str, url: &str, why: NoAnswer) -> Failed {
    let why = match why {
        NoAnswer::Connect => "no connection could be made",
        NoAnswer::Timeout => "it did not answer in time",
        NoAnswer::Closed => "it closed the connection",
        NoAnswer::Tls => "its certificate is not trusted here",
        NoAnswer::TooLarge | NoAnswer::Other => "its answer cannot be used",
    };
    Failed(format!(
        "the {what} {url} could not be asked: {why}; check the network and HTTPS_PROXY, and try again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;

    #[test]
    fn the_advice_is_for_who_signs_in() {
        let said = |message: &str| {
            let failure =
                Failure { message: message.to_owned(), ..Failure::of(Reason::AuthorizationRequired) };
            in_words_of_login(&failure).0
        };
        let seed =
            "The sign-in was revoked: sign in again and put the new refresh token into the seed Secret.";
        assert_eq!(said(seed), "The sign-in was revoked: sign in again.");
        let code = "The code ran out: ask for a new code by a new value of the annotation graphtoken.io/requested-at, and sign in \
                    with it.";
        assert_eq!(said(code), "The code ran out: run kubectl graphtoken login again.");
    }
}
