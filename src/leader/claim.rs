//! The decision, pure: no clock, no API server.

use std::{ops::Add, time::Duration};

/// What counts of a Lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Who holds it; empty where nobody does.
    pub holder: String,
    /// Changes with every write: the resourceVersion.
    pub version: String,
    /// How long its holder may be silent.
    pub duration: Duration,
}

/// A record and since when, by our clock, we have known it unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sighting<I> {
    /// What was last read.
    pub record: Record,
    /// When the answer that first had this version arrived. (Its holder sent it earlier, so it believes itself
    /// leader for no longer than we do.)
    pub since: I,
}

impl<I> Sighting<I> {
    /// The record was read, and the answer arrived `now`.
    pub fn next(previous: Option<Self>, record: Record, now: I) -> Self {
        match previous {
            Some(Self { record: known, since }) if known.version == record.version => Self { record, since },
            _ => Self { record, since: now },
        }
    }
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim<I> {
    /// There is none.
    Create,
    /// It is ours.
    Renew,
    /// It is nobody's, or its holder was silent for too long.
    Take,
    /// A rival holds it until then at least.
    Wait {
        /// When it may be taken unless it changes before.
        until: I,
    },
}

/// Decides what to do about the Lease as it was last `seen`. `I` is any monotonic clock's instant.
pub fn claim<I>(seen: Option<&Sighting<I>>, me: &str, now: I) -> Claim<I>
where
    I: Copy + Ord + Add<Duration, Output = I>,
{
    let Some(Sighting { record, since }) = seen else { return Claim::Create };
    if record.holder == me {
        return Claim::Renew;
    }
    let until = *since + record.duration;
    if record.holder.is_empty() || now >= until { Claim::Take } else { Claim::Wait { until } }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn record(holder: &str, version: &str) -> Record {
        Record { holder: holder.into(), version: version.into(), duration: LEASE }
    }

    /// Any clock will do: here seconds since some moment.
    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[rstest]
    #[case::there_is_none(None, 0, Claim::Create)]
    #[case::ours(Some("me"), 0, Claim::Renew)]
    #[case::ours_though_long_silent(Some("me"), 1_000, Claim::Renew)]
    #[case::nobodys_is_taken_at_once(Some(""), 0, Claim::Take)]
    #[case::a_rivals(Some("rival"), 0, Claim::Wait { until: at(130) })]
    #[case::a_rivals_nearly_over(Some("rival"), 29, Claim::Wait { until: at(130) })]
    #[case::a_silent_rivals(Some("rival"), 30, Claim::Take)]
    fn the_lease_goes_to_whoever_may_have_it(
        #[case] holder: Option<&str>,
        #[case] silent: u64,
        #[case] expected: Claim<Duration>,
    ) {
        let seen = holder.map(|holder| Sighting { record: record(holder, "1"), since: at(100) });
        assert_eq!(claim(seen.as_ref(), "me", at(100 + silent)), expected);
    }

    #[test]
    fn silence_counts_from_the_first_sight_of_an_unchanged_record() {
        let first = Sighting::next(None, record("rival", "1"), at(0));
        let again = Sighting::next(Some(first), record("rival", "1"), at(29));
        assert_eq!(claim(Some(&again), "me", at(30)), Claim::Take);
        let renewed = Sighting::next(Some(again), record("rival", "2"), at(30));
        assert_eq!(claim(Some(&renewed), "me", at(59)), Claim::Wait { until: at(60) });
    }
}
