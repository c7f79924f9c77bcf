use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::world::{AGE, LIFE, UID, World, after, exchange, now, unchanged};
use crate::api::{Reason, Time};
use crate::failure::NoAnswer;
use crate::observed::{TargetState, TokenFacts};
use crate::plan::probe::{awaits_replacement, due, trial};
use crate::plan::{Act, Exchange, Source, Why, jitter};
use crate::verdict::Verdict;

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const WEEK: i64 = 7 * 24 * HOUR;
/// Long enough that no refresh comes between.
const LONG: i64 = 4 * WEEK;

/// A converged world whose token lives on and on, and is tried.
fn tried() -> World {
    let world = World::delegated().with(World::verify);
    with_token(world, "first", -AGE)
}

/// The same with an app's.
fn tried_app() -> World {
    World::app_only().with(World::verify).with(|w| w.serve(w.token(-AGE, LONG)))
}

/// Another token was got so many seconds from now, and serves.
fn with_token(world: World, attempt: &str, issued: i64) -> World {
    world.with(|w| {
        let token = TokenFacts { attempt: attempt.into(), ..w.token(issued, LONG) };
        w.hold(token.clone());
        w.serve(token);
    })
}

/// The seconds from now at which the token is tried, if nothing else happens.
fn tried_at(world: &World) -> i64 {
    let (mut plan, mut at) = (world.plan(), now());
    while plan.act == Act::Wait {
        at = plan.look_at.unwrap();
        plan = crate::plan::plan(&world.desired(), &world.observed, at);
    }
    assert_eq!(plan.act, Act::Probe);
    at.duration_since(now()).as_secs()
}

#[rstest]
#[case::delegated(tried())]
#[case::app_only(tried_app())]
fn a_token_that_was_never_tried_is_tried_once_pods_have_it(#[case] world: World) {
    assert_eq!(world.act(), Act::Probe);
    assert!(world.plan().next_exchange.is_some(), "the exchange goes by its own time");
    assert_ne!(world.clone().with(|w| w.view().intact = false).act(), Act::Probe);
    assert_ne!(world.with(|w| w.observed.target = TargetState::Absent).act(), Act::Probe);
}

#[rstest]
#[case::off(|w: &mut World| w.spec["verify"] = json!({"interval": "0s"}))]
#[case::no_graph(|w: &mut World| w.spec["endpoints"] = json!({"token": "https://login.microsoftonline.com/x"}))]
#[case::suspended(|w: &mut World| w.spec["suspend"] = json!(true))]
#[case::for_another_spec(|w: &mut World| w.spec["scopes"] = json!(["Files.Read"]))]
#[case::run_out(|w: &mut World| { w.hold(w.token(-LIFE, LIFE)); w.serve(w.token(-LIFE, LIFE)); })]
#[case::about_to_run_out(|w: &mut World| { w.hold(w.token(59 - LIFE, LIFE)); w.serve(w.token(59 - LIFE, LIFE)); })]
#[case::not_the_newest(|w: &mut World| w.hold(w.token(-1, LIFE)))]
#[case::of_another_account(|w: &mut World| w.spec["account"] = json!("boss@contoso.com"))]
#[case::target_taken(|w: &mut World| w.observed.target = TargetState::Conflict("taken".into()))]
fn no_token_is_tried_that_pods_do_not_use_or_nobody_asks_about(#[case] change: fn(&mut World)) {
    let world = tried().with(change);
    assert_ne!(world.act(), Act::Probe);
}

#[rstest]
#[case::user(&["User.Read"], Some("/me?$select=id"))]
#[case::mail(&["Mail.ReadWrite"], Some("/me/mailFolders/inbox?$select=id"))]
#[case::files(&["Files.Read.All"], Some("/me/drive?$select=id"))]
#[case::uri(&["https://graph.microsoft.com/Mail.Read"], Some("/me/mailFolders/inbox?$select=id"))]
#[case::the_first_resource_counts(&["Files.Read", "mail.read", "User.Read"], Some("/me?$select=id"))]
#[case::other(&["openid", "Calendars.Read", "offline_access"], None)]
#[case::alike(&["Users.Read", "Mailbox.Read"], None)]
#[case::of_another_resource(&["https://outlook.office.com/Mail.Read", "api://x/User.Read"], None)]
#[case::none(&[], None)]
fn what_is_asked_for_depends_on_what_was_granted(#[case] granted: &[&str], #[case] path: Option<&str>) {
    let mut world = tried().with(|w| w.spec["verify"] = json!({}));
    world.credential().record.token.as_mut().unwrap().granted_scopes =
        granted.iter().map(|scope| (*scope).to_owned()).collect();
    let found = trial(&world.desired(), &world.observed);
    assert_eq!(found.as_ref().map(|trial| trial.path.as_str()), path);
    assert_eq!(world.act() == Act::Probe, path.is_some());
    if let (Some(trial), Some(path)) = (found, path) {
        assert_eq!(trial.url, format!("https://graph.microsoft.com/v1.0{path}"));
    }
}

