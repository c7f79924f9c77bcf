//! One event is one line, whatever stands in it: others' words make no lines of their own, and turn or hide none.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Makes writers that write one line at a time. The formatter hands over a whole event, with a line feed at its end.
pub(super) struct OneLine<W> {
    pub writer: W,
    /// Whether the formatter writes colours.
    pub colours: bool,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = Line<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { writer: self.writer.make_writer(), colours: self.colours }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line { writer: self.writer.make_writer_for(meta), colours: self.colours }
    }
}

/// A writer of events.
pub(super) struct Line<W> {
    writer: W,
    colours: bool,
}

impl<W: io::Write> io::Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.writer.write_all(clean(event, self.colours).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Escaped so that it is the same text to whoever reads JSON.
fn clean(event: &[u8], colours: bool) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(event);
    let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
    if !line.contains(misleads) {
        return text;
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    for (at, c) in line.char_indices() {
        if misleads(c) && !(colours && is_colour(&line[at..])) {
            // None of them is beyond four digits. Writing to a String does not fail.
            let _ = write!(cleaned, "\\u{:04x}", u32::from(c));
        } else {
            cleaned.push(c);
        }
    }
    cleaned.push_str(end);
    Cow::Owned(cleaned)
}

/// Ends a line, moves the cursor or turns the direction of writing (Unicode Standard Annex 9).
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a text begins with a sequence that sets a colour and does nothing else (ECMA-48, SGR).
fn is_colour(text: &str) -> bool {
    let parameters = text.strip_prefix("\u{1b}[").and_then(|rest| rest.split_once('m'));
    parameters.is_some_and(|(parameters, _)| parameters.bytes().all(|b| b.is_ascii_digit() || b == b';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_terminal_colours_pass_and_nothing_that_moves_the_cursor() {
        let event = "\u{1b}[2mtime\u{1b}[0m \u{1b}[1;31mERROR\u{1b}[0m x\u{1b}[2K\u{1b}[1A\u{1b}]0;title\u{7}\u{1b}m\n";
        let shown = "\u{1b}[2mtime\u{1b}[0m \u{1b}[1;31mERROR\u{1b}[0m x\\u001b[2K\\u001b[1A\\u001b]0;title\\u0007\\u001bm\n";
        assert_eq!(clean(event.as_bytes(), true), shown);
        assert!(!clean(event.as_bytes(), false).contains('\u{1b}'));
    }
}
