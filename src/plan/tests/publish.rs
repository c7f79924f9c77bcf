use rstest::rstest;
use serde_json::json;

use super::world::{AGE, LABEL, LIFE, UID, World, after, exchange, unchanged};
use crate::api::Reason;
use crate::api::names::{ANNOTATION_EXPIRES_AT, ANNOTATION_TOKEN, ANNOTATION_UID};
use crate::observed::{Meta, TargetState, Unrenderable, target};
use crate::plan::{Act, Source, Why};
use crate::target_shape::target_annotations;

// === Damages of the target that leave its bytes alone ===

fn lost_label(world: &mut World) {
    world.view().meta.labels.remove(LABEL);
}

fn changed_label(world: &mut World) {
    world.view().meta.labels.insert(LABEL.into(), "no".into());
}

fn lost_annotation(world: &mut World) {
    world.view().meta.annotations.remove(ANNOTATION_EXPIRES_AT);
}

fn lost_owner(world: &mut World) {
    world.view().meta.owners.clear();
}

fn owned_by_a_dead_graphtoken(world: &mut World) {
    world.view().meta.owners = vec!["uid-0".into()];
}

fn retained(world: &mut World) {
    world.spec["target"] = json!({"deletionPolicy": "Retain"});
}

fn of_a_dead_graphtoken(world: &mut World) {
    world.view().meta.owners = vec!["uid-0".into()];
    world.view().meta.annotations.insert(ANNOTATION_UID.into(), "uid-0".into());
}

// === Damages of its bytes ===

fn absent(world: &mut World) {
    world.observed.target = TargetState::Absent;
}

fn edited(world: &mut World) {
    world.view().intact = false;
}

fn lost_record(world: &mut World) {
    world.view().meta.annotations.remove(ANNOTATION_TOKEN);
    world.view().published = None;
}

fn handed_over(world: &mut World) {
    let meta = Meta {
        annotations: [("graphtoken.io/adopt".to_owned(), "mail".to_owned())].into(),
        ..Meta::default()
    };
    world.observed.target = target(Some(meta), &world.observed.identity, true);
}

fn other_layout(world: &mut World) {
    world.spec["target"] = json!({"data": [{"key": "token", "format": "AccessToken"}]});
}

fn conflict(world: &mut World) {
    world.observed.target = TargetState::Conflict("it is somebody else's".into());
}

fn deleting(world: &mut World) {
    let theirs = Meta::default();
    let meta = world.observed.target().map_or(theirs, |view| view.meta.clone());
    world.observed.target = target(Some(Meta { deleting: true, ..meta }), &world.observed.identity, true);
}

#[rstest]
fn a_token_that_the_target_does_not_serve_is_published_without_an_exchange(
    #[values(
        lost_label,
        changed_label,
        lost_annotation,
        lost_owner,
        owned_by_a_dead_graphtoken,
        retained,
        of_a_dead_graphtoken,
        absent,
        edited,
        lost_record,
        handed_over,
        other_layout
    )]
    damage: fn(&mut World),
    #[values(
        unchanged,
        |w: &mut World| w.spec["suspend"] = json!(true),
        |w: &mut World| w.fail(Reason::AuthorizationRequired, 1, 3),
        |w: &mut World| w.fail(Reason::Throttled, 1, 3),
        World::no_seed,
        World::new_seed,
        World::no_client_secret,
        World::request,
        |w: &mut World| w.pending_of("rival", false)
    )]
    meanwhile: fn(&mut World),
) {
    let world = World::delegated().with(damage).with(meanwhile);
    let plan = world.plan();
    assert_eq!((plan.act, plan.problem), (Act::Publish, None));
}

#[test]
fn a_newer_token_than_the_one_served_is_published() {
    let mut world = World::delegated();
    world.hold(world.token(-1, LIFE));
    assert_eq!(world.act(), Act::Publish);
}

#[rstest]
fn what_others_add_to_the_target_is_theirs(
    #[values(
        |w: &mut World| { w.view().meta.labels.insert("team".into(), "etl".into()); },
        |w: &mut World| { w.view().meta.annotations.insert("graphtoken.io/adopt".into(), "mail".into()); },
        |w: &mut World| w.view().meta.owners.push("somebody".into())
    )]
    addition: fn(&mut World),
    #[values(World::delegated(), World::app_only())] world: World,
) {
    assert_eq!(world.clone().with(addition).plan(), world.plan());
}

