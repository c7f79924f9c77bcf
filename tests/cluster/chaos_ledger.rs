//! What a disturbed run leaves behind: which refresh tokens were ever kept, whether a sign-in was ever called lost, and
//! when pods had no valid token. And the dice, whose seed is printed.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entra_simulator::{Control, Outcome, TokenEntry, digest};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::harness::objects::credential;
use crate::harness::world::text_of;
use crate::harness::{Gt, World};

/// Set to what a failed run printed, it repeats that run's moments.
const SEED: &str = "GRAPHTOKEN_CHAOS_SEED";
/// What would be a loop shows within this.
const SILENCE: Duration = Duration::from_secs(5);
/// How often pods' token is tried.
const SAMPLE: Duration = Duration::from_millis(100);

/// Random numbers from a seed that is printed.
pub struct Dice(u64);

impl Dice {
    /// Of its own for each topic, so that worlds with one seed differ.
    #[expect(clippy::print_stderr, reason = "shown where a test failed")]
    pub fn new(topic: &str) -> Self {
        let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        eprintln!("{topic}: {SEED}={seed}");
        Self(topic.bytes().fold(seed, |seed, byte| seed.rotate_left(7) ^ u64::from(byte)))
    }

    /// A number below this one (splitmix64).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    /// A span below this one.
    pub fn moment(&mut self, limit: Duration) -> Duration {
        Duration::from_millis(self.below(limit.as_millis().try_into().unwrap()))
    }
}

/// What happened to one `GraphToken` and its credential, noted as it happens.
pub struct Ledger {
    entra: Control,
    /// When each refresh token was first in the credential, by digest, in the simulator's milliseconds.
    kept: Arc<Mutex<HashMap<String, u64>>>,
    /// Every message under which a sign-in was called lost.
    lost: Arc<Mutex<BTreeSet<String>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Ledger {
    /// Begins to note.
    pub fn of(world: &World, name: &str, entra: &Control) -> Self {
        let kept = Arc::<Mutex<HashMap<String, u64>>>::default();
        let lost = Arc::<Mutex<BTreeSet<String>>>::default();
        let fields = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let secrets = watcher(world.secrets(), fields(&credential(name))).default_backoff();
        let objects = watcher(world.graphtokens(), fields(name)).default_backoff();
        let (clock, note) = (entra.clock().clone(), Arc::clone(&kept));
        let note_secret = move |secret: Secret| {
            if let Some(token) = text_of(secret).get("refresh_token") {
                note.lock().unwrap().entry(digest(token)).or_insert(clock.now_ms());
            }
        };
        let note = Arc::clone(&lost);
        let note_object = move |object| note.lock().unwrap().extend(lost_sign_in(&Gt(object)));
        let tasks = [
            tokio::spawn(each(secrets.applied_objects(), note_secret)),
            tokio::spawn(each(objects.applied_objects(), note_object)),
        ];
        Self { entra: entra.clone(), kept, lost, tasks }
    }

    /// The messages under which the sign-in was ever called lost.
    pub fn lost(&self) -> BTreeSet<String> {
        self.lost.lock().unwrap().clone()
    }

    /// The first time each spent refresh token was sent again, from a place in the journal on, and what it had brought.
    pub fn replays(&self, from: usize) -> Vec<Replay> {
        let journal = self.entra.journal().token.split_off(from);
        let mut replays: Vec<Replay> = Vec::new();
        for (number, sent) in journal.iter().enumerate() {
            let seen = replays.iter().any(|replay| replay.sent.received_sha256 == sent.received_sha256);
            let spent = journal[..number].iter().find(|before| {
                before.outcome == Outcome::Issued && before.received_sha256 == sent.received_sha256
            });
            if let Some(spent) = spent.filter(|_| !seen) {
                replays.push(Replay { spent: spent.clone(), sent: sent.clone() });
            }
        }
        replays
    }

    /// Whether what an exchange had brought was in the credential when the spent token was sent again.
    pub fn was_kept(&self, replay: &Replay) -> bool {
        let kept = self.kept.lock().unwrap();
        let issued = replay.spent.issued_sha256.as_ref().and_then(|token| kept.get(token));
        issued.is_some_and(|at| *at < replay.sent.time_ms)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A refresh token that was sent again.
#[derive(Debug)]
pub struct Replay {
    /// The exchange that spent it.
    pub spent: TokenEntry,
    /// The next one that sent it.
    pub sent: TokenEntry,
}

/// The message under which a sign-in is called lost.
pub fn lost_sign_in(gt: &Gt) -> Option<String> {
    let conditions = gt.status("/conditions").as_array()?;
    let lost = conditions.iter().find(|condition| condition["reason"] == "AuthorizationRequired")?;
    Some(lost["message"].as_str()?.to_owned())
}

/// Waits until neither the provider nor the API server is asked anything any more: what waits for a person waits quietly.
pub async fn falls_silent(world: &World, entra: &Control) {
    for _ in 0..10 {
        let (mark, sent) = (world.audit.mark(), entra.journal().token.len());
        sleep(SILENCE).await;
        let requests = world.audit.since(mark, &world.namespace);
        if requests.all.is_empty() && requests.events.is_empty() && entra.journal().token.len() == sent {
            return;
        }
    }
    panic!("it is tried again and again: {:#?}", entra.journal().token);
}

async fn each<T>(stream: impl Stream<Item = Result<T, watcher::Error>>, note: impl Fn(T)) {
    let mut stream = std::pin::pin!(stream);
    while let Some(seen) = stream.next().await {
        if let Ok(seen) = seen {
            note(seen);
        }
    }
}

/// A pod that uses the token it has mounted, all the time.
pub struct Pod {
    refused: Arc<Mutex<Vec<u64>>>,
    task: JoinHandle<()>,
}

impl Pod {
    /// Mounts a target that holds a token. While the API server is away, the pod has what it had.
    pub async fn mount(world: &World, name: &str, entra: &Control) -> Self {
        let refused = Arc::<Mutex<Vec<u64>>>::default();
        let (api, name, entra) = (world.secrets(), name.to_owned(), entra.clone());
        let mut token = text_of(api.get(&name).await.unwrap())["token"].clone();
        let note = Arc::clone(&refused);
        let task = tokio::spawn(async move {
            let mut ticks = interval(SAMPLE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Ok(Ok(secret)) = timeout(Duration::from_secs(1), api.get(&name)).await
                    && let Some(newest) = text_of(secret).remove("token")
                {
                    token = newest;
                }
                if !entra.is_active(&token) {
                    note.lock().unwrap().push(entra.clock().now_ms());
                }
            }
        });
        Self { refused, task }
    }

    /// When its token was refused, in the simulator's milliseconds.
    pub fn refused(&self) -> Vec<u64> {
        self.refused.lock().unwrap().clone()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.task.abort();
    }
}
