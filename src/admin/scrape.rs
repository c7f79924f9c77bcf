//! One scrape of `/metrics`. The text of ten thousand `GraphToken`s is larger than all else that the process holds, and a reader
//! takes its time. So it is packed while it is written, at once, and unpacked piece by piece while it is read.

use std::sync::Arc;
use std::{fmt, io};

use axum::body::{Body, Bytes};
use futures::stream::{self, StreamExt as _};
use lz4_flex::block::{compress_prepend_size, decompress_size_prepended};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::OwnedSemaphorePermit;

/// Compressed text is sent in pieces of about this many bytes. Smaller text is one piece.
const PIECE: usize = 64 * 1024;

/// The format that the text is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// As prometheus-client encodes it.
    OpenMetrics,
    /// The one before it.
    Classic,
}

/// The text of all that is registered. `None`: it cannot be written. The permit is kept until all of it was read, or the reader
/// is gone.
pub(super) async fn scrape<T>(
    owner: Arc<T>,
    format: Format,
    registry: fn(&T) -> &Registry,
    permit: OwnedSemaphorePermit,
) -> Option<Body>
where
    T: Send + Sync + 'static,
{
    // What runs there runs to its end, though nobody may wait for it any more: it has the permit meanwhile.
    let writing = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(format);
        encode(&mut writer, registry(&owner)).ok()?;
        Some((writer.finish(), permit))
    });
    let (pieces, permit) = writing.await.ok()??;
    if let [whole] = pieces.as_slice() {
        return Some(Body::from(unpack(whole).ok()?));
    }
    let pieces = stream::iter(pieces).map(move |piece| {
        let _kept = &permit;
        unpack(&piece)
    });
    Some(Body::from_stream(pieces))
}

fn unpack(piece: &[u8]) -> io::Result<Bytes> {
    decompress_size_prepended(piece).map(Bytes::from).map_err(io::Error::other)
}

/// Takes the text as it is encoded, line by line.
struct Writer {
    format: Format,
    /// The line that is being written.
    line: String,
    /// A line of help waits for that of the type, which tells what the samples are called.
    help: String,
    text: String,
    /// What was written before, packed.
    pieces: Vec<Vec<u8>>,
}

impl Writer {
    const fn new(format: Format) -> Self {
        Self { format, line: String::new(), help: String::new(), text: String::new(), pieces: Vec::new() }
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

    fn pack(&mut self) {
        let mut piece = compress_prepend_size(self.text.as_bytes());
        piece.shrink_to_fit();
        self.pieces.push(piece);
        self.text.clear();
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        self.pack();
        self.pieces
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
        if self.text.len() >= PIECE {
            self.pack();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
    use prometheus_client::metrics::{MetricType, gauge::ConstGauge};
    use tokio::sync::Semaphore;

    use super::*;

    fn written(format: Format, parts: &[&str]) -> (String, usize) {
        let mut writer = Writer::new(format);
        for part in parts {
            writer.write_str(part).unwrap();
        }
        let pieces: Vec<Bytes> = writer.finish().iter().map(|piece| unpack(piece).unwrap()).collect();
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
    fn a_long_text_is_packed_while_it_is_written_and_whole() {
        let lines: Vec<String> = (0..10_000).map(|n| format!("ready{{name=\"mail-{n}\"}} 1\n")).collect();
        let parts: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (text, pieces) = written(Format::OpenMetrics, &parts);
        assert_eq!(text, lines.concat());
        assert_eq!(pieces, text.len().div_ceil(PIECE));
    }

    /// Writes many lines, and tells whether it is at it.
    #[derive(Debug, Clone, Default)]
    struct Lines(Arc<()>);

    impl Collector for Lines {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let _objects = Arc::clone(&self.0);
            let mut metric = encoder.encode_descriptor("ready", "Some.", None, MetricType::Gauge)?;
            for n in 0..10_000 {
                let labels = [("namespace", "ns".to_owned()), ("name", format!("mail-{n}"))];
                ConstGauge::new(1_i64).encode(metric.encode_family(&labels)?)?;
            }
            Ok(())
        }
    }

    async fn permit() -> (Arc<Semaphore>, OwnedSemaphorePermit) {
        let permits = Arc::new(Semaphore::new(1));
        (Arc::clone(&permits), permits.acquire_owned().await.unwrap())
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_holds_a_permit_and_no_objects() {
        let (permits, permit) = permit().await;
        let (mut registry, lines) = (Registry::default(), Lines::default());
        registry.register_collector(Box::new(lines.clone()));
        let body = scrape(Arc::new(registry), Format::OpenMetrics, |all| all, permit).await.unwrap();
        assert_eq!((Arc::strong_count(&lines.0), permits.available_permits()), (1, 0));
        drop(body);
        assert_eq!(permits.available_permits(), 1);
    }

    #[test]
    fn a_text_that_waits_to_be_read_takes_little_memory() {
        let lines: Vec<String> = (0..10_000).map(|n| format!("ready{{name=\"mail-{n}\"}} 1\n")).collect();
        let mut writer = Writer::new(Format::OpenMetrics);
        writer.write_str(&lines.concat()).unwrap();
        let packed: usize = writer.finish().iter().map(Vec::len).sum();
        assert!(packed * 3 < lines.concat().len(), "{packed}");
    }

    #[tokio::test]
    async fn a_scrape_of_many_pieces_ends_with_the_end() {
        let mut registry = Registry::default();
        let help = "x".repeat(PIECE);
        for name in ["a", "b", "c"] {
            registry.register(name, help.clone(), prometheus_client::metrics::gauge::Gauge::<i64>::default());
        }
        let (permits, permit) = permit().await;
        let body = scrape(Arc::new(registry), Format::OpenMetrics, |all| all, permit).await.unwrap();
        let text = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert!(text.len() > 3 * PIECE && text.ends_with(b"# EOF\n"));
        assert_eq!(permits.available_permits(), 1);
    }
}
