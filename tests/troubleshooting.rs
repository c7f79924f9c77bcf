//! docs/troubleshooting.md speaks of everything that the operator can say: a reason or a code without a word there fails here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use graphtoken::api::Reason;
use graphtoken::crds;
use graphtoken::events::EventReason;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the file is there")
}

fn reasons_of_conditions() -> BTreeSet<String> {
    Reason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect()
}

/// The schema takes words of other versions, too.
#[test]
fn the_crd_names_every_reason_in_its_help() {
    let version = &crds::all()[0]["spec"]["versions"][0];
    let status = &version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    let help = &status["conditions"]["items"]["properties"]["reason"]["description"];
    let help = help.as_str().expect("it has one");
    let named: BTreeSet<String> = help.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(named, reasons_of_conditions());
}

/// What the headings of the third level name.
fn sections() -> Vec<String> {
    let page = read("docs/troubleshooting.md");
    page.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect()
}

#[test]
fn every_reason_has_its_section_and_no_section_is_left_over() {
    let mut reasons = reasons_of_conditions();
    assert!(reasons.contains("AuthorizationRequired"), "{reasons:?}");
    reasons.extend(EventReason::ALL.iter().map(|reason| reason.as_str().to_owned()));
    let sections = sections();
    let told: BTreeSet<_> = sections.iter().cloned().collect();
    assert_eq!(told.len(), sections.len(), "a reason has two sections: {sections:?}");
    let apart: Vec<_> = told.symmetric_difference(&reasons).collect();
    assert!(apart.is_empty(), "without a section, or a section without a reason: {apart:?}");
}

/// Numbers of five digits or more: in the files below these are AADSTS codes and nothing else.
fn long_numbers(text: &str) -> BTreeSet<String> {
    let words =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(|word| word.replace('_', ""));
    words.filter(|word| word.len() >= 5 && word.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

#[test]
fn every_code_of_entra_that_the_operator_knows_is_in_the_table_and_no_other() {
    let mut known = long_numbers(&read("src/failure/advice.rs"));
    known.extend(long_numbers(&read("src/failure.rs")));
    assert!(known.contains("50173") && known.contains("700211"), "{known:?}");
    let page = read("docs/troubleshooting.md");
    let (_, table) = page.split_once("\n## AADSTS codes\n").expect("the page has that part");
    let table = table.split("\n## ").next().unwrap_or_default();
    let apart: Vec<_> = long_numbers(table).symmetric_difference(&known).cloned().collect();
    assert!(apart.is_empty(), "not in the table, or nowhere else: {apart:?}");
}
