//! Events for people, written when a reason changes and never for a routine refresh.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;
use kube::runtime::events::{Event, EventType, Reporter};

use crate::api::names::MANAGER;
use crate::api::{Condition, ConditionStatus, ConditionType, GraphToken, GraphTokenStatus, Open, Reason};
use crate::observed::Identity;

mod reason;
mod writer;

pub use reason::EventReason;

use writer::Writer;

/// The API server takes notes of at most this many bytes.
const MAX_NOTE: usize = 1024;

/// Writes events about `GraphToken`s, in a task of its own: it never makes a reconcile wait. Clones share the task.
#[derive(Clone)]
pub struct Events {
    writer: Writer,
}

impl Events {
    /// Events of this process. Must be called within a runtime.
    pub fn new(client: kube::Client, instance: String) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(instance) };
        Self { writer: Writer::start(client, reporter) }
    }

    /// Something a user should know.
    pub fn warning(&self, identity: &Identity, reason: EventReason, note: &str) {
        self.publish(identity, EventType::Warning, reason.as_str(), note);
    }

    /// Something good.
    pub fn normal(&self, identity: &Identity, reason: EventReason, note: &str) {
        self.publish(identity, EventType::Normal, reason.as_str(), note);
    }

    /// Says what changed between two statuses.
    pub fn changed(&self, identity: &Identity, before: &GraphTokenStatus, after: &GraphTokenStatus) {
        for (type_, reason, note) in changes(before, after) {
            self.publish(identity, type_, reason, note);
        }
    }

    /// Waits until the events so far are written, or given up.
    pub async fn flush(&self) {
        self.writer.flush().await;
    }

    fn publish(&self, identity: &Identity, type_: EventType, reason: &str, note: &str) {
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
        self.writer.write(event, regarding);
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
fn changes<'a>(before: &GraphTokenStatus, after: &'a GraphTokenStatus) -> Vec<(EventType, &'a str, &'a str)> {
    let reason = |status: &GraphTokenStatus, type_| status.condition(type_).map(|c| c.reason.clone());
    let codes = |status: &GraphTokenStatus, reason: &Open<Reason>| {
        status.last_failure.as_ref().filter(|f| f.reason == *reason).map(|f| f.codes.clone())
    };
    let mut events: Vec<(EventType, &str, &str)> = Vec::new();
    let types =
        [ConditionType::Stalled, ConditionType::Refreshed, ConditionType::Ready, ConditionType::Verified];
    for type_ in types {
        let Some(now) = after.condition(type_) else { continue };
        let same_codes = codes(before, &now.reason) == codes(after, &now.reason);
        if reason(before, type_).as_ref() == Some(&now.reason) && same_codes {
            continue;
        }
        let event = match now.reason.known() {
            _ if type_ == ConditionType::Verified => match verified(before, now) {
                Some(event) => event,
                None => continue,
            },
            Some(Reason::Succeeded) if reason(before, type_).is_none() => continue,
            Some(Reason::Succeeded) => {
                (EventType::Normal, EventReason::Refreshed.as_str(), now.message.as_str())
            }
            Some(ok @ (Reason::TokenValid | Reason::Suspended)) => {
                (EventType::Normal, ok.as_str(), now.message.as_str())
            }
            Some(Reason::TokenPending) => continue,
            _ => (EventType::Warning, now.reason.as_str(), now.message.as_str()),
        };
        if !events.iter().any(|(_, said, _)| *said == event.1) {
            events.push(event);
        }
    }
    events.extend(permission_missing(before, after));
    events
}

/// Trials are routine, and that one told nothing is no news.
fn verified<'a>(before: &GraphTokenStatus, now: &'a Condition) -> Option<(EventType, &'a str, &'a str)> {
    let was = before.condition(ConditionType::Verified).map(|c| c.status);
    let severity = match now.status {
        ConditionStatus::False => EventType::Warning,
        ConditionStatus::True if was == Some(ConditionStatus::False) => EventType::Normal,
        ConditionStatus::True | ConditionStatus::Unknown => return None,
    };
    Some((severity, now.reason.as_str(), now.message.as_str()))
}

