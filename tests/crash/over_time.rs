//! What takes hours: an outage of the provider, clocks that are set, a day of operation. The time is made up; nobody waits.

use std::sync::Arc;
use std::time::Duration;

use graphtoken::api::{ConditionStatus, ConditionType, Reason};
use jiff::{SignedDuration, Timestamp};
use rstest::rstest;
use serde_json::json;

use crate::idp::{Reach, Rotation};
use crate::objects::Kind;
use crate::process::{End, live};
use crate::scenario;
use crate::state::State;
use crate::world::World;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

fn world(begin: fn(&mut State)) -> (Arc<World>, Timestamp) {
    let world = World::new(Rotation::Strict, None, false);
    begin(&mut world.lock());
    world.then(&[]);
    let start = world.now();
    (world, start)
}

/// The reasons of Ready, each with the seconds since the start at which it came up.
fn ready(state: &State, start: Timestamp) -> Vec<(i64, Reason)> {
    let said = state.statuses.iter().filter_map(|(at, status)| {
        let ready = status.condition(ConditionType::Ready)?;
        assert_eq!(ready.status == ConditionStatus::True, ready.reason == Reason::TokenValid);
        Some((at.duration_since(start).as_secs(), ready.reason.known()?))
    });
    let mut said: Vec<_> = said.collect();
    said.dedup_by_key(|(_, reason)| *reason);
    said
}

/// The longest time for which pods had no token that the provider would take.
fn longest_gap(state: &State) -> SignedDuration {
    let ends = state.served.iter().map(|(since, _)| *since).skip(1).chain([state.now]);
    let gaps = state.served.iter().zip(ends).map(|((since, token), until)| {
        let expiry = token.as_deref().and_then(|token| state.idp.expiry(token));
        until.duration_since(expiry.unwrap_or(*since))
    });
    gaps.max().unwrap_or_default()
}

/// The most reconciles that fell into one minute. One that takes what came of a request counts with the one that started it.
fn busiest_minute(state: &State) -> usize {
    let within = |all: &[Timestamp], from: Timestamp| {
        all.iter().filter(|at| **at >= from && **at < from + MINUTE).count()
    };
    let busy = |from: &Timestamp| within(&state.looks, *from).saturating_sub(within(&state.results, *from));
    state.looks.iter().map(busy).max().unwrap_or_default()
}

fn twenty_minutes_before(state: &mut State) {
    scenario::delegated(state);
    state.objects.edit(Kind::GraphToken, "mail", |object| {
        object["spec"]["refresh"] = json!({"renewBefore": "20m"});
    });
}

#[rstest]
#[case::connections_break(|w: &World| w.lock().idp.reach = Reach::Broken, Duration::ZERO)]
// The answer that is waited for holds everything up, for the length of its deadline.
#[case::nothing_answers(|w: &World| w.lock().idp.reach = Reach::Silent, Duration::from_secs(15))]
fn a_provider_that_is_cut_off_for_half_an_hour(#[case] cut_off: fn(&World), #[case] late: Duration) {
    let (world, start) = world(twenty_minutes_before);
    world.at(35 * MINUTE, cut_off);
    world.at(65 * MINUTE, |w| w.lock().idp.reach = Reach::Up);
    world.at(75 * MINUTE, |_| {});
    assert_eq!(live(&world, "the-only"), End::Settled);

    let state = world.lock();
    let late = i64::try_from(late.as_secs()).expect("seconds");
    let [(0, Reason::TokenValid), (expired, Reason::TokenExpired), (back, Reason::TokenValid)] =
        ready(&state, start)[..]
    else {
        panic!("{:?}", ready(&state, start))
    };
    assert!((3_600..=3_601 + late).contains(&expired), "it is told {expired} s after the start");
    assert!((3_900..=3_925 + late).contains(&back), "it is back {back} s after the start");
    assert!(state.idp.attempts.len() <= 90, "{} attempts", state.idp.attempts.len());
    assert_eq!(state.idp.journal.len(), 2);
}

