//! What goes wrong with a service account, and how it heals though nobody watches it.

use std::time::Duration;

use graphtoken::api::{ConditionStatus, ConditionType, Reason};
use serde_json::json;

use crate::idp::Rotation;
use crate::objects::{Kind, Refusal};
use crate::process::{End, live};
use crate::scenario;
use crate::state::State;
use crate::world::World;

const ANNOTATION: &str = "azure.workload.identity/client-id";

fn annotated(state: &mut State, client_id: &str) {
    let client_id = json!(client_id);
    state.objects.edit(Kind::ServiceAccount, "etl", |account| {
        account["metadata"]["annotations"][ANNOTATION] = client_id;
    });
}

/// Ten minutes of it; after five it is mended.
fn lives(begin: fn(&mut State), mend: fn(&mut State)) -> std::sync::Arc<World> {
    let world = World::new(Rotation::Strict, None, false);
    begin(&mut world.lock());
    world.then(&[]);
    world.at(Duration::from_mins(5), move |w| mend(&mut w.lock()));
    world.at(Duration::from_mins(10), |_| {});
    assert_eq!(live(&world, "the-only"), End::Settled);
    world
}

/// The reason and message before it was mended, and how many seconds after that it was healed.
fn healed(state: &State) -> (Reason, String, i64) {
    let ready = |status: &graphtoken::api::GraphTokenStatus| {
        status.condition(ConditionType::Ready).expect("it is there").clone()
    };
    let (_, first) = state.statuses.first().expect("it was written");
    let first = ready(first);
    let (at, _) = state
        .statuses
        .iter()
        .find(|(_, status)| ready(status).status == ConditionStatus::True)
        .expect("it was healed");
    let mended = state.now - Duration::from_mins(5);
    (first.reason.known().expect("this version says it"), first.message, at.duration_since(mended).as_secs())
}

#[test]
fn an_annotation_is_seen_within_a_minute_though_service_accounts_are_not_watched() {
    let world = lives(
        |state| {
            scenario::delegated_by_workload_identity(state);
            annotated(state, "another-client");
        },
        |state| annotated(state, "the-client"),
    );
    let state = world.lock();
    let (reason, message, seconds) = healed(&state);
    assert_eq!(reason, Reason::InvalidConfiguration);
    assert!(
        message.contains("annotated for another client") && message.contains("kubectl -n ns"),
        "{message}"
    );
    assert!((0..=61).contains(&seconds), "healed after {seconds} s");
    assert_eq!(state.idp.attempts.len(), 1, "nothing is sent in another's name");
    assert_eq!(state.violations, Vec::<String>::new());
}

#[test]
fn a_right_that_the_operator_lacks_is_named_and_its_grant_is_seen_soon() {
    let world = lives(
        |state| {
            scenario::app_by_workload_identity(state);
            state.refuses = Some(("serviceaccounts/token", Refusal { code: 403, reason: "Forbidden" }));
        },
        |state| state.refuses = None,
    );
    let state = world.lock();
    let (reason, message, seconds) = healed(&state);
    assert_eq!(reason, Reason::StorageUnavailable);
    assert!(message.contains("create serviceaccounts/token in namespace ns"), "{message}");
    assert!((0..=31).contains(&seconds), "healed after {seconds} s");
}
