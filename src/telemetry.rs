//! Logs: what is printed, in which form, and what is never printed, whatever `RUST_LOG` says.

use std::{
    io::{self, IsTerminal as _},
    panic::{self, PanicHookInfo},
    thread,
};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, ParseError, Targets},
    fmt::{self, MakeWriter},
    layer::{Filter, SubscriberExt as _},
    registry::LookupSpan,
};

use crate::args::LogFormat;

mod line;

use line::OneLine;

/// The most that a dependency may log, by prefix of its target; the longest prefix counts. Found by reading
/// the sources: kube 5.0, reqwest 0.13, rustls 0.23, tower-http 0.7. (hyper-util 0.1 names hosts and errors only,
/// hyper 1 logs nothing as built here.) reqwest and rustls use the crate `log`, whose records do not reach us
/// while tracing-subscriber's feature `tracing-log` is off; any dependency may switch it on, so they are listed.
const CEILINGS: [(&str, LevelFilter); 8] = [
    // Bodies that do not decode at WARN, error bodies at DEBUG, headers at TRACE.
    ("kube_client::client", LevelFilter::OFF),
    // Only paths and the fact that certificates go unchecked: both are to be seen.
    ("kube_client::client::tls", LevelFilter::WARN),
    // TRACE has the parser's error for a kubeconfig, which quotes the file.
    ("kube_client::config", LevelFilter::DEBUG),
    // DEBUG has the decoder's errors, which quote the value they met.
    ("kube_runtime::watcher", LevelFilter::WARN),
    // TRACE has what goes over the wire, if asked for; DEBUG a proxy's URL.
    ("reqwest", LevelFilter::INFO),
    // TRACE dumps handshakes, DEBUG requests for client certificates.
    ("rustls", LevelFilter::INFO),
    // The request span may hold all headers.
    ("tower_http", LevelFilter::INFO),
    // The payload of a panic.
    ("tower_http::catch_panic", LevelFilter::OFF),
];

/// What is logged where `RUST_LOG` asks for nothing. kube's span around a look says what each line of it says itself, and is
/// entered at every step.
const DEFAULT: &str = "info,kube_runtime::controller=warn";

/// Starts logging to stderr and logs panics. `RUST_LOG` has the filter, by default `info`.
/// A second call changes nothing.
pub fn init(format: LogFormat) {
    let (wanted, problem) = wanted(std::env::var("RUST_LOG").ok().as_deref());
    let ansi = io::stderr().is_terminal();
    if tracing::subscriber::set_global_default(subscriber(format, wanted, ansi, io::stderr)).is_err() {
        return;
    }
    if let Some(problem) = problem {
        tracing::warn!(%problem, "RUST_LOG is not a filter; logging at info");
    }
    panic::set_hook(Box::new(log_panic));
}

/// The filter asked for, or `info` and why not.
fn wanted(directives: Option<&str>) -> (Targets, Option<ParseError>) {
    let directives = directives.map(str::trim).filter(|d| !d.is_empty()).unwrap_or(DEFAULT);
    match directives.parse() {
        Ok(filter) => (filter, None),
        Err(error) => (DEFAULT.parse().unwrap_or_default(), Some(error)),
    }
}

fn ceilings() -> Targets {
    Targets::new().with_default(LevelFilter::TRACE).with_targets(CEILINGS)
}

fn subscriber<W>(
    format: LogFormat,
    wanted: Targets,
    ansi: bool,
    writer: W,
) -> impl Subscriber + Send + Sync + for<'a> LookupSpan<'a>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let colours = ansi && matches!(format, LogFormat::Text);
    let writer = OneLine { writer, colours };
    let lines = match format {
        LogFormat::Text => fmt::layer().with_writer(writer).with_ansi(ansi).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(allowed(wanted)))
}

/// What is both wanted and harmless.
fn allowed<S: Subscriber>(wanted: Targets) -> impl Filter<S> {
    FilterExt::<S>::and(wanted, ceilings())
}

