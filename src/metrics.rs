//! The metrics of the contract: what is counted as it happens, and what is read from the cache at a scrape.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeLabelValue, EncodeMetric,
        LabelValueEncoder,
    },
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::Registry,
};

use crate::state::Key;

/// Seconds. A token request has a deadline of 15 s.
const TOKEN_REQUEST_BUCKETS: [f64; 9] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0];
/// Seconds. Most reconciles find nothing to do; the longest make several requests to the API server.
const RECONCILE_BUCKETS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// How a token request ended: the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenOutcome {
    /// A usable token was answered.
    Succeeded,
    /// The user has not yet approved the device code.
    Pending,
    /// A user must sign in.
    AuthorizationRequired,
    /// A token for another account was answered.
    WrongAccount,
    /// The provider refuses the client, the scopes or the request as such.
    InvalidConfiguration,
    /// The provider asked for patience.
    Throttled,
    /// Network, time-out, 5xx or an unusable answer.
    ProviderUnavailable,
}

impl TokenOutcome {
    /// The label's value: the failure reason of the contract, or how it went without a failure.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Pending => "Pending",
            Self::AuthorizationRequired => "AuthorizationRequired",
            Self::WrongAccount => "WrongAccount",
            Self::InvalidConfiguration => "InvalidConfiguration",
            Self::Throttled => "Throttled",
            Self::ProviderUnavailable => "ProviderUnavailable",
        }
    }
}

impl EncodeLabelValue for TokenOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    grant: &'static str,
    outcome: TokenOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GrantLabels {
    grant: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KubeLabels {
    resource: String,
    verb: &'static str,
    code: String,
}

/// Counters and histograms of this process. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    token_requests: Family<TokenLabels, Counter>,
    token_request_duration: Family<GrantLabels, Histogram, fn() -> Histogram>,
    probes: Family<ProbeLabels, Counter>,
    kube_requests: Family<KubeLabels, Counter>,
    reconcile_duration: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            token_requests: Family::default(),
            token_request_duration: Family::new_with_constructor(|| Histogram::new(TOKEN_REQUEST_BUCKETS)),
            probes: Family::default(),
            kube_requests: Family::default(),
            reconcile_duration: Histogram::new(RECONCILE_BUCKETS),
        }
    }
}

impl Metrics {
    /// Counts one request to a token endpoint, `took` from the moment it was sent.
    pub fn token_request(&self, grant: &'static str, outcome: TokenOutcome, took: Duration) {
        self.token_requests.get_or_create(&TokenLabels { grant, outcome }).inc();
        self.token_request_duration.get_or_create(&GrantLabels { grant }).observe(took.as_secs_f64());
    }

    /// Counts one trial of a token at Microsoft Graph.
    pub fn probe(&self, outcome: &'static str) {
        self.probes.get_or_create(&ProbeLabels { outcome }).inc();
    }

    /// Counts one request to the API server; `code` is the HTTP status, or `error` where none came.
    pub fn kube_request(&self, resource: &str, verb: &'static str, code: &str) {
        let labels = KubeLabels { resource: resource.to_owned(), verb, code: code.to_owned() };
        self.kube_requests.get_or_create(&labels).inc();
    }

    /// Records one finished reconcile.
    pub fn reconciled(&self, took: Duration) {
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// Everything to be scraped. `leader` and `objects` are called at each scrape, so the series of a
    /// deleted object go by themselves.
    pub fn registry(
        &self,
        leader: impl Fn() -> bool + Send + Sync + 'static,
        objects: Arc<dyn Fn() -> Vec<ObjectSample> + Send + Sync>,
    ) -> Registry {
        let mut registry = Registry::with_prefix("graphtoken");
        // The encoder appends `_total`, and a full stop to each help text.
        registry.register("token_requests", "Requests to token endpoints", self.token_requests.clone());
        registry.register(
            "token_request_duration_seconds",
            "How long requests to token endpoints took",
            self.token_request_duration.clone(),
        );
        registry.register("probe", "Trials of tokens at Microsoft Graph", self.probes.clone());
        registry.register("kube_requests", "Requests to the API server", self.kube_requests.clone());
        registry.register(
            "reconcile_duration_seconds",
            "How long reconciles took",
            self.reconcile_duration.clone(),
        );
        registry.register_collector(Box::new(LeaderCollector(Box::new(leader))));
        registry.register_collector(Box::new(ObjectCollector(objects)));
        registry
    }
}

/// Adds when clients' certificates and secrets end, called at each scrape.
pub fn register_ends(
    registry: &mut Registry,
    ends: impl Fn() -> BTreeMap<Key, Timestamp> + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(EndCollector(Box::new(ends))));
}

