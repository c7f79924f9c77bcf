//! graphtoken-operator keeps Microsoft Graph access tokens fresh in Kubernetes Secrets.
//!
//! The modules, in the order of the flow; those marked `[IO]` are the edges, the others are pure and take `now` as a
//! parameter:
//!
//! ```text
//! watch event → cache → desired + observed → plan(now) → exchange → commit → render → publish → probe → status → restart → requeue
//!               [IO]         pure              pure        [IO]       [IO]     pure     [IO]     [IO]     [IO]     [IO]
//! ```
//!
//! `exchange → commit` and `probe` are tasks of their own (`rotation`). A reconcile starts one and ends; its result enqueues the
//! object, and the next reconcile takes it from there. Around the flow stand, all `[IO]`:
//!
//! ```text
//! run        a process: terms of leadership (leader), supervision (supervise), /livez, /readyz and /metrics (admin), the end
//! controller a term: watches → mirrors (cache) → queue → worker
//! slot       one of --concurrency, handed on from a reconcile to the task that it starts
//! permits    token requests in flight per client
//! state      what is remembered of an object between two reconciles
//! ```
//!
//! Without the feature `operator` only the pure part is compiled, with neither kube nor tokio nor reqwest.

pub mod api;

pub mod desired;
pub mod failure;
pub mod grant;
pub mod observed;
pub mod plan;
pub mod render;
pub mod seed;
pub mod target_shape;
pub mod throttle;
pub mod verdict;

#[cfg(feature = "operator")]
pub mod admin;
#[cfg(feature = "operator")]
pub mod args;
#[cfg(feature = "operator")]
pub mod cache;
#[cfg(feature = "operator")]
pub mod certificate;
#[cfg(feature = "operator")]
pub mod clients;
#[cfg(feature = "operator")]
pub mod clock;
#[cfg(feature = "operator")]
pub mod context;
#[cfg(feature = "operator")]
pub mod controller;
#[cfg(feature = "operator")]
pub mod crds;
#[cfg(feature = "operator")]
pub mod credential;
#[cfg(feature = "operator")]
pub mod events;
#[cfg(feature = "operator")]
pub mod exchange;
#[cfg(feature = "operator")]
pub mod hardening;
#[cfg(feature = "operator")]
pub mod kubeclient;
#[cfg(feature = "operator")]
pub mod leader;
#[cfg(feature = "operator")]
pub mod metrics;
#[cfg(feature = "operator")]
pub mod observe;
#[cfg(feature = "operator")]
pub mod pace;
#[cfg(feature = "operator")]
pub mod permits;
#[cfg(feature = "operator")]
pub mod plugin;
#[cfg(feature = "operator")]
pub mod probe;
#[cfg(feature = "operator")]
pub mod proof;
#[cfg(feature = "operator")]
pub mod reconcile;
#[cfg(feature = "operator")]
pub mod restart;
#[cfg(feature = "operator")]
pub mod retention;
#[cfg(feature = "operator")]
pub mod rotation;
#[cfg(feature = "operator")]
pub mod run;
#[cfg(feature = "operator")]
pub mod slot;
#[cfg(feature = "operator")]
pub mod state;
#[cfg(feature = "operator")]
pub mod status;
#[cfg(feature = "operator")]
pub mod store;
#[cfg(feature = "operator")]
pub mod supervise;
#[cfg(feature = "operator")]
pub mod target;
#[cfg(feature = "operator")]
pub mod telemetry;

#[cfg(all(test, feature = "operator"))]
#[path = "../tests/pki/mod.rs"]
mod pki;
