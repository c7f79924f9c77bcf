//! The identity provider, in a process of its own: the simulator, with a confidential client and a user's sign-ins.

use std::process::Stdio;

use entra_simulator::{Client, Config, Simulator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::Failed;

/// The client of all `GraphToken`s.
pub const CLIENT: &str = "33333333-4444-5555-6666-777777777777";
/// Its secret.
pub const CLIENT_SECRET: &str = "Cq8~kV2xR.tW9mB-bench-client-secret";
/// The scopes that users sign in for.
pub const SCOPES: [&str; 2] = ["Mail.Read", "User.Read"];
/// About as long as Entra's.
const REFRESH_TOKEN_LENGTH: usize = 1200;

/// The refresh token of a sign-in, by its number.
pub fn refresh_token(number: usize) -> String {
    format!(
        "{}bench-{number:07}-{}",
        entra_simulator::REFRESH_TOKEN_PREFIX,
        "x".repeat(REFRESH_TOKEN_LENGTH - 26)
    )
}

#[derive(Debug, Serialize, Deserialize)]
struct Announcement {
    url: String,
    token_url: String,
}

/// The child's part: serves until stdin closes.
#[expect(clippy::print_stdout, reason = "its one line says where it listens")]
pub async fn serve(sign_ins: usize) -> Result<(), Failed> {
    let clients = vec![Client::confidential(CLIENT, CLIENT_SECRET)];
    let simulator = Simulator::start(Config { clients, ..Config::default() }).await?;
    for number in 0..sign_ins {
        simulator.seed_refresh_token(&refresh_token(number), None, None, &SCOPES).map_err(Failed::new)?;
    }
    let announcement = Announcement { url: simulator.url(), token_url: simulator.token_url() };
    println!("{}", json!(announcement));
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    Ok(())
}

/// The running child. It ends with its stdin.
pub struct Provider {
    /// Its process id.
    pub pid: u32,
    /// The token endpoint.
    pub token_url: String,
    url: String,
    http: reqwest::Client,
    _child: Child,
    _stdin: ChildStdin,
}

impl Provider {
    /// Starts one that knows so many sign-ins.
    pub async fn start(sign_ins: usize) -> Result<Self, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["provider", "--sign-ins", &sign_ins.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let missing = || Failed::new("the provider did not start");
        let (pid, stdin) = (child.id().ok_or_else(missing)?, child.stdin.take().ok_or_else(missing)?);
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or_else(missing)?).read_line(&mut line).await?;
        let Announcement { url, token_url } = serde_json::from_str(&line)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { pid, token_url, url, http, _child: child, _stdin: stdin })
    }

    /// How many token requests there were so far.
    pub async fn exchanges(&self) -> Result<u64, Failed> {
        let journal = self.http.get(format!("{}/_sim/journal?token_from=999999999", self.url)).send().await?;
        let journal: Value = journal.json().await?;
        let counts = journal["counts"].as_object().into_iter().flatten();
        let counts = counts.filter_map(|(_, outcomes)| outcomes.as_object()).flatten();
        Ok(counts.filter_map(|(_, count)| count.as_u64()).sum())
    }
}
