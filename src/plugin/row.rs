//! A `GraphToken` → what a person wants to know of it at a glance. Pure.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::api::{ConditionStatus, ConditionType, GraphToken, GraphTokenStatus, Open, Reason, Time};

/// Who must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Actor {
    /// Nobody: it is well, or the operator is at it.
    Nobody,
    /// A user must sign in.
    User,
    /// Whoever owns the GraphToken must change it, or what it refers to.
    Owner,
    /// A cluster administrator must act: permissions, a quota or an admission policy stand in the way.
    ClusterAdmin,
}

/// A `GraphToken` at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `True`, `False` or `Unknown`.
    pub ready: String,
    /// The reason: of `Stalled`, else of `Ready`.
    pub reason: String,
    /// Why the latest exchange did not work, where it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_problem: Option<String>,
    /// When the token that pods have expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Seconds until then; negative afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<i64>,
    /// How much of the token's life is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub life_left_percent: Option<u8>,
    /// Who must act.
    pub acts: Actor,
    /// What is wrong and what to do about it, where somebody must act or something failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// A command that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Row {
    /// Of an object as the API server has it.
    pub fn of(object: &Value, now: Timestamp) -> Self {
        match serde_json::from_value::<GraphToken>(object.clone()) {
            Ok(graphtoken) => Self::of_readable(&graphtoken, now),
            Err(_) => Self::unreadable(object),
        }
    }

    fn unreadable(object: &Value) -> Self {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            reason: "Unreadable".to_owned(),
            acts: Actor::Owner,
            message: Some(
                "this plugin cannot read it: use the plugin of the operator's version, and its CRD"
                    .to_owned(),
            ),
            ..Self::empty(text("/metadata/namespace"), text("/metadata/name"))
        }
    }

    fn empty(namespace: String, name: String) -> Self {
        Self {
            namespace,
            name,
            ready: "Unknown".to_owned(),
            reason: String::new(),
            refresh_problem: None,
            expires_at: None,
            seconds_left: None,
            life_left_percent: None,
            acts: Actor::Nobody,
            message: None,
            next: None,
        }
    }

    fn of_readable(graphtoken: &GraphToken, now: Timestamp) -> Self {
        let meta = &graphtoken.metadata;
        let empty =
            Self::empty(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let none = GraphTokenStatus::default();
        let status = graphtoken.status.as_ref().unwrap_or(&none);
        let Some(ready) = status.condition(ConditionType::Ready) else {
            return Self {
                reason: "Unseen".to_owned(),
                message: Some("no operator has seen it yet: is one running for this namespace?".to_owned()),
                next: Some("kubectl graphtoken doctor".to_owned()),
                ..empty
            };
        };
        let stalled = status.condition(ConditionType::Stalled).filter(|c| c.status == ConditionStatus::True);
        let refreshed =
            status.condition(ConditionType::Refreshed).filter(|c| c.status != ConditionStatus::True);
        let says = stalled.or(refreshed).or(Some(ready).filter(|c| c.status != ConditionStatus::True));
        let acts = stalled.map_or(Actor::Nobody, |c| actor(&c.reason));
        let reason = &stalled.unwrap_or(ready).reason;
        let seconds_left = status.expires_at.map(|at| at.epoch() - now.as_second());
        Self {
            ready: ready.status.as_str().to_owned(),
            reason: reason.as_str().to_owned(),
            refresh_problem: refreshed
                .map(|c| &c.reason)
                .filter(|why| *why != reason && **why != Reason::TokenPending)
                .map(|why| why.as_str().to_owned()),
            expires_at: status.expires_at,
            seconds_left,
            life_left_percent: life_left(status, now),
            acts,
            message: says.map(|c| c.message.clone()),
            next: next(acts, &empty.name, &empty.namespace),
            ..empty
        }
    }
}

/// Who can mend what a person must.
fn actor(reason: &Open<Reason>) -> Actor {
    match reason.known() {
        Some(Reason::AuthorizationRequired | Reason::WrongAccount) => Actor::User,
        Some(Reason::StorageUnavailable) => Actor::ClusterAdmin,
        Some(reason) if reason.needs_a_person() => Actor::Owner,
        _ => Actor::Nobody,
    }
}

fn next(acts: Actor, name: &str, namespace: &str) -> Option<String> {
    match acts {
        Actor::User => Some(format!("kubectl graphtoken login {name} -n {namespace}")),
        Actor::Owner | Actor::ClusterAdmin => {
            Some(format!("kubectl graphtoken status {name} -n {namespace}"))
        }
        Actor::Nobody => None,
    }
}