#[rstest]
#[case::accepted(Verdict::Accepted)]
#[case::permission_missing(Verdict::PermissionMissing)]
#[case::failed(Verdict::Failed(404))]
fn after_a_verdict_it_is_tried_weekly_or_up_to_a_tenth_earlier(#[case] verdict: Verdict) {
    let world = tried().with(|w| w.tried(verdict, 0));
    let at = tried_at(&world);
    assert!((WEEK * 9 / 10..=WEEK).contains(&at), "{at}");
    let share = i64::from(jitter(UID, now()));
    assert!((at - (WEEK - WEEK * share / 10_000)).abs() <= 1, "by the hash");
}

#[rstest]
#[case::just_before(WEEK * 9 / 10 - 1, false)]
#[case::from_then_on(WEEK * 9 / 10, true)]
fn a_new_token_in_the_last_tenth_of_the_interval_is_tried_at_once(
    #[case] issued: i64,
    #[case] at_once: bool,
) {
    let world = with_token(tried().with(|w| w.tried(Verdict::Accepted, 0)), "second", issued);
    assert_eq!(world.plan_at(issued).act == Act::Probe, at_once);
}

#[test]
fn a_clock_that_was_set_back_is_no_reason_to_wait() {
    assert_eq!(tried().with(|w| w.tried(Verdict::Accepted, -61)).act(), Act::Probe);
    assert_eq!(tried().with(|w| w.tried(Verdict::Accepted, -60)).act(), Act::Wait);
}

#[rstest]
#[case::unwell(Verdict::Unwell(502), 1, MINUTE)]
#[case::unwell_again(Verdict::Unwell(502), 2, 2 * MINUTE)]
#[case::network(Verdict::Unanswered(NoAnswer::Connect), 4, 8 * MINUTE)]
#[case::for_long(Verdict::Unanswered(NoAnswer::Timeout), 7, HOUR)]
#[case::for_ever(Verdict::Unwell(500), 40, HOUR)]
#[case::throttled(Verdict::Throttled(None), 1, MINUTE)]
#[case::throttled_again(Verdict::Throttled(None), 3, 4 * MINUTE)]
#[case::a_pause(Verdict::Throttled(Some(Duration::from_millis(1500))), 1, 2)]
#[case::a_pause_of_an_hour(Verdict::Throttled(Some(Duration::from_hours(1))), 1, HOUR)]
#[case::a_short_pause_again_and_again(Verdict::Throttled(Some(Duration::from_millis(1500))), 6, 32)]
#[case::no_pause_is_longer(Verdict::Throttled(Some(Duration::from_secs(1))), 40, HOUR)]
fn a_trial_that_told_nothing_is_made_again_with_back_off(
    #[case] verdict: Verdict,
    #[case] times: u32,
    #[case] wait: i64,
) {
    let world = (0..times).fold(tried(), |world, _| world.with(|w| w.tried(verdict, 0)));
    assert_eq!(tried_at(&world), wait);
    let last = world.observed.status.last_probe.clone().unwrap();
    assert_eq!(last.inconclusive, times);
    let told = world.with(|w| w.tried(Verdict::Accepted, 0));
    assert_eq!(told.observed.status.last_probe.unwrap().inconclusive, 0);
}

fn handled(world: &mut World) {
    world.observed.status.last_handled_request = Some("a new value".into());
}

