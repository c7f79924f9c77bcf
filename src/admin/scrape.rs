//! One scrape of `/metrics`. The text of ten thousand `GraphToken`s is larger than all else that the process holds, so it is sent
//! while it is written.

use std::sync::Arc;
use std::{fmt, io};

use axum::body::{Body, Bytes};
use futures::stream;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Sent in pieces of about so many bytes; what is smaller as a whole goes as one.
const PIECE: usize = 64 * 1024;

/// The format that the text is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// As prometheus-client encodes it.
    OpenMetrics,
    /// The one before it.
    Classic,
}

/// The text of all that is registered. `None`: it cannot be written.
pub(super) async fn scrape<T>(owner: Arc<T>, format: Format, registry: fn(&T) -> &Registry) -> Option<Body>
where
    T: Send + Sync + 'static,
{
    let (pieces, mut written) = channel(1);
    tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(format, pieces);
        if encode(&mut writer, registry(&owner)).is_ok() {
            writer.send();
        } else {
            // Whoever is asking still learns that this is not all.
            let _ = writer.pieces.blocking_send(Err(io::Error::other("the metrics cannot be written")));
        }
    });
    let first = written.recv().await?.ok()?;
    match written.recv().await {
        None => Some(Body::from(first)),
        Some(second) => Some(Body::from_stream(rest([Ok(first), second], written))),
    }
}

type Piece = io::Result<Bytes>;

fn rest(begun: [Piece; 2], written: Receiver<Piece>) -> impl futures::Stream<Item = Piece> {
    use futures::StreamExt as _;
    let rest = stream::unfold(written, async |mut written| Some((written.recv().await?, written)));
    stream::iter(begun).chain(rest)
}

/// Takes the text as it is encoded, line by line.
struct Writer {
    format: Format,
    /// The line that is being written.
    line: String,
    /// A line of help waits for that of the type, which tells what the samples are called.
    help: String,
    text: String,
    pieces: Sender<Piece>,
}

impl Writer {
    const fn new(format: Format, pieces: Sender<Piece>) -> Self {
        Self { format, line: String::new(), help: String::new(), text: String::new(), pieces }
    }

    fn end_line(&mut self) {
        match self.format {
            Format::OpenMetrics => self.text.push_str(&self.line),
            Format::Classic => self.end_classic_line(),
        }
        self.line.clear();
    }

    /// There a counter is described under the name of its samples, and nothing marks the end.
    fn end_classic_line(&mut self) {
        let described = |line: &str, kind: &str| {
            let (name, rest) = line.strip_prefix(kind)?.split_once(' ')?;
            Some(format!("{kind}{name}_total {rest}"))
        };
        if self.line.starts_with("# HELP ") {
            std::mem::swap(&mut self.line, &mut self.help);
        } else if self.line.starts_with("# TYPE ") {
            let counter = self.line.ends_with(" counter\n");
            for (line, kind) in [(&self.help, "# HELP "), (&self.line, "# TYPE ")] {
                match described(line, kind).filter(|_| counter) {
                    Some(described) => self.text.push_str(&described),
                    None => self.text.push_str(line),
                }
            }
            self.help.clear();
        } else if self.line != "# EOF\n" {
            self.text.push_str(&self.line);
        }
    }

    /// Whether anybody still wants it.
    fn send(&mut self) -> bool {
        let piece = Bytes::from(std::mem::replace(&mut self.text, String::with_capacity(PIECE)));
        self.pieces.blocking_send(Ok(piece)).is_ok()
    }
}

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            self.line.push_str(part);
            if part.ends_with('\n') {
                self.end_line();
            }
        }
        if self.text.len() >= PIECE && !self.send() {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn written(format: Format, parts: &[&str]) -> (String, usize) {
        let (pieces, mut sent) = channel(1000);
        let mut writer = Writer::new(format, pieces);
        for part in parts {
            writer.write_str(part).unwrap();
        }
        writer.send();
        drop(writer);
        let pieces: Vec<Bytes> = std::iter::from_fn(|| sent.blocking_recv()).map(Result::unwrap).collect();
        (String::from_utf8(pieces.concat()).unwrap(), pieces.len())
    }

    const OPEN: &str = "# HELP a Some.\n# TYPE a counter\na_total{b=\"# EOF\"} 1\n# HELP ab Few.\n# TYPE ab gauge\nab 2\n# EOF\n";

    #[test]
    fn in_plain_text_a_counter_is_described_under_the_name_of_its_samples() {
        let text = "# HELP a_total Some.\n# TYPE a_total counter\na_total{b=\"# EOF\"} 1\n# HELP ab Few.\n# TYPE ab gauge\nab 2\n";
        assert_eq!(written(Format::Classic, &[OPEN]).0, text);
        let bytes: Vec<&str> = OPEN.split("").collect();
        assert_eq!(written(Format::Classic, &bytes).0, text);
        assert_eq!(written(Format::OpenMetrics, &bytes).0, OPEN);
    }

    #[test]
    fn a_long_text_is_sent_while_it_is_written_and_whole() {
        let lines: Vec<String> = (0..10_000).map(|n| format!("ready{{name=\"mail-{n}\"}} 1\n")).collect();
        let parts: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (text, pieces) = written(Format::OpenMetrics, &parts);
        assert_eq!(text, lines.concat());
        assert_eq!(pieces, text.len().div_ceil(PIECE));
    }

    #[test]
    fn nothing_more_is_written_for_who_is_gone() {
        let (pieces, sent) = channel(1);
        drop(sent);
        let mut writer = Writer::new(Format::OpenMetrics, pieces);
        assert!(writer.write_str(&"a 1\n".repeat(PIECE)).is_err());
    }

    #[tokio::test]
    async fn a_scrape_of_many_pieces_ends_with_the_end() {
        let mut registry = Registry::default();
        let help = "x".repeat(PIECE);
        for name in ["a", "b", "c"] {
            registry.register(name, help.clone(), prometheus_client::metrics::gauge::Gauge::<i64>::default());
        }
        let body = scrape(Arc::new(registry), Format::OpenMetrics, |registry| registry).await.unwrap();
        let text = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert!(text.len() > 3 * PIECE && text.ends_with(b"# EOF\n"));
    }
}
