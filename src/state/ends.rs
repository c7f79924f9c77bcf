//! When the certificates and client secrets that are in use end: for the metrics, and so that people are told in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::Key;

/// So long before its end people are told.
const NOTICE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// When a client's proof ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The Secret that it is in.
    pub secret: Key,
    /// What it is.
    pub what: &'static str,
    /// Its end.
    pub at: Timestamp,
}

/// By `GraphToken`, the end of the proof that it uses. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Ends(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    ends: BTreeMap<Key, End>,
    /// The ends that people were told, by Secret and by what is in it. (Not by the Secret's version: a controller may touch a
    /// Secret every minute.)
    told: BTreeMap<(Key, &'static str), Timestamp>,
}

impl Known {
    /// What was reported of a Secret goes with the last `GraphToken` that uses it.
    fn prune(&mut self) {
        if !self.told.is_empty() {
            let used: BTreeSet<&Key> = self.ends.values().map(|end| &end.secret).collect();
            self.told.retain(|(secret, _), _| used.contains(secret));
        }
    }
}

impl Ends {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere leaves the maps whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the end of what a `GraphToken` uses; `None`: it has none that is known, as when its Secret is not there.
    pub(super) fn note(&self, graphtoken: &Key, end: Option<End>) {
        let mut known = self.lock();
        let Some(end) = end else {
            known.ends.remove(graphtoken);
            return;
        };
        let secret = end.secret.clone();
        let former = known.ends.insert(graphtoken.clone(), end);
        if former.is_some_and(|former| former.secret != secret) {
            known.prune();
        }
    }

    /// Forgets a `GraphToken` that is gone.
    pub(super) fn forget(&self, graphtoken: &Key) {
        let mut known = self.lock();
        known.ends.remove(graphtoken);
        known.prune();
    }

    /// Each Secret and when what is in it ends.
    pub fn all(&self) -> BTreeMap<Key, Timestamp> {
        self.lock().ends.values().map(|end| (end.secret.clone(), end.at)).collect()
    }

    /// What people are to be told of a `GraphToken`'s proof: that it ends soon, once for each end.
    pub fn notice(&self, graphtoken: &Key, now: Timestamp) -> Option<String> {
        let mut known = self.lock();
        let end = known.ends.get(graphtoken).filter(|end| end.at.duration_since(now) <= NOTICE)?.clone();
        let Key { namespace, name } = &end.secret;
        let (what, at) = (end.what, end.at);
        let verb = if at < now { "ended" } else { "ends" };
        let note = format!(
            "the {what} in Secret {name} of namespace {namespace} {verb} at {at}: make a new one and put it into that Secret"
        );
        let before = known.told.insert((end.secret, what), at);
        (before != Some(at)).then_some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(secret: &str, at: Timestamp) -> End {
        End { secret: Key::new("ns", secret), what: "certificate", at }
    }

    fn at() -> Timestamp {
        "2026-12-24T12:00:00Z".parse().unwrap()
    }

    fn days_before(days: i64) -> Timestamp {
        at() - SignedDuration::from_hours(days * 24)
    }

    #[test]
    fn people_are_told_two_weeks_before_the_end_and_once() {
        let (ends, mail, other) = (Ends::default(), Key::new("ns", "mail"), Key::new("ns", "other"));
        ends.note(&mail, Some(end("app-cert", at())));
        assert_eq!(ends.notice(&mail, days_before(15)), None);
        let note = ends.notice(&mail, days_before(14)).unwrap();
        assert!(note.contains("app-cert of namespace ns ends at 2026-12-24T12:00:00Z"), "{note}");
        ends.note(&mail, Some(end("app-cert", at())));
        assert_eq!(ends.notice(&mail, days_before(13)), None, "the Secret was touched, no more");
        ends.note(&other, Some(end("app-cert", at())));
        assert_eq!(ends.notice(&other, days_before(13)), None, "it is the same Secret");
        let renewed = at() + SignedDuration::from_hours(1);
        ends.note(&mail, Some(end("app-cert", renewed)));
        assert!(ends.notice(&mail, days_before(-1)).unwrap().contains("ended at"));
    }

    #[test]
    fn a_secret_that_was_away_for_a_moment_is_not_told_again() {
        let (ends, mail) = (Ends::default(), Key::new("ns", "mail"));
        for told in [true, false] {
            ends.note(&mail, Some(end("app-cert", at())));
            assert_eq!(ends.notice(&mail, days_before(1)).is_some(), told);
            ends.note(&mail, None);
            assert!(ends.all().is_empty());
        }
    }

    #[test]
    fn what_was_told_goes_with_the_last_graphtoken() {
        let (ends, mail, other) = (Ends::default(), Key::new("ns", "mail"), Key::new("ns", "other"));
        ends.note(&other, Some(end("app-cert", at())));
        for n in 0..1000 {
            ends.note(&mail, Some(end(&format!("cert-{n}"), at())));
            assert!(ends.notice(&mail, days_before(1)).is_some());
        }
        assert_eq!(ends.lock().told.len(), 1, "of the Secret that is in use");
        assert_eq!(ends.all().len(), 2);
        ends.forget(&mail);
        ends.forget(&other);
        let known = ends.lock();
        assert!(known.ends.is_empty() && known.told.is_empty());
    }
}