#[rstest]
#[case::accepted(Verdict::Accepted, 0)]
#[case::failed(Verdict::Failed(404), 0)]
#[case::unwell(Verdict::Unwell(502), 0)]
#[case::throttled(Verdict::Throttled(Some(Duration::from_secs(90))), 90)]
fn a_request_and_another_path_pass_over_all_but_throttling(
    #[case] verdict: Verdict,
    #[case] wait: i64,
    #[values(handled, |w: &mut World| w.spec["verify"]["path"] = json!("/me/drive"))] asks: fn(&mut World),
) {
    let world = tried().with(|w| w.tried(verdict, 0));
    assert_eq!(world.act(), Act::Wait);
    let asked = world.with(asks);
    assert_eq!(tried_at(&asked), wait);
    assert_eq!(asked.with(|w| w.tried(Verdict::Accepted, 0)).act(), Act::Wait, "once");
}

/// Who writes `GraphToken`s may name an allowed host there; a token that was got before is none of its business.
#[rstest]
#[case::delegated(tried(), Source::Chain)]
#[case::app_only(tried_app(), Source::Client)]
fn a_token_is_never_presented_to_a_graph_that_it_was_not_got_for(
    #[case] world: World,
    #[case] source: Source,
) {
    let elsewhere = world.with(|w| w.spec["endpoints"] = json!({"graph": "https://idp.test"}));
    assert!(matches!(elsewhere.act(), Act::Exchange(exchange) if exchange.source == source));
    let suspended = elsewhere.with(|w| w.spec["suspend"] = json!(true));
    assert_eq!(suspended.act(), Act::Wait, "nor while nothing else may be got");
}

#[test]
fn a_request_that_failed_has_no_token_to_try() {
    let world = tried().with(|w| w.tried(Verdict::Accepted, 0)).with(handled);
    let failed = world.clone().with(|w| w.fail(Reason::AuthorizationRequired, 0, 1));
    assert_eq!(failed.act(), Act::Wait);
    assert_eq!(world.act(), Act::Probe);
}

#[rstest]
#[case::delegated(tried(), Source::Chain)]
#[case::app_only(tried_app(), Source::Client)]
fn a_refused_token_is_replaced_once(#[case] world: World, #[case] source: Source) {
    let refused = world.with(|w| w.tried(Verdict::Rejected, 0));
    assert_eq!(refused.act(), exchange(Why::Rejected, source));
    // By the same gates as any other exchange.
    let gated = refused.clone().with(|w| w.fail(Reason::Throttled, 0, 1));
    assert_eq!((gated.act(), gated.plan().next_exchange), (Act::Wait, Some(after(5))));
    assert_eq!(refused.clone().with(|w| w.spec["suspend"] = json!(true)).act(), Act::Wait);
    assert_eq!(refused.clone().with(|w| w.spec["verify"]["interval"] = json!("0s")).act(), Act::Wait);
    if source == Source::Client {
        return;
    }
    let replaced = with_token(refused, "second", 1);
    assert_eq!(replaced.plan_at(2).act, Act::Probe, "what was got in its place is tried at once");
    let accepted = replaced.clone().with(|w| w.tried(Verdict::Accepted, -2));
    assert_eq!(accepted.plan_at(2).act, Act::Wait);
    let refused_too = replaced.with(|w| w.tried(Verdict::Rejected, -2));
    assert_eq!(tried_at(&refused_too), 2 + HOUR, "and not replaced");
    let another = with_token(refused_too, "third", 3);
    assert_eq!(tried_at(&another), 2 + HOUR);
    let still = another.with(|w| w.tried(Verdict::Rejected, 0));
    assert_eq!(tried_at(&still), HOUR);
    let healed = with_token(still.with(|w| w.tried(Verdict::Accepted, 0)), "fourth", 0);
    let refused_again = healed.with(|w| w.tried(Verdict::Rejected, 0));
    assert_eq!(refused_again.plan_at(1).act, exchange(Why::Rejected, Source::Chain));
}

#[rstest]
#[case::unwell(Verdict::Unwell(502), MINUTE)]
#[case::throttled(Verdict::Throttled(None), MINUTE)]
fn a_replacement_of_which_nothing_was_told_is_not_replaced(#[case] verdict: Verdict, #[case] wait: i64) {
    let world = with_token(tried().with(|w| w.tried(Verdict::Rejected, 0)), "second", 1);
    let untold = world.with(|w| w.tried(verdict, 0));
    assert_eq!(tried_at(&untold), wait);
    let refused = untold.with(|w| w.tried(Verdict::Rejected, 0));
    assert!(!awaits_replacement(refused.observed.status.last_probe.as_ref().unwrap()));
    assert_eq!(tried_at(&refused), HOUR);
}