#[rstest]
#[case::ahead(&[(10, 3_600)])]
#[case::ahead_just_before_a_refresh(&[(26, 3_600)])]
#[case::back(&[(10, -3_600)])]
#[case::back_just_before_a_refresh(&[(26, -3_600)])]
#[case::ahead_and_back(&[(10, 3_600), (40, 0)])]
#[case::back_and_ahead(&[(10, -3_600), (40, 0)])]
#[case::to_and_fro(&[(1, 3_600), (2, 0), (3, -3_600), (4, 0), (5, 3_600), (6, -3_600)])]
fn pods_have_a_token_though_the_operators_clock_is_set_by_an_hour(#[case] settings: &[(u32, i64)]) {
    let (world, _) = world(scenario::delegated);
    for (minutes, skew) in settings.iter().copied() {
        world.at(minutes * MINUTE, move |w| w.set_skew(skew));
    }
    world.at(6 * HOUR, |_| {});
    assert_eq!(live(&world, "the-only"), End::Settled);

    let state = world.lock();
    assert!(longest_gap(&state).is_negative(), "a gap of {:?}", longest_gap(&state));
    assert!(state.idp.attempts.len() <= 14 + settings.len(), "{} exchanges", state.idp.attempts.len());
    assert!(busiest_minute(&state) <= 3, "{} reconciles in a minute", busiest_minute(&state));
}

/// As after a machine was suspended: the wall clock has moved on, and the timers have not.
#[rstest]
#[case::refresh_token(scenario::delegated)]
#[case::client_credentials(scenario::app_only)]
fn time_that_passes_while_timers_stand_still_is_noticed_within_30_s(#[case] begin: fn(&mut State)) {
    const ASLEEP: Duration = Duration::from_hours(2);
    let (world, start) = world(begin);
    world.at(10 * MINUTE, |w| w.pass(ASLEEP));
    // Time moves on from one event to the next.
    for second in 1..=60 {
        world.at(10 * MINUTE + ASLEEP + Duration::from_secs(second), |_| {});
    }
    assert_eq!(live(&world, "the-only"), End::Settled);

    let state = world.lock();
    let issued: Vec<_> = state.idp.journal.iter().map(|e| e.at.duration_since(start).as_secs()).collect();
    let awake = i64::try_from((10 * MINUTE + ASLEEP).as_secs()).expect("seconds");
    assert!(matches!(issued[..], [0, again] if (awake..=awake + 30).contains(&again)), "{issued:?}, {awake}");
}

#[rstest]
#[case::ahead(3_600)]
#[case::back(-3_600)]
fn a_clock_that_is_set_during_an_outage_does_not_prolong_it(#[case] skew: i64) {
    let (world, start) = world(twenty_minutes_before);
    world.at(35 * MINUTE, |w| w.lock().idp.reach = Reach::Broken);
    world.at(50 * MINUTE, move |w| w.set_skew(skew));
    world.at(65 * MINUTE, |w| w.lock().idp.reach = Reach::Up);
    world.at(75 * MINUTE, |_| {});
    assert_eq!(live(&world, "the-only"), End::Settled);

    let state = world.lock();
    let back = state.idp.journal.last().map(|e| e.at.duration_since(start).as_secs());
    assert!(
        back.is_some_and(|back| (3_900..=3_930).contains(&back)),
        "it is back {back:?} s after the start"
    );
    assert!(state.idp.attempts.len() <= 90, "{} attempts", state.idp.attempts.len());
    assert!(busiest_minute(&state) <= 12, "{} reconciles in a minute", busiest_minute(&state));
}

