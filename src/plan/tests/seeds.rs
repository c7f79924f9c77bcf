use rstest::rstest;
use serde_json::json;

use super::world::{AGE, CHAIN, LIFE, SEED, World, after, exchange, unchanged};
use crate::api::Reason;
use crate::observed::{Record, SeedState, inputs};
use crate::plan::{Act, Source, Why, seed_problem};

const NEW: &str = "digest-of-another-seed";

/// A credential that was begun, and of which nothing came.
fn without_a_chain(world: &mut World) {
    let seed_digests = std::mem::take(&mut world.credential().record.seed_digests);
    world.credential().record = Record { seed_digests, ..Record::default() };
    world.credential().refresh_token_digest = None;
    world.credential().has_access_token = false;
}

#[rstest]
#[case::the_first(World::fresh())]
#[case::though_the_token_is_valid(World::delegated().with(World::new_seed))]
#[case::though_a_refresh_is_asked_for(World::delegated().with(World::new_seed).with(World::request))]
#[case::though_there_is_no_chain(World::delegated().with(without_a_chain).with(World::new_seed))]
#[case::though_another_was_refused(World::delegated().with(World::new_seed).with(|w| {
    w.credential().record.rejected_seed = Some(w.rejected("yet another", Reason::AuthorizationRequired, 60));
}))]
fn a_new_seed_goes_first(#[case] world: World) {
    assert_eq!(world.act(), exchange(Why::NewSeed, Source::Seed));
}

#[rstest]
#[case::adopted_now(unchanged)]
#[case::adopted_once(|w: &mut World| w.credential().record.seed_digests = vec![SEED.into(), "a later one".into()])]
#[case::refused(|w: &mut World| {
    w.new_seed();
    w.credential().record.rejected_seed = Some(w.rejected(NEW, Reason::InvalidConfiguration, 60));
})]
#[case::a_copy_of_the_chain(|w: &mut World| w.observed.seed = SeedState::Found { digest: CHAIN.into() })]
#[case::deleted(World::no_seed)]
#[case::damaged(|w: &mut World| w.observed.seed = SeedState::Malformed("it is a poem".into()))]
fn the_chain_goes_on_without_the_seed(#[case] seed: fn(&mut World)) {
    let world = World::delegated().with(seed);
    assert_eq!(world.plan(), World::delegated().plan());
    assert_eq!(world.plan_at(3600).act, exchange(Why::Due, Source::Chain));
    assert_eq!(world.with(World::request).act(), exchange(Why::Requested, Source::Chain));
}

#[test]
fn a_refused_seed_is_tried_again_every_hour_where_there_is_no_chain() {
    let mut world = World::delegated().with(without_a_chain).with(World::new_seed);
    world.credential().record.rejected_seed = Some(world.rejected(NEW, Reason::AuthorizationRequired, 60));
    world.fail(Reason::AuthorizationRequired, 0, 1);
    assert_eq!(world.act(), Act::Wait);
    assert_eq!(world.plan_at(3599).act, Act::Wait);
    assert_eq!(world.plan_at(3600).act, exchange(Why::NewSeed, Source::Seed));
}

#[test]
fn a_refused_seed_is_tried_again_where_the_chain_is_another_clients() {
    let mut world = World::delegated().with(World::new_seed);
    world.credential().record.rejected_seed = Some(world.rejected(NEW, Reason::AuthorizationRequired, 60));
    world.spec["clientId"] = json!("another");
    assert_eq!(world.act(), exchange(Why::NewSeed, Source::Seed));
}

#[rstest]
#[case::nothing_yet(World::fresh())]
#[case::no_chain(World::delegated().with(without_a_chain))]
fn without_a_chain_a_seed_that_cannot_be_used_is_said_to_be_so(#[case] world: World) {
    for (seed, says) in [
        (SeedState::Missing("it is not there".into()), "it is not there"),
        (SeedState::Malformed("it is a poem".into()), "it is a poem"),
    ] {
        let plan = world.clone().with(|w| w.observed.seed = seed).plan();
        let problem = plan.problem.unwrap();
        assert_eq!(
            (plan.act, problem.reason, &*problem.message),
            (Act::Wait, Reason::InvalidConfiguration.into(), says)
        );
    }
}

