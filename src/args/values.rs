//! What the values of flags may be. An error says what is wrong with the value, not which flag it is of.

use std::{net::Ipv6Addr, time::Duration};

/// Labels that the operator sets by itself on what it writes.
const OWN_LABEL_DOMAIN: &str = "graphtoken.io";
const OWN_LABELS: [&str; 1] = ["app.kubernetes.io/managed-by"];
const MIN_LEASE: Duration = Duration::from_secs(2);
const MAX_LEASE: Duration = Duration::from_hours(1);

/// A namespace's name, an RFC 1123 label:
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>.
pub(super) fn namespace(value: &str) -> Result<String, String> {
    if dns_label(value) {
        Ok(value.to_owned())
    } else {
        Err("a namespace has at most 63 characters a-z, 0-9 and '-', with no '-' at either end".to_owned())
    }
}

/// The audience of a token (RFC 7519 section 4.1.3), as `spec.clientAuth.workloadIdentity.audience` may spell it.
pub(super) fn audience(value: &str) -> Result<String, String> {
    if value.len() <= 512 && value.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(value.to_owned())
    } else {
        Err("an audience has at most 512 characters, without spaces".to_owned())
    }
}

/// A host as it stands in a URL, in lower case.
pub(super) fn host(value: &str) -> Result<String, String> {
    let bare = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(value);
    if let Ok(address) = bare.parse::<Ipv6Addr>() {
        return Ok(format!("[{address}]"));
    }
    let host = value.to_ascii_lowercase();
    if host.contains("://") {
        return Err("give the host alone, without https://".to_owned());
    }
    if host.contains('/') {
        return Err("give the host alone, without a path".to_owned());
    }
    if host.contains(':') {
        return Err("give the host alone, without a port: every port of it is allowed".to_owned());
    }
    let part =
        |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if host.len() <= 253 && host.split('.').all(part) {
        Ok(host)
    } else {
        Err("it is not a host name (wildcards are not supported)".to_owned())
    }
}

/// A label by the rules of
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let domain_ok = domain.is_none_or(|d| d.len() <= 253 && d.split('.').all(dns_label));
    if !domain_ok || name.is_empty() || !label_text(name) {
        return Err(format!("'{key}' is not a label's key"));
    }
    if !label_text(value) {
        return Err(format!("'{value}' is not a label's value"));
    }
    let ours = |d: &str| d == OWN_LABEL_DOMAIN || d.ends_with(&format!(".{OWN_LABEL_DOMAIN}"));
    if domain.is_some_and(ours) || OWN_LABELS.contains(&key) {
        return Err(format!("{key} is set by the operator itself"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn label_text(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.len() <= 63 && text.bytes().all(inner) && ends(text, |b| b.is_ascii_alphanumeric())
}

fn dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty() && text.len() <= 63 && text.bytes().all(|b| inner(b) || b == b'-') && ends(text, inner)
}

/// Whether the first and the last byte, if any, are such.
fn ends(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    text.bytes().next().is_none_or(&allowed) && text.bytes().last().is_none_or(&allowed)
}

pub(super) fn rate(text: &str) -> Result<f64, String> {
    rate_or_none(text)
        .and_then(|rate| if rate > 0.0 { Ok(rate) } else { Err("it must be more than 0".to_owned()) })
}

pub(super) fn rate_or_none(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| "it is not a number")?;
    if f64::is_finite(rate) && rate >= 0.0 { Ok(rate) } else { Err("it must be 0 or more".to_owned()) }
}

pub(super) fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if (MIN_LEASE..=MAX_LEASE).contains(&duration) {
        Ok(duration)
    } else {
        Err("it must be from 2s to 1h".to_owned())
    }
}

/// Go's durations, of which only h, m, s and ms: <https://pkg.go.dev/time#ParseDuration>.
fn parse_duration(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "it is not a duration such as 30s or 1m30s";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(WANTED)?;
        let (number, tail) = rest.split_at(number_ends);
        let unit_ends = tail.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_ends);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return Err(WANTED.to_owned()),
        };
        let number: f64 = number.parse().map_err(|_| WANTED)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| WANTED)?;
        total = total.checked_add(part).ok_or(WANTED)?;
        rest = tail;
    }
    if text.is_empty() { Err(WANTED.to_owned()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Some(0))]
    #[case("30s", Some(30_000))]
    #[case("1m30s", Some(90_000))]
    #[case("1h0m0.5s", Some(3_600_500))]
    #[case("1500ms", Some(1_500))]
    #[case("", None)]
    #[case("30", None)]
    #[case("s", None)]
    #[case("-1s", None)]
    #[case("1 s", None)]
    #[case("1d", None)]
    #[case("1.2.3s", None)]
    #[case("99999999999999999999h", None)]
    fn durations_are_gos(#[case] text: &str, #[case] millis: Option<u64>) {
        assert_eq!(parse_duration(text).ok(), millis.map(Duration::from_millis));
    }
}
