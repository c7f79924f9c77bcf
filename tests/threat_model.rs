//! The threat model names a test for each of its lines, and each of those exists.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeSet;
use std::path::Path;

fn page() -> (&'static Path, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    (root, std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap())
}

/// What stands between backticks and looks like a file of this repository, with the test in it.
fn named(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_file = |path: &str| ["src/", "tests/", "hack/"].iter().any(|folder| path.starts_with(folder));
    quoted
        .map(|quoted| quoted.split_once("::").map_or((quoted, None), |(path, name)| (path, Some(name))))
        .filter(move |(path, _)| is_file(path))
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let (root, page) = page();
    let (mut missing, mut found) = (BTreeSet::new(), BTreeSet::new());
    for (path, name) in named(&page) {
        let file = root.join(path);
        let there = match name {
            None => file.exists(),
            Some(name) => {
                std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {name}(")))
            }
        };
        let place = (path, name.unwrap_or_default());
        if there {
            found.insert(place)
        } else {
            missing.insert(place)
        };
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(found.len() > 40, "{found:#?}");
}

#[test]
fn every_line_that_says_cannot_names_what_shows_it() {
    let (_, page) = page();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| cannot "));
    let unshown: Vec<_> = rows.filter(|row| named(row).next().is_none()).collect();
    assert!(unshown.is_empty(), "{unshown:#?}");
}
