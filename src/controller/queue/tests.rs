use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::*;

/// Nobody is more urgent than another.
fn queue(slots: usize) -> Queue {
    Queue::new(slots, |_| Urgency::New)
}

const SECOND: Duration = Duration::from_secs(1);

fn key(namespace: &str, name: impl std::fmt::Display) -> Item {
    Item::GraphToken(Key::new(namespace, &format!("{name}")))
}

impl Item {
    fn name(&self) -> &str {
        let (Self::GraphToken(key) | Self::Credential(key)) = self;
        &key.name
    }
}

impl Queue {
    /// A reconcile that keeps its slot until its end.
    fn finish(&mut self, item: Item, again: Option<Instant>) {
        self.fail_or_finish(item, Ended::Well(again), Instant::now());
    }

    fn fail_or_finish(&mut self, item: Item, ended: Ended, now: Instant) {
        let namespace = item.namespace().to_owned();
        self.done(item, ended, &[], now);
        self.release(&namespace);
    }
}

/// A queue before which a namespace has 10,000, and all slots are taken that it may have.
fn crowded(slots: usize, now: Instant) -> (Queue, Vec<Item>) {
    let mut queue = queue(slots);
    for n in 0..10_000 {
        queue.enqueue(key("crowd", n), now);
    }
    let at_work = std::iter::from_fn(|| queue.next(now)).collect();
    (queue, at_work)
}

#[tokio::test]
async fn ten_thousand_of_one_namespace_leave_slots_free_for_another() {
    let now = Instant::now();
    let (mut queue, at_work) = crowded(16, now);
    assert_eq!(at_work.len(), 12);
    queue.enqueue(key("quiet", "mail"), now);
    assert_eq!(queue.next(now), Some(key("quiet", "mail")), "none of those at work has ended");
    assert_eq!(queue.next(now), None, "the crowd gets no slot that is kept from it");
}

#[rstest]
#[case(1, 1)]
#[case(2, 1)]
#[case(3, 2)]
#[case(4, 3)]
#[case(16, 12)]
#[case(64, 48)]
#[tokio::test]
async fn of_more_slots_than_one_some_are_kept(#[case] slots: usize, #[case] share: usize) {
    assert_eq!(crowded(slots, Instant::now()).1.len(), share);
}

/// Those of the first crowd that are at work count for it: with more slots they who have none go first.
#[rstest]
#[case::one_slot(1, &["crowd", "b", "c", "d", "quiet"])]
#[case::many_slots(16, &["c", "d", "quiet"])]
#[tokio::test]
async fn where_no_slot_is_left_a_newcomer_waits_for_one_turn_of_each_namespace_at_most(
    #[case] slots: usize,
    #[case] order: &[&str],
) {
    let now = Instant::now();
    let (mut queue, mut at_work) = crowded(slots, now);
    for other in ["b", "c", "d"] {
        for n in 0..1_000 {
            queue.enqueue(key(other, n), now);
        }
        at_work.extend(std::iter::from_fn(|| queue.next(now)));
    }
    assert_eq!(at_work.len(), slots);
    queue.enqueue(key("quiet", "mail"), now);
    let mut served = Vec::new();
    for done in at_work.into_iter().take(order.len().min(slots)) {
        assert_eq!(queue.next(now), None);
        queue.finish(done, None);
        served.extend(queue.next(now));
    }
    while served.len() < order.len() {
        queue.finish(served.last().unwrap().clone(), None);
        served.extend(queue.next(now));
    }
    let served: Vec<_> = served.iter().map(Item::namespace).collect();
    assert_eq!(served, order);
}

#[tokio::test]
async fn namespaces_take_turns_and_each_serves_who_came_first() {
    let now = Instant::now();
    let mut queue = queue(1);
    for (namespace, name) in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 1)] {
        queue.enqueue(key(namespace, name), now);
    }
    let mut served = Vec::new();
    while let Some(next) = queue.next(now) {
        served.push(format!("{}{}", next.namespace(), next.name()));
        queue.finish(next, None);
    }
    assert_eq!(served, ["a1", "b1", "c1", "a2", "b2", "a3"]);
}

