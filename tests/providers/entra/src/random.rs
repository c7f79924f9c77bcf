//! Random values, and the digests under which they are kept.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// About the size of Entra's tokens: a Secret or a log that holds one shows it.
const TOKEN_BYTES: usize = 900;

/// Device codes are shorter.
const DEVICE_CODE_BYTES: usize = 150;
/// As many letters as a user is asked to type.
const USER_CODE_LETTERS: usize = 9;
/// None that is easily taken for another. As many as five bits tell apart.
const USER_CODE_ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// What every access token begins with, so that a search finds a leaked one.
pub const ACCESS_TOKEN_PREFIX: &str = "SimAccess.";
/// What every minted refresh token begins with, so that a search finds a leaked one.
pub const REFRESH_TOKEN_PREFIX: &str = "SimRefresh.";
/// What every authorization code begins with, so that a search finds a leaked one.
pub const AUTHORIZATION_CODE_PREFIX: &str = "SimCode.";
/// What every device code begins with, so that a search finds a leaked one.
pub const DEVICE_CODE_PREFIX: &str = "SimDevice.";

/// The lower-case hex SHA-256 of a value: how the journal speaks of tokens.
pub fn digest(value: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(value.as_bytes()) {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// A new opaque token.
pub(crate) fn token(prefix: &str) -> String {
    opaque::<TOKEN_BYTES>(prefix)
}

/// A new device code.
pub(crate) fn device_code() -> String {
    opaque::<DEVICE_CODE_BYTES>(DEVICE_CODE_PREFIX)
}

/// A new authorization code.
pub(crate) fn authorization_code() -> String {
    opaque::<DEVICE_CODE_BYTES>(AUTHORIZATION_CODE_PREFIX)
}

/// A new code for a user to type.
pub(crate) fn user_code() -> String {
    let mut bytes = [0; USER_CODE_LETTERS];
    fill(&mut bytes);
    bytes.iter().map(|byte| char::from(USER_CODE_ALPHABET[usize::from(byte % 32)])).collect()
}

fn opaque<const BYTES: usize>(prefix: &str) -> String {
    let mut bytes = [0; BYTES];
    fill(&mut bytes);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// A new random GUID.
pub(crate) fn guid() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random bytes");
}
