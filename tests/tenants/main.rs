//! An operator of all namespaces, and of some, between tenants that are nothing to each other: what its service account may do, and
//! that none of them holds up another. `cargo test --test tenants`. Each test brings a control plane of its own up and down.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its harness too")]

mod fairness;
mod features;
mod hanging_provider;
#[path = "../cluster/harness/mod.rs"]
#[expect(dead_code, reason = "shared with the tests that need no control plane of their own")]
mod harness;
#[path = "../pki/mod.rs"]
mod pki;
#[path = "../outage/plane.rs"]
#[expect(dead_code, reason = "shared with the tests of outages")]
mod plane;
mod release;
mod rights;
