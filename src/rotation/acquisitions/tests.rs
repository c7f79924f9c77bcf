use tokio::sync::oneshot;

use super::*;
use crate::plan::Source;
use crate::plan::tests::world::World;
use crate::rotation::{Attempt, Report};

/// What a controller would get.
#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Listener for Seen {
    fn keep(&self, key: &Key, uid: &str, finished: Option<Finished>) {
        let what = if finished.is_some() { "result" } else { "panic" };
        lock(&self.0).push(format!("{what} of {}/{uid}", key.name));
    }

    fn enqueue(&self, key: &Key) {
        lock(&self.0).push(format!("enqueue {}", key.name));
    }
}

impl Seen {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.0))
    }
}

fn acquired() -> Finished {
    let desired = Arc::new(World::fresh().desired());
    let (inputs, made_with) = (String::new(), String::new());
    let attempt = Attempt { request: None, source: Source::Client, desired, inputs, made_with };
    Finished::Acquired { attempt, report: Report::Stale }
}

fn started(acquisitions: &Acquisitions, name: &str) -> Option<oneshot::Sender<()>> {
    let (end, ended) = oneshot::channel();
    let began = acquisitions.start(&Key::new("ns", name), "uid", |_| async move {
        let _ = ended.await;
        acquired()
    });
    began.then_some(end)
}

async fn until_empty(acquisitions: &Acquisitions) {
    while !acquisitions.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_runs_for_a_key_at_a_time_and_its_result_is_there_before_the_next_can_start() {
    let (acquisitions, seen) = (Acquisitions::default(), Arc::new(Seen::default()));
    acquisitions.set_listener(Some(Arc::<Seen>::clone(&seen)));
    let end = started(&acquisitions, "mail").unwrap();
    assert!(started(&acquisitions, "mail").is_none());
    let _other = started(&acquisitions, "other").unwrap();
    assert!(seen.take().is_empty());
    end.send(()).unwrap();
    while acquisitions.running(&Key::new("ns", "mail")).is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen.take(), ["result of mail/uid", "enqueue mail"]);
    assert!(started(&acquisitions, "mail").is_some());
}

#[tokio::test]
async fn the_term_that_runs_when_it_ends_gets_the_result() {
    let acquisitions = Acquisitions::default();
    let [former, present] = [Arc::new(Seen::default()), Arc::new(Seen::default())];
    acquisitions.set_listener(Some(Arc::<Seen>::clone(&former)));
    let end = started(&acquisitions, "mail").unwrap();
    acquisitions.set_listener(None);
    acquisitions.set_listener(Some(Arc::<Seen>::clone(&present)));
    end.send(()).unwrap();
    until_empty(&acquisitions).await;
    assert!(former.take().is_empty());
    assert_eq!(present.take(), ["result of mail/uid", "enqueue mail"]);
}

#[tokio::test]
async fn one_that_panics_frees_its_key_and_says_so() {
    let (acquisitions, seen) = (Acquisitions::default(), Arc::new(Seen::default()));
    acquisitions.set_listener(Some(Arc::<Seen>::clone(&seen)));
    acquisitions.start(&Key::new("ns", "mail"), "uid", |_| async { panic!("a defect") });
    until_empty(&acquisitions).await;
    assert_eq!(seen.take(), ["panic of mail/uid", "enqueue mail"]);
}

#[tokio::test]
async fn an_error_of_the_store_is_told_once_and_again_if_it_is_another() {
    let (acquisitions, seen) = (Acquisitions::default(), Arc::new(Seen::default()));
    acquisitions.set_listener(Some(Arc::<Seen>::clone(&seen)));
    let key = Key::new("ns", "mail");
    let (told, told_of) = oneshot::channel();
    let (end, ended) = oneshot::channel::<()>();
    acquisitions.start(&key, "uid", |progress| async move {
        let errors = [StoreError::Conflict, StoreError::Conflict, StoreError::Gone];
        let _ = told.send(errors.map(|error| progress.unstored(&error)));
        let _ = ended.await;
        acquired()
    });
    assert_eq!(told_of.await.unwrap(), [true, false, true]);
    assert_eq!(acquisitions.running(&key).unwrap().unstored, Some(StoreError::Gone));
    assert_eq!(seen.take(), ["enqueue mail", "enqueue mail"]);
    drop(end);
    until_empty(&acquisitions).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_waits_for_them_only_so_long_and_names_those_that_lose_a_token() {
    let stopping = CancellationToken::new();
    let acquisitions = Acquisitions::new(stopping.clone());
    acquisitions.start(&Key::new("ns", "stuck"), "uid", |progress| async move {
        progress.holds_a_token();
        std::future::pending().await
    });
    let _hangs = started(&acquisitions, "hangs").unwrap();
    stopping.cancel();
    assert!(started(&acquisitions, "late").is_none(), "none starts once the process is to exit");
    let unstored = acquisitions.finish().await;
    assert_eq!(unstored, [Key::new("ns", "stuck")]);
}
