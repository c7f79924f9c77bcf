//! Who may send: when a provider has asked one `GraphToken` for silence, no other of the same client at the same endpoint sends
//! anything before that is over. What holds is a fold over the failures in the statuses, so it holds across restarts too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::api::Reason;
use crate::api::status::LastFailure;
use crate::desired::Client;
use crate::plan::{is_ahead, plus};
use crate::seed::hex;

/// The others begin again within a tenth of the silence, bounded by these, and not all at once.
const SPREAD: (SignedDuration, SignedDuration) =
    (SignedDuration::from_secs(1), SignedDuration::from_secs(30));

/// Whom a silence is for: a digest of token URL and client id.
pub fn key(client: &Client) -> String {
    let mut hash = Sha256::new();
    for part in [&client.token_url, &client.client_id] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..8])
}

/// A silence that a provider asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// When.
    pub asked_at: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

impl Silence {
    /// A silence from now on. It ends with a whole second, as the status has it: rounded up, for it is not to be cut.
    pub fn new(asked_at: Timestamp, pause: Duration) -> Self {
        let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
        let until = asked_at.saturating_add(pause).unwrap_or(Timestamp::MAX);
        let whole = Timestamp::from_second(until.as_second()).unwrap_or(until);
        let until = if whole < until { plus(whole, SignedDuration::from_secs(1)) } else { whole };
        Self { asked_at, until }
    }

    /// The silence that a failure tells of, and whom it is for.
    fn of(failure: &LastFailure) -> Option<(&str, Self)> {
        let client = failure.throttles.as_deref().filter(|_| failure.reason == Reason::Throttled)?;
        let until = Timestamp::from(failure.retry_after?);
        Some((client, Self { asked_at: failure.time.into(), until }))
    }

    /// How long those who were not told themselves take to begin again.
    pub fn spread(&self) -> SignedDuration {
        (self.until.duration_since(self.asked_at) / 10).clamp(SPREAD.0, SPREAD.1)
    }

    /// Whether it still has a say, if only in who begins when. One that was asked for in the future, our clock having been
    /// set back, has none.
    fn counts(&self, now: Timestamp) -> bool {
        let end = plus(self.until, self.spread());
        end > now && !is_ahead(self.asked_at, now)
    }
}

/// The silence that these failures impose on a client: the one that ends last.
pub fn silence<'a>(
    failures: impl IntoIterator<Item = &'a LastFailure>,
    client: &str,
    now: Timestamp,
) -> Option<Silence> {
    let silences = failures.into_iter().filter_map(Silence::of).filter(|(of, _)| *of == client);
    silences.map(|(_, silence)| silence).filter(|silence| silence.counts(now)).max_by_key(rank)
}

const fn rank(silence: &Silence) -> (Timestamp, Timestamp) {
    (silence.until, silence.asked_at)
}

/// [`silence`], kept up failure by failure. Within a silence nobody succeeds, so nothing ends one but time: for each client
/// the one that ends last is all there is to keep.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Arc<Mutex<HashMap<String, Silence>>>);

impl Throttle {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Silence>> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a failure from a status.
    pub fn note(&self, failure: &LastFailure, now: Timestamp) {
        if let Some((client, silence)) = Silence::of(failure) {
            self.ask(client, silence, now);
        }
    }

    /// Takes in an answer.
    pub fn ask(&self, client: &str, silence: Silence, now: Timestamp) {
        if !silence.counts(now) {
            return;
        }
        let mut silences = self.lock();
        let known = silences.get(client).filter(|known| known.counts(now));
        if known.is_none_or(|known| rank(known) < rank(&silence)) {
            silences.retain(|_, silence| silence.counts(now));
            silences.insert(client.to_owned(), silence);
        }
    }

    /// The silence that is imposed on a client, or was until a moment ago.
    pub fn silence(&self, client: &Client, now: Timestamp) -> Option<Silence> {
        let silences = self.lock();
        if silences.is_empty() {
            return None;
        }
        silences.get(&key(client)).filter(|silence| silence.counts(now)).copied()
    }

    /// Whether a client may send nothing now.
    pub fn silenced(&self, client: &Client, now: Timestamp) -> bool {
        self.silence(client, now).is_some_and(|silence| silence.until > now)
    }
}

#[cfg(test)]
mod tests;