#[tokio::test]
async fn who_is_woken_twice_is_looked_at_once_and_at_the_earlier_time() {
    let now = Instant::now();
    let mut queue = queue(4);
    let mail = || key("ns", "mail");
    for seconds in [5, 3, 9] {
        queue.enqueue(mail(), now + SECOND * seconds);
    }
    assert_eq!(queue.due(), Some(now + SECOND * 3));
    assert_eq!(queue.next(now + SECOND * 2), None);
    assert_eq!(queue.next(now + SECOND * 3), Some(mail()));
    queue.finish(mail(), None);
    assert_eq!((queue.due(), queue.next(now + SECOND * 60)), (None, None));
}

#[rstest]
#[case::woken_meanwhile(Some(0), Some(60), Some(0))]
#[case::woken_for_later(Some(60), Some(5), Some(5))]
#[case::not_woken(None, Some(5), Some(5))]
#[case::woken_and_done_with(Some(0), None, Some(0))]
#[case::done_with(None, None, None)]
#[tokio::test]
async fn nobody_is_looked_at_twice_at_once(
    #[case] woken: Option<u32>,
    #[case] again: Option<u32>,
    #[case] due: Option<u32>,
) {
    let now = Instant::now();
    let mut queue = queue(4);
    queue.enqueue(key("ns", "mail"), now);
    let mail = queue.next(now).unwrap();
    if let Some(seconds) = woken {
        queue.enqueue(mail.clone(), now + SECOND * seconds);
    }
    assert_eq!(queue.next(now + SECOND * 90), None);
    queue.finish(mail, again.map(|seconds| now + SECOND * seconds));
    assert_eq!(queue.due(), due.map(|seconds| now + SECOND * seconds));
}

#[derive(Debug, Clone)]
enum Step {
    Wake(u8, u8, u8),
    Take,
    Done(u8, Option<u8>),
    Pass(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8, 0..5_u8, 0..10_u8).prop_map(|(ns, name, at)| Step::Wake(ns, name, at)),
        Just(Step::Take),
        (any::<u8>(), proptest::option::of(0..10_u8)).prop_map(|(which, again)| Step::Done(which, again)),
        (0..5_u8).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever happens in whatever order: the limits hold, nobody is forgotten, and nothing is left of those who are gone.
    #[test]
    fn limits_hold_and_nobody_is_forgotten(slots in 1_usize..6, steps in steps()) {
        let mut now = Instant::now();
        let mut queue = queue(slots);
        let share = queue.share();
        let (mut at_work, mut owed) = (Vec::<Item>::new(), HashSet::<Item>::new());
        for step in steps {
            match step {
                Step::Wake(namespace, name, at) => {
                    let key = key(&namespace.to_string(), name);
                    owed.insert(key.clone());
                    queue.enqueue(key, now + SECOND * u32::from(at));
                }
                Step::Take => if let Some(next) = queue.next(now) {
                    prop_assert!(!at_work.contains(&next), "twice at once: {next:?}");
                    owed.remove(&next);
                    at_work.push(next);
                    let of_one = |ns: &str| at_work.iter().filter(|key| key.namespace() == ns).count();
                    prop_assert!(at_work.len() <= slots);
                    prop_assert!(at_work.iter().all(|key| of_one(key.namespace()) <= share));
                },
                Step::Done(which, again) => if !at_work.is_empty() {
                    let done = at_work.remove(usize::from(which) % at_work.len());
                    if again.is_some() {
                        owed.insert(done.clone());
                    }
                    queue.finish(done, again.map(|again| now + SECOND * u32::from(again)));
                },
                Step::Pass(seconds) => now += SECOND * u32::from(seconds),
            }
        }
        for done in at_work.drain(..) {
            queue.finish(done, None);
        }
        now += SECOND * 60;
        while let Some(next) = queue.next(now) {
            owed.remove(&next);
            queue.finish(next, None);
        }
        prop_assert!(owed.is_empty(), "{owed:?}");
        prop_assert!(queue.known.is_empty() && queue.lines.is_empty() && queue.order.is_empty());
        prop_assert_eq!((queue.due(), queue.taken), (None, 0));
    }
}

