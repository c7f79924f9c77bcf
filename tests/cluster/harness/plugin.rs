//! The plugin's binary, as a person runs it.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::World;

/// No command takes longer, whatever it waits for.
const END: Duration = Duration::from_mins(3);

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// Its results.
    pub out: String,
    /// Its talk.
    pub err: String,
}

/// A command that runs.
pub struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    said: Said,
}

fn command(world: &World, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-graphtoken"));
    command
        .args(args)
        .args(["--namespace", &world.namespace])
        .env_clear()
        .env("KUBECONFIG", &world.cluster.kubeconfig)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs a command in the world's namespace to its end. No secret is in what it says.
pub async fn plugin(world: &World, args: &[&str]) -> Said {
    plugin_with(world, args, "").await
}

/// The same with something on stdin.
pub async fn plugin_with(world: &World, args: &[&str], stdin: &str) -> Said {
    let mut child = command(world, args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.unwrap();
    let ended = timeout(END, child.wait_with_output()).await.expect("the plugin ends").unwrap();
    let said = Said {
        code: ended.status.code().unwrap_or(-1),
        out: String::from_utf8(ended.stdout).unwrap(),
        err: String::from_utf8(ended.stderr).unwrap(),
    };
    said.search(world);
    said
}

/// Begins a command and leaves it running.
pub fn begin(world: &World, args: &[&str]) -> Running {
    let mut child = command(world, args).stdin(Stdio::null()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let err = BufReader::new(child.stderr.take().unwrap());
    Running { child, out, err, said: Said { code: -1, out: String::new(), err: String::new() } }
}

impl Running {
    /// Reads stderr until a line has this in it, and returns the line.
    pub async fn says(&mut self, part: &str) -> String {
        let line = timeout(END, line_with(&mut self.err, &mut self.said.err, part)).await;
        line.expect("it says so").unwrap_or_else(|| panic!("it ended without {part:?}: {:?}", self.said))
    }

    /// Reads stdout until a line has this in it, and returns the line.
    pub async fn prints(&mut self, part: &str) -> String {
        let line = timeout(END, line_with(&mut self.out, &mut self.said.out, part)).await;
        line.expect("it prints so").unwrap_or_else(|| panic!("it ended without {part:?}: {:?}", self.said))
    }

    /// Ends it as an impatient person does, or a test that has seen enough.
    pub async fn kill(mut self, world: &World) -> Said {
        self.child.kill().await.unwrap();
        self.ended(world).await
    }

    /// Waits for its end. No secret is in what it said.
    pub async fn ended(mut self, world: &World) -> Said {
        let all = async {
            self.out.read_to_string(&mut self.said.out).await.unwrap();
            self.err.read_to_string(&mut self.said.err).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(END, all).await.expect("the plugin ends");
        self.said.code = status.code().unwrap_or(-1);
        self.said.search(world);
        self.said
    }
}

async fn line_with(
    from: &mut BufReader<impl tokio::io::AsyncRead + Unpin>,
    all: &mut String,
    part: &str,
) -> Option<String> {
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).await.unwrap() == 0 {
            return None;
        }
        all.push_str(&line);
        if line.contains(part) {
            return Some(line.trim_end().to_owned());
        }
    }
}

impl Said {
    /// Fails where a secret that the test met is in what was said.
    fn search(&self, world: &World) {
        let search = world.confidential.search();
        let mut leaks = search.in_text("stdout", &self.out);
        leaks.extend(search.in_text("stderr", &self.err));
        assert!(leaks.is_empty(), "secrets got out: {leaks:#?}");
    }
}
