//! Whether a workload is rolled out anew. Pure.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::api::Time;
use crate::plan::{is_ahead, plus};

/// A workload is rolled out no more often than this, however often the token changes.
pub const MIN_INTERVAL: SignedDuration = SignedDuration::from_mins(1);
/// A workload that was created so long after the content was written has read no other: caches have caught up by then.
const READ_BY_THEN: SignedDuration = SignedDuration::from_secs(30);
/// So much of the content's digest tells one content from another.
const DIGEST: usize = 16;

/// A change of the target.
pub(super) struct Change<'a> {
    /// The target's name.
    pub(super) target: &'a str,
    /// Digest of what it holds now.
    pub(super) content: &'a str,
    /// Since when.
    pub(super) since: Timestamp,
    /// Whether it is the first token of the `GraphToken`: nobody can have read another.
    pub(super) is_first: bool,
}

/// What the annotation on a pod template says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// When it was rolled out last.
    at: Timestamp,
    /// For which content.
    content: String,
}

impl Mark {
    /// Rounded up to whole seconds, so that the interval is not cut.
    pub(super) fn new(at: Timestamp, content: &str) -> Self {
        let at = plus(at, SignedDuration::from_nanos(999_999_999));
        let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
        Self { at, content: content.chars().take(DIGEST).collect() }
    }

    fn parse(text: &str) -> Option<Self> {
        let (at, content) = text.split_once(' ')?;
        Some(Self { at: at.parse().ok()?, content: content.to_owned() })
    }

    fn is_for(&self, content: &str) -> bool {
        self.content == content.get(..DIGEST).unwrap_or(content)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Time::from(self.at), self.content)
    }
}

/// A workload as it was read.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) uid: String,
    pub(super) resource_version: String,
    created_at: Option<Timestamp>,
    references: bool,
    mark: Option<Mark>,
}

impl Seen {
    pub(super) fn of(workload: &DynamicObject, target: &str, mark_key: &str) -> Self {
        let template = &workload.data["spec"]["template"];
        let mark = template["metadata"]["annotations"][mark_key].as_str();
        Self {
            uid: workload.uid().unwrap_or_default(),
            resource_version: workload.resource_version().unwrap_or_default(),
            created_at: workload.creation_timestamp().map(|time| time.0),
            references: references(&template["spec"], target),
            mark: mark.and_then(Mark::parse),
        }
    }
}

/// What to do about a workload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: its pods have what the target holds, or are just getting it.
    Done,
    /// Roll it out anew.
    Roll,
    /// Not before this.
    Later(Timestamp),
    /// Nothing: it is none of the target's readers.
    Foreign,
}

pub(super) fn decide(seen: &Seen, change: &Change<'_>, now: Timestamp) -> Verdict {
    if !seen.references {
        return Verdict::Foreign;
    }
    match &seen.mark {
        Some(mark) if mark.is_for(change.content) => Verdict::Done,
        // A time in the future was noted before a clock was set back: nothing can be counted from it.
        Some(mark) if plus(mark.at, MIN_INTERVAL) > now && !is_ahead(mark.at, now) => {
            Verdict::Later(plus(mark.at, MIN_INTERVAL))
        }
        None if change.is_first => Verdict::Done,
        None if seen.created_at.is_some_and(|at| at >= plus(change.since, READ_BY_THEN)) => Verdict::Done,
        Some(_) | None => Verdict::Roll,
    }
}

/// Whether pods of this spec read a Secret, by their environment or a volume.
fn references(pod: &Value, secret: &str) -> bool {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let is = |name: &Value| name.as_str() == Some(secret);
    let in_environment =
        ["containers", "initContainers"].iter().flat_map(|kind| list(&pod[kind])).any(|container| {
            list(&container["env"]).iter().any(|env| is(&env["valueFrom"]["secretKeyRef"]["name"]))
                || list(&container["envFrom"]).iter().any(|from| is(&from["secretRef"]["name"]))
        });
    in_environment
        || list(&pod["volumes"]).iter().any(|volume| {
            let projected = list(&volume["projected"]["sources"]);
            is(&volume["secret"]["secretName"])
                || projected.iter().any(|source| is(&source["secret"]["name"]))
        })
}

#[cfg(test)]
mod tests;
