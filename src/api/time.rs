//! A point in time as the API shows it: RFC 3339, UTC, whole seconds.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A `metav1.Time`: RFC 3339 in UTC. Sub-seconds are cut, as Kubernetes itself does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(Timestamp);

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self(Timestamp::from_second(at.as_second()).unwrap_or(at))
    }
}

impl From<Time> for Timestamp {
    fn from(time: Time) -> Self {
        time.0
    }
}

impl Time {
    /// Seconds since the Unix epoch.
    pub fn epoch(self) -> i64 {
        self.0.as_second()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "operator")]
impl schemars::JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "date-time"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_and_writes_whole_seconds_in_utc() {
        let at: Timestamp = "2026-11-23T10:00:00.987Z".parse().unwrap();
        assert_eq!(serde_json::to_string(&Time::from(at)).unwrap(), r#""2026-11-23T10:00:00Z""#);
        let read: Time = serde_json::from_str(r#""2026-11-23T11:00:00+01:00""#).unwrap();
        assert_eq!(read.to_string(), "2026-11-23T10:00:00Z");
    }
}