/// As the names say.
fn urgency(key: &Item) -> Urgency {
    key.name().parse().map_or(Urgency::New, Urgency::ExpiresAt)
}

#[tokio::test]
async fn in_a_storm_the_new_go_first_and_then_who_expires_first() {
    let now = Instant::now();
    let mut queue = Queue::new(1, urgency);
    for name in ["300", "200", "250"] {
        queue.enqueue(key("ns", name), now);
    }
    let mut served = vec![queue.next(now).unwrap()];
    for name in ["new", "newer", "100"] {
        queue.enqueue(key("ns", name), now);
    }
    while let Some(last) = served.last() {
        queue.finish(last.clone(), None);
        match queue.next(now) {
            Some(next) => served.push(next),
            None => break,
        }
    }
    let served: Vec<_> = served.iter().map(Item::name).collect();
    assert_eq!(served, ["200", "new", "newer", "100", "250", "300"]);
}

#[tokio::test]
async fn who_becomes_urgent_while_it_waits_goes_first() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let (now, edited) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let is_edited = Arc::clone(&edited);
    let mut queue = Queue::new(1, move |key| match key.name() {
        "300" if is_edited.load(Ordering::Relaxed) => Urgency::New,
        _ => urgency(key),
    });
    for name in ["100", "200", "300"] {
        queue.enqueue(key("ns", name), now);
    }
    let first = queue.next(now).unwrap();
    edited.store(true, Ordering::Relaxed);
    queue.enqueue(key("ns", "300"), now);
    queue.finish(first, None);
    assert_eq!(queue.next(now), Some(key("ns", "300")));
    queue.finish(key("ns", "300"), None);
    assert_eq!(queue.next(now), Some(key("ns", "200")));
    queue.finish(key("ns", "200"), None);
    assert_eq!((queue.next(now), queue.due()), (None, None), "each once");
}

#[tokio::test]
async fn an_item_that_is_enqueued_again_keeps_its_place_and_so_does_its_namespace() {
    let now = Instant::now();
    let mut queue = queue(1);
    queue.enqueue(key("busy", 1), now);
    let busy = queue.next(now).unwrap();
    queue.enqueue(key("quiet", "mail"), now);
    assert_eq!(queue.next(now), None, "no slot is free; it is in line now");
    for n in 0..100 {
        queue.enqueue(key(&format!("other-{n}"), "mail"), now);
    }
    assert_eq!(queue.next(now), None);
    queue.enqueue(key("quiet", "mail"), now);
    queue.finish(busy, None);
    assert_eq!(queue.next(now), Some(key("quiet", "mail")));
}

#[tokio::test]
async fn failures_back_off_from_two_seconds_to_a_minute_and_success_resets() {
    let mut now = Instant::now();
    let mut queue = queue(1);
    queue.enqueue(key("ns", "mail"), now);
    let fail = |queue: &mut Queue, now: &mut Instant| {
        let item = queue.next(*now).unwrap();
        queue.fail_or_finish(item, Ended::Failed(None), *now);
        let wait = queue.due().unwrap() - *now;
        *now += wait;
        wait.as_secs_f64()
    };
    for most in [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
        let wait = fail(&mut queue, &mut now);
        assert!((most * 0.75 - 0.01..=most).contains(&wait), "{wait} s of {most}");
    }
    let item = queue.next(now).unwrap();
    queue.fail_or_finish(item, Ended::Well(Some(now)), now);
    assert!(fail(&mut queue, &mut now) <= 2.0);
}

