//! Events for people, written when a reason changes and never for a routine refresh.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::api::names::MANAGER;
use crate::api::{Condition, ConditionStatus, ConditionType, GraphToken, GraphTokenStatus, Reason};
use crate::observed::Identity;

/// The API server takes notes of at most this many bytes.
const MAX_NOTE: usize = 1024;

/// Writes events about `GraphToken`s.
pub struct Events {
    client: kube::Client,
    reporter: Reporter,
}

impl Events {
    /// Events of this process.
    pub fn new(client: kube::Client, instance: String) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(instance) };
        Self { client, reporter }
    }

    /// Something a user should know.
    pub async fn warning(&self, identity: &Identity, reason: &str, note: &str) {
        self.publish(identity, EventType::Warning, reason, note).await;
    }

    /// Something good.
    pub async fn normal(&self, identity: &Identity, reason: &str, note: &str) {
        self.publish(identity, EventType::Normal, reason, note).await;
    }

    /// Says what changed between two statuses.
    pub async fn changed(&self, identity: &Identity, before: &GraphTokenStatus, after: &GraphTokenStatus) {
        for (type_, reason, note) in changes(before, after) {
            self.publish(identity, type_, reason, note).await;
        }
    }

    async fn publish(&self, identity: &Identity, type_: EventType, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(bounded(note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let regarding = ObjectReference {
            api_version: Some(GraphToken::api_version(&()).into_owned()),
            kind: Some(GraphToken::kind(&()).into_owned()),
            namespace: Some(identity.namespace.clone()),
            name: Some(identity.name.clone()),
            uid: Some(identity.uid.clone()),
            ..ObjectReference::default()
        };
        // A recorder of its own: a longer-lived one takes events of one reason for repetitions, and keeps the first note.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        if let Err(error) = recorder.publish(&event, &regarding).await {
            tracing::debug!(
                error = crate::kubeclient::describe(&error),
                reason,
                "an event could not be written"
            );
        }
    }
}

fn bounded(note: &str) -> String {
    let mut end = note.len().min(MAX_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}

/// The events that lead from one status to another: one for each reason that is new.
fn changes<'a>(
    before: &GraphTokenStatus,
    after: &'a GraphTokenStatus,
) -> Vec<(EventType, &'static str, &'a str)> {
    let reason = |status: &GraphTokenStatus, type_| status.condition(type_).map(|c| c.reason);
    let codes = |status: &GraphTokenStatus, reason| {
        status.last_failure.as_ref().filter(|f| f.reason == reason).map(|f| f.codes.clone())
    };
    let mut events: Vec<(EventType, &'static str, &str)> = Vec::new();
    for type_ in [ConditionType::Stalled, ConditionType::Refreshed, ConditionType::Ready] {
        let Some(now) = after.condition(type_) else { continue };
        let same_failure = codes(before, now.reason) == codes(after, now.reason) || !is_bad(now);
        if reason(before, type_) == Some(now.reason) && same_failure {
            continue;
        }
        let event = match now.reason {
            Reason::Succeeded if reason(before, type_).is_none() => continue,
            Reason::Succeeded => (EventType::Normal, "Refreshed", now.message.as_str()),
            Reason::TokenValid => (EventType::Normal, "TokenValid", now.message.as_str()),
            Reason::TokenPending => continue,
            Reason::Suspended => (EventType::Normal, "Suspended", now.message.as_str()),
            bad => (EventType::Warning, bad.as_str(), now.message.as_str()),
        };
        if !events.iter().any(|(_, said, _)| *said == event.1) {
            events.push(event);
        }
    }
    events
}

fn is_bad(condition: &Condition) -> bool {
    match condition.type_ {
        ConditionType::Stalled => condition.status == ConditionStatus::True,
        _ => condition.status == ConditionStatus::False,
    }
}
