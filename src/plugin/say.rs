//! Stdout for results, stderr for talk, and colours where somebody sees them.

use std::io::{IsTerminal as _, Write as _};

/// Where the plugin writes to.
#[derive(Debug)]
pub struct Terminal {
    /// Whether stdout is a terminal.
    pub shown: bool,
    colours: bool,
    err_colours: bool,
}

/// A colour of the terminal's own palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// All is well.
    Green,
    /// Look at it.
    Yellow,
    /// Something is wrong.
    Red,
    /// By the way.
    Dim,
}

/// Whether and how text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    /// The text in a colour, if there are colours.
    pub fn paint(self, colour: Colour, text: &str) -> String {
        if !self.0 {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
            Colour::Dim => 2,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

impl Terminal {
    /// As the process was started. `NO_COLOR`: <https://no-color.org>.
    pub fn of_this_process() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let wanted = !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let shown = std::io::stdout().is_terminal();
        Self { shown, colours: wanted && shown, err_colours: wanted && std::io::stderr().is_terminal() }
    }

    /// How stdout is painted.
    pub const fn paint(&self) -> Paint {
        Paint(self.colours)
    }

    /// Writes a result.
    pub fn print(&self, text: &str) {
        self.print_bytes(text.as_bytes());
    }

    /// Writes a result. Whoever closed the pipe has seen enough.
    pub fn print_bytes(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// Says something to the person.
    pub fn say(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{}", clean(text));
    }

    /// Says that something went well.
    pub fn done(&self, text: &str) {
        self.marked(Colour::Green, "✓", text);
    }

    /// Says that something did not go well.
    pub fn amiss(&self, text: &str) {
        self.marked(Colour::Red, "✗", text);
    }

    /// Says what is to be done.
    pub fn note(&self, text: &str) {
        self.marked(Colour::Yellow, "!", text);
    }

    /// Says why the command ends here.
    pub fn error(&self, text: &str) {
        let head = Paint(self.err_colours).paint(Colour::Red, "error:");
        let _ = writeln!(std::io::stderr().lock(), "{head} {}", clean(text));
    }

    fn marked(&self, colour: Colour, mark: &str, text: &str) {
        let mark = Paint(self.err_colours).paint(colour, mark);
        let _ = writeln!(std::io::stderr().lock(), "{mark} {}", clean(text));
    }
}

/// Text from elsewhere as it can be shown: no control character of it reaches the terminal, line breaks excepted.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_coloured_that_nobody_sees() {
        assert_eq!(Paint(false).paint(Colour::Red, "x"), "x");
        assert_eq!(Paint(true).paint(Colour::Red, "x"), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn what_comes_from_elsewhere_does_not_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{7}"), "a\u{fffd}[2Jb\nc\u{fffd}");
    }
}