#[test]
fn a_seed_that_was_used_up_asks_for_a_new_sign_in() {
    let plan = World::delegated().with(without_a_chain).plan();
    let problem = plan.problem.unwrap();
    assert_eq!((plan.act, problem.reason), (Act::Wait, Reason::AuthorizationRequired.into()));
    assert!(problem.message.contains("used up") && problem.message.contains("sign in again"));
}

/// The kept token is due at half of its life at the latest, and ends at 3000 s.
fn beside_a_new_seed() -> World {
    World::delegated().with(World::new_seed)
}

#[rstest]
fn a_new_sign_in_that_failed_does_not_hold_up_the_kept_one(
    #[values(
        Reason::AuthorizationRequired,
        Reason::WrongAccount,
        Reason::InvalidConfiguration,
        Reason::ProviderUnavailable,
        Reason::StorageUnavailable
    )]
    reason: Reason,
    #[values(Source::Seed, Source::Login)] source: Source,
) {
    let mut world = World::delegated();
    let new = SeedState::Found { digest: NEW.into() };
    match source {
        Source::Seed => world.observed.seed = new,
        _ => world.observed.login = new,
    }
    assert_eq!(world.plan_at(1200).act, exchange(Why::NewSeed, source));
    world.fail(reason, -1200, 1);
    // Not before five seconds have passed, and then the one that did not fail.
    assert_eq!(world.plan_at(1204).act, Act::Wait);
    assert_eq!(world.plan_at(1205).act, exchange(Why::Due, Source::Chain));
}

#[rstest]
#[case::for_a_person_to_act_on(Reason::InvalidConfiguration, 3600)]
#[case::passing(Reason::ProviderUnavailable, 5)]
fn a_new_seed_that_failed_is_tried_again_after_its_own_wait(#[case] reason: Reason, #[case] wait: i64) {
    let world = beside_a_new_seed().with(|w| w.fail(reason, 0, 1));
    let world = world.with(|w| w.serve(w.token(-AGE, 10 * LIFE)));
    let world = world.with(|w| {
        let token = w.token(-AGE, 10 * LIFE);
        w.credential().record.token.as_mut().unwrap().facts = token;
    });
    let plan = world.plan();
    assert_eq!((plan.act, plan.next_exchange), (Act::Wait, Some(after(wait))));
    assert_eq!(world.plan_at(wait).act, exchange(Why::NewSeed, Source::Seed));
}

#[test]
fn a_new_seed_and_the_kept_sign_in_take_turns_while_both_fail() {
    let mut world = beside_a_new_seed();
    for (failures, wait, source) in
        [(1, 5, Source::Seed), (2, 10, Source::Chain), (3, 20, Source::Seed), (4, 25, Source::Chain)]
    {
        world.fail_with(source, Reason::ProviderUnavailable, -2000, failures);
        assert_eq!(world.plan_at(2000 + wait - 1).act, Act::Wait, "{source:?}");
        let next = match source {
            Source::Seed => exchange(Why::Due, Source::Chain),
            _ => exchange(Why::NewSeed, Source::Seed),
        };
        assert_eq!(world.plan_at(2000 + wait).act, next, "{source:?}");
    }
}

#[test]
fn a_new_seed_does_not_wait_for_a_kept_sign_in_that_was_rejected() {
    let mut world = beside_a_new_seed();
    world.fail_with(Source::Chain, Reason::AuthorizationRequired, 5, 1);
    assert_eq!(world.act(), exchange(Why::NewSeed, Source::Seed));
    // Once it was tried as well, and nobody could note it, neither is sent more than the other asks for.
    world.fail_with(Source::Seed, Reason::InvalidConfiguration, 0, 2);
    assert_eq!(world.act(), Act::Wait);
}

