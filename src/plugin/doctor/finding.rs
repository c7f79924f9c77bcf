//! What was found, and how it is judged. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::plugin::say::{Colour, Paint, clean};

/// Beyond this an assertion may be refused, and times in a status mislead.
const MAX_SKEW: i64 = 60;
/// A Lease is renewed several times within its duration; a slow API server is no lost operator.
const LEASE_GRACE: Duration = Duration::from_secs(30);

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// It cannot be seen from here.
    Unseen,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at and found.
    pub what: String,
    /// What to do about it.
    pub todo: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn good(what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, what: what.into(), todo: None }
    }

    /// Something is wrong, and this is to be done.
    pub fn bad(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, what: what.into(), todo: Some(todo.into()) }
    }

    /// Nothing can be said, for this reason.
    pub fn unseen(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unseen, what: what.into(), todo: Some(todo.into()) }
    }

    /// The line, with what to do below it.
    pub fn line(&self, paint: Paint) -> String {
        let mark = match self.verdict {
            Verdict::Good => paint.paint(Colour::Green, "✓"),
            Verdict::Bad => paint.paint(Colour::Red, "✗"),
            Verdict::Unseen => paint.paint(Colour::Yellow, "–"),
        };
        let todo = self.todo.as_deref().map(|todo| format!("\n    {}", clean(todo))).unwrap_or_default();
        format!("{mark} {}{todo}\n", clean(&self.what))
    }
}

/// Whether a CRD has every field that this version knows.
pub fn crd(name: &str, there: &Value, ours: &Value) -> Finding {
    let missing: Vec<String> = fields(ours).difference(&fields(there)).take(5).cloned().collect();
    if missing.is_empty() {
        Finding::good(format!("CRD {name} is that of this version, or a later one"))
    } else {
        Finding::bad(
            format!("CRD {name} lacks {}", missing.join(", ")),
            "it is older than this plugin: apply the CRDs of the operator's version (kubectl apply --server-side -f crds/)",
        )
    }
}

/// The paths of all fields in a CRD's schema.
fn fields(crd: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for version in crd.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten() {
        let schema = version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
        gather(schema, "", &mut found);
    }
    found
}

fn gather(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        gather(inner, &path, found);
        found.insert(path);
    }
    if let Some(items) = schema.get("items") {
        gather(items, path, found);
    }
}

/// A Lease as it was found.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its namespace.
    pub namespace: String,
    /// Who holds it.
    pub holder: Option<String>,
    /// When it was last renewed.
    pub renewed: Option<Timestamp>,
    /// How long it holds.
    pub duration: Duration,
}

/// Whether an operator is at work.
pub fn lease(seen: &[Seen], now: Timestamp) -> Finding {
    let fresh = |lease: &&Seen| {
        let age = lease.renewed.map(|at| now.as_second().saturating_sub(at.as_second()));
        let life = i64::try_from((lease.duration + LEASE_GRACE).as_secs()).unwrap_or(i64::MAX);
        lease.holder.as_ref().is_some_and(|holder| !holder.is_empty()) && age.is_some_and(|age| age <= life)
    };
    let working: Vec<&Seen> = seen.iter().filter(fresh).collect();
    if let Some(lease) = working.first() {
        let holder = lease.holder.as_deref().unwrap_or_default();
        let more =
            if working.len() > 1 { format!(" (and {} more)", working.len() - 1) } else { String::new() };
        return Finding::good(format!(
            "an operator works: {holder}, Lease in namespace {}{more}",
            lease.namespace
        ));
    }
    if let Some(lease) = seen.first() {
        return Finding::bad(
            format!("no operator works: the Lease in namespace {} was not renewed of late", lease.namespace),
            format!(
                "see its pods and their logs: kubectl -n {} get pods (is this machine's clock right?)",
                lease.namespace
            ),
        );
    }
    Finding::bad(
        "no operator was found: there is no Lease graphtoken-operator",
        "start one (graphtoken run), or name its namespace by --operator-namespace; with --leader-election=false it has no Lease",
    )
}

/// Whether two clocks agree. `date` is a Date header (RFC 9110 section 5.6.7).
pub fn clock(whose: &str, date: Option<&str>, now: Timestamp) -> Option<Finding> {
    let zoned = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date?.trim()).ok()?;
    let skew = now.as_second().saturating_sub(zoned.as_second());
    Some(if skew.abs() <= MAX_SKEW {
        Finding::good(format!("this machine's clock and that of {whose} agree"))
    } else {
        let way = if skew > 0 { "ahead of" } else { "behind" };
        Finding::bad(
            format!("this machine's clock is {} s {way} that of {whose}", skew.abs()),
            "set it by NTP; if the operator's node is off as well, assertions are refused",
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_line_says_what_to_do() {
        assert_eq!(Finding::good("fine").line(Paint(false)), "✓ fine\n");
        assert_eq!(Finding::bad("broken", "mend it").line(Paint(false)), "✗ broken\n    mend it\n");
        assert_eq!(Finding::unseen("hidden", "ask").line(Paint(false)), "– hidden\n    ask\n");
    }

    #[test]
    fn a_crd_of_this_version_is_known_and_an_older_one_too() {
        for ours in crate::crds::all() {
            assert_eq!(crd("x", &ours, &ours).verdict, Verdict::Good);
        }
        let ours = &crate::crds::all()[0];
        let mut older = ours.clone();
        let schema = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        schema["properties"]["target"]["properties"].as_object_mut().unwrap().remove("restart");
        let found = crd("x", &older, ours);
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.what.contains("spec.target.restart"), "{}", found.what);
    }

    #[test]
    fn an_operator_works_whose_lease_is_fresh() {
        let now = at("2026-11-23T10:00:00Z");
        let seen = |renewed: &str| Seen {
            namespace: "ops".to_owned(),
            holder: Some("pod-1".to_owned()),
            renewed: Some(at(renewed)),
            duration: Duration::from_secs(30),
        };
        assert_eq!(lease(&[], now).verdict, Verdict::Bad);
        assert_eq!(lease(&[seen("2026-11-23T09:59:30Z")], now).verdict, Verdict::Good);
        let stale = lease(&[seen("2026-11-23T09:58:00Z")], now);
        assert!(stale.what.contains("was not renewed"), "{}", stale.what);
        let released = Seen { holder: Some(String::new()), ..seen("2026-11-23T10:00:00Z") };
        assert_eq!(lease(&[released], now).verdict, Verdict::Bad);
    }

    #[test]
    fn a_clock_that_is_off_is_told() {
        let now = at("2026-11-23T10:00:00Z");
        let judged = |date: &str| clock("x", Some(date), now).map(|found| (found.verdict, found.what));
        assert_eq!(judged("Mon, 23 Nov 2026 10:00:30 GMT").unwrap().0, Verdict::Good);
        let (verdict, what) = judged("Mon, 23 Nov 2026 09:50:00 GMT").unwrap();
        assert_eq!(verdict, Verdict::Bad);
        assert!(what.contains("600 s ahead of"), "{what}");
        assert_eq!((clock("x", None, now), judged("yesterday")), (None, None));
    }

    #[test]
    fn fields_are_found_in_lists_too() {
        let schema = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {
            "a": {"items": {"properties": {"b": {}}}},
        }}}}]}});
        assert_eq!(fields(&schema), BTreeSet::from(["a".to_owned(), "a.b".to_owned()]));
    }
}
