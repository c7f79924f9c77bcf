use jiff::SignedDuration;
use rstest::rstest;
use serde_json::json;

use super::world::{AGE, LIFE, World, after, exchange, now, unchanged};
use crate::api::{Reason, Time};
use crate::desired::RefreshPolicy;
use crate::plan::{Act, Source, Why, due};

/// A chain whose token ran out a minute ago.
fn expired() -> World {
    let mut world = World::fresh();
    world.hold(world.token(-60 - LIFE, LIFE));
    world.serve(world.token(-60 - LIFE, LIFE));
    world
}

/// A chain whose token is due and has so much life left.
fn left(seconds: i64) -> World {
    let mut world = World::fresh();
    world.spec["refresh"] = json!({"renewBeforePercentage": 99});
    world.hold(world.token(seconds - LIFE, LIFE));
    world.serve(world.token(seconds - LIFE, LIFE));
    world
}

/// Asserts that the next exchange is made so long after now, where the latest failure was; no earlier, no later.
fn assert_waits(world: &World, wait: i64) {
    let plan = world.plan();
    assert_eq!(plan.act, Act::Wait);
    assert_eq!(plan.next_exchange, Some(after(wait)));
    assert!(plan.look_at.is_some_and(|at| at <= after(wait)));
    assert_eq!(world.plan_at(wait - 1).act, Act::Wait);
    assert!(matches!(world.plan_at(wait).act, Act::Exchange(_)));
}

#[rstest]
fn without_a_valid_token_the_wait_doubles_from_5_to_25_seconds(
    #[values(Reason::ProviderUnavailable, Reason::StorageUnavailable)] reason: Reason,
    #[values((0, 5), (1, 5), (2, 10), (3, 20), (4, 25), (5, 25), (100, 25), (u32::MAX, 25))] doubles: (
        u32,
        i64,
    ),
    #[values(World::fresh, expired)] world: fn() -> World,
) {
    let (failures, wait) = doubles;
    assert_waits(&world().with(|w| w.fail(reason, 0, failures)), wait);
}

#[rstest]
#[case::plenty(3000, 4, 25)]
#[case::early_failures_wait_less(3000, 1, 5)]
#[case::a_quarter_of_what_is_left(40, 4, 10)]
#[case::of_little(8, 4, 2)]
#[case::but_a_second_at_least(3, 4, 1)]
#[case::next_to_nothing(1, 1, 1)]
fn while_a_token_is_valid_no_wait_is_longer_than_a_quarter_of_its_life(
    #[case] seconds: i64,
    #[case] failures: u32,
    #[case] wait: i64,
    #[values(Reason::ProviderUnavailable, Reason::StorageUnavailable)] reason: Reason,
) {
    assert_waits(&left(seconds).with(|w| w.fail(reason, 0, failures)), wait);
}

#[rstest]
#[case::the_provider_asks_for_more(Some(60), 1, 60)]
#[case::an_hour(Some(3600), 1, 3600)]
#[case::it_asks_for_less_than_the_first_doubling(Some(2), 1, 5)]
#[case::it_asks_for_nothing(None, 1, 5)]
#[case::doubling(Some(2), 2, 10)]
#[case::doubling_further(Some(2), 4, 40)]
#[case::up_to_a_minute(Some(2), 5, 60)]
#[case::and_no_more(Some(2), 50, 60)]
fn throttled_waits_the_longer_of_what_is_asked_and_a_doubling(
    #[case] retry_after: Option<i64>,
    #[case] failures: u32,
    #[case] wait: i64,
    #[values(unchanged, World::request, |w: &mut World| w.observed.inputs = "others".into(), |w: &mut World| {
        w.request();
        w.observed.inputs = "others".into();
    })]
    asks: fn(&mut World),
    #[values(World::fresh, expired, || left(40))] world: fn() -> World,
) {
    let mut world = world();
    world.fail(Reason::Throttled, 0, failures);
    let failure = world.observed.status.last_failure.as_mut().unwrap();
    failure.retry_after = retry_after.map(|wait| Time::from(after(wait)));
    asks(&mut world);
    assert_waits(&world, wait);
}

#[rstest]
fn what_only_a_person_can_mend_is_tried_again_every_hour(
    #[values(Reason::AuthorizationRequired, Reason::WrongAccount, Reason::InvalidConfiguration)]
    reason: Reason,
    #[values(1, 7)] failures: u32,
    #[values(World::fresh, expired, || left(3000))] world: fn() -> World,
) {
    assert_waits(&world().with(|w| w.fail(reason, 0, failures)), 3600);
}

