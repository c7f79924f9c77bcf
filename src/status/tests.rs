//! What the status says, by the rows of the contract's table.

use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::status::{SignInSource, SignedIn};
use crate::observed::TargetState;
use crate::plan::tests::properties::worlds;
use crate::plan::tests::world::{AGE, LIFE, World, after, now, unchanged};

mod failures;
mod health;
mod skew;
mod verified;

type Row = (ConditionType, ConditionStatus, Reason);

const fn stalled(reason: Reason) -> Row {
    (ConditionType::Stalled, ConditionStatus::True, reason)
}

const fn not_ready(reason: Reason) -> Row {
    (ConditionType::Ready, ConditionStatus::False, reason)
}

const fn failed(reason: Reason) -> Row {
    (ConditionType::Refreshed, ConditionStatus::False, reason)
}

const READY: Row = (ConditionType::Ready, ConditionStatus::True, Reason::TokenValid);
const SUCCEEDED: Row = (ConditionType::Refreshed, ConditionStatus::True, Reason::Succeeded);
const NOTHING_YET: Row = (ConditionType::Refreshed, ConditionStatus::Unknown, Reason::TokenPending);
const SUSPENDED: Row = (ConditionType::Refreshed, ConditionStatus::Unknown, Reason::Suspended);
const AT_WORK: Row = (ConditionType::Reconciling, ConditionStatus::True, Reason::Progressing);

pub(crate) fn status_at(world: &World, at: Timestamp) -> GraphTokenStatus {
    let desired = world.desired();
    project(&desired, &world.observed, &crate::plan::plan(&desired, &world.observed, at), at)
}

fn status(world: &World) -> GraphTokenStatus {
    status_at(world, now())
}

fn rows(world: &World) -> Vec<Row> {
    rows_of(&status(world))
}

fn rows_of(status: &GraphTokenStatus) -> Vec<Row> {
    let row = |c: &Condition| Some((c.type_.known()?, c.status, c.reason.known()?));
    status.conditions.iter().map(|c| row(c).unwrap()).collect()
}

fn message(world: &World, type_: ConditionType) -> String {
    status(world).condition(type_).unwrap().message.clone()
}

/// The token of a converged world has run out.
fn run_out(world: &mut World) {
    let token = world.token(-LIFE, LIFE);
    if world.observed.credential().is_some() {
        world.hold(token.clone());
    }
    world.serve(token);
}

fn conflict(world: &mut World) {
    world.observed.target = TargetState::Conflict("it is somebody else's".into());
}

fn suspended(world: &mut World) {
    world.spec["suspend"] = json!(true);
}

/// As `reconcile` notes an app-only token that was got.
fn got(world: &mut World) {
    world.observed.status.last_refresh_time = Some(after(-AGE).into());
}

#[rstest]
#[case::converged(World::delegated(), &[READY, SUCCEEDED])]
#[case::converged_app(World::app_only().with(got), &[READY, SUCCEEDED])]
#[case::not_seen_yet(World::fresh(), &[not_ready(Reason::TokenPending), NOTHING_YET, AT_WORK])]
#[case::not_seen_yet_app(World::fresh_app(), &[not_ready(Reason::TokenPending), NOTHING_YET, AT_WORK])]
#[case::for_another_spec(
    World::delegated().with(|w| w.spec["scopes"] = json!(["Files.Read"])),
    &[not_ready(Reason::TokenPending), SUCCEEDED, AT_WORK],
)]
#[case::due(World::delegated().with(|w| { w.hold(w.token(-LIFE + 1, LIFE)); w.serve(w.token(-LIFE + 1, LIFE)); }),
    &[READY, SUCCEEDED])]
