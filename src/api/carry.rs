//! What another version wrote: it is read as far as it decodes, and what this version does not know is carried along.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

use super::GraphTokenStatus;

impl GraphTokenStatus {
    /// Reads a status as far as it decodes. [`Self::to_json`] has all of it again.
    pub fn read(text: &str) -> Self {
        let Ok(raw) = serde_json::from_str::<Value>(text) else { return Self::default() };
        let status: Self = decodable(raw.clone()).unwrap_or_default();
        let original = is_lost(&raw, &json(&status)).then(|| Box::new(raw));
        Self { original, ..status }
    }

    /// The status as it is written: what this version says, and what it carries along.
    pub fn to_json(&self) -> Value {
        let Some(original) = self.original.as_deref() else { return json(self) };
        let before: Self = decodable(original.clone()).unwrap_or_default();
        carried(original, &json(&before), json(self))
    }
}

fn json(status: &GraphTokenStatus) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

/// A value without the members and elements that do not decode; `None`: nothing does.
pub fn decodable<T: DeserializeOwned>(mut value: Value) -> Option<T> {
    loop {
        match serde_path_to_error::deserialize(&value) {
            Ok(decoded) => return Some(decoded),
            // Each turn takes something away, so it ends.
            Err(error) => remove(&mut value, error.path())?,
        }
    }
}

fn remove(value: &mut Value, path: &Path) -> Option<()> {
    let mut within = value;
    let mut segments = path.iter().peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        within = match (segment, within) {
            (Segment::Map { key }, Value::Object(members)) if is_last => {
                return members.remove(key).map(drop);
            }
            (Segment::Seq { index }, Value::Array(elements)) if is_last => {
                return (*index < elements.len()).then(|| drop(elements.remove(*index)));
            }
            (Segment::Map { key }, Value::Object(members)) => members.get_mut(key)?,
            (Segment::Seq { index }, Value::Array(elements)) => elements.get_mut(*index)?,
            _ => return None,
        };
    }
    None
}

/// Whether something of `raw` is not in what it decoded to.
fn is_lost(raw: &Value, decoded: &Value) -> bool {
    match (raw, decoded) {
        (Value::Object(raw), Value::Object(decoded)) => raw
            .iter()
            .filter(|(_, raw)| !raw.is_null())
            .any(|(key, raw)| decoded.get(key).is_none_or(|decoded| is_lost(raw, decoded))),
        (Value::Array(raw), Value::Array(decoded)) => {
            raw.len() != decoded.len() || raw.iter().zip(decoded).any(|(raw, decoded)| is_lost(raw, decoded))
        }
        _ => raw != decoded,
    }
}

/// The change from `before` to `after`, made to `raw`, of which `before` is what decoded.
fn carried(raw: &Value, before: &Value, after: Value) -> Value {
    match (raw, before, after) {
        (raw, before, after) if *before == after => raw.clone(),
        (Value::Object(raw), Value::Object(before), Value::Object(after)) => {
            Value::Object(carried_members(raw, before, after))
        }
        (Value::Array(raw), Value::Array(before), Value::Array(after)) if raw.iter().any(is_condition) => {
            Value::Array(carried_conditions(raw, before, after))
        }
        (_, _, after) => after,
    }
}

fn carried_members(
    raw: &Map<String, Value>,
    before: &Map<String, Value>,
    mut after: Map<String, Value>,
) -> Map<String, Value> {
    let mut members = Map::new();
    for (key, raw) in raw {
        let member = match (before.get(key), after.remove(key)) {
            (Some(before), Some(after)) => Some(carried(raw, before, after)),
            (None, None) => Some(raw.clone()),
            (_, after) => after,
        };
        members.extend(member.map(|member| (key.clone(), member)));
    }
    members.extend(after);
    members
}

fn is_condition(element: &Value) -> bool {
    element["type"].is_string()
}

