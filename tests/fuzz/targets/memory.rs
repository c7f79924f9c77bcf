//! Memory: what a check holds at its peak is bounded by the size of its input.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that any input may cost: tables of the crates, a rendered target, messages.
const FIXED: usize = 1024 * 1024;
/// Bytes that each byte of an input may cost beside: `[0,0,…]` as a tree of JSON values has some 40 for each, and a check
/// holds a few trees.
const EACH: usize = 512;

/// Runs a check, and fails if it held more than is allowed.
pub fn bounded(input: &[u8], check: fn(&[u8])) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    check(input);
    let held = MEMORY.peak_usage().saturating_sub(before);
    let allowed = FIXED + EACH * input.len();
    assert!(held <= allowed, "{held} bytes were held at once for an input of {}", input.len());
}
