//! The process itself: no core dump, and a neighbour of the same user reads nothing of it. No cluster is needed: the operator
//! goes on trying to reach an API server that is not there.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A user who owns nothing.
const NOBODY: u32 = 65532;
const START: Duration = Duration::from_mins(1);

/// Where a user without rights finds the operator, and what it needs to start.
pub struct Stage(TempDir);

impl Stage {
    /// With an API server that is not there.
    fn alone() -> Self {
        Self::new(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
    }

    /// With the API server at this address.
    pub fn new(api_server: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_graphtoken"), folder.path().join("graphtoken")).unwrap();
        let kubeconfig = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: 'http://{api_server}'}}}}], \
             users: [{{name: c, user: {{}}}}], contexts: [{{name: c, context: {{cluster: c, user: c}}}}]}}"
        );
        fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
        open(folder.path());
        open(&folder.path().join("kubeconfig"));
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The operator as a user without rights, once it serves.
    pub fn operator(&self) -> Process {
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = as_nobody(&self.path("graphtoken"));
        command.args(["run", "--listen", "127.0.0.1:0", "--leader-election=false"]);
        command.env_clear().env("KUBECONFIG", self.path("kubeconfig"));
        let mut process =
            Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        #[expect(clippy::disallowed_methods, reason = "for how long a test waits")]
        let began = Instant::now();
        loop {
            let said = fs::read_to_string(self.path("log")).unwrap();
            if said.contains("serving /livez") {
                return process;
            }
            assert!(process.0.try_wait().unwrap().is_none() && began.elapsed() < START, "{said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A program of the user without rights, with core dumps allowed as far as they are to us.
fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$@\"", "sh"]);
    if is_root() {
        let id = NOBODY.to_string();
        command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
    }
    command.arg(program);
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A process that is killed when it is dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0.id()))
    }

    /// Whether another process of the same user may read this file of it.
    fn lets_read(&self, file: &str) -> bool {
        let mut cat = as_nobody(Path::new("head"));
        cat.args(["-c", "1"])
            .arg(self.proc(file))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        cat.status().unwrap().success()
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_neighbour_of_the_same_user_reads_nothing_of_the_process() {
    let stage = Stage::alone();
    let mut sleeper = as_nobody(Path::new("sleep"));
    let other = Process(sleeper.arg("60").stdin(Stdio::null()).spawn().unwrap());
    let operator = stage.operator();
    for file in ["environ", "maps", "auxv"] {
        assert!(other.lets_read(file), "{file} of any other process, else this shows nothing");
        assert!(!operator.lets_read(file), "{file}");
    }
    assert!(!operator.lets_read("mem"));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_leaves_no_core() {
    let stage = Stage::alone();
    let mut operator = stage.operator();
    let limits = fs::read_to_string(operator.proc("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "soft and hard");
    let pid = operator.0.id().to_string();
    assert!(Command::new("sh").args(["-c", "kill -s ABRT \"$0\"", &pid]).status().unwrap().success());
    let status = operator.0.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}
