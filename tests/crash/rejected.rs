//! A new sign-in that is rejected beside one that is kept, though no sign-in helps: whatever stops the operator, the one that is kept
//! goes on, and what was rejected is noted and told of.

use std::sync::Arc;
use std::time::Duration;

use graphtoken::api::{ConditionStatus, ConditionType};
use rstest::rstest;

use crate::idp::Rotation;
use crate::process::{End, live};
use crate::scenario::{self, CREDENTIAL, QUIET};
use crate::side_by_side::side_by_side;
use crate::state::State;
use crate::tape::{Moment, Point};
use crate::world::{Step, World};

const FOREIGN_SEED: Step = Step { change: scenario::put_foreign_seed, lasts: Duration::from_secs(40) };
const STEPS: &[Step] = &[QUIET, FOREIGN_SEED];
const DEATHS: [Moment; 3] = [Moment::Before, Moment::Done, Moment::After];
const ALL: [Moment; 5] = [Moment::Before, Moment::Done, Moment::After, Moment::Refused, Moment::AnswerLost];

fn begin(rotation: Rotation) -> Arc<World> {
    let world = World::new(rotation, Some(Duration::from_secs(30)), false);
    scenario::delegated(&mut world.lock());
    world.then(STEPS);
    world
}

#[rstest]
fn a_rejected_seed_is_noted_and_the_kept_sign_in_goes_on(
    #[values(Rotation::Lenient, Rotation::Strict)] rotation: Rotation,
) {
    let base = begin(rotation);
    assert_eq!(live(&base, "the-only"), End::Settled);
    check(&base.lock(), 2, "nothing happens");
    let calls = base.lock().tape.calls.clone();
    assert_eq!(calls.iter().filter(|call| call.starts_with("POST token")).count(), 1, "{calls:#?}");
    let points: Vec<Point> = (0..calls.len()).flat_map(|call| ALL.map(|moment| (call, moment))).collect();
    side_by_side(&points, |point| {
        let world = begin(rotation);
        world.arm(*point);
        let end = live(&world, "the-first");
        assert_eq!(end == End::Killed, DEATHS.contains(&point.1), "{point:?}");
        if end == End::Killed {
            assert_eq!(live(&world, "the-second"), End::Settled);
        }
        // The seed once more, and a refresh that makes good a failure.
        check(&world.lock(), 4, &format!("{point:?} {}", calls[point.0]));
        // An event that the API server rejects is not written again.
        let dropped = point.1 == Moment::Refused && calls[point.0].starts_with("POST events");
        assert_eq!(world.lock().said("SeedRejected"), !dropped, "{point:?}");
    });
}

fn check(state: &State, most_exchanges: usize, context: &str) {
    let context = || format!("{context}\n{}", state.describe());
    assert_eq!(state.violations, Vec::<String>::new(), "{}", context());
    let record = state.secret(CREDENTIAL, "record.json").expect("there is a record");
    assert!(record.contains("rejectedSeed") && record.contains("InvalidConfiguration"), "{record}");
    let status = state.status();
    let ready = status.condition(ConditionType::Ready).expect("it is there");
    assert_eq!(ready.status, ConditionStatus::True, "{}", context());
    assert!(status.condition(ConditionType::Stalled).is_none(), "{}", context());
    assert_eq!(status.last_failure, None, "{}", context());
    let kept = state.secret(CREDENTIAL, "refresh_token").expect("a sign-in is kept");
    assert!(state.idp.accepts(&kept), "{}", context());
    assert!(state.idp.journal.len() <= most_exchanges, "{}", context());
}
