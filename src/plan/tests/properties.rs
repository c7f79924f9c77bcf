use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::world::{LABEL, LIFE, World, after, now};
use crate::api::{Reason, Time};
use crate::observed::{CredentialState, Observed, SeedState, TargetState, TokenFacts};
use crate::plan::probe::trial;
use crate::plan::{Act, Exchange, Source, plan};
use crate::verdict::Verdict;

type Change = fn(&mut World);

/// Anything that may have happened, in any order and number.
const CHANGES: &[Change] = &[
    |w| w.spec["suspend"] = json!(true),
    |w| w.spec["clientId"] = json!("another"),
    |w| w.spec["scopes"] = json!(["Files.Read"]),
    |w| w.spec["tenant"] = json!(super::world::TENANT_ID),
    |w| w.spec["endpoints"] = json!({"token": "https://idp.test/token"}),
    |w| w.spec["refresh"] = json!({"renewBefore": "59m"}),
    |w| {
        w.spec["target"] =
            json!({"data": [{"key": "t", "format": "AccessToken"}], "deletionPolicy": "Retain"});
    },
    World::verify,
    |w| w.spec["verify"] = json!({}),
    |w| if_tried(w, |w| w.tried(Verdict::Accepted, 60)),
    |w| if_tried(w, |w| w.tried(Verdict::Accepted, 8 * 24 * 3600)),
    |w| if_tried(w, |w| w.tried(Verdict::Rejected, 60)),
    |w| if_tried(w, |w| w.tried(Verdict::Throttled(Some(Duration::from_secs(90))), 30)),
    |w| if_tried(w, |w| w.tried(Verdict::Unwell(502), 30)),
    |w| if_tried(w, |w| w.tried(Verdict::Failed(404), -300)),
    World::request,
    World::new_seed,
    World::no_seed,
    World::no_client_secret,
    |w| w.observed.seed = SeedState::Malformed("it is a poem".into()),
    |w| w.observed.inputs = "others".into(),
    |w| w.observed.credential = CredentialState::Absent,
    |w| w.observed.credential = CredentialState::Foreign("not ours".into()),
    |w| w.observed.target = TargetState::Absent,
    |w| w.observed.target = TargetState::Deleting,
    |w| w.observed.target = TargetState::Conflict("not ours".into()),
    |w| w.observed.in_hand = Some(w.token(-5, LIFE)),
    |w| w.observed.in_hand = Some(w.token(-LIFE - 5, LIFE)),
    |w| if_target(w, |w| w.view().intact = false),
    |w| if_target(w, |w| w.view().published = None),
    |w| if_target(w, |w| drop(w.view().meta.labels.remove(LABEL))),
    |w| if_target(w, |w| w.view().meta.owners.clear()),
    |w| if_credential(w, |w| w.pending_of("rival", false)),
    |w| if_credential(w, |w| w.pending_of("rival", true)),
    |w| if_credential(w, |w| w.pending_of(super::world::HOLDER, false)),
    |w| if_credential(w, |w| w.credential().refresh_token_digest = None),
    |w| if_credential(w, |w| w.credential().has_access_token = false),
    |w| if_credential(w, |w| w.credential().record = crate::observed::Record::default()),
    |w| if_credential(w, |w| w.credential().record.account = None),
    |w| {
        if_credential(w, |w| {
            w.credential().record.rejected_seed =
                Some(w.rejected("digest-of-another-seed", Reason::InvalidConfiguration, 60));
        });
    },
    // The spec's CEL rules keep an account away from an app; the plan would not mind.
    |w| w.spec["account"] = json!("boss@contoso.com"),
];

fn if_tried(world: &mut World, change: Change) {
    if world.observed.served().is_some() && trial(&world.desired(), &world.observed).is_some() {
        change(world);
    }
}

fn if_credential(world: &mut World, change: Change) {
    if world.observed.credential().is_some() {
        change(world);
    }
}

fn if_target(world: &mut World, change: Change) {
    if world.observed.target().is_some() {
        change(world);
    }
}

fn with_token(world: &mut World, issued: i64, life: i64) {
    if world.observed.credential().is_some() {
        world.hold(world.token(issued, life));
    }
    if world.observed.target().is_some() {
        world.serve(world.token(issued, life));
    }
}

fn failures() -> impl Strategy<Value = (Reason, i64, u32, Option<i64>)> {
    let reasons = select(vec![
        Reason::AuthorizationRequired,
        Reason::WrongAccount,
        Reason::InvalidConfiguration,
        Reason::Throttled,
        Reason::ProviderUnavailable,
        Reason::StorageUnavailable,
    ]);
    (reasons, -10_i64..5000, 0_u32..40, proptest::option::of(-100_i64..4000))
}

pub(crate) fn worlds() -> impl Strategy<Value = World> {
    let begin: [fn() -> World; 4] = [World::fresh, World::fresh_app, World::delegated, World::app_only];
    let changes = proptest::collection::vec(select(CHANGES), 0..6);
    (
        select(begin.to_vec()),
        -5000_i64..5,
        1_i64..100_000,
        proptest::collection::vec(failures(), 0..3),
        changes,
    )
        .prop_map(|(begin, issued, life, failures, changes)| {
            let mut world = begin();
            with_token(&mut world, issued, life);
            for (reason, ago, count, retry_after) in failures {
                world.fail(reason, ago, count);
                if let Some(failure) = &mut world.observed.status.last_failure {
                    failure.retry_after = retry_after.map(|at| Time::from(after(at)));
                }
            }
            for change in changes {
                change(&mut world);
            }
            world
        })
}

