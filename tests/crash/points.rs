//! The table: what becomes of a sign-in when the operator is killed, or a call fails, at each single call.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use graphtoken::api::{ConditionStatus, ConditionType, Reason, Time};
use rstest::rstest;

use crate::idp::Rotation;
use crate::process::{End, live};
use crate::scenario::{self, CREDENTIAL, POLL, Scenario};
use crate::side_by_side::side_by_side;
use crate::state::State;
use crate::tape::{Moment, Point};
use crate::world::World;

const DEATHS: [Moment; 3] = [Moment::Before, Moment::Done, Moment::After];
const FAULTS: [Moment; 2] = [Moment::Refused, Moment::AnswerLost];
const LEASE: Duration = Duration::from_secs(30);

/// In which world a scenario takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    rotation: Rotation,
    /// With leader election, what another process left behind is believed to be stale only after a while.
    election: Option<Duration>,
    /// The watches of a new process show what the old one saw last.
    lagging: bool,
}

impl Variant {
    fn all() -> impl Iterator<Item = Self> {
        let worlds = [(None, false), (Some(LEASE), false), (Some(LEASE), true)];
        let rotations = [Rotation::Lenient, Rotation::Strict].into_iter();
        rotations
            .flat_map(move |rotation| worlds.map(|(election, lagging)| Self { rotation, election, lagging }))
    }

    fn moments(self) -> impl Iterator<Item = Moment> + Clone {
        // No process dies of a fault, so that it makes no difference what a new one sees.
        let faults = FAULTS.into_iter().filter(move |_| self.election.is_some() && !self.lagging);
        DEATHS.into_iter().chain(faults)
    }
}

#[rstest]
#[case::refresh_token_first_issue(scenario::REFRESH_TOKEN_FIRST_ISSUE)]
#[case::refresh_token_routine(scenario::REFRESH_TOKEN_ROUTINE)]
#[case::refresh_token_new_seed(scenario::REFRESH_TOKEN_NEW_SEED)]
#[case::refresh_token_target_deleted(scenario::REFRESH_TOKEN_TARGET_DELETED)]
#[case::refresh_token_other_keys(scenario::REFRESH_TOKEN_OTHER_KEYS)]
#[case::refresh_token_other_target(scenario::REFRESH_TOKEN_OTHER_TARGET)]
#[case::refresh_token_other_scopes(scenario::REFRESH_TOKEN_OTHER_SCOPES)]
#[case::refresh_token_created_again(scenario::REFRESH_TOKEN_CREATED_AGAIN)]
#[case::refresh_token_login(scenario::REFRESH_TOKEN_LOGIN)]
#[case::device_code_first_issue(scenario::DEVICE_CODE_FIRST_ISSUE)]
#[case::probe_first_issue(scenario::PROBE_FIRST_ISSUE)]
#[case::probe_routine(scenario::PROBE_ROUTINE)]
#[case::probe_refused(scenario::PROBE_REFUSED)]
#[case::restart_routine(scenario::RESTART_ROUTINE)]
#[case::restart_app(scenario::RESTART_APP)]
#[case::client_credentials_first_issue(scenario::CLIENT_CREDENTIALS_FIRST_ISSUE)]
#[case::client_credentials_routine(scenario::CLIENT_CREDENTIALS_ROUTINE)]
#[case::client_credentials_target_deleted(scenario::CLIENT_CREDENTIALS_TARGET_DELETED)]
#[case::certificate_first_issue(scenario::CERTIFICATE_FIRST_ISSUE)]
#[case::certificate_delegated(scenario::CERTIFICATE_DELEGATED)]
#[case::workload_identity_first_issue(scenario::WORKLOAD_IDENTITY_FIRST_ISSUE)]
#[case::workload_identity_delegated(scenario::WORKLOAD_IDENTITY_DELEGATED)]
fn a_sign_in_is_lost_only_where_nobody_could_have_kept_it(#[case] scenario: Scenario) {
    let mut points = 0;
    for variant in Variant::all() {
        let base = begin(scenario, variant);
        assert_eq!(live(&base, "the-only"), End::Settled);
        let calls = base.lock().tape.calls.clone();
        if !variant.lagging {
            assert_eq!(calls, scenario.calls, "{variant:?}: what is called has changed");
        }
        let exchanges = base.lock().idp.journal.len();
        let moments = variant.moments();
        let all = (0..calls.len()).flat_map(|call| moments.clone().map(move |moment| (call, moment)));
        let all: Vec<Point> = all.collect();
        points += all.len();
        let lost = side_by_side(&all, |point| {
            stopped(scenario, variant, *point, &calls, exchanges).then_some(*point)
        });
        let lost: BTreeSet<_> =
            lost.into_iter().flatten().map(|(call, moment)| (call, format!("{moment:?}"))).collect();
        assert_eq!(lost, to_be_lost(&calls, variant), "{variant:?} {calls:#?}");
    }
    tell(points);
}

