//! What a hostile provider, or whoever sits in the network before it, can do to the one who asks: the operator's HTTP client
//! and its readers, without a cluster. `tests/cluster/hostile.rs` does the same to the whole operator.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its harness too")]

mod answers;
mod crowd;
mod process;
mod server;
mod tls;

use graphtoken::grant::{Proof, TokenRequest, refresh_token};

/// A token request with nothing secret in it.
fn request() -> TokenRequest {
    refresh_token::request("a-client", &"a-refresh-token".into(), &["User.Read".to_owned()], Proof::Public)
}
