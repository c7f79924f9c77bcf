//! Sign-ins that a person makes now: by device code, or handed over in the login Secret.

use rstest::rstest;
use serde_json::json;

use super::world::{CHAIN, World, after, exchange, now, unchanged};
use crate::api::Reason;
use crate::observed::{CredentialState, Device, SeedState};
use crate::plan::{Act, Plan, Source, Why};

const LOGIN: &str = "digest-of-the-login";
const START: Act = exchange_(Source::DeviceStart);
const POLL: Act = exchange_(Source::DevicePoll);

const fn exchange_(source: Source) -> Act {
    Act::Exchange(crate::plan::Exchange { why: Why::SignIn, source })
}

/// A GraphToken that nobody has signed in to yet.
fn unsigned() -> World {
    let mut world = World::fresh();
    world.spec["grant"] = json!({"deviceCode": {}});
    world.observed.seed = SeedState::Unneeded;
    world
}

/// The same, signed in.
fn signed_in() -> World {
    let mut world = unsigned();
    world.hold(world.token(-600, 3600));
    world.serve(world.token(-600, 3600));
    world
}

/// A code that has so many seconds left.
fn with_code(mut world: World, left: i64) -> World {
    if matches!(world.observed.credential, CredentialState::Absent) {
        world.hold(world.token(-600, 3600));
        let credential = world.credential();
        credential.record = crate::observed::Record::default();
        credential.refresh_token_digest = None;
        credential.has_access_token = false;
    }
    let issued_for = world.desired().issued_for;
    world.credential().device = Some(Device {
        user_code: "ABCD-EFGH".into(),
        verification_uri: "https://login.test/device".into(),
        expires_at: after(left),
        interval_seconds: 5,
        issued_for,
        ended: false,
    });
    world
}

fn ended(mut world: World) -> World {
    world.credential().device.as_mut().unwrap().ended = true;
    world
}

fn poll_at(mut world: World, seconds: i64) -> World {
    world.observed.poll_at = Some(after(seconds));
    world
}

fn says(plan: &Plan) -> (Reason, &str) {
    let problem = plan.problem.as_ref().unwrap();
    (problem.reason.known().unwrap(), &problem.message)
}

#[test]
fn the_first_code_is_issued_by_itself() {
    assert_eq!(unsigned().act(), START);
}

#[test]
fn a_code_is_polled_at_its_interval_and_the_status_does_not_change_with_it() {
    let waiting = poll_at(with_code(unsigned(), 900), 3);
    let plan = waiting.plan();
    assert_eq!((&plan.act, plan.look_at, plan.next_exchange), (&Act::Wait, Some(after(3)), None));
    assert_eq!(waiting.plan_at(3).act, POLL);
    let (reason, message) = says(&plan);
    assert_eq!(reason, Reason::AuthorizationRequired);
    assert!(message.contains("https://login.test/device") && message.contains("status.deviceCode.userCode"));
    assert!(!message.contains("ABCD"), "conditions become events, and others read those: {message}");
    assert_eq!(plan.problem, waiting.plan_at(3).problem);
}

#[test]
fn a_restart_goes_on_with_the_same_code() {
    assert_eq!(with_code(unsigned(), 900).act(), POLL);
}

#[rstest]
#[case::it_ran_out(|w: World| with_code(w, 0))]
#[case::it_was_declined(|w: World| ended(with_code(w, 900)))]
fn a_code_that_came_to_nothing_waits_for_a_person(#[case] code: fn(World) -> World) {
    let world = code(unsigned());
    assert_eq!(world.act(), Act::Wait);
    let plan = world.plan();
    let (reason, message) = says(&plan);
    assert_eq!(reason, Reason::AuthorizationRequired);
    assert!(message.contains("graphtoken.io/requested-at"), "{message}");
    assert_eq!(world.with(World::request).act(), START);
}

#[test]
fn what_the_provider_said_of_the_sign_in_is_told() {
    let mut world = ended(with_code(unsigned(), 900)).with(|w| w.fail(Reason::WrongAccount, 0, 1));
    world.observed.status.last_failure.as_mut().unwrap().message = "another account".into();
    assert_eq!(says(&world.plan()), (Reason::WrongAccount, "another account"));
}