#[test]
fn what_nobody_watches_is_tried_again_when_it_was_said_to_be_worth_it() {
    let mut world = World::fresh();
    world.fail(Reason::InvalidConfiguration, 0, 1);
    world.observed.status.last_failure.as_mut().unwrap().retry_after = Some(Time::from(after(60)));
    assert_waits(&world, 60);
}

#[rstest]
fn a_request_and_a_change_of_what_it_is_made_with_pass_over_back_off(
    #[values(
        Reason::AuthorizationRequired,
        Reason::WrongAccount,
        Reason::InvalidConfiguration,
        Reason::ProviderUnavailable,
        Reason::StorageUnavailable
    )]
    reason: Reason,
    #[values(World::request, |w: &mut World| w.observed.inputs = "others".into(), |w: &mut World| {
        let status = &mut w.observed.status;
        status.last_failure.iter_mut().for_each(|failure| failure.inputs = None);
        status.last_storage_failure.iter_mut().for_each(|failure| failure.inputs = None);
    })]
    passes: fn(&mut World),
    #[values(World::fresh, expired, || left(40))] world: fn() -> World,
) {
    let mut world = world();
    world.fail(reason, 1, 9);
    assert_eq!(world.act(), Act::Wait);
    passes(&mut world);
    // It failed a second ago, and no two attempts are within five.
    assert_waits(&world, 4);
}

#[rstest]
#[case::of_little(8, 2)]
#[case::next_to_nothing(1, 1)]
fn what_passes_over_back_off_waits_no_longer_than_back_off_does(#[case] seconds: i64, #[case] wait: i64) {
    let world = left(seconds).with(|w| w.fail(Reason::AuthorizationRequired, 0, 1));
    assert_waits(&world.with(World::request), wait);
}

#[test]
fn a_request_that_was_handled_passes_over_nothing() {
    let mut world = expired().with(World::request);
    world.observed.status.last_handled_request.clone_from(&world.observed.requested_at);
    assert_waits(&world.with(|w| w.fail(Reason::ProviderUnavailable, 0, 1)), 5);
}

#[test]
fn an_attempt_that_failed_is_made_again_though_the_token_is_not_due() {
    let mut world = World::delegated();
    let due = due(RefreshPolicy::Percentage(50), &world.token(-AGE, LIFE), super::world::UID);
    assert_eq!(world.plan().next_exchange, Some(due));
    world.fail(Reason::ProviderUnavailable, 0, 1);
    assert_waits(&world, 5);
    assert_eq!(world.plan_at(5).act, exchange(Why::Retry, Source::Chain));
}

#[test]
fn a_failure_of_a_spec_that_was_taken_back_is_cleared_by_a_new_attempt() {
    let mut world = World::delegated().with(|w| w.fail(Reason::InvalidConfiguration, 60, 1));
    assert_eq!(world.act(), Act::Wait);
    world.observed.inputs = "as before".into();
    assert_eq!(world.act(), exchange(Why::Retry, Source::Chain));
}

#[rstest]
#[case::delegated(World::delegated())]
#[case::app_only(World::app_only())]
fn two_refreshes_are_never_within_a_second(#[case] world: World) {
    let just_now = now() - SignedDuration::from_millis(400);
    let mut world = world;
    let token = crate::observed::TokenFacts { issued_at: just_now, ..world.token(0, LIFE) };
    if world.observed.credential().is_some() {
        world.hold(token.clone());
    }
    world.serve(token);
    world.request();
    let plan = world.plan();
    assert_eq!((plan.act, plan.next_exchange), (Act::Wait, Some(just_now + SignedDuration::from_secs(1))));
    // Nor where the spec changed meanwhile, so that the token is not for it.
    world.spec["clientId"] = json!("another");
    if world.observed.credential().is_some() {
        world.credential().record.client = None;
    }
    let plan = world.plan();
    assert_eq!((plan.act, plan.next_exchange), (Act::Wait, Some(just_now + SignedDuration::from_secs(1))));
    assert!(matches!(world.plan_at(1).act, Act::Exchange(_)));
    // Nor where the target went.
    if world.observed.credential().is_some() {
        world.observed.target = crate::observed::TargetState::Absent;
        assert_eq!((world.act(), world.plan().look_at), (Act::Wait, plan.look_at));
    }
}

#[test]
fn an_app_token_in_hand_spaces_too() {
    let mut world = World::fresh_app();
    world.observed.in_hand = Some(world.token(0, 0));
    let plan = world.plan();
    assert_eq!((plan.act, plan.next_exchange), (Act::Wait, Some(after(1))));
}