/// Each by its type. Those that did not decode stay, behind the others.
fn carried_conditions(raw: &[Value], before: &[Value], after: Vec<Value>) -> Vec<Value> {
    let find = |list: &[Value], wanted: &Value| list.iter().find(|c| c["type"] == wanted["type"]).cloned();
    let undecoded: Vec<Value> =
        raw.iter().filter(|c| find(before, c).is_none() && find(&after, c).is_none()).cloned().collect();
    let own = after.into_iter().map(|after| match (find(raw, &after), find(before, &after)) {
        (Some(raw), Some(before)) => carried(&raw, &before, after),
        _ => after,
    });
    own.chain(undecoded).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::api::Reason;

    /// A status of another version: words, fields, condition types and values that this one does not know.
    fn foreign() -> Value {
        json!({
            "observedGeneration": 3,
            "sealingKey": {"id": "k1"},
            "consecutiveFailures": -1,
            "refreshCount": 7,
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "TokenSealed", "message": "m", "severity": "Info",
                 "lastTransitionTime": "2026-11-23T10:00:00Z", "observedGeneration": 3},
                {"type": "Sealed", "status": "True", "reason": "Sealed", "message": "m", "lastTransitionTime": "2026-11-23T10:00:00Z"},
                {"type": "Odd", "status": 5},
            ],
            "lastFailure": {"time": "2026-11-23T10:00:00Z", "reason": "SealedValueInvalid", "message": "m", "codes": "none", "hint": 1},
            "signedIn": {"time": "2026-11-23T10:00:00Z", "source": "Passkey"},
            "target": "mail/7",
        })
    }

    #[test]
    fn a_status_of_another_version_is_read_as_far_as_it_decodes() {
        let status = GraphTokenStatus::read(&foreign().to_string());
        assert_eq!(
            (status.observed_generation, status.refresh_count, status.consecutive_failures),
            (3, 7, 0)
        );
        let types: Vec<_> = status.conditions.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(types, ["Ready", "Sealed"]);
        assert_eq!(status.last_failure.as_ref().unwrap().reason.as_str(), "SealedValueInvalid");
        assert_eq!(status.signed_in.as_ref().unwrap().source.as_str(), "Passkey");
        assert_eq!(status.target, None);
    }

    #[test]
    fn what_is_not_changed_is_written_as_it_was_read() {
        assert_eq!(GraphTokenStatus::read(&foreign().to_string()).to_json(), foreign());
    }

    #[test]
    fn a_change_is_made_to_this_versions_own_fields_alone() {
        let mut status = GraphTokenStatus::read(&foreign().to_string());
        status.refresh_count = 8;
        status.secret_name = Some("mail".into());
        status.last_failure = None;
        status.conditions[0].reason = Reason::TokenValid.into();
        let mut expected = foreign();
        expected["refreshCount"] = json!(8);
        expected["secretName"] = json!("mail");
        expected.as_object_mut().unwrap().remove("lastFailure");
        expected["conditions"][0]["reason"] = json!("TokenValid");
        assert_eq!(status.to_json(), expected);
    }

    #[test]
    fn what_did_not_decode_is_replaced_once_this_version_has_a_value() {
        let mut status = GraphTokenStatus::read(&foreign().to_string());
        status.consecutive_failures = 1;
        let written = status.to_json();
        assert_eq!(written["consecutiveFailures"], json!(1));
        assert_eq!(written["target"], json!("mail/7"));
    }

    #[rstest]
    #[case::unseen(json!({"observedGeneration": -1}))]
    #[case::own(json!({
        "observedGeneration": 3, "refreshCount": 1, "consecutiveFailures": 0, "secretName": null,
        "target": {"uid": "u", "resourceVersion": "7"}, "expiresAt": "2026-11-23T10:00:00Z",
    }))]
    fn nothing_is_carried_along_where_this_version_knows_all(#[case] status: Value) {
        assert_eq!(GraphTokenStatus::read(&status.to_string()).original, None);
    }

    #[rstest]
    #[case(json!(5))]
    #[case(json!([]))]
    #[case(json!("x"))]
    #[case(json!({"conditions": {"Ready": true}, "lastProbe": []}))]
    fn whatever_a_status_is_it_can_be_read(#[case] status: Value) {
        let read = GraphTokenStatus::read(&status.to_string());
        assert_eq!((&read.conditions, &read.last_probe), (&Vec::new(), &None));
        assert!(read.to_json() == status || !status.is_object());
    }
}
