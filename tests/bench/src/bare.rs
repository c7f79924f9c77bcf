//! The bare loop: what the operator's work costs when nothing is decided, watched or remembered. It makes the same requests,
//! with the same clients, as many at once. It is a process of its own, so that its CPU can be told from the bench's.
//!
//! The parent sends a [`Job`] on stdin. For refreshes the child first writes a population, says `ready`, and begins when a line
//! comes; then it prints a [`Done`].

mod requests;

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::channel::mpsc;
use graphtoken::api::GraphToken;
use graphtoken::kubeclient::{self, Clients};
use graphtoken::metrics::Metrics;
use kube::Client;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

pub use self::requests::Requests;
use crate::Failed;
use crate::cluster::{PREPARING, each};
use crate::population::{Kind, Served, Times};
use crate::process::cpu;
use crate::report::now;

/// As many as the operator's default `--concurrency`.
pub const CONCURRENCY: usize = 16;

/// What the loop is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// What the `GraphToken`s have in common.
    pub kind: Kind,
    /// How many.
    pub count: usize,
    /// The times of the tokens to be refreshed; `None`: first tokens, for `GraphToken`s that the loop applies itself.
    pub refreshes: Option<Times>,
}

/// What it took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Done {
    /// How many there were.
    pub count: u64,
    /// From the first request to the last answer, in seconds.
    pub seconds: f64,
    /// CPU of the process in this time, in seconds.
    pub cpu: f64,
}

/// The child's part.
#[expect(clippy::print_stdout, reason = "it talks to its parent")]
pub async fn work() -> Result<(), Failed> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let job: Job = serde_json::from_str(&next(&mut lines).await?)?;
    let config = kubeclient::infer().await?;
    let client = Clients::new(&config, 0.0, &Metrics::default())?.requests;
    let requests = Arc::new(Requests::new(client.clone(), &job.kind)?);
    let served = match job.refreshes {
        Some(times) => populate(&client, &job.kind, job.count, |_| times).await?.0,
        None => Vec::new(),
    };
    println!("ready");
    next(&mut lines).await?;
    let (began, before) = (now(), cpu(std::process::id())?);
    match job.refreshes {
        Some(_) => refresh_all(&requests, served).await?,
        None => first_tokens(&client, &requests, &job).await?,
    }
    let done = Done {
        count: job.count as u64,
        seconds: began.elapsed().as_secs_f64(),
        cpu: cpu(std::process::id())?.saturating_sub(before).as_secs_f64(),
    };
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}

/// Writes a population that has been served: what users write first, then the rest. `times` is told how long that is going
/// to take, at a guess.
pub async fn populate(
    client: &Client,
    kind: &Kind,
    count: usize,
    times: impl FnOnce(Duration) -> Times,
) -> Result<(Vec<Served>, Times), Failed> {
    let objects = Mutex::new(Vec::with_capacity(count));
    let began = now();
    each(0..count, PREPARING, |number| {
        let objects = &objects;
        async move {
            kind.seed(client, number).await?;
            let object = kind.apply(client, number).await?;
            objects.lock().await.push((number, object));
            Ok(())
        }
    })
    .await?;
    // Two writes after one for an app, three after two for a user; and the more there is, the longer each takes.
    let times = times(began.elapsed() * 4);
    let all = Mutex::new(Vec::with_capacity(count));
    each(objects.into_inner(), PREPARING, |(number, object)| {
        let all = &all;
        async move {
            all.lock().await.push(kind.serve(client, number, &object, times).await?);
            Ok(())
        }
    })
    .await?;
    Ok((all.into_inner(), times))
}

async fn refresh_all(requests: &Arc<Requests>, served: Vec<Served>) -> Result<(), Failed> {
    // Tasks, as the operator's reconciles are: both cores are used.
    let mut running = futures::stream::iter(served)
        .map(|served| {
            let requests = Arc::clone(requests);
            tokio::spawn(async move { requests.refresh(&served).await })
        })
        .buffer_unordered(CONCURRENCY);
    while let Some(done) = running.next().await {
        done.map_err(Failed::new)??;
    }
    Ok(())
}

/// `GraphToken`s are applied as by the bench where the operator works, and each is served as soon as it is there.
async fn first_tokens(client: &Client, requests: &Arc<Requests>, job: &Job) -> Result<(), Failed> {
    let (applied, mut arrived) = mpsc::unbounded();
    let serving = async {
        let mut running = std::pin::pin!(
            (&mut arrived)
                .map(|object: GraphToken| {
                    let requests = Arc::clone(requests);
                    tokio::spawn(async move { requests.first(&object).await })
                })
                .buffer_unordered(CONCURRENCY)
        );
        while let Some(done) = running.next().await {
            done.map_err(Failed::new)??;
        }
        Ok(())
    };
    let applying = async {
        // Moved in, so that the loop ends when all are applied.
        let applied = applied;
        apply_all(client, &job.kind, job.count, |object| {
            let _ = applied.unbounded_send(object);
        })
        .await
    };
    futures::future::try_join(applying, serving).await?;
    Ok(())
}

/// Applies so many at once, as `kubectl apply` of a whole folder by a few people would.
pub async fn apply_all(
    client: &Client,
    kind: &Kind,
    count: usize,
    then: impl Fn(GraphToken),
) -> Result<(), Failed> {
    let then = &then;
    each(0..count, PREPARING, |number| async move {
        then(kind.apply(client, number).await?);
        Ok(())
    })
    .await
}

async fn next<R: tokio::io::AsyncBufRead + Unpin>(lines: &mut Lines<R>) -> Result<String, Failed> {
    lines.next_line().await?.ok_or_else(|| Failed::new("the other side has ended"))
}

/// The parent's part: a loop that is ready to begin.
pub struct Bare {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Bare {
    /// Starts a child and waits until it is ready.
    pub async fn prepare(job: &Job) -> Result<Self, Failed> {
        let missing = || Failed::new("the bare loop did not start");
        let mut child = Command::new(std::env::current_exe()?)
            .arg("loop")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let lines = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
        let mut bare = Self { stdin, lines, _child: child };
        bare.tell(&serde_json::to_string(job)?).await?;
        next(&mut bare.lines).await?;
        Ok(bare)
    }

    /// Lets it work, and returns what that took.
    pub async fn go(mut self) -> Result<Done, Failed> {
        self.tell("go").await?;
        Ok(serde_json::from_str(&next(&mut self.lines).await?)?)
    }

    async fn tell(&mut self, line: &str) -> Result<(), Failed> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await?;
        self.stdin.flush().await?;
        Ok(())
    }
}
