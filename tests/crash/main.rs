//! Every crash point: the real `reconcile` against an API server in memory and a provider that rotates refresh tokens.
//!
//! Each scenario is run once while every IO call is noted, and then again for each of these calls: the process is killed
//! before it, when it was done and not yet answered, and after its answer; a new process starts with empty memory and goes on.
//! Whatever the operator comes to call is thereby covered; that it calls something new fails the test until the list says so.

#![expect(clippy::panic, reason = "a test fails by panicking, its harness too")]

mod bad_input;
mod caches;
mod http;
mod idp;
mod objects;
mod over_time;
#[path = "../pki/mod.rs"]
mod pki;
mod points;
mod process;
mod proofs;
mod rejected;
mod scenario;
mod side_by_side;
mod state;
mod tape;
mod world;
