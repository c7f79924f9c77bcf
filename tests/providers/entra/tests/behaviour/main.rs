//! What the simulator does, seen from outside: each test starts one of its own on loopback.

mod app_only;
mod authorize;
mod binary;
mod certificates;
mod control;
mod device;
mod faults;
mod federated;
mod graph;
mod http;
mod refresh;
mod sign;
mod tls;