#[rstest]
#[case::refresh_token(
    scenario::delegated,
    4,
    scenario::REFRESH_TOKEN_FIRST_ISSUE,
    scenario::REFRESH_TOKEN_ROUTINE
)]
#[case::client_credentials(
    scenario::app_only,
    2,
    scenario::CLIENT_CREDENTIALS_FIRST_ISSUE,
    scenario::CLIENT_CREDENTIALS_ROUTINE
)]
fn a_day_of_operation_costs_what_its_refreshes_cost(
    #[case] begin: fn(&mut State),
    #[case] writes: usize,
    #[case] first: scenario::Scenario,
    #[case] routine: scenario::Scenario,
) {
    let (world, _) = world(begin);
    world.at(24 * HOUR, |_| {});
    assert_eq!(live(&world, "the-only"), End::Settled);

    let state = world.lock();
    let exchanges = state.idp.journal.len();
    // A life of an hour, half of it or up to a tenth of that less.
    assert!((48..=54).contains(&exchanges), "{exchanges} exchanges");
    assert!(longest_gap(&state).is_negative());
    assert_eq!(state.writes, writes * exchanges);
    assert_eq!(state.tape.calls.len(), first.calls.len() + routine.calls.len() * (exchanges - 1));
    assert!(busiest_minute(&state) <= 3);
}

#[test]
fn a_week_of_trials_costs_one_request_more_than_a_week_without() {
    let (world, start) = world(scenario::probed);
    world.lock().patience = 1000;
    world.at(8 * 24 * HOUR, |_| {});
    assert_eq!(live(&world, "the-only"), End::Settled);

    let state = world.lock();
    let days: Vec<i64> =
        state.idp.trials.iter().map(|(at, ..)| at.duration_since(start).as_hours() / 24).collect();
    assert!(matches!(days[..], [0, 6 | 7]), "{days:?}");
    let exchanges = state.idp.journal.len();
    assert_eq!(state.writes, 4 * exchanges, "one write tells of a refresh and of its trial");
    let (first, routine) = (scenario::REFRESH_TOKEN_FIRST_ISSUE.calls, scenario::REFRESH_TOKEN_ROUTINE.calls);
    assert_eq!(state.tape.calls.len(), first.len() + routine.len() * (exchanges - 1) + 2);
    assert!(longest_gap(&state).is_negative());
}

/// The exchanges that come of refusals: those that no refresh was due for.
fn replacements(state: &State) -> usize {
    let at: Vec<Timestamp> = state.idp.journal.iter().map(|exchange| exchange.at).collect();
    at.windows(2).filter(|pair| pair[1].duration_since(pair[0]) < SignedDuration::from_mins(27)).count()
}

#[rstest]
#[case::delegated(scenario::probed)]
#[case::app_only(scenario::probed_app)]
fn tokens_that_are_refused_for_hours_are_replaced_once(#[case] begin: fn(&mut State)) {
    let (world, _) = world(begin);
    world.at(10 * MINUTE, |w| {
        let mut state = w.lock();
        state.idp.refuses = true;
        scenario::refuse_and_ask(&mut state);
    });
    world.at(6 * HOUR, |w| w.lock().idp.refuses = false);
    world.at(8 * HOUR, |_| {});
    assert_eq!(live(&world, "the-only"), End::Settled);

    let state = world.lock();
    assert_eq!(replacements(&state), 1);
    // The first, the two refusals, one each hour, and the first that was accepted again.
    let refusals = state.idp.trials.iter().filter(|(_, _, status)| *status == 401).count();
    assert!((6..=8).contains(&refusals), "{refusals} refusals");
    assert_eq!(state.idp.trials.len(), 2 + refusals);
    let reasons = |type_| {
        let said =
            state.statuses.iter().filter_map(move |(_, s)| s.condition(type_).and_then(|c| c.reason.known()));
        let mut said: Vec<Reason> = said.collect();
        said.dedup();
        said
    };
    assert_eq!(
        reasons(ConditionType::Verified),
        [Reason::Accepted, Reason::TokenRejected, Reason::Accepted],
        "the first refusal alone is not told"
    );
    assert_eq!(reasons(ConditionType::Ready), [Reason::TokenValid]);
    assert!(busiest_minute(&state) <= 4, "{} reconciles in a minute", busiest_minute(&state));
}