/// One line, with the place but without the message: what a panic says may hold data.
fn log_panic(info: &PanicHookInfo<'_>) {
    let current = thread::current();
    let thread = current.name().unwrap_or_default();
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(location, thread, "panic");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rstest::rstest;
    use tracing::{Level, subscriber::with_default};
    use tracing_subscriber::Registry;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, directives: &str, act: impl FnOnce()) -> String {
        let sink = Sink::default();
        let out = sink.clone();
        let (wanted, _) = wanted(Some(directives));
        with_default(subscriber(format, wanted, false, move || out.clone()), act);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    /// Logs `marker` at every level to a target that must be known when this is compiled.
    macro_rules! at_every_level {
        ($target:literal) => {{
            tracing::error!(target: $target, "marker-ERROR");
            tracing::warn!(target: $target, "marker-WARN");
            tracing::info!(target: $target, "marker-INFO");
            tracing::debug!(target: $target, "marker-DEBUG");
            tracing::trace!(target: $target, "marker-TRACE");
        }};
    }

    #[rstest]
    #[case::bodies(|| at_every_level!("kube_client::client"), None)]
    #[case::requests(|| at_every_level!("kube_client::client::builder"), None)]
    #[case::reloads(|| at_every_level!("kube_client::client::tls"), Some(Level::WARN))]
    #[case::kubeconfig(|| at_every_level!("kube_client::config"), Some(Level::DEBUG))]
    #[case::decoding(|| at_every_level!("kube_runtime::watcher"), Some(Level::WARN))]
    #[case::the_wire(|| at_every_level!("reqwest::connect"), Some(Level::INFO))]
    #[case::handshakes(|| at_every_level!("rustls::client::hs"), Some(Level::INFO))]
    #[case::header_spans(|| at_every_level!("tower_http::trace::make_span"), Some(Level::INFO))]
    #[case::payloads(|| at_every_level!("tower_http::catch_panic"), None)]
    #[case::what_is_harmless(|| at_every_level!("kube_runtime::controller"), Some(Level::TRACE))]
    #[case::our_own(|| at_every_level!("graphtoken::plan"), Some(Level::TRACE))]
    fn what_may_hold_secrets_is_not_logged_whatever_is_asked_for(
        #[case] act: fn(),
        #[case] most: Option<Level>,
        #[values(
            "trace",
            "trace,kube_client=trace,kube_client::client=trace,kube_client::client::tls=trace,kube_runtime=trace,\
             rustls=trace,reqwest=trace,tower_http=trace,tower_http::catch_panic=trace",
            "trace,[request]=trace"
        )]
        directives: &str,
    ) {
        let text = logged(LogFormat::Text, directives, || tracing::info_span!("request").in_scope(act));
        for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
            let expected = most.is_some_and(|most| level <= most);
            assert_eq!(text.contains(&format!("marker-{level}")), expected, "{level}: {text}");
        }
    }

    #[rstest]
    #[case::unset(None, Level::INFO)]
    #[case::empty(Some(" "), Level::INFO)]
    #[case::narrower(Some("warn"), Level::WARN)]
    #[case::wider(Some("debug"), Level::DEBUG)]
    fn rust_log_has_the_filter(#[case] directives: Option<&str>, #[case] most: Level) {
        let (filter, problem) = wanted(directives);
        assert!(problem.is_none());
        assert_eq!(Filter::<Registry>::max_level_hint(&filter), Some(LevelFilter::from_level(most)));
    }

    #[test]
    fn a_mistaken_filter_is_reported_and_info_it_is() {
        let (filter, problem) = wanted(Some("graphtoken=loud"));
        assert!(problem.is_some());
        assert_eq!(Filter::<Registry>::max_level_hint(&filter), Some(LevelFilter::INFO));
    }

    /// Whoever writes specs or answers requests must not write lines of ours, nor turn or hide what stands in them.
    #[rstest]
    fn what_others_write_makes_no_line_and_turns_none(
        #[values(LogFormat::Text, LogFormat::Json)] format: LogFormat,
        #[values(
            "x\n2026-11-26T10:00:00Z  INFO graphtoken: forged",
            "x\r\nforged",
            "x\u{85}forged",
            "x\u{2028}forged\u{2029}",
            "x\u{1b}[2K\u{1b}[31mforged",
            "x\u{9b}2Kforged",
            "x\u{202e}degrof\u{202c}",
            "x\u{2066}forged\u{2069}\u{200f}\u{61c}",
            "x\u{8}\u{7f}\u{0}\u{7}forged"
        )]
        words: &str,
    ) {
        let text = logged(format, "info", || {
            tracing::info!(said = words, shown = %words, debugged = ?words, "it was {words}");
        });
        let line = text.strip_suffix('\n').unwrap();
        let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        assert!(!line.chars().any(|c| c.is_control() || turns(c)), "{line:?}");
        assert!(line.matches('x').count() >= 4, "it is told all the same: {line}");
        if format == LogFormat::Json {
            let read: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(read["message"].as_str().unwrap().starts_with("it was x"), "{read}");
        }
    }

    #[test]
    fn json_has_one_flat_object_a_line() {
        let text = logged(LogFormat::Json, "info", || tracing::info!(count = 3, "hello"));
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(
            (&line["message"], &line["count"], &line["level"]),
            (&"hello".into(), &3.into(), &"INFO".into())
        );
    }

    #[test]
    fn a_panic_is_logged_with_its_place_and_without_its_message() {
        let before = panic::take_hook();
        panic::set_hook(Box::new(log_panic));
        let text = logged(LogFormat::Text, "info", || {
            assert!(panic::catch_unwind(|| panic!("s3cret")).is_err());
        });
        panic::set_hook(before);
        assert!(text.contains("panic") && text.contains("telemetry.rs:"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
