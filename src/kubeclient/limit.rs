//! The layer of a client that gives an answer a time limit.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body as Answer, Bytes, HttpBody, to_bytes};
use http::{Request, Response};
use kube::client::Body;
use tokio::time::{Instant, timeout_at};
use tower::{BoxError, Layer, Service};

use super::{observe::is_watch, pages::Pages};

/// There was no answer, or no whole answer, within the limit.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
struct Late(Duration);

/// A tower layer that limits how long an answer may take: the whole of it, or of a watch its beginning. An open watch is
/// unlimited here, because the watcher has an idle limit.
#[derive(Clone)]
pub(super) struct Limit {
    most: Duration,
    pages: Pages,
}

impl Limit {
    pub(super) fn new(most: Duration) -> Self {
        Self { most, pages: Pages::default() }
    }
}

impl<S> Layer<S> for Limit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limited { inner, limit: self.clone() }
    }
}

#[derive(Clone)]
pub(super) struct Limited<S> {
    inner: S,
    limit: Limit,
}

impl<S, B> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (most, watch) = (self.limit.most, is_watch(request.uri()));
        let page = self.limit.pages.of(request.uri_mut()).filter(|_| !watch);
        let response = self.inner.call(request);
        Box::pin(async move {
            let deadline = Instant::now() + most;
            let late = |_| Late(most);
            let answer = timeout_at(deadline, response).await.map_err(late)?.map_err(Into::into)?;
            let (parts, body) = answer.into_parts();
            let body = Answer::new(body);
            if watch && parts.status.is_success() {
                return Ok(Response::from_parts(parts, body));
            }
            // kube collects it in any case; here that is limited too.
            let whole = async {
                match page {
                    Some(page) => page.read(body).await,
                    None => Ok(Answer::from(to_bytes(body, usize::MAX).await?)),
                }
            };
            Ok(Response::from_parts(parts, timeout_at(deadline, whole).await.map_err(late)??))
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::stream::{self, StreamExt as _};
    use k8s_openapi::api::core::v1::Secret;
    use kube::{
        Api, Client,
        api::{ListParams, WatchParams},
        client::ClientBuilder,
    };
    use rstest::rstest;
    use tokio::time::{sleep, timeout};
    use tower::service_fn;

    use super::*;
    use crate::kubeclient::describe;

    const MOST: Duration = Duration::from_secs(30);
    const LIST: &[u8] =
        br#"{"apiVersion":"v1","kind":"SecretList","metadata":{"resourceVersion":"1"},"items":[]}"#;
    const EVENT: &[u8] = b"{\"type\":\"BOOKMARK\",\"object\":{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"resourceVersion\":\"2\"}}}\n";

    /// An API server that begins to answer after `head` and sends a piece of the answer after each pause.
    fn secrets(head: Duration, pieces: &[(Duration, &'static [u8])]) -> Api<Secret> {
        let pieces = pieces.to_vec();
        let service = service_fn(move |_: Request<Body>| {
            let pieces = pieces.clone();
            async move {
                sleep(head).await;
                let body = stream::iter(pieces).then(|(pause, piece)| async move {
                    sleep(pause).await;
                    Ok::<_, BoxError>(Bytes::from_static(piece))
                });
                Ok::<_, BoxError>(Response::new(Answer::from_stream(body)))
            }
        });
        let client: Client = ClientBuilder::new(service, "default").with_layer(&Limit::new(MOST)).build();
        Api::default_namespaced(client)
    }

    const NOW: Duration = Duration::ZERO;
    const NEVER: Duration = Duration::from_hours(1000);

    #[rstest]
    #[case::that_never_begins(NEVER, &[])]
    #[case::that_never_ends(NOW, &[(NOW, &LIST[..10]), (NEVER, &LIST[10..])])]
    #[case::that_is_slow(Duration::from_secs(20), &[(Duration::from_secs(20), LIST)])]
    #[tokio::test(start_paused = true)]
    async fn an_answer_has_a_time_limit(
        #[case] head: Duration,
        #[case] pieces: &[(Duration, &'static [u8])],
    ) {
        let start = Instant::now();
        let list = timeout(NEVER / 2, secrets(head, pieces).list(&ListParams::default())).await;
        let error = list.expect("it ends").unwrap_err();
        assert_eq!(start.elapsed(), MOST);
        assert_eq!(describe(&error), "request to the API server failed: no answer within 30 s");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_is_whole() {
        let late = Duration::from_secs(14);
        let secrets = secrets(late, &[(late, &LIST[..10]), (NOW, &LIST[10..])]);
        assert_eq!(secrets.list(&ListParams::default()).await.unwrap().items, []);
    }

    #[tokio::test(start_paused = true)]
    async fn the_start_of_a_watch_has_a_time_limit() {
        let start = Instant::now();
        let never = secrets(NEVER, &[]);
        assert!(never.watch(&WatchParams::default(), "1").await.is_err());
        assert_eq!(start.elapsed(), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_watch_has_no_time_limit() {
        let long = Duration::from_mins(10);
        let secrets = secrets(NOW, &[(long, EVENT), (long, EVENT)]);
        let events = secrets.watch(&WatchParams::default(), "1").await.unwrap();
        assert_eq!(events.filter(|event| std::future::ready(event.is_ok())).count().await, 2);
    }
}