struct EndCollector(Box<dyn Fn() -> BTreeMap<Key, Timestamp> + Send + Sync>);

impl fmt::Debug for EndCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndCollector")
    }
}

impl Collector for EndCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "When a client's certificate or secret ends.";
        let name = "client_credential_expiration_timestamp_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (Key { namespace, name }, at) in (self.0)() {
            let labels = [("namespace", namespace.as_str()), ("secret", name.as_str())];
            ConstGauge::new(at.as_second()).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// One `GraphToken` as it stands in the cache.
#[derive(Clone, Debug)]
pub struct ObjectSample {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether the condition `Ready` is True.
    pub ready: bool,
    /// `status.expiresAt`, seconds since the epoch.
    pub expires_at: Option<i64>,
    /// `status.lastRefreshTime`, seconds since the epoch.
    pub last_refresh: Option<i64>,
    /// `status.refreshTokenExpiresAt`, seconds since the epoch.
    pub refresh_token_expires_at: Option<i64>,
    /// `status.consecutiveFailures`.
    pub consecutive_failures: u64,
    /// `status.conditions`.
    pub conditions: Vec<ConditionSample>,
    /// The tenant of its client; empty while unknown.
    pub tenant: String,
    /// The id of its client; empty while unknown.
    pub client_id: String,
    /// The name of its grant, as in the spec.
    pub grant: &'static str,
}

/// One condition of a `GraphToken`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConditionSample {
    /// `type`, such as `Ready`.
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// `reason`.
    pub reason: &'static str,
}

struct LeaderCollector(Box<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for LeaderCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaderCollector")
    }
}

impl Collector for LeaderCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1 where this process holds the Lease, or needs none.";
        let metric = encoder.encode_descriptor("leader", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from((self.0)())).encode(metric)
    }
}

/// The gauges of each object, read at a scrape.
struct ObjectCollector(Arc<dyn Fn() -> Vec<ObjectSample> + Send + Sync>);

impl fmt::Debug for ObjectCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectCollector")
    }
}

impl Collector for ObjectCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let objects = (self.0)();
        let encoder = &mut encoder;
        gauge(encoder, "ready", "1 where the target's token is usable.", &objects, |o| {
            Some(i64::from(o.ready))
        })?;
        let help = "When the access token in the target expires.";
        gauge(encoder, "expiration_timestamp_seconds", help, &objects, |o| o.expires_at)?;
        let help = "When a token was last obtained.";
        gauge(encoder, "last_refresh_timestamp_seconds", help, &objects, |o| o.last_refresh)?;
        let help = "When the refresh token expires unless it is used: an estimate.";
        gauge(encoder, "refresh_token_expiration_timestamp_seconds", help, &objects, |o| {
            o.refresh_token_expires_at
        })?;
        let help = "Refreshes that failed since the last success.";
        gauge(encoder, "consecutive_failures", help, &objects, |o| Some(o.consecutive_failures))?;
        conditions(encoder, &objects)?;
        info(encoder, &objects)
    }
}