#[test]
fn what_stops_every_request_before_it_is_sent_holds_up_both() {
    let mut world = beside_a_new_seed().with(|w| w.fail(Reason::InvalidConfiguration, -2000, 1));
    let inputs = world.observed.inputs.clone();
    world.observed.status.last_failure.as_mut().unwrap().inputs = Some(inputs);
    assert_eq!(world.plan_at(2000 + 3599).act, Act::Wait);
    assert_eq!(world.plan_at(2000 + 3600).act, exchange(Why::NewSeed, Source::Seed));
}

#[test]
fn a_request_is_handled_by_the_kept_sign_in_while_a_new_one_waits() {
    let mut world = beside_a_new_seed().with(World::request);
    assert_eq!(world.act(), exchange(Why::NewSeed, Source::Seed));
    world.fail(Reason::ProviderUnavailable, 0, 1);
    assert_eq!(world.plan_at(4).act, Act::Wait);
    assert_eq!(world.plan_at(5).act, exchange(Why::Requested, Source::Chain));
}

#[rstest]
#[case::spec(|w: &mut World| w.spec["account"] = json!("etl@contoso.com"))]
#[case::client_credential(|w: &mut World| w.observed.inputs = "others".into())]
fn another_spec_or_client_credential_gives_a_rejected_sign_in_another_chance(#[case] change: fn(&mut World)) {
    let mut world = beside_a_new_seed();
    world.observed.inputs = inputs(&world.desired(), None);
    world.credential().record.rejected_seed = Some(world.rejected(NEW, Reason::WrongAccount, 60));
    assert_eq!(world.act(), Act::Wait);
    let was = world.observed.inputs.clone();
    change(&mut world);
    if world.observed.inputs == was {
        world.observed.inputs = inputs(&world.desired(), None);
    }
    assert_eq!(world.act(), exchange(Why::NewSeed, Source::Seed));
}

#[test]
fn nothing_is_sent_within_five_seconds_of_a_rejection() {
    let mut world = beside_a_new_seed().with(World::request);
    world.credential().record.rejected_seed = Some(world.rejected(NEW, Reason::InvalidConfiguration, 0));
    assert_eq!(world.plan_at(4).act, Act::Wait);
    assert_eq!(world.plan_at(5).act, exchange(Why::Requested, Source::Chain));
    world.observed.seed = SeedState::Found { digest: "yet another".into() };
    assert_eq!(world.plan_at(4).act, Act::Wait);
    assert_eq!(world.plan_at(5).act, exchange(Why::NewSeed, Source::Seed));
}

#[test]
fn a_sign_in_that_was_rejected_as_a_login_is_not_sent_as_a_seed() {
    let mut world = beside_a_new_seed();
    world.credential().record.rejected_login = Some(world.rejected(NEW, Reason::WrongAccount, 60));
    assert_eq!(world.act(), Act::Wait);
}

#[rstest]
#[case::malformed(|w: &mut World| w.observed.seed = SeedState::Malformed("it is a poem".into()), Some("poem"))]
#[case::rejected(|w: &mut World| {
    w.new_seed();
    w.credential().record.rejected_seed = Some(w.rejected(NEW, Reason::WrongAccount, 60));
}, Some("it was rejected"))]
#[case::rejected_with_another_spec(|w: &mut World| {
    w.new_seed();
    w.credential().record.rejected_seed = Some(w.rejected(NEW, Reason::WrongAccount, 60));
    w.observed.inputs = "others".into();
}, None)]
#[case::without_a_kept_sign_in(|w: &mut World| {
    w.observed.seed = SeedState::Malformed("it is a poem".into());
    without_a_chain(w);
}, None)]
#[case::adopted(unchanged, None)]
#[case::new(World::new_seed, None)]
#[case::deleted(World::no_seed, None)]
fn what_is_wrong_with_a_seed_beside_a_kept_sign_in_is_told(
    #[case] seed: fn(&mut World),
    #[case] says: Option<&str>,
) {
    let world = World::delegated().with(seed);
    let note = seed_problem(&world.desired(), &world.observed).map(|(_, note)| note);
    assert_eq!(note.is_some(), says.is_some(), "{note:?}");
    assert!(note.unwrap_or_default().contains(says.unwrap_or_default()));
}