#[case::run_out(World::delegated().with(run_out), &[not_ready(Reason::TokenExpired), SUCCEEDED, AT_WORK])]
#[case::edited(
    World::delegated().with(|w| w.view().intact = false),
    &[not_ready(Reason::TokenPending), SUCCEEDED, AT_WORK],
)]
#[case::going(
    World::delegated().with(|w| w.observed.target = TargetState::Deleting),
    &[not_ready(Reason::TokenPending), SUCCEEDED, AT_WORK],
)]
#[case::suspended(World::delegated().with(suspended), &[READY, SUSPENDED])]
#[case::suspended_before_anything(World::fresh().with(suspended), &[not_ready(Reason::TokenPending), SUSPENDED])]
#[case::suspended_and_run_out(
    World::delegated().with(suspended).with(run_out),
    &[not_ready(Reason::TokenExpired), SUSPENDED],
)]
#[case::target_taken(
    World::fresh().with(conflict),
    &[stalled(Reason::TargetConflict), not_ready(Reason::TargetConflict), NOTHING_YET],
)]
#[case::target_taken_later(
    World::delegated().with(conflict),
    &[stalled(Reason::TargetConflict), not_ready(Reason::TargetConflict), SUCCEEDED],
)]
#[case::target_taken_after_a_failure(
    World::delegated().with(conflict).with(|w| w.fail(Reason::ProviderUnavailable, 1, 1)),
    &[stalled(Reason::TargetConflict), not_ready(Reason::TargetConflict), failed(Reason::ProviderUnavailable)],
)]
#[case::seed_missing(
    World::fresh().with(World::no_seed),
    &[stalled(Reason::InvalidConfiguration), not_ready(Reason::InvalidConfiguration), failed(Reason::InvalidConfiguration)],
)]
#[case::client_secret_missing(
    World::delegated().with(World::no_client_secret),
    &[stalled(Reason::InvalidConfiguration), READY, failed(Reason::InvalidConfiguration)],
)]
#[case::another_account(
    World::delegated().with(|w| w.spec["account"] = json!("boss@contoso.com")),
    &[stalled(Reason::WrongAccount), not_ready(Reason::WrongAccount), failed(Reason::WrongAccount)],
)]
fn the_conditions_are_those_of_the_contract(#[case] world: World, #[case] says: &[Row]) {
    assert_eq!(rows(&world), says);
}

#[rstest]
fn a_failure_that_passes_shows_in_refreshed_alone_while_the_token_is_valid(
    #[values(Reason::Throttled, Reason::ProviderUnavailable, Reason::StorageUnavailable)] reason: Reason,
    #[values(World::delegated(), World::app_only())] world: World,
) {
    let world = world.with(|w| w.fail(reason, 1, 5));
    assert_eq!(rows(&world), [READY, failed(reason)]);
    assert_eq!(message(&world, ConditionType::Refreshed), "it failed");
    let expired = world.clone().with(run_out);
    assert_eq!(rows(&expired), [not_ready(Reason::TokenExpired), failed(reason), AT_WORK]);
    assert_eq!(message(&expired, ConditionType::Ready), "the token has run out: it failed");
    let never = World::fresh().with(|w| w.fail(reason, 1, 5));
    assert_eq!(rows(&never), [not_ready(reason), failed(reason), AT_WORK]);
}

#[rstest]
fn a_failure_that_a_person_must_mend_stalls_and_leaves_a_valid_token_alone(
    #[values(Reason::AuthorizationRequired, Reason::WrongAccount, Reason::InvalidConfiguration)]
    reason: Reason,
    #[values(World::delegated(), World::app_only())] world: World,
) {
    let world = world.with(|w| w.fail(reason, 1, 5));
    assert_eq!(rows(&world), [stalled(reason), READY, failed(reason)]);
    assert_eq!(message(&world, ConditionType::Stalled), "it failed");
    let expired = world.clone().with(run_out);
    assert_eq!(rows(&expired), [stalled(reason), not_ready(Reason::TokenExpired), failed(reason)]);
    let never = World::fresh().with(|w| w.fail(reason, 1, 5));
    assert_eq!(rows(&never), [stalled(reason), not_ready(reason), failed(reason)]);
    let suspended = never.with(suspended);
    assert_eq!(rows(&suspended), [stalled(reason), not_ready(reason), SUSPENDED]);
}

fn store_fails(world: &mut World, administrator: bool) {
    let failure =
        Failure { message: "it failed".into(), administrator, ..Failure::of(Reason::StorageUnavailable) };
    let status = std::mem::take(&mut world.observed.status);
    world.observed.status = with_failure(status, failure, "inputs", now());
}

#[rstest]
#[case::transient(false, &[READY, failed(Reason::StorageUnavailable)])]
#[case::permissions(true, &[stalled(Reason::StorageUnavailable), READY, failed(Reason::StorageUnavailable)])]
fn a_store_stalls_only_where_a_cluster_administrator_must_act(
    #[case] administrator: bool,
    #[case] says: &[Row],
) {
    assert_eq!(rows(&World::delegated().with(|w| store_fails(w, administrator))), says);
}