#[expect(clippy::print_stdout, reason = "how many there are is worth knowing")]
fn tell(points: usize) {
    println!("{points} points");
}

fn begin(scenario: Scenario, variant: Variant) -> Arc<World> {
    let world = World::new(variant.rotation, variant.election, variant.lagging);
    (scenario.begin)(&mut world.lock());
    world.then(scenario.steps);
    world
}

/// Where a strict provider's sign-in cannot be kept: from the moment when the old token is spent until the new one is stored.
fn to_be_lost(calls: &[String], variant: Variant) -> BTreeSet<(usize, String)> {
    let mut lost = BTreeSet::new();
    // A device code is good for one token wherever it comes from.
    let single_use = |call: &String| {
        call == POLL || (call == "POST token refresh_token" && variant.rotation == Rotation::Strict)
    };
    let Some(exchange) = calls.iter().rposition(single_use) else { return lost };
    assert!(calls[exchange + 1].ends_with("(commit)"), "nothing comes between an answer and its commit");
    // Its answer never arrived, or the process was killed with it.
    let unanswered = [Moment::Done, Moment::After, Moment::AnswerLost].into_iter().map(|m| (exchange, m));
    for (call, moment) in unanswered.chain([(exchange + 1, Moment::Before)]) {
        if variant.moments().any(|m| m == moment) {
            lost.insert((call, format!("{moment:?}")));
        }
    }
    lost
}

/// Runs a scenario up to a point, and then a new process. Returns whether the sign-in was lost. `calls` and `exchanges` are
/// those of a run in which nothing happens.
fn stopped(scenario: Scenario, variant: Variant, point: Point, calls: &[String], exchanges: usize) -> bool {
    let world = begin(scenario, variant);
    world.arm(point);
    let end = live(&world, "the-first");
    assert_eq!(end == End::Killed, DEATHS.contains(&point.1), "{variant:?} {point:?}");
    if end == End::Killed {
        assert_eq!(live(&world, "the-second"), End::Settled);
    }
    let context = format!("{variant:?} {point:?} {}", calls[point.0]);
    let again = usize::from(may_exchange_again(calls, variant, point));
    is_lost(&world.lock(), exchanges + again, &context)
}

/// Whether a token was got and nothing of it was kept. Everywhere else a new process needs no exchange but the one that was due.
fn may_exchange_again(calls: &[String], variant: Variant, (call, moment): Point) -> bool {
    // The failure that was noted is known to be over by a success alone.
    if calls[call].ends_with("(publish)") && moment == Moment::AnswerLost {
        return true;
    }
    let Some(exchange) = calls.iter().rposition(|call| call.starts_with("POST token")) else { return false };
    let kept_by = match calls[exchange].as_str() {
        "POST token refresh_token" | POLL => exchange + 1,
        // Nothing but the target keeps an app's token, and where that is not seen yet, another is got.
        _ if variant.lagging => calls.len(),
        _ => calls.iter().position(|call| call.ends_with("(publish)")).expect("it is published"),
    };
    let unanswered = call == exchange && !matches!(moment, Moment::Before | Moment::Refused);
    unanswered || (exchange < call && call < kept_by) || (call == kept_by && moment == Moment::Before)
}

