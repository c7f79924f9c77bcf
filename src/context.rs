//! What all reconciles of a term of leadership share.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::cache::{GraphTokenCache, SecretCache};
use crate::clients::ClientCache;
use crate::desired::Guards;
use crate::events::Events;
use crate::rotation::Exchanger;
use crate::state::{Key, State};

/// What reconciles share.
pub struct Context {
    /// What exchanges are made with, the API server and the clock among it.
    pub exchanger: Exchanger,
    /// The mirror of `GraphToken`s.
    pub graphtokens: GraphTokenCache,
    /// The mirror of Secrets' metadata.
    pub secrets: Arc<SecretCache>,
    /// `ClusterGraphClient`s, and who is on them.
    pub clients: Arc<ClientCache>,
    /// What is remembered between reconciles.
    pub state: State,
    /// What the settings let a spec do.
    pub guards: Guards,
    /// Labels that the settings put on every Secret.
    pub secret_labels: BTreeMap<String, String>,
    /// Events for people.
    pub events: Events,
}

impl Context {
    /// A `GraphToken` is gone: nothing is kept of it.
    pub fn forget(&self, graphtoken: &Key) {
        self.state.forget(graphtoken);
        self.clients.forget(graphtoken);
        self.exchanger.acquisitions.forget(graphtoken);
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.exchanger.clock.now()
    }
}