#[rstest]
#[case::throttled(Reason::Throttled)]
#[case::revoked(Reason::AuthorizationRequired)]
fn a_failed_publish_leaves_what_the_provider_said(#[case] reason: Reason) {
    let world = World::delegated().with(|w| w.fail(reason, 1, 1));
    let said = world.observed.status.last_failure.clone();
    let mut world = world.with(|w| store_fails(w, false));
    assert_eq!(world.observed.status.last_failure, said);
    assert_eq!(world.observed.status.consecutive_failures, 2);
    assert_eq!(status(&world).condition(ConditionType::Refreshed).unwrap().reason, reason);
    forget_storage_failure(&mut world.observed.status);
    assert_eq!(
        (&world.observed.status.last_failure, &world.observed.status.last_storage_failure),
        (&said, &None)
    );
    assert_eq!(status(&world).condition(ConditionType::Refreshed).unwrap().reason, reason);
}

#[test]
fn an_api_server_that_fails_for_a_moment_does_not_end_a_stall() {
    let world = World::delegated().with(|w| w.fail(Reason::AuthorizationRequired, 1, 1));
    let unreadable = Problem::new(Reason::StorageUnavailable, "no answer");
    let plan = Plan { problem: Some(unreadable), ..world.plan() };
    let status = project(&world.desired(), &world.observed, &plan, now());
    assert_eq!(status.conditions[0].reason, Reason::AuthorizationRequired);
    assert_eq!(status.condition(ConditionType::Refreshed).unwrap().reason, Reason::StorageUnavailable);
    assert_eq!(status.condition(ConditionType::Ready).unwrap().reason, Reason::TokenValid);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut world = World::delegated();
    world.observed.status = status(&world);
    let times = |status: &GraphTokenStatus| {
        [ConditionType::Ready, ConditionType::Refreshed]
            .map(|type_| status.condition(type_).unwrap().last_transition_time)
    };
    world.fail(Reason::Throttled, -60, 1);
    world.observed.status = status_at(&world, after(60));
    assert_eq!(times(&world.observed.status), [now(), after(60)].map(Time::from));
    // Another reason is no change of the status.
    world.fail(Reason::ProviderUnavailable, -120, 2);
    world.observed.status = status_at(&world, after(120));
    assert_eq!(times(&world.observed.status), [now(), after(60)].map(Time::from));
    world.observed.status.last_failure = None;
    world.observed.identity.generation += 1;
    let status = status_at(&world, after(180));
    assert_eq!(times(&status), [now(), after(180)].map(Time::from));
    assert!(status.conditions.iter().all(|c| c.observed_generation == 4));
}

#[test]
fn a_delegated_status_tells_all_but_secrets_and_names() {
    let mut world = World::delegated();
    world.credential().record.signed_in =
        Some(SignedIn { time: after(-86400).into(), source: SignInSource::Seed.into() });
    insta::assert_json_snapshot!(status(&world));
}

#[test]
fn an_app_only_status_tells_nothing_of_a_sign_in() {
    // That is left of a delegated grant before.
    let before = World::delegated().with(|w| {
        w.credential().record.signed_in =
            Some(SignedIn { time: now().into(), source: SignInSource::Seed.into() });
    });
    let mut world = World::app_only();
    world.observed.status = status(&before);
    assert!(world.observed.status.signed_in.is_some());
    insta::assert_json_snapshot!(status(&world));
}

#[test]
fn what_the_target_no_longer_holds_is_not_told() {
    let mut world = World::delegated();
    world.observed.status = status(&world);
    let target = world.observed.status.target.clone();
    assert_eq!(world.observed.status.expires_at, Some(after(LIFE - AGE).into()));
    world.view().intact = false;
    world.view().meta.resource_version = "8".into();
    let damaged = status(&world);
    assert_eq!(
        (damaged.expires_at, &damaged.target),
        (None, &target),
        "the version is that of what was written"
    );
}

