//! The task that writes events: reconciles hand them over and never wait.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, Recorder, Reporter};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How many events may wait. What comes beyond them is dropped.
const MOST: usize = 1024;
/// For how long one is tried to be written.
const DEADLINE: Duration = Duration::from_secs(10);

/// Hands events over to the task. Clones share it; it ends with the last of them, when it has written what waits.
#[derive(Clone)]
pub(super) struct Writer {
    waiting: Sender<Item>,
    dropped: Arc<AtomicU64>,
}

enum Item {
    Event(Box<(Event, ObjectReference)>),
    /// All before it were written, or given up.
    Flush(oneshot::Sender<()>),
}

impl Writer {
    pub(super) fn start(client: kube::Client, reporter: Reporter) -> Self {
        let (waiting, items) = mpsc::channel(MOST);
        let dropped = Arc::new(AtomicU64::new(0));
        tokio::spawn(work(client, reporter, items, Arc::clone(&dropped)));
        Self { waiting, dropped }
    }

    /// Never waits.
    pub(super) fn write(&self, event: Event, regarding: ObjectReference) {
        let item = Item::Event(Box::new((event, regarding)));
        if self.waiting.try_send(item).is_err() && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("events are dropped: the API server takes them more slowly than they come");
        }
    }

    /// Waits until what was handed over before is written, or given up.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.waiting.send(Item::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

/// One after another, so those about one object stay in their order.
async fn work(client: kube::Client, reporter: Reporter, mut items: Receiver<Item>, dropped: Arc<AtomicU64>) {
    while let Some(item) = items.recv().await {
        match item {
            // A panic costs this one event. The hook has logged it.
            Item::Event(event) => {
                let written = write(&client, &reporter, &event.0, &event.1);
                let _ = AssertUnwindSafe(written).catch_unwind().await;
            }
            Item::Flush(done) => _ = done.send(()),
        }
        if items.is_empty() {
            let dropped = dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "events are written again");
            }
        }
    }
}

async fn write(client: &kube::Client, reporter: &Reporter, event: &Event, regarding: &ObjectReference) {
    // A recorder of its own: a longer-lived one takes events of one reason for repetitions, and keeps the first note.
    let recorder = Recorder::new(client.clone(), reporter.clone());
    let why = match timeout(DEADLINE, recorder.publish(event, regarding)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => crate::kubeclient::describe(&error),
        Err(_) => "no answer in time".to_owned(),
    };
    let (namespace, name) = (regarding.namespace.as_deref(), regarding.name.as_deref());
    tracing::debug!(namespace, name, reason = event.reason, why, "an event could not be written");
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use tokio::time::{Instant, sleep};
    use tower::{BoxError, service_fn};

    use super::*;
    use crate::events::{EventReason, Events};
    use crate::observed::Identity;

    /// An API server that answers after `takes`, and the notes that it received.
    fn events(takes: Duration) -> (Events, Arc<Mutex<Vec<String>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&written);
        let service = service_fn(move |request: Request<Body>| {
            let noted = Arc::clone(&noted);
            async move {
                let body = request.into_body().collect_bytes().await?;
                let event: serde_json::Value = serde_json::from_slice(&body)?;
                noted.lock().unwrap().push(event["note"].as_str().unwrap_or_default().to_owned());
                sleep(takes).await;
                Ok::<_, BoxError>(Response::builder().status(StatusCode::CREATED).body(Body::from(body))?)
            }
        });
        (Events::new(kube::Client::new(service, "default"), "pod".to_owned()), written)
    }

    fn mail() -> Identity {
        Identity { namespace: "ns".into(), name: "mail".into(), uid: "u".into(), generation: 1 }
    }

    fn notes(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
        numbers.into_iter().map(|n| n.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_written_in_their_order_and_wait_for_nobody() {
        let (events, written) = events(Duration::from_secs(1));
        let start = Instant::now();
        for note in notes(0..100) {
            events.warning(&mail(), EventReason::SeedRejected, &note);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        events.flush().await;
        assert_eq!(*written.lock().unwrap(), notes(0..100));
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_api_server_does_not_answer_does_not_stop_the_next() {
        let (events, written) = events(DEADLINE * 100);
        for note in notes(0..3) {
            events.normal(&mail(), EventReason::Restarted, &note);
        }
        let start = Instant::now();
        events.flush().await;
        assert_eq!((written.lock().unwrap().len(), start.elapsed()), (3, DEADLINE * 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_is_dropped_and_later_ones_are_written() {
        let (events, written) = events(Duration::from_secs(1));
        for note in notes(0..MOST + 500) {
            events.warning(&mail(), EventReason::SeedRejected, &note);
        }
        assert_eq!(events.writer.dropped.load(Ordering::Relaxed), 500);
        events.flush().await;
        assert_eq!(events.writer.dropped.load(Ordering::Relaxed), 0, "the next burst is logged again");
        events.warning(&mail(), EventReason::SeedRejected, "9999");
        events.flush().await;
        assert_eq!(*written.lock().unwrap(), notes((0..MOST).chain([9999])));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_written_though_its_senders_are_gone() {
        let (events, written) = events(Duration::from_secs(1));
        events.warning(&mail(), EventReason::SeedRejected, "0");
        drop(events);
        let ended = async {
            while Arc::strong_count(&written) > 1 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_mins(1), ended).await.expect("the task ends");
        assert_eq!(*written.lock().unwrap(), notes([0]));
    }
}