/// What the operator does, where all goes well.
fn act(world: &mut World, act: &Act) {
    let desired = world.desired();
    match act {
        Act::Wait => unreachable!("there is nothing to do"),
        Act::Probe => world.tried(Verdict::Accepted, 0),
        Act::Publish => {
            let facts = at_hand(world).expect("there is a token to publish");
            world.serve(facts);
            world.observed.in_hand = None;
        }
        Act::Exchange(Exchange { source, .. }) => {
            world.observed.status.last_handled_request.clone_from(&world.observed.requested_at);
            world.observed.status.last_failure = None;
            world.observed.status.last_storage_failure = None;
            world.observed.status.consecutive_failures = 0;
            let token = TokenFacts { attempt: "new".into(), ..world.token(0, LIFE) };
            if *source == Source::Client {
                world.observed.in_hand = Some(token);
                return;
            }
            let mut seeds =
                world.observed.credential().map(|c| c.record.seed_digests.clone()).unwrap_or_default();
            if let SeedState::Found { digest } = &world.observed.seed {
                seeds.push(digest.clone());
            }
            world.hold(token);
            world.credential().record.seed_digests = seeds;
            // The provider answers for the account that is asked for.
            if let Some(account) = &desired.account {
                world.credential().record.account.as_mut().unwrap().object_id.clone_from(account);
            }
        }
    }
}

fn at_hand(world: &World) -> Option<TokenFacts> {
    let stored = world.observed.credential().and_then(|c| c.record.token.as_ref()).map(|t| &t.facts);
    let in_target = |o: &Observed| o.target()?.published.as_ref().map(|p| p.facts.clone());
    stored.or(world.observed.in_hand.as_ref()).cloned().or_else(|| in_target(&world.observed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_decision_is_the_same_each_time(world in worlds(), seconds in -10_i64..10_000) {
        prop_assert_eq!(world.plan_at(seconds), world.plan_at(seconds));
    }

    #[test]
    fn who_waits_looks_again_in_the_future_and_no_later_than_the_token_runs_out(world in worlds()) {
        let plan = world.plan();
        if plan.act == Act::Wait {
            prop_assert!(plan.look_at.is_none_or(|at| at > now()));
            prop_assert!(plan.next_exchange.is_none_or(|at| at > now()));
            prop_assert!(plan.next_exchange.is_none_or(|at| plan.look_at.is_some_and(|look| look <= at)));
            let expiry = world.observed.served().map(|t| t.expires_at).filter(|at| *at > now());
            prop_assert!(expiry.is_none_or(|at| plan.look_at.is_some_and(|look| look <= at)));
        } else {
            prop_assert_eq!(plan.problem, None);
        }
    }

    #[test]
    fn who_waits_acts_at_the_look_and_not_before(world in worlds()) {
        let plan = world.plan();
        if let (Act::Wait, Some(at)) = (&plan.act, plan.next_exchange) {
            let desired = world.desired();
            let just_before = at - jiff::SignedDuration::from_nanos(1);
            prop_assert!(!matches!(super::super::plan(&desired, &world.observed, just_before).act, Act::Exchange(_)));
            prop_assert!(matches!(super::super::plan(&desired, &world.observed, at).act, Act::Exchange(_)));
        }
    }

    #[test]
    fn what_may_not_be_sent_is_not_sent(world in worlds()) {
        let Act::Exchange(exchange) = world.act() else { return Ok(()) };
        let desired = world.desired();
        prop_assert!(!desired.suspend);
        prop_assert!(matches!(world.observed.target, TargetState::Absent | TargetState::Ours(_)));
        prop_assert!(world.observed.proof == crate::observed::ProofState::Usable);
        let record = world.observed.credential().map(|c| &c.record);
        match exchange.source {
            Source::Client => prop_assert!(!desired.grant.kind().is_delegated()),
            Source::Chain => {
                let client = record.unwrap().client.as_ref();
                prop_assert!(client.is_none_or(|c| c.client_id == desired.client.client_id));
                prop_assert!(client.is_none_or(|c| c.token_origin == desired.client.token_origin));
                prop_assert!(client.is_none_or(|c| c.token_url == desired.client.own_token_url));
            }
            Source::Seed => {
                let SeedState::Found { digest } = &world.observed.seed else {
                    return Err(TestCaseError::fail("there is no seed"));
                };
                prop_assert!(record.is_none_or(|r| !r.seed_digests.contains(digest)));
            }
            // `sign_in.rs` has these.
            Source::Login | Source::DeviceStart | Source::DevicePoll => {}
        }
    }

    #[test]
    fn what_is_published_is_unexpired_and_for_this_spec(world in worlds()) {
        if world.act() == Act::Publish {
            let token = at_hand(&world).unwrap();
            prop_assert!(token.expires_at > now());
            prop_assert_eq!(token.issued_for, world.desired().issued_for);
        }
    }

    #[test]
    fn what_is_tried_is_what_pods_have_and_good(world in worlds()) {
        if world.act() == Act::Probe {
            let token = world.observed.served().unwrap();
            prop_assert!(token.expires_at > now());
            prop_assert_eq!(&token.issued_for, &world.desired().issued_for);
            prop_assert!(!world.desired().suspend);
            prop_assert!(world.desired().probing.is_some());
        }
    }

    #[test]
    fn where_all_goes_well_an_exchange_and_a_write_are_enough(world in worlds()) {
        let mut world = world;
        let mut acts = Vec::new();
        loop {
            let next = plan(&world.desired(), &world.observed, now()).act;
            if next == Act::Wait {
                break;
            }
            act(&mut world, &next);
            acts.push(next);
            prop_assert!(acts.len() <= 4, "no end: {:?}", acts);
        }
        let exchanges = acts.iter().filter(|act| matches!(act, Act::Exchange(_))).count();
        prop_assert!(exchanges <= 1, "{:?}", acts);
    }
}
