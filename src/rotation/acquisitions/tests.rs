use tokio::sync::oneshot;

use super::*;
use crate::plan::Source;
use crate::plan::tests::world::World;
use crate::rotation::{Attempt, Report};

/// The keys that are enqueued.
type Seen = Arc<Mutex<Vec<String>>>;

fn listen(acquisitions: &Acquisitions) -> Seen {
    let seen = Seen::default();
    let names = Arc::clone(&seen);
    acquisitions.set_enqueue(Some(Arc::new(move |key: &Key| names.lock().unwrap().push(key.name.clone()))));
    seen
}

fn taken(seen: &Seen) -> Vec<String> {
    std::mem::take(&mut *seen.lock().unwrap())
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
async fn one_runs_for_a_key_at_a_time_and_what_has_ended_is_there_before_the_key_is_enqueued() {
    let (acquisitions, mail) = (Acquisitions::default(), Key::new("ns", "mail"));
    let seen = listen(&acquisitions);
    let end = started(&acquisitions, "mail").unwrap();
    assert!(started(&acquisitions, "mail").is_none());
    let _other = started(&acquisitions, "other").unwrap();
    assert!(taken(&seen).is_empty() && acquisitions.take(&mail, "uid").is_none());
    end.send(()).unwrap();
    while acquisitions.running(&mail).is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(taken(&seen), ["mail"]);
    assert!(matches!(acquisitions.take(&mail, "uid"), Some(Some(_))));
    assert!(acquisitions.take(&mail, "uid").is_none(), "it is taken once");
    assert!(started(&acquisitions, "mail").is_some());
}

#[tokio::test]
async fn what_ends_between_two_terms_is_there_for_the_next() {
    let (acquisitions, mail) = (Acquisitions::default(), Key::new("ns", "mail"));
    let former = listen(&acquisitions);
    let end = started(&acquisitions, "mail").unwrap();
    acquisitions.set_enqueue(None);
    end.send(()).unwrap();
    until_empty(&acquisitions).await;
    assert!(taken(&former).is_empty());
    let _present = listen(&acquisitions);
    assert!(matches!(acquisitions.take(&mail, "uid"), Some(Some(_))));
}

#[tokio::test]
async fn what_was_started_for_another_graphtoken_of_the_name_is_dropped() {
    let (acquisitions, mail) = (Acquisitions::default(), Key::new("ns", "mail"));
    for forget in [true, false] {
        started(&acquisitions, "mail").unwrap().send(()).unwrap();
        until_empty(&acquisitions).await;
        if forget {
            acquisitions.forget(&mail);
            assert!(acquisitions.take(&mail, "uid").is_none());
        } else {
            assert!(acquisitions.take(&mail, "another").is_none());
        }
        assert!(acquisitions.lock().ended.is_empty());
    }
}

#[tokio::test]
async fn one_that_panics_frees_its_key_and_says_so() {
    let (acquisitions, mail) = (Acquisitions::default(), Key::new("ns", "mail"));
    let seen = listen(&acquisitions);
    acquisitions.start(&mail, "uid", |_| async { panic!("a defect") });
    until_empty(&acquisitions).await;
    assert_eq!(taken(&seen), ["mail"]);
    assert!(matches!(acquisitions.take(&mail, "uid"), Some(None)));
}

#[tokio::test]
async fn an_error_of_the_store_is_told_once_and_again_if_it_is_another() {
    let (acquisitions, key) = (Acquisitions::default(), Key::new("ns", "mail"));
    let seen = listen(&acquisitions);
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
    assert_eq!(taken(&seen), ["mail", "mail"]);
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
