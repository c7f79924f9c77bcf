//! What is printed: a JSON object a figure to stdout, a table and progress to stderr.

use std::io::Write as _;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::stats::rounded;

/// What a value is held against, taken in the same run.
#[derive(Clone, Debug, Serialize)]
pub struct Floor {
    /// What it is.
    pub what: String,
    /// In the unit of the figure.
    pub value: f64,
}

/// A goal: a bound of the value, or of its ratio to the floor.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The value is at most this.
    AtMost(f64),
    /// The value divided by the floor is at most this.
    RatioAtMost(f64),
    /// The value divided by the floor is at least this.
    RatioAtLeast(f64),
    /// It is there to be read.
    None,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "what it is called in the JSON")]
pub struct Figure {
    /// Its name.
    pub figure: String,
    /// What was measured.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it is held against.
    pub floor: Option<Floor>,
    /// The value divided by the floor.
    pub ratio: Option<f64>,
    /// The goal in words.
    pub goal: Option<String>,
    /// Whether it is met.
    pub met: Option<bool>,
    /// With what it was measured.
    pub parameters: Value,
}

impl Figure {
    /// A figure; `parameters` is an object.
    pub fn new(
        figure: &str,
        value: f64,
        unit: &'static str,
        floor: Option<(&str, f64)>,
        goal: Goal,
        parameters: Value,
    ) -> Self {
        let value = rounded(value);
        let floor = floor.map(|(what, value)| Floor { what: what.to_owned(), value: rounded(value) });
        let ratio = floor.as_ref().filter(|floor| floor.value != 0.0).map(|floor| value / floor.value);
        let (goal, met) = match goal {
            Goal::AtMost(most) => (Some(format!("≤ {most} {unit}")), Some(value <= most)),
            Goal::RatioAtMost(most) => {
                (Some(format!("≤ {most} × the floor")), ratio.map(|ratio| ratio <= most))
            }
            Goal::RatioAtLeast(least) => {
                (Some(format!("≥ {least} × the floor")), ratio.map(|ratio| ratio >= least))
            }
            Goal::None => (None, None),
        };
        Self {
            figure: figure.to_owned(),
            value,
            unit,
            floor,
            ratio: ratio.map(rounded),
            goal,
            met,
            parameters,
        }
    }
}

/// Not Tokio's clock, which is paused where a day is lived through.
#[expect(clippy::disallowed_methods, reason = "to measure is to read clocks")]
static BEGAN: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// The clock that measures.
#[expect(clippy::disallowed_methods, reason = "to measure is to read clocks")]
pub fn now() -> Instant {
    std::time::Instant::now().into()
}

/// Says what is going on.
#[expect(clippy::print_stderr, reason = "progress, for people")]
pub fn say(what: &str) {
    eprintln!("bench {:>5} s  {what}", BEGAN.elapsed().as_secs());
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report(Mutex<Vec<Figure>>);

impl Report {
    /// Prints a figure as soon as it is known, and keeps it for the table.
    pub fn add(&self, figure: Figure) {
        let line = serde_json::to_string(&figure).unwrap_or_default();
        let mut out = std::io::stdout().lock();
        // Whoever closed the pipe does not want to know.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        say(&format!("{}: {}", figure.figure, in_words(&figure)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(figure);
    }

    /// The table, and whether all goals are met.
    #[expect(clippy::print_stderr, reason = "the table, for people")]
    pub fn close(&self) -> bool {
        let figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!(
            "\n{:<44} {:>12} {:<14} {:>12} {:>7}  {:<22} met",
            "figure", "value", "unit", "floor", "ratio", "goal"
        );
        for f in figures.iter() {
            let floor = f.floor.as_ref().map_or_else(String::new, |floor| floor.value.to_string());
            let ratio = f.ratio.map_or_else(String::new, |ratio| ratio.to_string());
            let met = f.met.map_or("", |met| if met { "yes" } else { "NO" });
            let goal = f.goal.as_deref().unwrap_or("");
            eprintln!(
                "{:<44} {:>12} {:<14} {floor:>12} {ratio:>7}  {goal:<22} {met}",
                f.figure, f.value, f.unit
            );
        }
        figures.iter().all(|figure| figure.met != Some(false))
    }
}

fn in_words(figure: &Figure) -> String {
    let floor =
        figure.floor.as_ref().map(|floor| format!(", {} {}", floor.what, floor.value)).unwrap_or_default();
    let met = figure.met.map(|met| if met { ", met" } else { ", NOT met" }).unwrap_or_default();
    format!("{} {}{floor}{met}", figure.value, figure.unit)
}
