//! Ten thousand objects whose status writes are rejected: each is tried less and less often, and soon after the cause is gone.

use std::time::Duration;

use graphtoken::rotation::Acquisitions;

use super::Controller;
use super::plane::{NAMESPACE, Plane};
use super::time::Time;
use crate::population::{Grant, Kind};

const OBJECTS: usize = 10_000;
/// When counting begins, and for how long it lasts.
const FROM: Duration = Duration::from_mins(2);
/// Writes of one object before that: pauses that double from 2 s leave no room for more.
const MOST_TRIES: u64 = 10;
const LASTS: Duration = Duration::from_mins(2);
/// On average.
const PER_SECOND: u64 = 200;
/// The longest back-off, and some time for ten thousand writes.
const WRITTEN: Duration = Duration::from_secs(70);
const STEP: Duration = Duration::from_secs(5);

#[test]
fn rejected_status_writes_of_10_000_objects_back_off_and_recover() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let acquisitions = Acquisitions::default();
        let time = Time::new(acquisitions.clone());
        let plane = Plane::new(&time);
        let kind = Kind {
            namespace: NAMESPACE.to_owned(),
            grant: Grant::ClientCredentials,
            // Nothing is sent there.
            token_url: "http://127.0.0.1:9/token".to_owned(),
            renew_before: None,
            prefix: "app".to_owned(),
        };
        for number in 0..OBJECTS {
            plane.put_suspended(&kind, number).unwrap();
        }
        plane.reject_statuses(true);
        let controller = Controller::start(&plane, &time, acquisitions).unwrap();
        while time.since_began() < FROM {
            time.pass(STEP).await.unwrap();
            let writes = plane.status_writes();
            assert!(writes <= MOST_TRIES * OBJECTS as u64, "{writes} writes in {:?}", time.since_began());
        }
        let before = plane.status_writes();
        assert!(before >= OBJECTS as u64, "{before} writes: not every object was tried");

        let most = PER_SECOND * LASTS.as_secs();
        let end = time.since_began() + LASTS;
        while time.since_began() < end {
            time.pass(STEP).await.unwrap();
            let writes = plane.status_writes() - before;
            let passed = LASTS.saturating_sub(end.saturating_sub(time.since_began()));
            assert!(writes <= most, "{writes} rejected status writes in {passed:?}, of {most} in {LASTS:?}");
        }

        plane.reject_statuses(false);
        time.pass(WRITTEN).await.unwrap();
        assert_eq!(plane.with_status(), OBJECTS, "written {WRITTEN:?} after the cause is gone");
        controller.end();
    });
}
