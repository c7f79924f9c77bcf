use std::sync::Mutex as StdMutex;
use std::time::Duration;

use super::*;
use crate::plan::tests::world::World;

fn client(id: usize) -> Client {
    Client { client_id: format!("client-{id}"), ..World::fresh().desired().client }
}

fn key(name: impl std::fmt::Display) -> Key {
    Key::new("ns", &format!("{name}"))
}

/// Permits of which all of one client are taken, and what they enqueue.
fn taken() -> (Permits, Vec<Permit>, Arc<StdMutex<Vec<Key>>>) {
    let (permits, enqueued) = (Permits::default(), Arc::<StdMutex<Vec<Key>>>::default());
    let keys = Arc::clone(&enqueued);
    permits.set_enqueue(Some(Arc::new(move |key| keys.lock().unwrap().push(key))));
    let all = (0..IN_FLIGHT).map(|n| match permits.admit(&client(0), &key(n), Urgency::New) {
        Admission::Granted(permit) => permit,
        _ => unreachable!("it is free"),
    });
    let all = all.collect();
    (permits, all, enqueued)
}

#[test]
fn a_client_whose_permits_are_taken_delays_no_other_client() {
    let (permits, _all, _) = taken();
    assert!(matches!(permits.admit(&client(0), &key("a"), Urgency::New), Admission::Busy));
    permits.park(&client(0), &key("a"), Urgency::New);
    assert!(matches!(permits.admit(&client(0), &key("b"), Urgency::New), Admission::Parked));
    assert!(matches!(permits.admit(&client(1), &key("c"), Urgency::New), Admission::Granted(_)));
}

#[test]
fn each_permit_that_is_released_enqueues_the_most_urgent_parked_key() {
    let (permits, mut all, enqueued) = taken();
    for (name, urgency) in [
        ("failing", Urgency::Failing),
        ("later", Urgency::ExpiresAt(200)),
        ("sooner", Urgency::ExpiresAt(100)),
        ("new", Urgency::New),
        ("newer", Urgency::New),
    ] {
        permits.park(&client(0), &key(name), urgency);
    }
    // One that has become urgent keeps its number.
    permits.park(&client(0), &key("failing"), Urgency::New);
    for _ in 0..3 {
        // The key that is enqueued takes it.
        drop(all.pop());
        let Admission::Granted(permit) = permits.admit(&client(0), &key("x"), Urgency::New) else {
            unreachable!("it was released")
        };
        all.insert(0, permit);
    }
    assert_eq!(*enqueued.lock().unwrap(), ["failing", "new", "newer"].map(key));
    drop(all);
    assert_eq!(enqueued.lock().unwrap()[3..], ["sooner", "later"].map(key));
}

#[test]
fn a_key_that_is_parked_when_a_permit_has_just_been_released_is_enqueued_at_once() {
    let (permits, mut all, enqueued) = taken();
    drop(all.pop());
    permits.park(&client(0), &key("a"), Urgency::New);
    assert_eq!(*enqueued.lock().unwrap(), [key("a")]);
}

#[tokio::test]
async fn what_no_request_needs_any_more_is_not_kept() {
    let permits = Permits::default();
    for id in 0..10_000 {
        drop(permits.acquire(&client(id)).await);
    }
    assert_eq!(permits.clients(), 0);
    let (permits, all, _) = taken();
    let client = client(0);
    let waiting = tokio::time::timeout(Duration::from_millis(10), permits.acquire(&client));
    assert!(waiting.await.is_err());
    permits.park(&client, &key("a"), Urgency::New);
    permits.set_enqueue(None);
    drop(all);
    assert_eq!(permits.clients(), 0, "the term is over, and its parked keys are gone");
}

#[test]
fn a_key_that_got_a_permit_waits_for_none_any_more() {
    let (permits, mut all, enqueued) = taken();
    for name in ["a", "b"] {
        permits.park(&client(0), &key(name), Urgency::New);
    }
    let Some(first) = all.pop() else { unreachable!("all are taken") };
    drop(first);
    assert_eq!(*enqueued.lock().unwrap(), [key("a")]);
    // Its own timer fires before the queue comes to the other.
    let Admission::Granted(of_b) = permits.admit(&client(0), &key("b"), Urgency::New) else {
        unreachable!("one was released")
    };
    permits.park(&client(0), &key("a"), Urgency::New);
    drop(of_b);
    assert_eq!(*enqueued.lock().unwrap(), [key("a"), key("a")], "b is parked no more");
}
