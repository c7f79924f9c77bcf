//! Signing in by device code: the codes that were handed out, until they are redeemed.

mod control;
mod endpoint;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::control::DeviceCodeInfo;
pub(crate) use self::endpoint::endpoint;
use crate::clock::millis;
use crate::refusal::Refusal;

/// Where a user enters the code.
pub const DEVICE_LOGIN_URI: &str = "https://microsoft.com/devicelogin";

/// The interval of a code that was handed out without one, and by how much `slow_down` lengthens it: RFC 8628.
const STEP: Duration = Duration::from_secs(5);
/// A client that waits just as long as it was told may arrive a little early all the same.
const TOLERANCE: Duration = Duration::from_millis(200);

/// How signing in by device code goes.
#[derive(Clone, Copy, Debug)]
pub struct DeviceFlow {
    /// How long a code can be used.
    pub lifetime: Duration,
    /// The `interval` answered; `None` answers none, which means five seconds.
    pub interval: Option<Duration>,
    /// Answer `slow_down` to a client that polls faster than that. Each time it adds five seconds to the interval.
    pub slow_down: bool,
    /// What becomes of a sign-in that was approved.
    pub policy: DevicePolicy,
}

/// What a policy of the tenant says to a sign-in by device code, after the user has approved it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DevicePolicy {
    /// There is none.
    #[default]
    Allowed,
    /// It is blocked: `access_denied`, AADSTS53003.
    AccessDenied,
    /// It is blocked: `invalid_grant`, AADSTS53003.
    InvalidGrant,
}

/// A code that was handed out. It is kept by its digest.
#[derive(Clone, Debug)]
pub(crate) struct DeviceCode {
    pub(crate) user_code: String,
    pub(crate) client_id: String,
    /// The scopes asked for.
    pub(crate) scopes: Vec<String>,
    pub(crate) expires_ms: u64,
    pub(crate) interval_ms: u64,
    pub(crate) last_poll_ms: Option<u64>,
    pub(crate) standing: DeviceStanding,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceStanding {
    Pending,
    /// By the user of this object id.
    Approved(String),
    Declined,
    Redeemed,
}

impl Default for DeviceFlow {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_mins(15),
            interval: Some(STEP),
            slow_down: false,
            policy: DevicePolicy::default(),
        }
    }
}

impl DeviceFlow {
    fn interval_ms(&self) -> u64 {
        millis(self.interval.unwrap_or(STEP))
    }
}

impl DeviceCode {
    /// Whether it can still become a sign-in.
    pub(crate) fn in_flight(&self, now: u64) -> bool {
        self.standing != DeviceStanding::Redeemed && now < self.expires_ms
    }

    /// The object id of the user who approved it, if the client may have the tokens now.
    pub(crate) fn poll(&mut self, flow: &DeviceFlow, now: u64) -> Result<String, Refusal> {
        let since = self.last_poll_ms.replace(now).map(|last| now.saturating_sub(last));
        if self.standing == DeviceStanding::Redeemed {
            return Err(Refusal::device_code_unknown());
        }
        if now >= self.expires_ms {
            return Err(Refusal::device_code_expired());
        }
        match &self.standing {
            DeviceStanding::Declined => Err(Refusal::device_code_declined()),
            DeviceStanding::Approved(oid) => match flow.policy {
                DevicePolicy::Allowed => Ok(oid.clone()),
                DevicePolicy::AccessDenied => Err(Refusal::blocked_by_policy("access_denied")),
                DevicePolicy::InvalidGrant => Err(Refusal::blocked_by_policy("invalid_grant")),
            },
            DeviceStanding::Pending | DeviceStanding::Redeemed => {
                let due = self.interval_ms.saturating_sub(millis(TOLERANCE));
                if flow.slow_down && since.is_some_and(|since| since < due) {
                    self.interval_ms += millis(STEP);
                    return Err(Refusal::slow_down());
                }
                Err(Refusal::authorization_pending())
            }
        }
    }
}
