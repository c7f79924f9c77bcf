//! The simulator as a process: its first line on stdout is a JSON object that says where it listens.

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use entra_simulator::{
    Client, Config, DeviceFlow, Rotation, Simulator, TENANT_DOMAIN, TENANT_ID, Tenant, Tls,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// A test double of Microsoft Entra ID and Graph
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Serve HTTPS with this certificate
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "PEM", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// How long access tokens live
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    token_lifetime: u64,
    /// Answer `refresh_in` with every token
    #[arg(long, value_name = "SECONDS")]
    refresh_in: Option<u64>,
    /// Answer numbers as strings
    #[arg(long)]
    numbers_as_strings: bool,
    /// What becomes of a used refresh token
    #[arg(long, value_enum, default_value = "lenient")]
    rotation: Rotated,
    /// How long device codes can be used
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    device_lifetime: u64,
    /// The interval for polling that is answered with a device code; 0 answers none
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    device_interval: u64,
    /// Answer `slow_down` to who polls faster
    #[arg(long)]
    device_slow_down: bool,
    /// The tenant's GUID
    #[arg(long, value_name = "GUID", default_value = TENANT_ID)]
    tenant_id: String,
    /// The tenant's domain
    #[arg(long, value_name = "DOMAIN", default_value = TENANT_DOMAIN)]
    tenant_domain: String,
    /// A client, confidential if it has a secret (repeatable; default: one public client)
    #[arg(long = "client", value_name = "ID[:SECRET]", value_parser = parse_client)]
    clients: Vec<Client>,
    /// A refresh token of the first user for the first client; other users of this machine see it
    #[arg(long, value_name = "TOKEN")]
    seed: Option<String>,
    /// A file that holds such a refresh token
    #[arg(long, value_name = "PATH")]
    seed_file: Option<PathBuf>,
    /// Also end when stdin closes
    #[arg(long)]
    exit_with_stdin: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rotated {
    Lenient,
    Strict,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let simulator = Simulator::start(config(&args)?).await?;
    if let Some(seed) = &args.seed {
        simulator.seed_refresh_token(seed, None, None, &[])?;
    }
    if let Some(path) = &args.seed_file {
        let seed = std::fs::read_to_string(path)?;
        simulator.seed_refresh_token(seed.trim(), None, None, &[])?;
    }
    announce(&simulator)?;

    let stdin_closed = stdin_closed(args.exit_with_stdin);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Ok(()) = stdin_closed => {}
    }
    Ok(())
}

fn config(args: &Args) -> io::Result<Config> {
    let default = Config::default();
    let tls = match (&args.tls_certificate, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificates_pem: std::fs::read_to_string(certificate)?,
            key_pem: std::fs::read_to_string(key)?,
        }),
        _ => None,
    };
    Ok(Config {
        listen: args.listen,
        tls,
        tenant: Tenant { id: args.tenant_id.clone(), domain: args.tenant_domain.clone() },
        clients: if args.clients.is_empty() { default.clients } else { args.clients.clone() },
        token_lifetime: Duration::from_secs(args.token_lifetime),
        refresh_in: args.refresh_in.map(Duration::from_secs),
        numbers_as_strings: args.numbers_as_strings,
        rotation: match args.rotation {
            Rotated::Lenient => Rotation::Lenient,
            Rotated::Strict => Rotation::Strict,
        },
        device: DeviceFlow {
            lifetime: Duration::from_secs(args.device_lifetime),
            interval: (args.device_interval > 0).then(|| Duration::from_secs(args.device_interval)),
            slow_down: args.device_slow_down,
            ..default.device
        },
        ..default
    })
}

fn announce(simulator: &Simulator) -> io::Result<()> {
    let line = json!({
        "url": simulator.url(),
        "token_endpoint": simulator.token_url(),
        "authorization_endpoint": simulator.authorization_url(),
        "device_authorization_endpoint": simulator.device_authorization_url(),
        "tenant_id": simulator.tenant().id,
        "tenant_domain": simulator.tenant().domain,
    });
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Completes when stdin closes; fails at once if that was not asked for.
fn stdin_closed(wanted: bool) -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    if wanted {
        // A thread of its own: a read of stdin cannot be cancelled, and would hold up the runtime's end.
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
            let _ = sender.send(());
        });
    }
    receiver
}

#[expect(clippy::unnecessary_wraps, reason = "clap wants a Result")]
fn parse_client(text: &str) -> Result<Client, std::convert::Infallible> {
    Ok(match text.split_once(':') {
        Some((id, secret)) => Client::confidential(id, secret),
        None => Client::public(text),
    })
}