#[test]
fn a_short_interval_is_kept_after_a_refusal_too() {
    let world = tried().with(|w| w.spec["verify"]["interval"] = json!("5m"));
    let world = with_token(world.with(|w| w.tried(Verdict::Rejected, 0)), "second", 1);
    assert_eq!(tried_at(&world.with(|w| w.tried(Verdict::Rejected, 0))), 5 * MINUTE);
}

#[rstest]
#[case(unchanged)]
#[case(|w: &mut World| w.spec["verify"]["interval"] = json!("1ns"))]
fn nothing_is_tried_more_often_than_once_a_minute(#[case] change: fn(&mut World)) {
    let world = tried().with(change).with(|w| w.tried(Verdict::Accepted, 0));
    assert!(tried_at(&world) >= MINUTE * 9 / 10);
}

#[test]
fn the_end_of_a_pause_is_stored_in_whole_seconds_and_not_cut() {
    let world = tried().with(|w| w.tried(Verdict::Throttled(Some(Duration::from_millis(1500))), 0));
    let last = world.observed.status.last_probe.unwrap();
    assert_eq!(last.retry_after, Some(Time::from(after(2))));
}

/// What may come between two trials.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Says(Verdict),
    Refresh,
    Passes(i64),
    Request,
}

fn happenings() -> impl Strategy<Value = Happens> {
    let verdicts = [
        Verdict::Accepted,
        Verdict::Rejected,
        Verdict::Rejected,
        Verdict::PermissionMissing,
        Verdict::Failed(400),
        Verdict::Throttled(Some(Duration::from_secs(30))),
        Verdict::Unwell(503),
    ];
    prop_oneof![
        6 => proptest::sample::select(verdicts.to_vec()).prop_map(Happens::Says),
        1 => Just(Happens::Refresh),
        2 => (1_i64..2 * HOUR).prop_map(Happens::Passes),
        1 => Just(Happens::Request),
    ]
}

proptest! {
    #[test]
    fn no_two_tokens_are_replaced_without_one_that_was_accepted_or_a_request_between(
        happenings in proptest::collection::vec(happenings(), 1..60),
    ) {
        let (mut world, mut seconds, mut budget, mut tokens) = (tried(), 0, true, 0);
        for happens in happenings {
            let mut get = |world: &mut World, seconds: i64| {
                tokens += 1;
                *world = with_token(world.clone(), &format!("token {tokens}"), seconds);
                let status = &mut world.observed.status;
                status.last_handled_request.clone_from(&world.observed.requested_at);
            };
            match happens {
                Happens::Says(verdict) => {
                    if world.plan_at(seconds).act != Act::Probe {
                        continue;
                    }
                    world.tried(verdict, -seconds);
                    budget |= verdict.reason() == Reason::Accepted;
                }
                Happens::Refresh => get(&mut world, seconds),
                Happens::Passes(time) => seconds += time,
                Happens::Request => {
                    world.observed.requested_at = Some(format!("at {seconds}"));
                    budget = true;
                }
            }
            while let Act::Exchange(Exchange { why, .. }) = world.plan_at(seconds).act {
                // A restart decides the same: nothing but the status and the Secrets is asked.
                prop_assert_eq!(world.clone().plan_at(seconds), world.plan_at(seconds));
                if why == Why::Rejected {
                    prop_assert!(budget, "a second one");
                    budget = false;
                }
                get(&mut world, seconds);
                seconds += 1;
            }
            prop_assert!(world.observed.status.last_failure.is_none());
        }
    }
}

#[test]
fn the_trials_of_many_are_spread() {
    let at = |n| {
        let world = tried().with(|w| w.tried(Verdict::Accepted, 0));
        let world = world.with(|w| w.observed.identity.uid = format!("uid-{n}"));
        due(&world.desired(), &world.observed, now()).unwrap()
    };
    let times: BTreeSet<Timestamp> = (0..100).map(at).collect();
    assert!(times.len() > 90, "only {} different times", times.len());
    let spread = times.last().unwrap().duration_since(*times.first().unwrap());
    assert!(spread > SignedDuration::from_secs(WEEK * 8 / 100), "they are within {spread:?}");
}