/// Checks what has become of everything. Returns whether the sign-in was lost, and fails if that is not said plainly.
fn is_lost(state: &State, most_exchanges: usize, context: &str) -> bool {
    let context = || format!("{context}\n{}", state.describe());
    assert_eq!(state.violations, Vec::<String>::new(), "{}", context());
    let status = state.status();
    let stalled = status.condition(ConditionType::Stalled);
    if stalled.is_some_and(|c| c.reason == Reason::AuthorizationRequired) {
        let message = &stalled.expect("it is there").message;
        let seeded = message.contains("sign in again") && message.contains("seed Secret");
        assert!(seeded || message.contains("graphtoken.io/requested-at"), "{message}");
        return true;
    }
    let ready = status.condition(ConditionType::Ready).expect("it is there");
    assert_eq!(
        (ready.status, &ready.reason),
        (ConditionStatus::True, &Reason::TokenValid.into()),
        "{}",
        context()
    );
    assert!(!state.alarmed(), "{}", context());
    assert_eq!(state.targets(), [state.target_name()], "{}", context());
    assert_eq!(state.target_keys(), state.wanted_keys(), "{}", context());
    let served = state.secret(&state.target_name(), "token");
    let expiry = served.as_deref().and_then(|token| state.idp.expiry(token));
    assert!(expiry.is_some_and(|expiry| expiry > state.now), "{}", context());
    assert_eq!(status.expires_at, expiry.map(Time::from), "{}", context());
    if let Some(verified) = status.condition(ConditionType::Verified) {
        assert_eq!(verified.reason, Reason::Accepted, "{}", context());
        assert!(served.as_deref().is_some_and(|token| state.idp.takes(token, state.now)), "{}", context());
    }
    if let Some(token) = state.secret(CREDENTIAL, "refresh_token") {
        assert!(state.idp.accepts(&token), "{}", context());
        assert_eq!(state.secret(CREDENTIAL, "access_token"), served, "{}", context());
    }
    // A new sign-in was lost, and the one before it goes on.
    let lost = state.said("SeedRejected");
    assert!(lost || state.idp.journal.len() <= most_exchanges, "{}", context());
    lost
}

/// The second process is killed as well, at each of its calls, wherever the first one left something behind.
#[rstest]
#[case::with_a_lenient_provider(Rotation::Lenient)]
#[case::with_a_strict_provider(Rotation::Strict)]
fn a_process_that_is_killed_while_it_recovers_loses_no_more(#[case] rotation: Rotation) {
    let variant = Variant { rotation, election: Some(LEASE), lagging: false };
    let scenario = scenario::REFRESH_TOKEN_ROUTINE;
    let firsts = (1..scenario.calls.len()).map(|call| (call, Moment::Done));
    let deaths: Vec<(Point, Moment)> =
        firsts.flat_map(|first| DEATHS.map(|moment| (first, moment))).collect();
    let points = side_by_side(&deaths, |(first, moment)| killed_twice(scenario, variant, *first, *moment));
    tell(points.into_iter().sum());
}

/// Kills the second process at each of its calls. Returns how many there are.
fn killed_twice(scenario: Scenario, variant: Variant, first: Point, moment: Moment) -> usize {
    for call in 0.. {
        let world = begin(scenario, variant);
        world.arm(first);
        assert_eq!(live(&world, "the-first"), End::Killed);
        world.arm_again((call, moment));
        if live(&world, "the-second") == End::Settled {
            return call;
        }
        let calls = [scenario.calls[first.0].to_owned(), world.lock().tape.calls[call].clone()];
        assert_eq!(live(&world, "the-third"), End::Settled);
        let context = format!("{variant:?} {first:?} ({call}, {moment:?}) {calls:?}");
        // The setup, the refresh, and one more for each death.
        let lost = is_lost(&world.lock(), 4, &context);
        let deaths = [(calls[0].as_str(), first.1), (calls[1].as_str(), moment)];
        let unanswered = deaths.iter().any(|(call, moment)| {
            let in_hand = call.ends_with("(commit)") && *moment == Moment::Before;
            in_hand || (*call == "POST token refresh_token" && *moment != Moment::Before)
        });
        assert_eq!(lost, variant.rotation == Rotation::Strict && unanswered, "{context}");
    }
    unreachable!("the calls come to an end")
}
