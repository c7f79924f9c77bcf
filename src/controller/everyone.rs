//! What the scopes have in common: each can wake a `GraphToken` of any, and none begins before all have been heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::watch;

use crate::cache::Watched;
use crate::state::Key;

/// A namespace, or all of them.
type Namespace = Option<String>;
type Waker = mpsc::UnboundedSender<ObjectRef<Watched>>;

/// All scopes.
#[derive(Clone, Default)]
pub(super) struct Everyone {
    wakers: Arc<Mutex<BTreeMap<Namespace, Waker>>>,
    unheard: Arc<watch::Sender<BTreeSet<Namespace>>>,
}

impl Everyone {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Namespace, Waker>> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A scope more; returns where its `GraphToken`s are woken.
    pub(super) fn join(&self, namespace: Namespace) -> mpsc::UnboundedReceiver<ObjectRef<Watched>> {
        let (waker, woken) = mpsc::unbounded();
        self.unheard.send_modify(|unheard| {
            unheard.insert(namespace.clone());
        });
        self.lock().insert(namespace, waker);
        woken
    }

    /// Wakes `GraphToken`s, in whichever scope they are.
    pub(super) fn wake(&self, graphtokens: impl IntoIterator<Item = Key>) {
        let wakers = self.lock();
        for Key { namespace, name } in graphtokens {
            let waker = wakers.get(&None).or_else(|| wakers.get(&Some(namespace.clone())));
            if let Some(waker) = waker {
                let _ = waker.unbounded_send(ObjectRef::new(&name).within(&namespace));
            }
        }
    }

    /// The `GraphToken`s of a scope are known, or cannot be had for now.
    pub(super) fn heard(&self, namespace: &Namespace) {
        self.unheard.send_if_modified(|unheard| unheard.remove(namespace));
    }

    /// Waits until all scopes have been heard: what a provider said to one `GraphToken` is for those of other namespaces too.
    pub(super) async fn all_heard(&self) {
        // It cannot fail: the sender is right here.
        let _ = self.unheard.subscribe().wait_for(BTreeSet::is_empty).await;
    }
}