/// How much of the token's life is left, from when it was got to its end.
fn life_left(status: &GraphTokenStatus, now: Timestamp) -> Option<u8> {
    let (from, to) = (status.last_refresh_time?.epoch(), status.expires_at?.epoch());
    let whole = to.saturating_sub(from);
    let left = to.saturating_sub(now.as_second());
    if whole <= 0 || left <= 0 {
        return Some(0);
    }
    u8::try_from((left.saturating_mul(100) / whole).min(100)).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    pub fn object(conditions: &Value) -> Value {
        json!({
            "apiVersion": "graphtoken.io/v1alpha1",
            "kind": "GraphToken",
            "metadata": {"name": "mail", "namespace": "etl"},
            "spec": {"grant": {"deviceCode": {}}, "scopes": ["Mail.Read"]},
            "status": {
                "observedGeneration": 1,
                "lastRefreshTime": "2026-11-23T10:00:00Z",
                "expiresAt": "2026-11-23T11:00:00Z",
                "conditions": conditions,
            },
        })
    }

    pub fn condition(kind: &str, status: &str, reason: &str) -> Value {
        json!({
            "type": kind, "status": status, "reason": reason, "message": format!("{kind} says why"),
            "lastTransitionTime": "2026-11-23T10:00:00Z", "observedGeneration": 1,
        })
    }

    #[test]
    fn a_good_token_needs_nobody() {
        let well =
            json!([condition("Ready", "True", "TokenValid"), condition("Refreshed", "True", "Succeeded")]);
        let row = Row::of(&object(&well), at("2026-11-23T10:15:00Z"));
        assert_eq!((row.ready.as_str(), row.reason.as_str()), ("True", "TokenValid"));
        assert_eq!((row.seconds_left, row.life_left_percent), (Some(2700), Some(75)));
        assert_eq!((row.acts, row.message, row.next), (Actor::Nobody, None, None));
    }

    #[test]
    fn a_sign_in_that_is_needed_names_the_command() {
        let lost = json!([
            condition("Stalled", "True", "AuthorizationRequired"),
            condition("Ready", "True", "TokenValid"),
            condition("Refreshed", "False", "AuthorizationRequired"),
        ]);
        let row = Row::of(&object(&lost), at("2026-11-23T10:15:00Z"));
        assert_eq!((row.ready.as_str(), row.reason.as_str()), ("True", "AuthorizationRequired"));
        assert_eq!((row.acts, row.refresh_problem), (Actor::User, None));
        assert_eq!(row.message.as_deref(), Some("Stalled says why"));
        assert_eq!(row.next.as_deref(), Some("kubectl graphtoken login mail -n etl"));
    }

    #[test]
    fn a_store_that_rejects_writes_names_the_cluster_administrator() {
        let rejected = json!([
            condition("Stalled", "True", "StorageUnavailable"),
            condition("Ready", "True", "TokenValid"),
            condition("Refreshed", "False", "StorageUnavailable"),
        ]);
        let row = Row::of(&object(&rejected), at("2026-11-23T10:15:00Z"));
        assert_eq!((row.reason.as_str(), row.acts), ("StorageUnavailable", Actor::ClusterAdmin));
        assert_eq!(json!(row)["acts"], json!("clusterAdmin"));
    }

    #[test]
    fn what_heals_by_itself_needs_nobody_and_is_said() {
        let failing = json!([
            condition("Ready", "True", "TokenValid"),
            condition("Refreshed", "False", "ProviderUnavailable"),
        ]);
        let row = Row::of(&object(&failing), at("2026-11-23T11:00:01Z"));
        assert_eq!((row.acts, row.refresh_problem.as_deref()), (Actor::Nobody, Some("ProviderUnavailable")));
        assert_eq!((row.seconds_left, row.life_left_percent), (Some(-1), Some(0)));
    }

    #[test]
    fn an_object_that_nobody_saw_or_can_read_says_so() {
        assert_eq!(Row::of(&object(&json!([])), at("2026-11-23T10:15:00Z")).reason, "Unseen");
        let mut newer = object(&json!([]));
        newer["spec"]["scopes"] = json!(5);
        let row = Row::of(&newer, at("2026-11-23T10:15:00Z"));
        assert_eq!((row.name.as_str(), row.reason.as_str()), ("mail", "Unreadable"));
    }

    #[test]
    fn a_status_of_another_version_is_shown_as_it_is_written() {
        let newer = json!([condition("Sealed", "True", "Ok"), condition("Ready", "True", "OfALaterVersion")]);
        let row = Row::of(&object(&newer), at("2026-11-23T10:15:00Z"));
        assert_eq!(
            (row.ready.as_str(), row.reason.as_str(), row.acts),
            ("True", "OfALaterVersion", Actor::Nobody)
        );
    }
}
