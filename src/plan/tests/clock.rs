use rstest::rstest;
use serde_json::json;

use super::world::{LABEL, LIFE, World, after, exchange};
use crate::api::Reason;
use crate::plan::{Act, Source, Why};

/// More than the clocks of two nodes differ: ours was set back meanwhile.
const AHEAD: i64 = 61;
/// What clocks may differ by.
const TOLERATED: i64 = 60;

fn issued(world: World, at: i64) -> World {
    world.with(|w| {
        let token = w.token(at, LIFE);
        if w.observed.credential().is_some() {
            w.hold(token.clone());
        }
        w.serve(token);
    })
}

#[rstest]
#[case::delegated(World::delegated(), Source::Chain)]
#[case::app_only(World::app_only(), Source::Client)]
fn a_token_from_the_future_is_refreshed_at_once(#[case] world: World, #[case] source: Source) {
    let ahead = issued(world.clone(), AHEAD);
    assert_eq!(ahead.act(), exchange(Why::Due, source));
    let spec_changed = ahead.with(|w| w.spec["scopes"] = json!(["https://graph.microsoft.com/.default"]));
    assert!(matches!(spec_changed.act(), Act::Exchange(_)));

    let tolerated = issued(world, TOLERATED);
    let plan = tolerated.plan();
    assert_eq!(plan.act, Act::Wait);
    assert!(plan.next_exchange > Some(after(TOLERATED + LIFE * 45 / 100)));
}

#[rstest]
fn a_failure_from_the_future_holds_nothing_up(
    #[values(
        Reason::AuthorizationRequired,
        Reason::Throttled,
        Reason::ProviderUnavailable,
        Reason::StorageUnavailable
    )]
    reason: Reason,
) {
    let failed = |at: i64| World::fresh().with(|w| w.fail(reason, -at, 1));
    assert_eq!(failed(AHEAD).act(), exchange(Why::NewSeed, Source::Seed));
    assert_eq!(failed(TOLERATED).act(), Act::Wait);
}

#[test]
fn a_failed_write_from_the_future_holds_no_write_up() {
    let failed = |at: i64| {
        World::delegated().with(|w| {
            w.view().meta.labels.remove(LABEL);
            w.fail(Reason::StorageUnavailable, -at, 1);
        })
    };
    assert_eq!(failed(AHEAD).act(), Act::Publish);
    assert_eq!(failed(TOLERATED).act(), Act::Wait);
}
