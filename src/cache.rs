//! What the watches have shown, kept in few bytes: ten thousand `GraphToken`s are to fit into a small pod, and so are the
//! Secrets beside them. What is not needed, `managedFields` above all, is skipped where it is read.

mod graphtokens;
mod packer;
mod secrets;
mod table;

pub use graphtokens::{GraphTokenCache, GraphTokenStore, News, Urgency, Watched};
pub use packer::{Packed, Packer};
pub use secrets::{SecretCache, SecretStore, WatchedSecret};
