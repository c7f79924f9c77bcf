//! What the simulator does, seen from outside: each test starts one of its own on loopback.

mod app_only;
mod binary;
mod control;
mod device;
mod faults;
mod graph;
mod http;
mod refresh;
