//! SIGTERM and SIGINT: the first asks the process to end, a second one ends it at once.

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Error;

/// Cancelled by the first signal.
pub(super) fn stop_on_signals() -> Result<CancellationToken, Error> {
    let stop = CancellationToken::new();
    let mut requests = Requests::new().map_err(Error::Signals)?;
    let asked = stop.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            requests.next().await;
            if again {
                tracing::error!("a second signal: ending at once, though something is in flight");
                std::process::exit(130);
            }
            tracing::info!("ending: finishing what is in flight");
            asked.cancel();
        }
    });
    Ok(stop)
}

/// Requests to end: SIGTERM and SIGINT.
#[cfg(unix)]
struct Requests {
    terminate: Signal,
    interrupt: Signal,
}

#[cfg(unix)]
impl Requests {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Requests to end: Ctrl-C. The operator is not made for Windows, but the plugin is, from the same library.
#[cfg(windows)]
struct Requests(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Requests {
    fn new() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}
