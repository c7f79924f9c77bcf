//! The command line and its environment variables, parsed once into `Settings`.

mod values;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, error::ErrorKind,
};

use self::values::{audience, host, label, lease_duration, namespace, rate, rate_or_none};

/// Where Kubernetes tells a pod its namespace:
/// <https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// What the binary is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Run the controller.
    Run(Box<Settings>),
    /// Print the `CustomResourceDefinition`s.
    Crd,
}

/// The validated settings of `graphtoken run`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The namespaces to work in, sorted; empty means all.
    pub namespaces: Vec<String>,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub listen: SocketAddr,
    /// How many objects are worked on at the same time; at least 1.
    pub concurrency: u16,
    /// Requests a second to all providers together; more than 0.
    pub provider_qps: f64,
    /// Requests a second to the API server, watches apart; 0 means no limit.
    pub kube_qps: f64,
    /// Hosts that endpoints may have besides the known clouds', as they stand in a URL: in lower case,
    /// without a port, IPv6 addresses in brackets.
    pub allowed_endpoint_hosts: Vec<String>,
    /// Whether endpoints may be plain http.
    pub allow_http_endpoints: bool,
    /// Audiences that service accounts' tokens may have besides the known clouds'.
    pub allowed_audiences: Vec<String>,
    /// A file of CA certificates (PEM) that endpoints' certificates may come from besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Where the Secrets and service accounts of `ClusterGraphClient`s are.
    pub client_namespace: Option<String>,
    /// Labels for every Secret written; none of those that we set ourselves.
    pub secret_labels: BTreeMap<String, String>,
    /// Whether only the holder of a Lease works.
    pub leader_election: bool,
    /// How long the Lease is valid without being renewed; 2 s to 1 h.
    pub lease_duration: Duration,
    /// Where the Lease is, if said; see [`lease_namespace`].
    pub lease_namespace: Option<String>,
    /// How logs look.
    pub log_format: LogFormat,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Keeps Microsoft Graph access tokens fresh in Kubernetes Secrets.
#[derive(Debug, Parser)]
#[command(name = "graphtoken", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::doc_markdown, reason = "help texts, shown as they are")]
enum Verb {
    /// Run the controller
    ///
    /// It finds the API server by the kubeconfig (KUBECONFIG, ~/.kube/config), else by the pod's service account.
    /// HTTPS_PROXY and NO_PROXY are honoured for token and Graph endpoints. RUST_LOG has the log filter (info).
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinitions as YAML
    Crd,
}

/// As they come in; `settings` validates what clap cannot.
#[derive(Debug, clap::Args)]
#[expect(clippy::doc_markdown, reason = "help texts, shown as they are")]
struct RunArgs {
    /// Work only in this namespace; repeatable [default: all namespaces]
    #[arg(long = "namespace", value_name = "NS", env = "GRAPHTOKEN_NAMESPACE", value_delimiter = ',')]
    namespaces: Vec<String>,

    /// Serve /livez, /readyz and /metrics here
    #[arg(long, value_name = "IP:PORT", env = "GRAPHTOKEN_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// Work on at most so many GraphTokens at the same time
    #[arg(
        long,
        value_name = "N",
        env = "GRAPHTOKEN_CONCURRENCY",
        default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    concurrency: u16,

    /// Send at most so many requests a second to all token and Graph endpoints together
    #[arg(long, value_name = "RATE", env = "GRAPHTOKEN_PROVIDER_QPS", default_value = "200", value_parser = rate)]
    provider_qps: f64,

