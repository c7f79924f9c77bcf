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
    /// UID and resourceVersion of that Secret.
    pub version: (String, String),
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
    /// The Secrets, each at a version, of which people were told.
    told: BTreeSet<(Key, (String, String))>,
}

impl Ends {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere leaves the maps whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the end of what a `GraphToken` uses; `None`: it has none that is known.
    pub fn note(&self, graphtoken: &Key, end: Option<End>) {
        match end {
            Some(end) => self.lock().ends.insert(graphtoken.clone(), end),
            None => self.lock().ends.remove(graphtoken),
        };
    }

    /// Each Secret and when what is in it ends.
    pub fn all(&self) -> BTreeMap<Key, Timestamp> {
        self.lock().ends.values().map(|end| (end.secret.clone(), end.at)).collect()
    }

    /// What people are to be told of a `GraphToken`'s proof: that it ends soon, once a version of its Secret.
    pub fn notice(&self, graphtoken: &Key, now: Timestamp) -> Option<String> {
        let mut known = self.lock();
        let end = known.ends.get(graphtoken).filter(|end| end.at.duration_since(now) <= NOTICE)?.clone();
        let Key { namespace, name } = &end.secret;
        let (what, at) = (end.what, end.at);
        let verb = if at < now { "ended" } else { "ends" };
        let note = format!(
            "the {what} in Secret {name} of namespace {namespace} {verb} at {at}: make a new one and put it into that Secret"
        );
        known.told.insert((end.secret, end.version)).then_some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(version: &str, at: Timestamp) -> End {
        let version = ("uid".to_owned(), version.to_owned());
        End { secret: Key::new("ns", "app-cert"), version, what: "certificate", at }
    }

    #[test]
    fn people_are_told_two_weeks_before_the_end_and_once_a_version() {
        let (ends, mail) = (Ends::default(), Key::new("ns", "mail"));
        let at: Timestamp = "2026-12-24T12:00:00Z".parse().unwrap();
        let days_before = |days: i64| at - SignedDuration::from_hours(days * 24);
        ends.note(&mail, Some(end("1", at)));
        assert_eq!(ends.notice(&mail, days_before(15)), None);
        let note = ends.notice(&mail, days_before(14)).unwrap();
        assert!(note.contains("app-cert of namespace ns ends at 2026-12-24T12:00:00Z"), "{note}");
        assert_eq!(ends.notice(&mail, days_before(13)), None);
        let other = Key::new("ns", "other");
        ends.note(&other, Some(end("1", at)));
        assert_eq!(ends.notice(&other, days_before(13)), None, "it is the same Secret");
        ends.note(&mail, Some(end("2", at)));
        assert!(ends.notice(&mail, days_before(-1)).unwrap().contains("ended at"));
    }

    #[test]
    fn what_nobody_uses_any_more_is_not_shown() {
        let (ends, mail) = (Ends::default(), Key::new("ns", "mail"));
        let at: Timestamp = "2026-12-24T12:00:00Z".parse().unwrap();
        ends.note(&mail, Some(end("1", at)));
        assert_eq!(ends.all(), BTreeMap::from([(Key::new("ns", "app-cert"), at)]));
        ends.note(&mail, None);
        assert!(ends.all().is_empty());
    }
}