/// One gauge with a series for each object that has a value.
fn gauge<V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    objects: &[ObjectSample],
    value: impl Fn(&ObjectSample) -> Option<V>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for object in objects {
        if let Some(value) = value(object) {
            let labels = [("namespace", object.namespace.as_str()), ("name", object.name.as_str())];
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn conditions(encoder: &mut DescriptorEncoder<'_>, objects: &[ObjectSample]) -> fmt::Result {
    let help = "1 for each condition's present status and reason.";
    let mut metric = encoder.encode_descriptor("condition", help, None, MetricType::Gauge)?;
    for object in objects {
        for condition in &object.conditions {
            let labels = [
                ("namespace", object.namespace.as_str()),
                ("name", object.name.as_str()),
                ("type", condition.kind),
                ("status", condition.status),
                ("reason", condition.reason),
            ];
            ConstGauge::new(1_i64).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn info(encoder: &mut DescriptorEncoder<'_>, objects: &[ObjectSample]) -> fmt::Result {
    let help = "1 for each object, with the client and grant it uses.";
    let mut metric = encoder.encode_descriptor("info", help, None, MetricType::Gauge)?;
    for object in objects {
        let labels = [
            ("namespace", object.namespace.as_str()),
            ("name", object.name.as_str()),
            ("tenant", object.tenant.as_str()),
            ("client_id", object.client_id.as_str()),
            ("grant", object.grant),
        ];
        ConstGauge::new(1_i64).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use prometheus_client::encoding::text::encode;

    use super::*;

    fn scrape(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    fn none() -> Arc<dyn Fn() -> Vec<ObjectSample> + Send + Sync> {
        Arc::new(Vec::new)
    }

    fn sample(name: &str) -> ObjectSample {
        ObjectSample {
            namespace: "pipelines".into(),
            name: name.into(),
            ready: true,
            expires_at: Some(1_795_000_000),
            last_refresh: Some(1_794_996_400),
            refresh_token_expires_at: None,
            consecutive_failures: 2,
            conditions: vec![ConditionSample { kind: "Ready", status: "True", reason: "TokenValid" }],
            tenant: "contoso.onmicrosoft.com".into(),
            client_id: "client-1".into(),
            grant: "refreshToken",
        }
    }

    #[track_caller]
    fn assert_line(text: &str, line: &str) {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
    }

    #[test]
    fn counters_and_histograms_have_the_names_of_the_contract() {
        let metrics = Metrics::default();
        let registry = metrics.registry(|| true, none());
        metrics.token_request("refreshToken", TokenOutcome::Throttled, Duration::from_millis(300));
        metrics.probe("PermissionMissing");
        metrics.kube_request("graphtokens/status", "patch", "200");
        metrics.kube_request("graphtokens/status", "patch", "200");
        metrics.reconciled(Duration::from_millis(3));
        let text = scrape(&registry);
        assert_line(&text, r#"graphtoken_token_requests_total{grant="refreshToken",outcome="Throttled"} 1"#);
        assert_line(&text, r#"graphtoken_probe_total{outcome="PermissionMissing"} 1"#);
        assert_line(&text, r#"graphtoken_token_request_duration_seconds_count{grant="refreshToken"} 1"#);
        assert_line(
            &text,
            r#"graphtoken_kube_requests_total{resource="graphtokens/status",verb="patch",code="200"} 2"#,
        );
        assert_line(&text, r#"graphtoken_reconcile_duration_seconds_bucket{le="0.005"} 1"#);
        assert_line(&text, "graphtoken_leader 1");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn an_object_has_the_gauges_of_the_contract() {
        let registry = Metrics::default().registry(|| false, Arc::new(|| vec![sample("mail")]));
        let text = scrape(&registry);
        let id = r#"namespace="pipelines",name="mail""#;
        for line in [
            format!("graphtoken_ready{{{id}}} 1"),
            format!("graphtoken_expiration_timestamp_seconds{{{id}}} 1795000000"),
            format!("graphtoken_last_refresh_timestamp_seconds{{{id}}} 1794996400"),
            format!("graphtoken_consecutive_failures{{{id}}} 2"),
            format!(r#"graphtoken_condition{{{id},type="Ready",status="True",reason="TokenValid"}} 1"#),
            format!(
                r#"graphtoken_info{{{id},tenant="contoso.onmicrosoft.com",client_id="client-1",grant="refreshToken"}} 1"#
            ),
            "graphtoken_leader 0".to_owned(),
        ] {
            assert_line(&text, &line);
        }
        assert!(
            !text.contains("graphtoken_refresh_token_expiration_timestamp_seconds{"),
            "unknown, so absent"
        );
    }

    #[test]
    fn a_clients_credential_has_its_end() {
        let mut registry = Metrics::default().registry(|| true, none());
        let ends =
            BTreeMap::from([(Key::new("pipelines", "app-cert"), Timestamp::new(1_795_000_000, 9).unwrap())]);
        register_ends(&mut registry, move || ends.clone());
        assert_line(
            &scrape(&registry),
            r#"graphtoken_client_credential_expiration_timestamp_seconds{namespace="pipelines",secret="app-cert"} 1795000000"#,
        );
    }

    #[test]
    fn the_series_of_a_deleted_object_go() {
        let cache = Arc::new(Mutex::new(vec![sample("mail"), sample("files")]));
        let source = Arc::clone(&cache);
        let registry = Metrics::default().registry(|| true, Arc::new(move || source.lock().unwrap().clone()));
        assert!(scrape(&registry).contains(r#"name="files""#));
        cache.lock().unwrap().pop();
        let text = scrape(&registry);
        assert!(!text.contains(r#"name="files""#) && text.contains(r#"name="mail""#), "{text}");
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let odd = ObjectSample { tenant: "a\"} 1\nb".into(), ..sample("mail") };
        let registry = Metrics::default().registry(|| true, Arc::new(move || vec![odd.clone()]));
        assert!(scrape(&registry).contains(r#"tenant="a\"} 1\nb""#));
    }
}
