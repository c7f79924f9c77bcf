//! The command line of the plugin.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::api::duration;

/// The file that kubectl looks for.
pub const BINARY: &str = "kubectl-graphtoken";

/// Sign in to GraphTokens, see how they are, and find out what is wrong
#[derive(Debug, Parser)]
#[command(name = BINARY, bin_name = "kubectl graphtoken", version, disable_help_subcommand = true)]
#[expect(clippy::doc_markdown, reason = "help texts, shown as they are")]
pub struct Cli {
    /// Where the cluster is.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The cluster and the namespace, as kubectl names them.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// Work in this namespace [default: the kubeconfig context's]
    #[arg(short, long, value_name = "NS", global = true, value_parser = name)]
    pub namespace: Option<String>,
    /// Use this context of the kubeconfig
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// Use this kubeconfig [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "PATH", global = true)]
    pub kubeconfig: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[expect(clippy::doc_markdown, reason = "help texts, shown as they are")]
pub enum Verb {
    /// Show how GraphTokens are: life left, what is wrong, who must act
    Status(StatusArgs),
    /// Have the operator get a new token now, and say what came of it
    Refresh(RequestArgs),
    /// Have the operator get a new token and try it at Microsoft Graph, and say what came of it
    Verify(RequestArgs),
    /// Make a seed Secret of a token file, and print the GraphToken for it
    ///
    /// FILE is an o365_token.txt of python-o365, an MSAL token cache, JSON with refresh_token, or a bare refresh token. Only the
    /// refresh token of one client is put into the Secret. The manifest goes to stdout: … | kubectl apply -f -
    Import(ImportArgs),
    /// Sign in, and hand the sign-in over to the operator
    ///
    /// A browser of this machine is opened. Where there is none: --device shows a code to enter on another.
    Login(LoginArgs),
    /// Look at everything that GraphTokens need, and say what is wrong and what to do
    Doctor(DoctorArgs),
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this GraphToken, with all that it says
    #[arg(value_parser = name)]
    pub name: Option<String>,
    /// Those of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
    /// Go on, and print again whenever something changes
    #[arg(short, long)]
    pub watch: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// A JSON array.
    Json,
}

/// Flags of `refresh` and `verify`.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// The GraphToken
    #[arg(value_parser = name)]
    pub name: String,
    /// Wait no longer than this for the operator
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = positive)]
    pub timeout: Duration,
}

/// Flags of `import`.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "help texts, shown as they are")]
pub struct ImportArgs {
    /// The token file; - reads stdin
    pub file: PathBuf,
    /// Name the GraphToken so
    #[arg(long, default_value = "mail", value_parser = name)]
    pub name: String,
    /// Name the seed Secret so [default: NAME-seed]
    #[arg(long, value_parser = name)]
    pub secret: Option<String>,
    /// The application (client) id, where the file does not tell it or tells several
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// The tenant, where the file does not tell it
    #[arg(long)]
    pub tenant: Option<String>,
    /// What the token is for, where the file does not tell it or tells too much; by comma
    #[arg(long, value_delimiter = ',')]
    pub scopes: Vec<String>,
    /// Use this ClusterGraphClient instead of a tenant and client of its own
    #[arg(long, value_name = "NAME", conflicts_with = "tenant", value_parser = name)]
    pub client_ref: Option<String>,
    /// Print the manifest, and write nothing to the cluster
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `login`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[expect(clippy::doc_markdown, reason = "help texts, shown as they are")]
pub struct LoginArgs {
    /// The GraphToken
    #[arg(value_parser = name, required_unless_present = "pending")]
    pub name: Option<String>,
    /// Every one that waits for a person, by account, one after the other
    #[arg(long, conflicts_with = "name")]
    pub pending: bool,
    /// Those of all namespaces
    #[arg(short = 'A', long, requires = "pending")]
    pub all_namespaces: bool,
    /// Show a code to be entered on any machine, instead of opening a browser on this one
    #[arg(long)]
    pub device: bool,
    /// Print the page to open, and open none
    #[arg(long)]
    pub no_browser: bool,
    /// Fill the page with this sign-in name [default: spec.account, where it is one]
    #[arg(long, value_name = "NAME")]
    pub login_hint: Option<String>,
    /// The page's address, where it is not beside the token endpoint
    #[arg(long, value_name = "URL", value_parser = url::Url::parse)]
    pub authorization_endpoint: Option<url::Url>,
    /// Where the operator keeps the Secrets of ClusterGraphClients, for those that have one
    #[arg(long, value_name = "NS", value_parser = name)]
    pub client_namespace: Option<String>,
    /// Wait no longer than this for the person
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = positive)]
    pub timeout: Duration,
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "help texts, shown as they are")]
pub struct DoctorArgs {
    /// The GraphToken [default: all of the namespace]
    #[arg(value_parser = name)]
    pub name: Option<String>,
    /// Look for the operator's Lease in this namespace [default: in all, or where you may]
    #[arg(long, value_name = "NS", value_parser = name)]
    pub operator_namespace: Option<String>,
    /// Where the operator keeps the Secrets of ClusterGraphClients, for those that have one
    #[arg(long, value_name = "NS", value_parser = name)]
    pub client_namespace: Option<String>,
}

/// Parses the command line; ends the process on `--help`, `--version` and mistakes.
pub fn parse() -> Cli {
    Cli::parse()
}

/// A name of a Kubernetes object.
fn name(text: &str) -> Result<String, String> {
    let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let usable = (1..=253).contains(&text.len()) && text.bytes().all(named);
    let usable = usable && !text.starts_with(['-', '.']) && !text.ends_with(['-', '.']);
    if usable {
        Ok(text.to_owned())
    } else {
        Err("a name has lower-case letters, digits, - and . only".to_owned())
    }
}

fn positive(text: &str) -> Result<Duration, String> {
    duration::parse(text).and_then(|duration| {
        if duration.is_zero() { Err("it must be more than nothing".to_owned()) } else { Ok(duration) }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_page_on_the_plugin_names_every_command_and_flag() {
        // Read, not included: the image is built from a context without it.
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/plugin.md")).unwrap();
        let cli = Cli::command();
        for command in cli.get_subcommands() {
            let name = command.get_name();
            assert!(page.contains(&format!("\n| `{name}")), "{name}");
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{flag}")) || flag == "output", "{name} --{flag}");
            }
        }
    }

    #[test]
    fn the_usual_flags_work_before_and_after_the_command() {
        for line in [
            ["x", "-n", "etl", "--context", "dev", "status", "mail"],
            ["x", "status", "mail", "-n", "etl", "--context", "dev"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.connection.namespace.as_deref(), Some("etl"));
            assert_eq!(cli.connection.context.as_deref(), Some("dev"));
        }
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for wrong in ["", "../secrets/app", "Mail", "-mail", "mail.", "a b"] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(name("mail-etl.v1"), Ok("mail-etl.v1".to_owned()));
    }
}
