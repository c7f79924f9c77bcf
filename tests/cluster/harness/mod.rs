//! What the tests stand on: a world for each test, and the parties in it.

pub mod admission;
pub mod audit;
pub mod cluster;
pub mod gate;
pub mod graph;
pub mod leaks;
pub mod lease;
pub mod o365;
pub mod objects;
pub mod oidc;
pub mod operator;
pub mod plugin;
pub mod proxy;
pub mod tls;
pub mod world;

pub use self::objects::{Gt, Issuer, app_only, delegated};
pub use self::operator::Options;
pub use self::world::World;

use std::path::PathBuf;

/// The checkout.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// An HTTP client that goes straight to loopback, whatever the environment says of proxies.
pub fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}