#[rstest]
#[case::while_valid(World::delegated())]
#[case::after_a_failure(World::fresh().with(|w| w.fail(Reason::Throttled, 1, 1)))]
#[case::suspended(World::delegated().with(suspended))]
fn a_spec_that_does_not_parse_stalls_and_keeps_the_rest(#[case] world: World) {
    let before = status(&world);
    let error = SpecError::HttpNotAllowed { field: "token" };
    let identity = Identity { generation: 9, ..world.observed.identity.clone() };
    let status = project_invalid(&identity, &before, &error, after(60));
    let rows = rows_of(&status);
    let reason = Reason::InvalidConfiguration;
    assert_eq!(rows, [stalled(reason), not_ready(reason), failed(reason)]);
    assert!(status.conditions.iter().all(|c| c.message == error.to_string() && c.observed_generation == 9));
    assert_eq!((status.observed_generation, status.next_refresh_time), (9, None));
    assert_eq!((&status.target, status.expires_at), (&before.target, before.expires_at));
    assert_eq!(status.last_failure, before.last_failure);
    assert_eq!(project_invalid(&identity, &status, &error, after(120)), status);
}

#[rstest]
fn nothing_is_written_as_long_as_nothing_changes(
    #[values(World::delegated(), World::app_only())] world: World,
    #[values(unchanged, World::no_seed, World::no_client_secret, conflict, suspended)] change: fn(&mut World),
) {
    let mut world = world.with(change);
    world.observed.status = status(&world);
    for seconds in [1, 60, 600] {
        assert_eq!(status_at(&world, after(seconds)), world.observed.status);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_status_that_was_written_is_not_written_again(world in worlds()) {
        let mut world = world;
        world.observed.status = status(&world);
        prop_assert_eq!(&status(&world), &world.observed.status);
    }

    #[test]
    fn the_conditions_agree_with_each_other(world in worlds()) {
        let status = status(&world);
        let types: Vec<_> = status.conditions.iter().map(|c| c.type_.known().unwrap()).collect();
        let stalled = types.contains(&ConditionType::Stalled);
        prop_assert!(!stalled || types[0] == ConditionType::Stalled, "the column STATUS shows the first");
        prop_assert!(stalled || types[0] == ConditionType::Ready);
        prop_assert!(!(stalled && types.contains(&ConditionType::Reconciling)));
        for condition in &status.conditions {
            let kstatus = matches!(condition.type_.known(), Some(ConditionType::Stalled | ConditionType::Reconciling));
            prop_assert!(!kstatus || condition.status == ConditionStatus::True);
        }
        let (mut once, all) = (types.clone(), types.len());
        once.dedup();
        prop_assert_eq!(once.len(), all);

        let valid = world.observed.served().is_some_and(|token| {
            token.expires_at > now() && token.issued_for == world.desired().issued_for
        });
        let desired = world.desired();
        let other = world.observed.credential().and_then(|c| account_problem(&desired, c)).is_some();
        let valid = valid && !other;
        let ready = status.condition(ConditionType::Ready).unwrap();
        prop_assert_eq!(ready.status == ConditionStatus::True, valid);
        prop_assert!(ready.status != ConditionStatus::Unknown);
        prop_assert!(!types.contains(&ConditionType::Reconciling) || !valid);
    }

    #[test]
    fn no_name_of_a_user_is_in_a_status(world in worlds()) {
        let json = serde_json::to_string(&status(&world)).unwrap();
        prop_assert!(!json.contains("contoso.com"), "{}", json);
    }
}

#[rstest]
#[case::pending(World::fresh(), None, &[not_ready(Reason::TokenPending), NOTHING_YET, AT_WORK])]
#[case::failing(World::fresh(), Some("403"), &[
    not_ready(Reason::StorageUnavailable), failed(Reason::StorageUnavailable), AT_WORK,
])]
#[case::serving_on(World::delegated(), Some("403"), &[READY, failed(Reason::StorageUnavailable)])]
#[case::run_out(World::delegated().with(run_out), Some("403"), &[
    not_ready(Reason::TokenExpired), failed(Reason::StorageUnavailable), AT_WORK,
])]
fn a_client_that_is_not_known_takes_no_token_away(
    #[case] world: World,
    #[case] why: Option<&str>,
    #[case] expected: &[Row],
) {
    let before = if world.observed.served().is_some() { status(&world) } else { GraphTokenStatus::default() };
    let once = project_unknown(&world.observed.identity, &before, why, now());
    let rows = rows_of(&once);
    assert_eq!(rows, expected);
    assert_eq!(project_unknown(&world.observed.identity, &once, why, now()), once, "said once");
}