/// A token that is good and does not permit what was asked for is said once.
fn permission_missing<'a>(
    before: &GraphTokenStatus,
    after: &'a GraphTokenStatus,
) -> Option<(EventType, &'a str, &'a str)> {
    let lacks = |status: &'a GraphTokenStatus| {
        let condition = status.condition(ConditionType::Verified)?;
        let message = status.last_probe.as_ref().map(|last| last.message.as_str())?;
        (condition.reason == Reason::Accepted && !message.is_empty() && message == condition.message)
            .then_some(message)
    };
    let said = before.last_probe.as_ref().map(|last| last.message.as_str());
    lacks(after)
        .filter(|now| said != Some(now))
        .map(|now| (EventType::Warning, EventReason::PermissionMissing.as_str(), now))
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::plan::plan;
    use crate::plan::tests::properties::worlds;
    use crate::plan::tests::world::{LIFE, World, after, now, unchanged};
    use crate::status::project;

    fn status_at(world: &World, at: Timestamp) -> GraphTokenStatus {
        let desired = world.desired();
        project(&desired, &world.observed, &plan(&desired, &world.observed, at), at)
    }

    fn status(world: &World) -> GraphTokenStatus {
        status_at(world, now())
    }

    fn failing(world: World, reason: Reason, codes: &[u32]) -> GraphTokenStatus {
        let mut world = world.with(|w| w.fail(reason, 0, 1));
        world.observed.status.last_failure.iter_mut().for_each(|failure| failure.codes = codes.to_vec());
        status(&world)
    }

    /// Severity and reason of each event.
    pub(crate) fn said<'a>(
        before: &GraphTokenStatus,
        after: &'a GraphTokenStatus,
    ) -> Vec<(&'static str, &'a str)> {
        let severity = |type_| match type_ {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        changes(before, after).into_iter().map(|(type_, reason, _)| (severity(type_), reason)).collect()
    }

    #[test]
    fn the_beginning_is_no_event_and_the_first_token_is() {
        let (nothing, begun) = (GraphTokenStatus::default(), status(&World::fresh()));
        assert_eq!(said(&nothing, &begun), []);
        let got = status(&World::delegated());
        assert_eq!(said(&nothing, &got), [("Normal", "TokenValid")]);
        assert_eq!(said(&begun, &got), [("Normal", "Refreshed"), ("Normal", "TokenValid")]);
    }

    #[test]
    fn a_routine_refresh_is_no_event() {
        let refreshed = World::delegated().with(|w| {
            w.hold(w.token(1800, LIFE));
            w.serve(w.token(1800, LIFE));
        });
        let (before, then) = (status(&World::delegated()), status_at(&refreshed, after(1801)));
        assert_ne!(before, then);
        assert_eq!(said(&before, &then), []);
    }

    #[rstest]
    #[case(Reason::AuthorizationRequired)]
    #[case(Reason::WrongAccount)]
    #[case(Reason::InvalidConfiguration)]
    #[case(Reason::Throttled)]
    #[case(Reason::ProviderUnavailable)]
    #[case(Reason::StorageUnavailable)]
    fn a_failure_is_one_event_however_many_conditions_show_it(#[case] reason: Reason) {
        for begin in [World::fresh, World::delegated] {
            let (before, failed) = (status(&begin()), failing(begin(), reason, &[]));
            assert_eq!(said(&before, &failed), [("Warning", reason.as_str())]);
            assert_eq!(changes(&before, &failed)[0].2, "it failed");
        }
    }

    #[test]
    fn a_failure_is_said_again_only_with_another_reason_or_code() {
        let failed = |codes: &[u32]| failing(World::delegated(), Reason::AuthorizationRequired, codes);
        let mut again = failed(&[50173]);
        let failure = again.last_failure.as_mut().unwrap();
        failure.trace_id = Some("another".into());
        failure.time = after(3600).into();
        again.consecutive_failures = 9;
        assert_eq!(said(&failed(&[50173]), &again), []);
        assert_eq!(said(&failed(&[50173]), &failed(&[70043])), [("Warning", "AuthorizationRequired")]);
        let throttled = failing(World::delegated(), Reason::Throttled, &[50173]);
        assert_eq!(said(&failed(&[50173]), &throttled), [("Warning", "Throttled")]);
    }

    #[test]
    fn that_the_token_ran_out_is_said_once_whatever_fails() {
        let run_out = || {
            World::delegated().with(|w| {
                w.hold(w.token(-LIFE, LIFE));
                w.serve(w.token(-LIFE, LIFE));
            })
        };
        let valid = failing(World::delegated(), Reason::ProviderUnavailable, &[90033]);
        let expired = failing(run_out(), Reason::ProviderUnavailable, &[90033]);
        assert_eq!(said(&valid, &expired), [("Warning", "TokenExpired")]);
        let with_another_code = failing(run_out(), Reason::ProviderUnavailable, &[50087]);
        assert_eq!(said(&expired, &with_another_code), [("Warning", "ProviderUnavailable")]);
    }

    #[test]
    fn what_was_mended_is_said() {
        let failed = failing(World::fresh(), Reason::AuthorizationRequired, &[70043]);
        let mended = status(&World::delegated());
        assert_eq!(said(&failed, &mended), [("Normal", "Refreshed"), ("Normal", "TokenValid")]);
        let though_valid = failing(World::delegated(), Reason::AuthorizationRequired, &[70043]);
        assert_eq!(said(&though_valid, &mended), [("Normal", "Refreshed")]);
    }

    #[rstest]
    #[case::suspended(|w: &mut World| w.spec["suspend"] = true.into(), &[("Normal", "Suspended")])]
    #[case::target_taken(
        |w: &mut World| w.observed.target = crate::observed::TargetState::Conflict("taken".into()),
        &[("Warning", "TargetConflict")],
    )]
    #[case::secret_missing(World::no_client_secret, &[("Warning", "InvalidConfiguration")])]
    #[case::nothing(unchanged, &[])]
    fn what_happens_without_an_exchange_is_said(
        #[case] change: fn(&mut World),
        #[case] says: &[(&'static str, &'static str)],
    ) {
        let before = status(&World::delegated());
        assert_eq!(said(&before, &status(&World::delegated().with(change))), says);
    }

    #[rstest]
    #[case::short("it failed".to_owned(), 9)]
    #[case::as_long_as_it_may_be("x".repeat(1024), 1024)]
    #[case::longer("x".repeat(1025), 1024)]
    #[case::cut_between_characters("ä".repeat(1023), 1024)]
    #[case::not_within_one(format!("x{}", "ä".repeat(1023)), 1023)]
    fn a_note_is_no_longer_than_the_api_server_takes(#[case] note: String, #[case] bytes: usize) {
        let cut = bounded(&note);
        assert_eq!(cut.len(), bytes);
        assert!(note.starts_with(&cut));
    }

    proptest! {
        #[test]
        fn each_event_is_a_new_reason_and_none_is_said_twice(before in worlds(), then in worlds()) {
            let (before, then) = (status(&before), status(&then));
            prop_assert_eq!(said(&before, &before), []);
            let events = said(&before, &then);
            for (n, event) in events.iter().enumerate() {
                prop_assert!(!events[..n].contains(event));
            }
            for (_, reason, note) in changes(&before, &then) {
                prop_assert!(then.conditions.iter().any(|c| c.message == note));
                prop_assert!(reason != "TokenPending" && reason != "Progressing");
            }
        }
    }
}
