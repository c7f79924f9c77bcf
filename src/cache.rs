//! What the watches have shown, kept in few bytes: ten thousand `GraphToken`s are to fit into a small pod, and so are the
//! Secrets beside them. What is not needed, `managedFields` above all, is skipped where it is read.

use std::collections::BTreeMap;

mod graphtokens;
mod packer;
mod secrets;
mod table;

pub use graphtokens::{GraphTokenCache, GraphTokenStore, News, Undecodable, Urgency, Watched};
pub use packer::{Packed, Packer};
pub use secrets::{SecretCache, SecretStore, WatchedSecret};
pub use table::Epoch;

/// What is of a namespace, where there is one for all of them or one for each that is watched.
pub fn scope_of<'a, V>(scopes: &'a BTreeMap<Option<String>, V>, namespace: &str) -> Option<&'a V> {
    scopes.get(&None).or_else(|| scopes.get(&Some(namespace.to_owned())))
}
