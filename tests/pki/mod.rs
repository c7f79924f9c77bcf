//! Certificates and keys that no server knows, as `make.sh` made them.

#![allow(dead_code, reason = "each test takes what it needs")]

/// A certificate from 2020 to 2076 that `CLIENT_KEY` belongs to.
pub const CLIENT: &str = include_str!("client.crt");
/// In PKCS#8.
pub const CLIENT_KEY: &str = include_str!("client.key");
/// The same in PKCS#1.
pub const CLIENT_KEY_PKCS1: &str = include_str!("client.pkcs1.key");
/// The same, encrypted, in PKCS#8.
pub const CLIENT_KEY_ENCRYPTED: &str = include_str!("client.encrypted.key");
/// The same, encrypted, in PKCS#1.
pub const CLIENT_KEY_ENCRYPTED_PKCS1: &str = include_str!("client.encrypted-pkcs1.key");
/// For the same key, until 2019.
pub const EXPIRED: &str = include_str!("expired.crt");
/// For the same key, from 2070.
pub const FUTURE: &str = include_str!("future.crt");
/// For the same key, until 2046, issued by `OTHER`.
pub const ISSUED: &str = include_str!("issued.crt");
/// Another certificate.
pub const OTHER: &str = include_str!("other.crt");
/// Its key.
pub const OTHER_KEY: &str = include_str!("other.key");
/// With an RSA key of 1024 bits.
pub const SHORT: &str = include_str!("short.crt");
/// Its key.
pub const SHORT_KEY: &str = include_str!("short.key");
/// With an elliptic-curve key.
pub const CURVE: &str = include_str!("curve.crt");
/// Its key, in PKCS#8.
pub const CURVE_KEY: &str = include_str!("curve.key");
/// The same in SEC 1.
pub const CURVE_KEY_SEC1: &str = include_str!("curve.sec1.key");