    /// Send at most so many requests a second to the API server; 0 is no limit
    #[arg(
        long,
        value_name = "RATE",
        env = "GRAPHTOKEN_KUBE_QPS",
        default_value = "0",
        value_parser = rate_or_none
    )]
    kube_qps: f64,

    /// Let GraphTokens use endpoints on this host, on any port, besides Microsoft's clouds; repeatable
    #[arg(
        long = "allowed-endpoint-host",
        value_name = "HOST",
        env = "GRAPHTOKEN_ALLOWED_ENDPOINT_HOST",
        value_delimiter = ','
    )]
    allowed_endpoint_hosts: Vec<String>,

    /// Let endpoints be plain http: for tests, since tokens then cross the network in the clear
    #[arg(
        long,
        value_name = "BOOL",
        env = "GRAPHTOKEN_ALLOW_HTTP_ENDPOINTS",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true"
    )]
    allow_http_endpoints: bool,

    /// Let service accounts' tokens have this audience, besides Microsoft's clouds' own; repeatable
    #[arg(
        long = "allowed-audience",
        value_name = "AUDIENCE",
        env = "GRAPHTOKEN_ALLOWED_AUDIENCE",
        value_delimiter = ','
    )]
    allowed_audiences: Vec<String>,

    /// Trust the CA certificates in this PEM file, besides the system's, for token and Graph endpoints
    #[arg(long, value_name = "PATH", env = "GRAPHTOKEN_CA_BUNDLE")]
    ca_bundle: Option<PathBuf>,

    /// Take the Secrets and service accounts of ClusterGraphClients from this namespace; with --namespace, they are served only
    /// if it is set [default: they may have none]
    #[arg(long, value_name = "NS", env = "GRAPHTOKEN_CLIENT_NAMESPACE")]
    client_namespace: Option<String>,

    /// Put this label on every Secret written; repeatable
    #[arg(
        long = "secret-label",
        value_name = "KEY=VALUE",
        env = "GRAPHTOKEN_SECRET_LABEL",
        value_delimiter = ','
    )]
    secret_labels: Vec<String>,

    /// Work only while holding a Lease, so that several replicas can run
    #[arg(
        long,
        value_name = "BOOL",
        env = "GRAPHTOKEN_LEADER_ELECTION",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    leader_election: bool,

    /// Take over from a leader that was silent for so long, such as 30s or 1m30s
    #[arg(
        long,
        value_name = "DURATION",
        env = "GRAPHTOKEN_LEASE_DURATION",
        default_value = "30s",
        value_parser = lease_duration
    )]
    lease_duration: Duration,

    /// Keep the Lease in this namespace [default: the pod's, else the kubeconfig context's, else "default"]
    #[arg(long, value_name = "NS", env = "GRAPHTOKEN_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,

    /// Write logs, which go to stderr, like this
    #[arg(long, value_name = "FORMAT", env = "GRAPHTOKEN_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// Parses the command line; ends the process on `--help`, `--version` and mistakes.