#[test]
fn a_retained_target_is_left_as_it_is() {
    let mut world = World::delegated().with(retained);
    world.serve(world.token(-AGE, LIFE));
    assert_eq!(world.act(), Act::Wait);
    world.view().meta.owners = vec![UID.into()];
    assert_eq!(world.act(), Act::Publish, "its owner goes");
}

#[rstest]
fn nothing_is_written_or_exchanged_while_the_target_is_not_ours_or_going(
    #[values(World::delegated(), World::app_only(), World::fresh(), World::fresh_app())] world: World,
    #[values(unchanged, World::request, |w: &mut World| w.observed.in_hand = Some(w.token(0, LIFE)))]
    meanwhile: fn(&mut World),
) {
    let world = world.with(meanwhile);
    let plan = world.clone().with(deleting).plan();
    assert_eq!((plan.act, plan.look_at, plan.problem), (Act::Wait, None, None));

    let plan = world.with(conflict).plan();
    assert_eq!((plan.act, plan.look_at, plan.next_exchange), (Act::Wait, Some(after(3600)), None));
    let problem = plan.problem.unwrap();
    assert_eq!((problem.reason, &*problem.message), (Reason::TargetConflict.into(), "it is somebody else's"));
}

#[rstest]
fn a_token_that_ran_out_is_not_published(
    #[values(absent, edited, lost_label, other_layout)] damage: fn(&mut World),
    #[values(0, 1, 1000)] ago: i64,
) {
    let mut world = World::delegated();
    world.hold(world.token(-LIFE - ago, LIFE));
    world.serve(world.token(-LIFE - ago, LIFE));
    assert_eq!(world.with(damage).act(), exchange(Why::Due, Source::Chain));
}

#[test]
fn a_token_of_which_only_the_record_is_left_is_not_published() {
    let world = World::delegated().with(absent).with(|w| w.credential().has_access_token = false);
    assert_eq!(world.act(), exchange(Why::NoToken, Source::Chain));
}

#[rstest]
fn a_token_for_another_spec_is_not_published(#[values(absent, edited, lost_label)] damage: fn(&mut World)) {
    let world = World::delegated().with(damage).with(|w| w.spec["scopes"] = json!(["Files.Read"]));
    assert_eq!(world.act(), exchange(Why::NoToken, Source::Chain));
}

#[test]
fn a_store_that_failed_is_written_to_again_after_the_back_off() {
    let mut world = World::delegated().with(lost_label).with(|w| w.fail(Reason::StorageUnavailable, 0, 2));
    let plan = world.plan();
    assert_eq!((plan.act, plan.look_at, plan.next_exchange), (Act::Wait, Some(after(10)), None));
    assert_eq!(world.plan_at(9).act, Act::Wait);
    assert_eq!(world.plan_at(10).act, Act::Publish);
    world.request();
    assert_eq!(world.act(), Act::Wait, "a request asks for an exchange and not for a write");
    world.observed.inputs = "others".into();
    assert_eq!(world.act(), Act::Publish, "what is written, or where, has perhaps changed");
}

#[test]
fn an_app_token_in_hand_is_published() {
    let mut world = World::fresh_app();
    world.observed.in_hand = Some(world.token(0, LIFE));
    assert_eq!(world.act(), Act::Publish);
    let mut world = World::app_only();
    world.observed.in_hand = Some(world.token(0, LIFE));
    assert_eq!(world.act(), Act::Publish, "it is newer than the one that is served");
    other_layout(&mut world);
    assert_eq!(world.act(), Act::Publish, "and can be rendered in any way");
}

#[test]
fn an_app_token_in_hand_is_not_published_for_another_spec_or_when_it_ran_out() {
    let mut world = World::fresh_app();
    world.observed.in_hand = Some(world.token(-LIFE, LIFE));
    assert_eq!(world.act(), exchange(Why::Due, Source::Client));
    world.observed.in_hand = Some(world.token(-AGE, LIFE));
    world.spec["clientId"] = json!("another");
    assert_eq!(world.act(), exchange(Why::NoToken, Source::Client));
}

#[rstest]
fn the_metadata_of_an_app_target_is_mended_without_an_exchange(
    #[values(
        lost_label,
        changed_label,
        lost_annotation,
        lost_owner,
        owned_by_a_dead_graphtoken,
        retained,
        of_a_dead_graphtoken
    )]
    damage: fn(&mut World),
) {
    assert_eq!(World::app_only().with(damage).act(), Act::Publish);
}

