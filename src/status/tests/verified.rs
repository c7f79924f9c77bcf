use rstest::rstest;
use serde_json::json;

use super::{failed, message, rows, status, suspended};
use crate::api::{ConditionStatus, ConditionType, Reason};
use crate::plan::tests::world::{World, after, unchanged};
use crate::verdict::Verdict;

fn tried(verdict: Verdict) -> World {
    World::delegated().with(World::verify).with(|w| w.tried(verdict, 60))
}

/// The token that was got in place of a refused one was tried.
fn tried_again(verdict: Verdict) -> World {
    tried(Verdict::Rejected).with(|w| {
        let token = w.token(-30, 3600);
        w.hold(token.clone());
        w.serve(token);
        w.tried(verdict, 20);
    })
}

fn verified(world: &World) -> Option<(ConditionStatus, Reason)> {
    status(world).condition(ConditionType::Verified).and_then(|c| Some((c.status, c.reason.known()?)))
}

/// The conditions as they are written to the status.
fn written(world: World) -> World {
    let status = status(&world);
    world.with(|w| w.observed.status = status)
}

#[rstest]
#[case::accepted(tried(Verdict::Accepted), ConditionStatus::True, Reason::Accepted)]
#[case::permission_missing(tried(Verdict::PermissionMissing), ConditionStatus::True, Reason::Accepted)]
#[case::failed(tried(Verdict::Failed(404)), ConditionStatus::False, Reason::ProbeFailed)]
#[case::throttled(tried(Verdict::Throttled(None)), ConditionStatus::Unknown, Reason::Throttled)]
#[case::unwell(tried(Verdict::Unwell(500)), ConditionStatus::Unknown, Reason::ProviderUnavailable)]
#[case::replaced(tried_again(Verdict::Accepted), ConditionStatus::True, Reason::Accepted)]
#[case::replaced_for_nothing(tried_again(Verdict::Rejected), ConditionStatus::False, Reason::TokenRejected)]
fn verified_says_what_the_latest_trial_told_and_leaves_ready_alone(
    #[case] world: World,
    #[case] says: ConditionStatus,
    #[case] reason: Reason,
) {
    assert_eq!(verified(&world), Some((says, reason)));
    assert_eq!(rows(&world)[..2], [super::READY, super::SUCCEEDED]);
    assert!(!message(&world, ConditionType::Verified).is_empty());
}

#[test]
fn when_it_was_accepted_is_told_until_it_is_accepted_again() {
    let accepted = tried(Verdict::Accepted);
    assert_eq!(status(&accepted).last_verified_time, Some(after(-60).into()));
    let throttled = accepted.with(|w| w.tried(Verdict::Throttled(None), 0));
    assert_eq!(status(&throttled).last_verified_time, Some(after(-60).into()));
}

#[rstest]
#[case::never_tried(World::delegated().with(World::verify))]
#[case::switched_off(tried(Verdict::Accepted).with(|w| w.spec["verify"] = json!({"interval": "0s"})))]
#[case::switched_off_while_suspended(
    written(tried(Verdict::Accepted)).with(suspended).with(|w| w.spec["verify"] = json!({"interval": "0s"}))
)]
#[case::no_scope_tells(written(tried(Verdict::Accepted)).with(|w| {
    w.spec["verify"] = json!({});
    w.credential().record.token.as_mut().unwrap().granted_scopes = vec!["Calendars.Read".into()];
}))]
fn where_no_token_is_tried_nothing_is_told(#[case] world: World) {
    let status = status(&world);
    assert_eq!(status.condition(ConditionType::Verified), None);
    assert_eq!((status.last_probe, status.last_verified_time), (None, None));
}

#[rstest]
#[case::suspended(suspended)]
#[case::refused_and_about_to_be_replaced(|w: &mut World| w.tried(Verdict::Rejected, 0))]
#[case::another_path(|w: &mut World| w.spec["verify"]["path"] = json!("/me/drive"))]
fn what_was_told_stays_word_for_word(#[case] change: fn(&mut World), #[values(3, 4)] generation: i64) {
    let before = written(tried(Verdict::Accepted));
    let says = before.observed.status.condition(ConditionType::Verified).cloned();
    let then = before.with(change).with(|w| w.observed.identity.generation = generation);
    assert_eq!(status(&then).condition(ConditionType::Verified).cloned(), says);
    let unknown = tried(Verdict::Accepted).with(change);
    assert_eq!(verified(&unknown), None, "nor is anything made up");
}

#[test]
fn a_refused_token_that_cannot_be_replaced_is_told_of() {
    let world = written(tried(Verdict::Accepted)).with(|w| {
        w.tried(Verdict::Rejected, 0);
        w.fail(Reason::AuthorizationRequired, 0, 1);
    });
    assert_eq!(verified(&world), Some((ConditionStatus::False, Reason::TokenRejected)));
    assert!(message(&world, ConditionType::Verified).contains("see the condition Refreshed"));
    assert!(rows(&world).contains(&failed(Reason::AuthorizationRequired)));
}

#[rstest]
#[case::routine(unchanged, |w: &mut World| w.tried(Verdict::Accepted, 0), &[])]
#[case::told_nothing(unchanged, |w: &mut World| w.tried(Verdict::Unwell(502), 0), &[])]
#[case::failed(unchanged, |w: &mut World| w.tried(Verdict::Failed(404), 0), &[("Warning", "ProbeFailed")])]
#[case::failed_again(|w: &mut World| w.tried(Verdict::Failed(404), 9), |w: &mut World| w.tried(Verdict::Failed(404), 0), &[])]
#[case::mended(
    |w: &mut World| w.tried(Verdict::Failed(404), 9),
    |w: &mut World| w.tried(Verdict::Accepted, 0),
    &[("Normal", "Accepted")]
)]
#[case::not_permitted(
    unchanged, |w: &mut World| w.tried(Verdict::PermissionMissing, 0), &[("Warning", "PermissionMissing")]
)]
#[case::not_permitted_again(
    |w: &mut World| w.tried(Verdict::PermissionMissing, 9), |w: &mut World| w.tried(Verdict::PermissionMissing, 0), &[]
)]
#[case::refused_and_about_to_be_replaced(unchanged, |w: &mut World| w.tried(Verdict::Rejected, 0), &[])]
fn what_is_worth_an_event_is_one(
    #[case] before: fn(&mut World),
    #[case] then: fn(&mut World),
    #[case] says: &[(&'static str, &'static str)],
) {
    let before = written(World::delegated().with(World::verify).with(before_accepted).with(before));
    let after = before.clone().with(then);
    assert_eq!(crate::events::tests::said(&before.observed.status, &status(&after)), says);
}

fn before_accepted(world: &mut World) {
    world.tried(Verdict::Accepted, 60);
}