#[rstest]
#[case::while_one_waits(with_code(unsigned(), 900))]
#[case::of_a_chain_that_was_refused(signed_in().with(|w| w.fail(Reason::AuthorizationRequired, 5, 1)))]
fn a_request_brings_a_new_code(#[case] world: World) {
    assert_eq!(world.with(World::request).act(), START);
}

#[test]
fn another_spec_needs_another_code() {
    let mut world = with_code(unsigned(), 900);
    world.spec["scopes"] = json!(["Files.Read"]);
    assert_eq!(world.act(), START);
}

#[test]
fn after_the_sign_in_it_is_a_chain_like_any_other() {
    let world = signed_in();
    assert_eq!(world.act(), Act::Wait);
    assert_eq!(world.plan_at(3600).act, exchange(Why::Due, Source::Chain));
    assert_eq!(world.with(World::request).act(), exchange(Why::Requested, Source::Chain));
}

#[test]
fn a_chain_that_was_refused_is_tried_hourly_until_a_person_asks_for_a_code() {
    let world = signed_in().with(|w| w.fail(Reason::AuthorizationRequired, 0, 1));
    assert_eq!(world.plan_at(3599).act, Act::Wait);
    assert_eq!(world.plan_at(3600).act, exchange(Why::Retry, Source::Chain));
    // The code that was asked for then goes before the chain.
    let waiting = with_code(world, 4500).with(|w| w.observed.status.last_failure = None);
    assert_eq!(waiting.plan_at(3600).act, POLL);
}

#[rstest]
#[case::down(Reason::ProviderUnavailable, 5)]
#[case::throttled(Reason::Throttled, 5)]
fn polls_back_off_where_the_provider_fails(#[case] reason: Reason, #[case] wait: i64) {
    let world = with_code(unsigned(), 900).with(|w| w.fail(reason, 0, 1));
    assert_eq!(world.plan_at(wait - 1).act, Act::Wait);
    assert_eq!(world.plan_at(wait).act, POLL);
}

#[test]
fn nothing_is_polled_while_suspended() {
    let mut world = with_code(unsigned(), 900);
    world.spec["suspend"] = json!(true);
    assert_eq!(world.act(), Act::Wait);
}

fn with_login(mut world: World) -> World {
    world.observed.login = SeedState::Found { digest: LOGIN.into() };
    world
}

#[rstest]
#[case::signed_out(unsigned())]
#[case::while_a_code_waits(with_code(unsigned(), 900))]
#[case::though_a_chain_goes_on(signed_in())]
#[case::before_a_seed(World::fresh())]
#[case::though_the_chain_was_refused(World::delegated().with(|w| {
    w.fail(Reason::AuthorizationRequired, 5, 1);
}))]
fn a_login_goes_first(#[case] world: World) {
    assert_eq!(with_login(world).act(), exchange(Why::NewSeed, Source::Login));
}

#[rstest]
#[case::adopted(|w: &mut World| w.credential().record.seed_digests.push(LOGIN.into()), None)]
#[case::it_is_what_is_kept(|w: &mut World| w.observed.login = SeedState::Found { digest: CHAIN.into() }, None)]
#[case::refused(|w: &mut World| {
    w.credential().record.rejected_login = Some(w.rejected(LOGIN, Reason::WrongAccount, 60));
}, Some(Reason::WrongAccount))]
#[case::damaged(|w: &mut World| w.observed.login = SeedState::Malformed("it is a poem".into()),
    Some(Reason::InvalidConfiguration))]
#[case::gone(|w: &mut World| w.observed.login = SeedState::Unneeded, None)]
fn the_chain_goes_on_beside_a_login_of_no_use(
    #[case] login: fn(&mut World),
    #[case] problem: Option<Reason>,
) {
    for world in [World::delegated(), signed_in()] {
        let world = with_login(world).with(login);
        let plan = world.plan();
        assert_eq!(plan.problem.as_ref().and_then(|p| p.reason.known()), problem, "{plan:?}");
        assert_eq!(
            Plan { problem: None, ..plan },
            world.clone().with(|w| w.observed.login = SeedState::Unneeded).plan()
        );
        assert_eq!(world.plan_at(3600).act, exchange(Why::Due, Source::Chain));
    }
}

#[test]
fn an_app_has_no_use_for_a_login() {
    assert_eq!(World::app_only().with(unchanged).plan_at(0), with_login(World::app_only()).plan());
    assert_eq!(now(), after(0));
}