#[tokio::test]
async fn a_reconcile_that_failed_is_repeated_when_its_object_is_due_before() {
    let now = Instant::now();
    let mut queue = queue(1);
    queue.enqueue(key("ns", "mail"), now);
    let item = queue.next(now).unwrap();
    queue.fail_or_finish(item, Ended::Failed(Some(now + SECOND)), now);
    assert_eq!(queue.due(), Some(now + SECOND));
    let item = queue.next(now + SECOND).unwrap();
    queue.fail_or_finish(item, Ended::Failed(Some(now + SECOND * 60)), now + SECOND);
    assert!(queue.due().unwrap() <= now + SECOND * 5);
}

#[tokio::test]
async fn those_that_failed_together_do_not_come_back_together() {
    let now = Instant::now();
    let mut queue = queue(16);
    for n in 0..16 {
        queue.enqueue(key(&format!("ns-{n}"), "mail"), now);
    }
    let mut due = HashSet::new();
    while let Some(item) = queue.next(now) {
        queue.fail_or_finish(item.clone(), Ended::Failed(None), now);
        let Place::Later(at) = queue.known[&item].place else { panic!("it is due later") };
        due.insert(at);
    }
    assert!(due.len() >= 12, "{} different times", due.len());
}

fn version(resource_version: &str) -> Version {
    Version { uid: "secret".to_owned(), resource_version: resource_version.to_owned() }
}

#[rstest]
#[case::own_writes(&["7", "8"], false)]
#[case::none(&[], false)]
#[case::somebody_elses(&["8", "9"], true)]
#[tokio::test]
async fn what_a_watch_shows_meanwhile_is_news_unless_the_reconcile_wrote_it(
    #[case] seen: &[&str],
    #[case] again: bool,
) {
    let now = Instant::now();
    let mut queue = queue(1);
    queue.enqueue(key("ns", "mail"), now);
    let item = queue.next(now).unwrap();
    for seen in seen {
        queue.changed(item.clone(), version(seen), now);
    }
    queue.done(item, Ended::Well(None), &[version("7"), version("8")], now);
    assert_eq!(queue.due().is_some(), again);
    queue.release("ns");
    queue.changed(key("ns", "mail"), version("8"), now);
    assert!(queue.due().is_some(), "nothing is running that could have written it");
}

#[tokio::test]
async fn what_is_cleared_is_not_served_and_what_is_being_reconciled_ends_as_usual() {
    let now = Instant::now();
    let mut queue = queue(1);
    for (name, at) in [("1", now), ("2", now), ("3", now + SECOND)] {
        queue.enqueue(key("ns", name), at);
    }
    let running = queue.next(now).unwrap();
    queue.clear();
    assert_eq!((queue.due(), queue.is_due(now + SECOND * 9)), (None, false));
    queue.enqueue(key("ns", "4"), now);
    queue.finish(running, None);
    assert_eq!(queue.next(now), Some(key("ns", "4")));
    queue.finish(key("ns", "4"), None);
    assert!(queue.known.is_empty() && queue.lines.is_empty() && queue.order.is_empty());
}

#[tokio::test]
async fn a_slot_that_is_handed_on_counts_until_it_is_released() {
    let now = Instant::now();
    let mut queue = queue(2);
    for (namespace, name) in [("a", 1), ("a", 2), ("b", 1), ("c", 1)] {
        queue.enqueue(key(namespace, name), now);
    }
    let first = queue.next(now).unwrap();
    queue.done(first, Ended::Well(None), &[], now);
    assert_eq!(
        queue.next(now),
        Some(key("b", 1)),
        "an acquisition of the first has the slot of its namespace"
    );
    assert_eq!(queue.next(now), None);
    queue.release("a");
    assert_eq!(queue.next(now), Some(key("c", 1)));
}
