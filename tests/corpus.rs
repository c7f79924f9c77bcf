//! The inputs that the fuzzer keeps, without the fuzzer: what once broke stays mended. And the largest inputs that get past
//! the bounds: time must grow with the size, not with its square.

use std::time::{Duration, Instant};
use std::{fs, path::Path};

use rstest::rstest;

#[path = "fuzz/src/lib.rs"]
mod checks;

/// The bound of a provider's answer, and of a Secret.
const MEGABYTE: usize = 1024 * 1024;
/// A check that goes over its input a few dozen times takes a second or two in a debug build; a quadratic one, hours.
const PATIENCE: Duration = Duration::from_mins(1);

#[rstest]
#[case("spec", checks::spec::check)]
#[case("seed", checks::seed::check)]
#[case("secrets", checks::secrets::check)]
#[case("response", checks::response::check)]
fn what_the_fuzzer_keeps_still_holds(#[case] target: &str, #[case] check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files: Vec<_> =
        fs::read_dir(folder).expect("it is kept").map(|f| f.expect("a file").path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let input = fs::read(&file).expect("it can be read");
        std::panic::catch_unwind(|| check(&input)).unwrap_or_else(|_| panic!("{} fails", file.display()));
    }
}

/// `begin`, then `again` until it is `size` long, then `end`.
fn repeated(begin: &str, again: &str, end: &str, size: usize) -> Vec<u8> {
    [begin, &again.repeat(size / again.len()), end].concat().into_bytes()
}

#[rstest]
#[case::nested("200\n\n", "[", "")]
#[case::numbers("400\n\n{\"error_codes\":[1", ",1", "]}")]
#[case::members("200\n\n{\"a\":1", ",\"a\":1", "}")]
#[case::scopes("200\n\n{\"access_token\":\"a\",\"scope\":\"", "a b ", "\"}")]
#[case::dots("200\n\n{\"access_token\":\"a\",\"id_token\":\"", ".", "\"}")]
#[case::padding("200\n\n{\"access_token\":\"a\",\"client_info\":\"", "=", "\"}")]
#[case::pause("429\n", "9", "\n{}")]
#[case::date("429\n", "Mon, ", "\n{}")]
#[case::surrogates("200\n\n{\"refresh_token\":\"a\",\"b\":\"", "\\ud800", "\"}")]
fn a_huge_answer_is_read_in_time(#[case] begin: &str, #[case] again: &str, #[case] end: &str) {
    in_time(checks::response::check, &repeated(begin, again, end, MEGABYTE));
}

#[rstest]
#[case::token("", "a", "")]
#[case::nested("", "[", "")]
#[case::clients("{\"RefreshToken\":{\"a\":{}", ",\"a\":{\"secret\":\"b\"}", "}}")]
#[case::white("", " ", "a")]
fn a_huge_seed_is_read_in_time(#[case] begin: &str, #[case] again: &str, #[case] end: &str) {
    in_time(checks::seed::check, &repeated(begin, again, end, 256 * 1024 - 64));
}

#[rstest]
#[case::digests("{\"seedDigests\":[\"a\"", ",\"a\"", "]}\n%%\n{}\n%%\nrt\n%%\nat")]
#[case::nested("", "[", "")]
#[case::token("{}\n%%\n{}\n%%\n", "a", "\n%%\nat")]
#[case::annotation("{}\n%%\n{}\n%%\nrt\n%%\nat\n%%\n{\"attempt\":\"", "a", "\"}")]
#[case::conditions("{}\n%%\n{}\n%%\nrt\n%%\nat\n%%\n{}\n%%\n{\"codes\":[1", ",1", "]}")]
fn a_huge_secret_is_read_in_time(#[case] begin: &str, #[case] again: &str, #[case] end: &str) {
    in_time(checks::secrets::check, &repeated(begin, again, end, MEGABYTE));
}

#[expect(clippy::disallowed_methods, reason = "it is how long a check takes that is tested")]
fn in_time(check: fn(&[u8]), input: &[u8]) {
    let began = Instant::now();
    check(input);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}
