//! The controls of signing in by device code.

use std::time::Duration;

use serde::Serialize;

use super::{DeviceCode, DevicePolicy, DeviceStanding};
use crate::control::{Control, Unknown};

/// What is known of a device code in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceCodeInfo {
    /// What the user enters.
    pub user_code: String,
    /// Whom it was handed out to.
    pub client_id: String,
    /// The scopes asked for.
    pub scopes: Vec<String>,
    /// When it expires, in milliseconds since the epoch.
    pub expires_ms: u64,
    /// Seconds left.
    pub remaining_seconds: u64,
    /// The object id of the user who approved it.
    pub approved_by: Option<String>,
    /// Whether a user declined it.
    pub declined: bool,
    /// SHA-256 of the device code, as in the journal.
    pub device_sha256: String,
}

impl Control {
    /// The device authorization endpoint of the tenant, as `spec.endpoints.deviceAuthorization` wants it.
    pub fn device_authorization_url(&self) -> String {
        format!("{}/{}/oauth2/v2.0/devicecode", self.url(), self.tenant().id)
    }

    /// From now on, device codes live this long.
    pub fn set_device_lifetime(&self, lifetime: Duration) {
        self.with(|state| state.settings.device.lifetime = lifetime);
    }

    /// From now on, device codes are handed out with this `interval`; `None` answers none.
    pub fn set_device_interval(&self, interval: Option<Duration>) {
        self.with(|state| state.settings.device.interval = interval);
    }

    /// From now on, who polls faster than the interval is told to slow down, or not.
    pub fn set_device_slow_down(&self, slow_down: bool) {
        self.with(|state| state.settings.device.slow_down = slow_down);
    }

    /// From now on, this becomes of approved sign-ins by device code.
    pub fn set_device_policy(&self, policy: DevicePolicy) {
        self.with(|state| state.settings.device.policy = policy);
    }

    /// The device codes that are neither redeemed nor expired, the one that expires first in front.
    pub fn device_codes(&self) -> Vec<DeviceCodeInfo> {
        let now = self.now_ms();
        let mut codes: Vec<_> = self.read(|state| {
            let in_flight = state.device_codes.iter().filter(|(_, code)| code.in_flight(now));
            in_flight.map(|(sha256, code)| info(sha256, code, now)).collect()
        });
        codes.sort_by(|a, b| (a.expires_ms, &a.user_code).cmp(&(b.expires_ms, &b.user_code)));
        codes
    }

    /// Enters the code and signs in, as this user (object id or principal name). `None` is the first one configured.
    pub fn approve_device_code(&self, user_code: &str, user: Option<&str>) -> Result<(), Unknown> {
        let oid = self.read(|state| {
            let user = user.map_or_else(|| state.users.first(), |name| state.user(name));
            user.map(|user| user.oid.clone()).ok_or(Unknown::User)
        })?;
        self.device_code(user_code, |code| code.standing = DeviceStanding::Approved(oid))
    }

    /// Enters the code and declines.
    pub fn decline_device_code(&self, user_code: &str) -> Result<(), Unknown> {
        self.device_code(user_code, |code| code.standing = DeviceStanding::Declined)
    }

    /// Lets the code expire now.
    pub fn expire_device_code(&self, user_code: &str) -> Result<(), Unknown> {
        let now = self.now_ms();
        self.device_code(user_code, |code| code.expires_ms = now)
    }

    fn device_code(&self, user_code: &str, change: impl FnOnce(&mut DeviceCode)) -> Result<(), Unknown> {
        let now = self.now_ms();
        self.with(|state| {
            let mut codes = state.device_codes.values_mut();
            let found =
                codes.find(|code| code.in_flight(now) && code.user_code.eq_ignore_ascii_case(user_code));
            found.map(change).ok_or(Unknown::DeviceCode)
        })
    }
}

fn info(sha256: &str, code: &DeviceCode, now: u64) -> DeviceCodeInfo {
    DeviceCodeInfo {
        user_code: code.user_code.clone(),
        client_id: code.client_id.clone(),
        scopes: code.scopes.clone(),
        expires_ms: code.expires_ms,
        remaining_seconds: code.expires_ms.saturating_sub(now) / 1_000,
        approved_by: match &code.standing {
            DeviceStanding::Approved(oid) => Some(oid.clone()),
            _ => None,
        },
        declined: code.standing == DeviceStanding::Declined,
        device_sha256: sha256.to_owned(),
    }
}
