use rstest::rstest;
use serde_json::json;

use super::world::{CHAIN, SEED, World, exchange, unchanged};
use crate::api::Reason;
use crate::observed::{Record, SeedState};
use crate::plan::{Act, Source, Why};

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
    w.credential().record.rejected_seed_digest = Some("yet another".into());
}))]
fn a_new_seed_goes_first(#[case] world: World) {
    assert_eq!(world.act(), exchange(Why::NewSeed, Source::Seed));
}

#[rstest]
#[case::adopted_now(unchanged)]
#[case::adopted_once(|w: &mut World| w.credential().record.seed_digests = vec![SEED.into(), "a later one".into()])]
#[case::refused(|w: &mut World| {
    w.new_seed();
    w.credential().record.rejected_seed_digest = Some(NEW.into());
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
    world.credential().record.rejected_seed_digest = Some(NEW.into());
    world.fail(Reason::AuthorizationRequired, 0, 1);
    assert_eq!(world.act(), Act::Wait);
    assert_eq!(world.plan_at(3599).act, Act::Wait);
    assert_eq!(world.plan_at(3600).act, exchange(Why::NewSeed, Source::Seed));
}

#[test]
fn a_refused_seed_is_tried_again_where_the_chain_is_another_clients() {
    let mut world = World::delegated().with(World::new_seed);
    world.credential().record.rejected_seed_digest = Some(NEW.into());
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
            (Act::Wait, Reason::InvalidConfiguration, says)
        );
    }
}

#[test]
fn a_seed_that_was_used_up_asks_for_a_new_sign_in() {
    let plan = World::delegated().with(without_a_chain).plan();
    let problem = plan.problem.unwrap();
    assert_eq!((plan.act, problem.reason), (Act::Wait, Reason::AuthorizationRequired));
    assert!(problem.message.contains("used up") && problem.message.contains("sign in again"));
}
