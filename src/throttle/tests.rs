use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::Time;
use crate::plan::tests::world::{LIFE, World, after, now};
use crate::plan::{Act, plan};

fn failure(reason: Reason, client: Option<&str>, ago: i64, retry_after: Option<i64>) -> LastFailure {
    let failure = json!({"time": Time::from(after(-ago)), "reason": reason, "message": "it failed"});
    let mut failure: LastFailure = serde_json::from_value(failure).unwrap();
    failure.throttles = client.map(str::to_owned);
    failure.retry_after = retry_after.map(|at| Time::from(after(at)));
    failure
}

fn throttled(client: &str, ago: i64, retry_after: i64) -> LastFailure {
    failure(Reason::Throttled, Some(client), ago, Some(retry_after))
}

#[test]
fn the_silence_that_ends_last_is_the_one_that_counts() {
    let failures = [throttled("a", 5, 25), throttled("a", 20, 40), throttled("b", 0, 90)];
    let expected = Silence { asked_at: after(-20), until: after(40) };
    assert_eq!(silence(&failures, "a", now()), Some(expected));
    assert_eq!(silence(&failures, "c", now()), None, "another client");
}

#[rstest]
#[case::over(throttled("a", 60, -30))]
#[case::another_failure(failure(Reason::ProviderUnavailable, Some("a"), 5, Some(25)))]
#[case::of_no_client(failure(Reason::Throttled, None, 5, Some(25)))]
#[case::without_an_end(failure(Reason::Throttled, Some("a"), 5, None))]
#[case::noted_by_a_clock_that_was_set_back_since(throttled("a", -3600, 7200))]
fn what_silences_nobody(#[case] failure: LastFailure) {
    assert_eq!(silence([&failure], "a", now()), None);
    let throttle = Throttle::default();
    throttle.note(&failure, now());
    assert!(throttle.lock().is_empty());
}

#[rstest]
#[case::whole("2026-11-23T10:00:00Z", 30, "2026-11-23T10:00:30Z")]
#[case::rounded_up("2026-11-23T10:00:00.25Z", 30, "2026-11-23T10:00:31Z")]
fn a_silence_ends_with_a_whole_second(#[case] asked_at: &str, #[case] seconds: u64, #[case] until: &str) {
    let silence = Silence::new(asked_at.parse().unwrap(), Duration::from_secs(seconds));
    assert_eq!(silence.until.to_string(), until);
}

#[test]
fn a_silence_that_was_noted_before_the_clock_was_set_back_gives_way() {
    let throttle = Throttle::default();
    let client = World::fresh().desired().client;
    let of = key(&client);
    throttle.note(&throttled(&of, -3600, 7200), after(3600));
    assert_eq!(throttle.silence(&client, now()), None);
    throttle.note(&throttled(&of, 0, 30), now());
    assert_eq!(throttle.silence(&client, now()).map(|s| s.until), Some(after(30)));
}

fn failures() -> impl Strategy<Value = Vec<LastFailure>> {
    let of = World::fresh().desired().client;
    let clients = proptest::sample::select(vec![Some(key(&of)), Some("another".to_owned()), None]);
    let reasons =
        proptest::sample::select(vec![Reason::Throttled, Reason::Throttled, Reason::InvalidConfiguration]);
    let parts = (reasons, clients, -120_i64..600, proptest::option::of(-100_i64..3600));
    let any = parts.prop_map(|(reason, of, ago, end)| failure(reason, of.as_deref(), ago, end));
    proptest::collection::vec(any, 0..12)
}

proptest! {
    #[test]
    fn what_is_kept_up_is_the_fold(failures in failures(), later in 0_i64..4000) {
        let client = World::fresh().desired().client;
        let throttle = Throttle::default();
        for failure in &failures {
            throttle.note(failure, now());
        }
        let counted: Vec<_> = failures.iter().filter(|f| !is_ahead(f.time.into(), now())).collect();
        let fold = silence(counted, &key(&client), after(later));
        prop_assert_eq!(throttle.silence(&client, after(later)), fold);
    }

    #[test]
    fn the_order_in_which_failures_are_noted_does_not_matter(failures in failures()) {
        let client = World::fresh().desired().client;
        let (one, other) = (Throttle::default(), Throttle::default());
        for (failure, reversed) in failures.iter().zip(failures.iter().rev()) {
            one.note(failure, now());
            other.note(reversed, now());
        }
        prop_assert_eq!(one.silence(&client, now()), other.silence(&client, now()));
    }
}

