//! The public API `graphtoken.io/v1alpha1`: what users write, what they read back, and every name both rely on.

pub mod carry;
pub mod client;
pub mod condition;
pub mod duration;
pub mod names;
pub mod open;
pub mod spec;
pub mod status;
pub mod target;
pub mod time;

#[cfg(feature = "operator")]
pub use client::ClusterGraphClient;
pub use client::ClusterGraphClientSpec;
pub use condition::{Condition, ConditionStatus, ConditionType, Reason};
pub use duration::GoDuration;
pub use open::{Open, Word};
#[cfg(feature = "operator")]
pub use spec::GraphToken;
pub use spec::GraphTokenSpec;
pub use status::GraphTokenStatus;
pub use time::Time;
