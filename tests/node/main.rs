//! What pods get, in real pods: containers on a real kubelet that mount the Secret, as uid 50000, with a read-only root and no
//! access to the API. `make node-up`, `tests/node/images.sh`, then `cargo test --test node`; `hack/test/all.sh node` does all
//! three, with a kubelet that looks at its volumes every second.
//!
//! The programs in the pods are the real ones and talk to graph.microsoft.com, which means loopback in there.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its harness too")]

#[path = "../cluster/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests that need no node")]
mod harness;
mod stage;

mod consumers;
mod examples;
mod rotations;
