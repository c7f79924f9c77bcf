//! The operator's binary against a real API server and real identity providers: `make cluster-up`, then
//! `cargo test --test cluster`. Each test has a namespace, an operator and a provider of its own, so they run side by side.
//!
//! A failed test prints the statuses and the end of the operator's log. `GRAPHTOKEN_TEST_KEEP=1` keeps its namespace.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its harness too")]

mod harness;

mod bad_input;
mod bounds;
mod chain;
mod chaos;
mod chaos_ledger;
mod clients;
mod consent;
mod converged;
mod cost;
mod deputy;
mod device;
mod device_oidc;
mod formats;
mod hostile;
#[path = "../hostile/server.rs"]
mod hostile_server;
mod https;
mod leaders;
mod login;
mod lost_answers;
mod lost_owners;
mod lost_rights;
mod lost_secrets;
mod memory;
mod mistakes;
mod odd_answers;
mod panics;
#[path = "../pki/mod.rs"]
mod pki;
mod plugin;
mod plugin_doctor;
mod plugin_login;
mod probe;
mod proofs;
mod proxies;
mod races;
mod redirects;
mod restart;
mod schedule;
mod secrets;
mod seeds;
mod shutdown;
mod silence;
mod specs;
mod stuck_commits;
mod stuck_providers;
mod targets;
mod throttling;
mod wall_clock;
mod watching;
