//! The wall clock jumps while timers stand still, as after a suspended machine resumes: libfaketime moves the operator's clock, and leaves
//! its monotonic one alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use entra_simulator::{CLIENT_ID, Outcome};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::lease::await_renewal;
use crate::harness::{Gt, Issuer, Options, World, delegated};
use crate::lost_rights::strict;

/// Longer than the token lives.
const JUMP: Duration = Duration::from_hours(2);
/// A jump is noticed, and what expired meanwhile is refreshed, within this.
const NOTICED: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_os = "linux"), ignore = "libfaketime is preloaded as on Linux")]
async fn a_token_that_expired_in_a_jump_is_refreshed_once_the_lease_is_renewed() {
    World::run("wall-clock", async |world| {
        let entra = strict(world).await;
        let clock = MovableClock::new();
        world.operator(clock.shown_to(Options::default())).await;
        world.create(&delegated("mail", &Issuer::entra(&entra, CLIENT_ID), "seed")).await;
        world.until("mail", "ready", Gt::ready).await;

        // The next renewal is as far away as it can be: what is sent too early is sent before it.
        await_renewal(world).await;
        let mark = world.audit.mark();
        entra.clock().advance(JUMP);
        clock.jump(JUMP);
        let jumped = entra.clock().now_ms();
        let refreshed = |gt: &Gt| gt.ready() && gt.refresh_count() == 2;
        let noticed = timeout(NOTICED, world.until("mail", "refreshed", refreshed)).await;
        assert!(
            noticed.is_ok(),
            "an expired token is not refreshed within {NOTICED:?} of a jump of {JUMP:?}"
        );
        assert!(entra.is_active(&world.data("mail").await["token"]), "pods have the new token");

        let journal = entra.journal();
        assert_eq!(journal.count(Outcome::Issued), 2, "{:#?}", journal.token);
        let sent = journal.token[1].time_ms;
        let renewals = renewals(&world.audit.entries(mark, &world.namespace), JUMP);
        assert!(
            renewals.iter().any(|renewal| (jumped..=sent).contains(renewal)),
            "sent at {sent}, and the Lease was renewed at {renewals:?} after the jump at {jumped}"
        );
    })
    .await;
}

/// When the API server received successful writes of the Lease, in milliseconds, by a clock that is this much ahead of its own.
fn renewals(entries: &[Value], ahead: Duration) -> Vec<u64> {
    let ahead = u64::try_from(ahead.as_millis()).unwrap();
    let of_leases = |entry: &&Value| {
        let written = entry["verb"] == "update" && entry["responseStatus"]["code"] == 200;
        written && entry["objectRef"]["resource"] == "leases"
    };
    let received = |entry: &Value| {
        let at: Timestamp = entry["requestReceivedTimestamp"].as_str().unwrap().parse().unwrap();
        u64::try_from(at.as_millisecond()).unwrap() + ahead
    };
    entries.iter().filter(of_leases).map(received).collect()
}

/// The clock that an operator is shown.
struct MovableClock {
    folder: tempfile::TempDir,
    library: PathBuf,
}

impl MovableClock {
    fn new() -> Self {
        let clock = Self { folder: tempfile::tempdir().unwrap(), library: library() };
        clock.jump(Duration::ZERO);
        clock
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// How far it is ahead from now on. The file is replaced whole: it is read at any time.
    fn jump(&self, ahead: Duration) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("+{}\n", ahead.as_secs())).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn shown_to(&self, options: Options) -> Options {
        options
            .env("LD_PRELOAD", self.library.to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", self.file().to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}

/// Debian has it below the architecture's folder, others do not.
fn library() -> PathBuf {
    let roots = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(Path::new);
    let below =
        |root: &Path| std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = roots.iter().flat_map(|root| below(root).chain([root.to_path_buf()]));
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("libfaketime is installed (Debian: apt-get install faketime)")
}
