//! libFuzzer's entry to the check `secrets`.
#![no_main]

#[path = "memory.rs"]
mod memory;

libfuzzer_sys::fuzz_target!(|input: &[u8]| memory::bounded(input, graphtoken_fuzz::secrets::check));
