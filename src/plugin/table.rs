//! Rows → a table with bars, and one row in full. Pure.

use super::row::{Actor, Row};
use super::say::{Colour, Paint, clean};

/// How many cells a bar has.
const CELLS: u8 = 10;
/// From this much life on, in percent, a token is in its usual range: it is refreshed at half of its life.
const USUAL: u8 = 40;
/// Below this something is wrong with the refreshes.
const LITTLE: u8 = 15;

/// A cell: what stands there, and its colour.
type Cell = (String, Option<Colour>);

/// The table of several rows.
pub fn table(rows: &[Row], with_namespace: bool, paint: Paint) -> String {
    let mut head = vec!["NAME", "READY", "REASON", "LIFE LEFT", "EXPIRES IN", "WHO MUST ACT"];
    if with_namespace {
        head.insert(0, "NAMESPACE");
    }
    let head: Vec<Cell> = head.into_iter().map(|text| (text.to_owned(), None)).collect();
    let lines: Vec<Vec<Cell>> =
        std::iter::once(head).chain(rows.iter().map(|row| cells(row, with_namespace))).collect();
    let columns = lines[0].len();
    let width = |column: usize| lines.iter().map(|line| line[column].0.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, colour)) in line.iter().enumerate() {
            text.push_str(&colour.map_or_else(|| cell.clone(), |colour| paint.paint(colour, cell)));
            if column + 1 < columns {
                let gap = widths[column] - cell.chars().count() + 3;
                text.extend(std::iter::repeat_n(' ', gap));
            }
        }
        text.push('\n');
    }
    text
}

fn cells(row: &Row, with_namespace: bool) -> Vec<Cell> {
    let ready = match row.ready.as_str() {
        "True" => Colour::Green,
        "False" => Colour::Red,
        _ => Colour::Yellow,
    };
    let acts = match row.acts {
        Actor::Nobody => ("nobody".to_owned(), Some(Colour::Dim)),
        Actor::User => ("a user: sign in".to_owned(), Some(Colour::Red)),
        Actor::Owner => ("its owner: see status".to_owned(), Some(Colour::Red)),
        Actor::ClusterAdmin => ("a cluster administrator".to_owned(), Some(Colour::Red)),
    };
    let reason = match &row.refresh_problem {
        Some(problem) => format!("{} ({problem})", row.reason),
        None => row.reason.clone(),
    };
    let mut cells = vec![
        (clean(&row.name), None),
        (row.ready.clone(), Some(ready)),
        (reason, None),
        life(row),
        (expires(row), None),
        acts,
    ];
    if with_namespace {
        cells.insert(0, (clean(&row.namespace), None));
    }
    cells
}

fn life(row: &Row) -> Cell {
    let Some(percent) = row.life_left_percent else { return ("-".to_owned(), Some(Colour::Dim)) };
    let colour = match percent {
        USUAL.. => Colour::Green,
        LITTLE..USUAL => Colour::Yellow,
        _ => Colour::Red,
    };
    (format!("{} {percent:>3} %", bar(percent)), Some(colour))
}

/// A bar of ten cells. Whatever is left is shown, be it ever so little.
pub fn bar(percent: u8) -> String {
    let full = percent.min(100).div_ceil(100 / CELLS);
    (0..CELLS).map(|cell| if cell < full { '█' } else { '░' }).collect()
}

fn expires(row: &Row) -> String {
    match row.seconds_left {
        None => "-".to_owned(),
        Some(left) if left <= 0 => format!("expired {} ago", span(left.unsigned_abs())),
        Some(left) => span(left.unsigned_abs()),
    }
}

/// A span as people say it: the two greatest units at most.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// What stands below a table: what somebody must do. Empty where nobody must.
pub fn notes(rows: &[Row]) -> Vec<String> {
    let acting = rows.iter().filter(|row| row.acts != Actor::Nobody || row.ready != "True");
    acting
        .filter_map(|row| {
            let message = row.message.as_deref()?;
            let next = row.next.as_deref().map(|next| format!("\n  next: {next}")).unwrap_or_default();
            Some(format!("{}/{}: {message}{next}", row.namespace, row.name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::super::row::tests::{at, condition, object};
    use super::*;

    fn rows() -> Vec<Row> {
        let well =
            json!([condition("Ready", "True", "TokenValid"), condition("Refreshed", "True", "Succeeded")]);
        let lost = json!([
            condition("Stalled", "True", "AuthorizationRequired"),
            condition("Ready", "False", "AuthorizationRequired"),
        ]);
        let now = at("2026-11-23T10:15:00Z");
        let mut waiting = Row::of(&object(&lost), now);
        waiting.name = "calendar-sync".to_owned();
        (waiting.life_left_percent, waiting.seconds_left) = (None, None);
        vec![Row::of(&object(&well), now), waiting]
    }

    #[test]
    fn a_table_has_bars_and_straight_columns() {
        assert_eq!(
            table(&rows(), true, Paint(false)),
            "NAMESPACE   NAME            READY   REASON                  LIFE LEFT          EXPIRES IN   WHO MUST ACT\n\
             etl         mail            True    TokenValid              ████████░░  75 %   45m          nobody\n\
             etl         calendar-sync   False   AuthorizationRequired   -                  -            a user: sign in\n"
        );
        assert!(table(&rows(), false, Paint(false)).starts_with("NAME  "));
    }

    #[test]
    fn colours_do_not_bend_the_columns() {
        let coloured = table(&rows(), true, Paint(true));
        let mut bare = coloured.clone();
        for code in [0, 2, 31, 32, 33] {
            bare = bare.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert_ne!(bare, coloured);
        assert_eq!(bare, table(&rows(), true, Paint(false)));
    }

    #[rstest]
    #[case(0, "░░░░░░░░░░")]
    #[case(1, "█░░░░░░░░░")]
    #[case(50, "█████░░░░░")]
    #[case(51, "██████░░░░")]
    #[case(100, "██████████")]
    #[case(255, "██████████")]
    fn a_bar_shows_whatever_is_left(#[case] percent: u8, #[case] expected: &str) {
        assert_eq!(bar(percent), expected);
    }

    #[rstest]
    #[case(0, "0s")]
    #[case(59, "59s")]
    #[case(61, "1m")]
    #[case(3_661, "1h 1m")]
    #[case(90_000, "1d 1h")]
    fn spans_are_short(#[case] seconds: u64, #[case] expected: &str) {
        assert_eq!(span(seconds), expected);
    }

    #[test]
    fn notes_say_what_to_do_and_only_where_something_is_to_be_done() {
        assert_eq!(
            notes(&rows()),
            ["etl/calendar-sync: Stalled says why\n  next: kubectl graphtoken login mail -n etl"]
        );
    }
}