#[rstest]
fn an_app_target_whose_bytes_are_lost_costs_an_exchange(
    #[values(absent, edited, lost_record, handed_over, other_layout)] damage: fn(&mut World),
    #[values(unchanged, lost_label_if_there)] and: fn(&mut World),
) {
    let world = World::app_only().with(damage).with(and);
    assert_eq!(world.act(), exchange(Why::NoToken, Source::Client));
    let suspended = world.with(|w| w.spec["suspend"] = json!(true));
    assert_eq!(suspended.act(), Act::Wait);
}

fn lost_label_if_there(world: &mut World) {
    if world.observed.target().is_some() {
        lost_label(world);
    }
}

#[test]
fn the_annotations_of_a_target_hold_no_more_than_the_contract_says() {
    let world = World::delegated();
    let published = world.observed.target().unwrap().published.clone().unwrap();
    let annotations = target_annotations(&world.desired().target, UID, &published);
    let token = serde_json::from_str::<crate::observed::Published>(&annotations[ANNOTATION_TOKEN]).unwrap();
    assert_eq!(token, published);
    assert_eq!(annotations[ANNOTATION_EXPIRES_AT], "2026-11-23T10:50:00Z");
    assert_eq!(annotations["graphtoken.io/refreshed-at"], "2026-11-23T09:50:00Z");
    assert_eq!(annotations[ANNOTATION_UID], UID);
    assert_eq!(annotations.len(), 4);
}

fn labelled(world: &mut World) {
    world.spec["target"] =
        json!({"labels": {"team": "etl"}, "annotations": {"team.example.com/owner": "etl"}});
}

#[rstest]
#[case::user(World::delegated)]
#[case::app(World::app_only)]
fn labels_and_annotations_come_and_go_without_an_exchange(#[case] world: fn() -> World) {
    assert_eq!(world().with(labelled).act(), Act::Publish);
    let written = world().with(|w| {
        labelled(w);
        let facts = w.observed.served().unwrap().clone();
        w.serve(facts);
    });
    assert_eq!(written.act(), Act::Wait);
    let meta = &written.observed.target().unwrap().meta;
    assert_eq!(meta.labels["team"], "etl");
    assert!(!meta.annotations.contains_key("team.example.com/owner"), "the cache does not keep it");
    // What others put there is theirs; what we put there goes when it is not asked for any more.
    let foreign =
        written.clone().with(|w| _ = w.view().meta.labels.insert("added".into(), "by another".into()));
    assert_eq!(foreign.act(), Act::Wait);
    assert_eq!(written.clone().with(|w| w.spec["target"] = json!({})).act(), Act::Publish);
    assert_eq!(written.with(|w| _ = w.view().meta.labels.remove("team")).act(), Act::Publish);
}

#[test]
fn the_operators_own_labels_win() {
    let world = World::delegated().with(|w| {
        w.spec["target"] = json!({"labels": {LABEL: "no", "team": "etl"}});
        let facts = w.observed.served().unwrap().clone();
        w.serve(facts);
    });
    assert_eq!(world.observed.target().unwrap().meta.labels[LABEL], "yes");
    assert_eq!(world.act(), Act::Wait);
}

#[test]
fn a_token_that_cannot_be_rendered_waits_for_another_or_for_another_spec() {
    let unrenderable = |w: &mut World| {
        w.observed.target = TargetState::Absent;
        w.observed.unrenderable = Some(Unrenderable {
            attempt: w.observed.credential().unwrap().record.token.clone().unwrap().facts.attempt,
            layout: w.desired().target.layout.clone(),
            message: "it is too large".into(),
        });
    };
    let world = World::delegated().with(unrenderable);
    let plan = world.plan();
    assert_eq!(plan.act, Act::Wait);
    let problem = plan.problem.unwrap();
    assert_eq!((problem.reason, &*problem.message), (Reason::InvalidConfiguration.into(), "it is too large"));
    assert!(plan.look_at.is_some_and(|at| at <= after(3600)));
    let another_token = world.clone().with(|w| w.hold(w.token(-1, LIFE)));
    assert_eq!(another_token.act(), Act::Publish);
    let another_spec =
        world.with(|w| w.spec["target"] = json!({"data": [{"key": "t", "format": "AccessToken"}]}));
    assert_eq!(another_spec.act(), Act::Publish);
}
