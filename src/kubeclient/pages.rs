//! How many objects a page of a list has: fewer where they are so large that a page would take too much memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::Body as Answer;
use futures::StreamExt as _;
use http::Uri;
use tower::BoxError;

/// The most bytes that are read of a page. The API server takes no object as large as this.
const MOST: usize = 8 * 1024 * 1024;
/// A page that was too large is followed by one with fewer objects, by this factor.
const FEWER: u32 = 4;

/// Pages have as many objects as was asked for, by the path of the list, except those here. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Pages(Arc<Mutex<HashMap<String, u32>>>);

/// A page of more than [`MOST`] bytes. The list that is then begun again has smaller ones.
#[derive(Debug, thiserror::Error)]
#[error("a page of the list is too large; listing again in smaller pages")]
struct TooLarge;

/// A page of a list that was asked for.
pub(super) struct Page {
    pages: Pages,
    path: String,
    objects: u32,
}

impl Pages {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page that a request asks for, if it is one. The request is changed to ask for a page of the right size.
    pub(super) fn of(&self, uri: &mut Uri) -> Option<Page> {
        let asked: u32 = limit(uri.query()?)?.parse().ok()?;
        let objects = self.lock().get(uri.path()).map_or(asked, |most| asked.min(*most));
        if objects < asked {
            *uri = with_limit(uri, objects)?;
        }
        Some(Page { pages: self.clone(), path: uri.path().to_owned(), objects })
    }
}

impl Page {
    /// Reads the whole of it.
    pub(super) async fn read(self, body: Answer) -> Result<Answer, BoxError> {
        let (mut whole, mut pieces) = (Vec::new(), body.into_data_stream());
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if whole.len() + piece.len() > MOST && self.objects > 1 {
                self.pages.lock().insert(self.path, (self.objects / FEWER).max(1));
                return Err(TooLarge.into());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Answer::from(whole))
    }
}

fn limit(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("limit="))
}

fn with_limit(uri: &Uri, objects: u32) -> Option<Uri> {
    let pairs = uri.query()?.split('&').filter(|pair| !pair.starts_with("limit="));
    let query = pairs.fold(format!("limit={objects}"), |query, pair| format!("{query}&{pair}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{}?{query}", uri.path()).parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(limit: &str) -> Uri {
        format!("https://api:6443/api/v1/secrets?&limit={limit}&continue=a%26b").parse().unwrap()
    }

    #[tokio::test]
    async fn a_page_that_is_too_large_is_followed_by_smaller_ones_of_that_list() {
        let pages = Pages::default();
        for objects in [500, 125, 31, 7] {
            let mut asked = uri("500");
            let page = pages.of(&mut asked).unwrap();
            assert_eq!(limit(asked.query().unwrap()), Some(objects.to_string().as_str()));
            assert!(asked.query().unwrap().contains("&continue=a%26b"), "{asked}");
            assert_eq!((asked.host(), asked.path()), (Some("api"), "/api/v1/secrets"));
            let error = page.read(Answer::from(vec![b' '; MOST + 1])).await.unwrap_err();
            assert!(error.is::<TooLarge>());
        }
        let mut asked = uri("500");
        let read = pages.of(&mut asked).unwrap().read(Answer::from(vec![b' '; MOST + 1])).await;
        assert!(read.is_ok(), "a single object is never too large");
        let mut other: Uri = "https://api:6443/api/v1/namespaces?limit=500".parse().unwrap();
        pages.of(&mut other).unwrap();
        assert_eq!(other.query(), Some("limit=500"));
    }

    #[tokio::test]
    async fn what_is_no_page_is_left_as_it_is() {
        let pages = Pages::default();
        for text in
            ["https://api/api/v1/secrets", "https://api/api/v1/secrets?watch=true", "https://api/x?limit=x"]
        {
            assert!(pages.of(&mut text.parse().unwrap()).is_none(), "{text}");
        }
        let page = pages.of(&mut uri("500")).unwrap();
        let read = page.read(Answer::from(vec![b' '; MOST])).await.unwrap();
        assert_eq!(axum::body::to_bytes(read, usize::MAX).await.unwrap().len(), MOST);
    }
}
