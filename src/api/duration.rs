//! Durations as Go and Kubernetes write them: `90s`, `20m`, `1h30m`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration that stays as its author wrote it, so that GitOps sees no drift.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GoDuration(pub String);

impl GoDuration {
    /// The parsed value. Errors say what was expected.
    pub fn get(&self) -> Result<Duration, String> {
        parse(&self.0)
    }
}

/// Parses a non-negative Go duration: decimal numbers, each with a unit of `h`, `m`, `s`, `ms`, `us` or `ns`, or `0`
/// (<https://pkg.go.dev/time#ParseDuration>).
pub fn parse(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is not a duration such as 90s, 20m or 168h");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let number: f64 = rest[..digits].parse().map_err(|_| malformed())?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number * seconds_in(&rest[..unit_len]).ok_or_else(malformed)?;
        rest = &rest[unit_len..];
    }
    Duration::try_from_secs_f64(total).map_err(|_| malformed())
}

fn seconds_in(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" => 3600.0,
        "m" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

#[cfg(feature = "operator")]
impl schemars::JsonSchema for GoDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "GoDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": r"^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", 0)]
    #[case("0s", 0)]
    #[case("90s", 90_000)]
    #[case("20m", 1_200_000)]
    #[case("168h", 604_800_000)]
    #[case("1h30m", 5_400_000)]
    #[case("1.5s", 1_500)]
    #[case("250ms", 250)]
    fn go_durations_are_read(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(parse(text), Ok(Duration::from_millis(millis)));
    }

    #[rstest]
    #[case("")]
    #[case("5")]
    #[case("-5s")]
    #[case("5 s")]
    #[case("s")]
    #[case("1d")]
    #[case("1..5s")]
    #[case("999999999999999999999999h")]
    fn anything_else_is_refused_with_an_example(#[case] text: &str) {
        assert!(parse(text).unwrap_err().contains("90s"));
    }
}
