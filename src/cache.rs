//! What the watches have shown, kept in few bytes: ten thousand `GraphToken`s are to fit into a small pod, and so are the
//! Secrets beside them. What is not needed, `managedFields` above all, is skipped where it is read.

mod graphtokens;
mod secrets;

pub use graphtokens::{GraphTokenStore, Urgency, Watched};
pub use secrets::{SecretCache, SecretStore, WatchedSecret};
