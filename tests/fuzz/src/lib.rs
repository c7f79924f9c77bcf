//! What must hold for any bytes that reach the pure core. Each check takes an input as it stands in `corpus/`, and panics
//! where something does not hold. `targets/` runs them under libFuzzer, `tests/corpus.rs` of the root package on the
//! kept inputs alone.

pub mod response;
pub mod secrets;
pub mod seed;
pub mod spec;

use jiff::Timestamp;

/// A line that parts the pieces of an input.
const CUT: &[u8] = b"\n%%\n";

/// The pieces of an input; past the last one they are empty.
fn pieces<const N: usize>(mut input: &[u8]) -> [&[u8]; N] {
    let mut pieces = [&b""[..]; N];
    for piece in &mut pieces {
        let end = input.windows(CUT.len()).position(|window| window == CUT);
        (*piece, input) = match end {
            Some(end) => (&input[..end], &input[end + CUT.len()..]),
            None => (input, &b""[..]),
        };
    }
    pieces
}

/// The moment of every check.
fn now() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().expect("a time")
}

/// Whether a text has only bytes of printable ASCII, and how many may be there.
fn is_graphic(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
