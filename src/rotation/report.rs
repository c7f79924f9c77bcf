//! What comes of an acquisition, and of the verification of a token.

use std::sync::Arc;

use secrecy::SecretString;

use crate::api::status::SignInSource;
use crate::desired::Desired;
use crate::failure::Failure;
use crate::grant::{Account, Warning};
use crate::observed::{Credential, StoredToken, TokenFacts};
use crate::plan::Source;
use crate::plan::probe::Trial;
use crate::store::StoreError;
use crate::verdict::Verdict;

/// An access token that was got and not published yet, with what rendering it needs.
#[derive(Debug)]
pub struct InHand {
    /// Which token.
    pub stored: StoredToken,
    /// The token itself.
    pub access_token: SecretString,
    /// Whom it speaks for.
    pub account: Option<Account>,
}

/// What came of an exchange.
#[derive(Debug)]
pub enum Report {
    /// A token.
    Issued {
        /// The credential as committed; `None` for app-only tokens.
        credential: Option<Box<Credential>>,
        /// The token, to be published.
        in_hand: Box<InHand>,
        /// By what a user signed in, if a sign-in was adopted by it.
        adopted: Option<SignInSource>,
        /// What was odd about the answer.
        warnings: Vec<Warning>,
    },
    /// The attempt failed.
    Failed(Failure),
    /// A new sign-in was refused, and the chain goes on without it.
    SignInRejected(Failure),
    /// A device code waits for a user.
    DeviceStarted(Box<Credential>),
    /// It still does.
    DevicePending {
        /// Whether to poll less often from now on.
        slow_down: bool,
    },
    /// What it was decided on has changed: read again and decide again.
    Stale,
    /// Nothing may be sent now: all requests of the client are in flight, the Lease is not renewed, the provider asked for
    /// silence, or the process is about to exit.
    NotNow,
    /// The store failed before anything was sent.
    Storage(StoreError),
}

/// What a task that was started for a `GraphToken` brought.
#[derive(Debug)]
pub enum Finished {
    /// An acquisition.
    Acquired {
        /// What was tried.
        attempt: Attempt,
        /// What came of it.
        report: Report,
    },
    /// A verification.
    Verified {
        /// What was asked for.
        trial: Trial,
        /// The token that was presented.
        facts: TokenFacts,
        /// What Microsoft Graph said of it.
        verdict: Verdict,
    },
}

/// What an acquisition was made with.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The `graphtoken.io/requested-at` that it handles.
    pub request: Option<String>,
    /// What was sent.
    pub source: Source,
    /// What was desired.
    pub desired: Arc<Desired>,
    /// [`crate::observed::inputs`] of what it was made with.
    pub inputs: String,
    /// [`crate::plan::made_with`]: by the time it fails, the Secrets may hold something else.
    pub made_with: String,
}