pub fn parse() -> Command {
    try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// Parses `args`, the first of which is the program's name. `--help` and `--version` are errors too, as
/// with clap.
pub fn try_parse_from<A>(args: impl IntoIterator<Item = A>) -> Result<Command, clap::Error>
where
    A: Into<OsString> + Clone,
{
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(args)?;
    let cli = Cli::from_arg_matches(&matches)?;
    match cli.command {
        Verb::Crd => Ok(Command::Crd),
        Verb::Run(args) => args.settings().map(|settings| Command::Run(Box::new(settings))).map_err(
            |Invalid { flag, value, why }| {
                let text = format!("invalid value '{value}' for '--{flag}': {why}");
                command
                    .find_subcommand_mut("run")
                    .unwrap_or(&mut Cli::command())
                    .error(ErrorKind::ValueValidation, text)
            },
        ),
    }
}

/// The namespace of the Lease: the flag's, else the pod's own, else that of the kubeconfig's context, else
/// `default`.
pub fn lease_namespace(flag: Option<&str>, config: &kube::Config) -> String {
    namespace_from(flag, Path::new(NAMESPACE_FILE), &config.default_namespace)
}

fn namespace_from(flag: Option<&str>, file: &Path, context: &str) -> String {
    let own = std::fs::read_to_string(file).unwrap_or_default();
    [flag.unwrap_or_default(), own.trim(), context]
        .into_iter()
        .find(|ns| !ns.is_empty())
        .unwrap_or("default")
        .to_owned()
}

/// A value that clap let pass.
struct Invalid {
    flag: &'static str,
    value: String,
    why: String,
}

impl RunArgs {
    fn settings(self) -> Result<Settings, Invalid> {
        let mut namespaces = each("namespace", &self.namespaces, namespace)?;
        namespaces.sort();
        namespaces.dedup();
        let lease_namespace: Vec<String> = self.lease_namespace.into_iter().collect();
        let client_namespace: Vec<String> = self.client_namespace.into_iter().collect();
        Ok(Settings {
            namespaces,
            listen: self.listen,
            concurrency: self.concurrency,
            provider_qps: self.provider_qps,
            kube_qps: self.kube_qps,
            allowed_endpoint_hosts: each("allowed-endpoint-host", &self.allowed_endpoint_hosts, host)?,
            allow_http_endpoints: self.allow_http_endpoints,
            allowed_audiences: each("allowed-audience", &self.allowed_audiences, audience)?,
            ca_bundle: self.ca_bundle.filter(|path| !path.as_os_str().is_empty()),
            client_namespace: each("client-namespace", &client_namespace, namespace)?.pop(),
            secret_labels: labels(&self.secret_labels)?,
            leader_election: self.leader_election,
            lease_duration: self.lease_duration,
            lease_namespace: each("lease-namespace", &lease_namespace, namespace)?.pop(),
            log_format: self.log_format,
        })
    }
}

/// Parses each value that is there: an environment variable may be set to nothing, or end in a comma.
fn each<T>(
    flag: &'static str,
    values: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Invalid> {
    let values = values.iter().map(|v| v.trim()).filter(|v| !v.is_empty());
    values.map(|v| parse(v).map_err(|why| Invalid { flag, value: v.to_owned(), why })).collect()
}

fn labels(values: &[String]) -> Result<BTreeMap<String, String>, Invalid> {
    let mut labels = BTreeMap::new();
    for (key, value) in each("secret-label", values, label)? {
        if let Some(other) = labels.insert(key.clone(), value.clone()).filter(|other| *other != value) {
            let why = format!("{key} is already to be '{other}'");
            return Err(Invalid { flag: "secret-label", value: format!("{key}={value}"), why });
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn run(flags: &[&str]) -> Result<Settings, String> {
        match try_parse_from([&["graphtoken", "run"], flags].concat()) {
            Ok(Command::Run(settings)) => Ok(*settings),
            other => Err(other.unwrap_err().to_string()),
        }
    }

    #[test]
    fn without_flags_the_defaults_of_the_contract_hold() {
        let expected = Settings {
            namespaces: vec![],
            listen: "0.0.0.0:8080".parse().unwrap(),
            concurrency: 16,
            provider_qps: 200.0,
            kube_qps: 0.0,
            allowed_endpoint_hosts: vec![],
            allow_http_endpoints: false,
            allowed_audiences: vec![],
            ca_bundle: None,
            client_namespace: None,
            secret_labels: BTreeMap::new(),
            leader_election: true,
            lease_duration: Duration::from_secs(30),
            lease_namespace: None,
            log_format: LogFormat::Text,
        };
        assert_eq!(run(&[]), Ok(expected));
    }

    #[test]
    fn every_flag_is_an_environment_variable_too() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        let flags: Vec<_> = run.get_arguments().filter_map(|a| Some((a.get_long()?, a.get_env()))).collect();
        assert_eq!(flags.len(), 15);
        for (flag, variable) in flags {
            let expected = format!("GRAPHTOKEN_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(variable.and_then(|v| v.to_str()), Some(expected.as_str()));
        }
    }

    #[test]
    fn lists_come_by_repetition_or_by_comma_and_empty_ones_are_empty() {
        let settings = run(&["--namespace", "b,a,", "--namespace", "b", "--lease-namespace", ""]).unwrap();
        assert_eq!(settings.namespaces, ["a", "b"]);
        assert_eq!(settings.lease_namespace, None);
        assert_eq!(run(&["--namespace", ""]).unwrap().namespaces, [""; 0]);
    }

    #[rstest]
    #[case::bare(&["--leader-election"], true)]
    #[case::on(&["--leader-election=true"], true)]
    #[case::off(&["--leader-election=false"], false)]
    fn leader_election_takes_a_value_or_none(#[case] flags: &[&str], #[case] expected: bool) {
        assert_eq!(run(flags).map(|s| s.leader_election), Ok(expected));
    }

    #[rstest]
    #[case("login.example.com", "login.example.com")]
    #[case("Login.Example.COM", "login.example.com")]
    #[case("10.0.0.7", "10.0.0.7")]
    #[case("::1", "[::1]")]
    #[case("[0::1]", "[::1]")]
    fn a_host_is_kept_as_it_stands_in_a_url(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(run(&["--allowed-endpoint-host", text]).unwrap().allowed_endpoint_hosts, [expected]);
    }

    #[test]
    fn labels_are_gathered() {
        let labels =
            run(&["--secret-label", "team=a,velero.io/exclude-from-backup=true", "--secret-label", "empty="]);
        let expected = [("team", "a"), ("velero.io/exclude-from-backup", "true"), ("empty", "")];
        assert_eq!(labels.unwrap().secret_labels, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[rstest]
    #[case(&["--allowed-endpoint-host", "https://login.example.com"], "without https://")]
    #[case(&["--allowed-endpoint-host", "login.example.com:8443"], "without a port")]
    #[case(&["--allowed-endpoint-host", "login.example.com/v2"], "without a path")]
    #[case(&["--allowed-endpoint-host", "*.example.com"], "wildcards")]
    #[case(&["--allowed-endpoint-host", "user@example.com"], "not a host name")]
    #[case(&["--allowed-audience", "api://a b"], "without spaces")]
    #[case(&["--client-namespace", "Prod"], "a namespace has")]
    #[case(&["--namespace", "Prod"], "a namespace has")]
    #[case(&["--namespace", "a-"], "a namespace has")]
    #[case(&["--lease-namespace", "a/b"], "a namespace has")]
    #[case(&["--listen", "8080"], "--listen")]
    #[case(&["--concurrency", "0"], "--concurrency")]
    #[case(&["--provider-qps", "0"], "more than 0")]
    #[case(&["--provider-qps", "NaN"], "0 or more")]
    #[case(&["--provider-qps", "inf"], "0 or more")]
    #[case(&["--kube-qps=-1"], "0 or more")]
    #[case(&["--kube-qps", "fast"], "not a number")]
    #[case(&["--secret-label", "team"], "KEY=VALUE")]
    #[case(&["--secret-label=-team=a"], "not a label's key")]
    #[case(&["--secret-label", "Example.com/team=a"], "not a label's key")]
    #[case(&["--secret-label", "=a"], "not a label's key")]
    #[case(&["--secret-label", "team=a b"], "not a label's value")]
    #[case(&["--secret-label", "team=a,team=b"], "already to be 'a'")]
    #[case(&["--secret-label", "graphtoken.io/name=a"], "set by the operator itself")]
    #[case(&["--secret-label", "x.graphtoken.io/y=a"], "set by the operator itself")]
    #[case(&["--secret-label", "app.kubernetes.io/managed-by=helm"], "set by the operator itself")]
    #[case(&["--leader-election=maybe"], "true, false")]
    #[case(&["--lease-duration", "1999ms"], "from 2s to 1h")]
    #[case(&["--lease-duration", "61m"], "from 2s to 1h")]
    #[case(&["--lease-duration", "30"], "such as 30s")]
    #[case(&["--log-format", "xml"], "text, json")]
    #[case(&["--no-such-flag"], "--no-such-flag")]
    fn a_mistake_is_named(#[case] flags: &[&str], #[case] expected: &str) {
        let message = run(flags).unwrap_err();
        assert!(
            message.contains(expected) && message.contains(flags[0].split('=').next().unwrap()),
            "{message}"
        );
    }

    #[test]
    fn the_leases_namespace_is_the_flags_then_the_pods_then_the_contexts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("namespace");
        assert_eq!(namespace_from(None, &file, "context"), "context");
        assert_eq!(namespace_from(None, &file, ""), "default");
        std::fs::write(&file, "pods\n").unwrap();
        assert_eq!(namespace_from(None, &file, "context"), "pods");
        assert_eq!(namespace_from(Some("flag"), &file, "context"), "flag");
    }

    #[test]
    fn the_other_commands_are_crd_and_the_version() {
        assert_eq!(try_parse_from(["graphtoken", "crd"]).unwrap(), Command::Crd);
        let version = try_parse_from(["graphtoken", "--version"]).unwrap_err();
        assert_eq!(version.kind(), ErrorKind::DisplayVersion);
        assert_eq!(version.to_string(), format!("graphtoken {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
