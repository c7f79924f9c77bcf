//! What the plan promises, by behaviour.

mod backoff;
mod clock;
mod due;
mod exchange;
mod probe;
pub(crate) mod properties;
mod publish;
mod seeds;
mod sign_in;
pub(crate) mod world;