// === What the plan makes of it ===

fn silent(world: &mut World, ago: i64, until: i64) {
    world.observed.silence = Some(Silence { asked_at: after(-ago), until: after(until) });
}

fn due() -> World {
    World::delegated().with(|w| {
        w.hold(w.token(-LIFE + 60, LIFE));
        w.serve(w.token(-LIFE + 60, LIFE));
    })
}

#[rstest]
#[case::due(due())]
#[case::without_a_token(World::fresh())]
#[case::an_app(World::fresh_app())]
#[case::asked_for(World::delegated().with(World::request))]
#[case::with_a_new_seed(World::delegated().with(World::new_seed))]
#[case::failing_otherwise(due().with(|w| w.fail(Reason::ProviderUnavailable, 100, 3)))]
fn nobody_on_a_silent_client_sends_and_who_is_due_says_so(#[case] mut world: World) {
    silent(&mut world, 10, 30);
    let plan = world.plan();
    assert_eq!(plan.act, Act::Wait);
    let problem = plan.problem.unwrap();
    assert_eq!(problem.reason, Reason::Throttled);
    assert!(problem.message.contains("until 2026-11-23T10:00:30Z"), "{}", problem.message);
    let begins = plan.next_exchange.unwrap();
    assert!(begins >= after(30) && begins <= after(34), "{begins}");
    let again = super::super::plan::plan(&world.desired(), &world.observed, begins);
    assert!(matches!(again.act, Act::Exchange(_)), "{again:?}");
}

#[test]
fn who_is_not_due_says_nothing_until_it_is() {
    let mut world = World::delegated();
    let at = world.plan().next_exchange.unwrap();
    let seconds = at.duration_since(now()).as_secs();
    world.observed.silence = Some(Silence { asked_at: now(), until: after(seconds + 100) });
    let early = world.plan();
    assert_eq!((early.problem, early.look_at), (None, Some(at)));
    let held = plan(&world.desired(), &world.observed, at);
    assert_eq!(held.problem.and_then(|problem| problem.reason.known()), Some(Reason::Throttled));
    assert_eq!(held.look_at, held.next_exchange);
    // A silence that ends before it is due is none of its business.
    let mut world = World::delegated();
    silent(&mut world, 10, 30);
    assert_eq!((world.plan().look_at, world.plan().problem), (Some(at), None));
}

#[test]
fn who_was_told_begins_first_and_the_others_follow_one_by_one() {
    let mut told = due().with(|w| w.fail(Reason::Throttled, 300, 1));
    let of = key(&told.desired().client);
    let failure = told.observed.status.last_failure.as_mut().unwrap();
    failure.throttles = Some(of);
    failure.retry_after = Some(Time::from(after(0)));
    silent(&mut told, 300, 0);
    assert!(matches!(told.act(), Act::Exchange(_)));
    let begins: std::collections::BTreeSet<_> = (0..50)
        .map(|n| {
            let mut world = World::fresh();
            world.observed.identity.uid = format!("uid-{n}");
            silent(&mut world, 300, 0);
            world.plan().next_exchange.unwrap()
        })
        .collect();
    assert!(begins.len() > 40, "{begins:?}");
    assert!(begins.iter().all(|at| (after(0)..=after(30)).contains(at)), "{begins:?}");
}

#[test]
fn what_was_said_to_the_former_client_holds_up_the_new_one_no_more() {
    let mut world = World::fresh().with(|w| w.fail(Reason::Throttled, 1, 1));
    let of = key(&world.desired().client);
    let failure = world.observed.status.last_failure.as_mut().unwrap();
    failure.throttles = Some(of);
    failure.retry_after = Some(Time::from(after(600)));
    assert_eq!(world.act(), Act::Wait);
    world.spec["clientId"] = json!("another");
    assert!(matches!(world.act(), Act::Exchange(_)));
}
