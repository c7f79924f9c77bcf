//! What the world holds, and what a test wants to know of it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use graphtoken::api::{ConditionStatus, ConditionType, GraphTokenStatus, Reason};
use graphtoken::restart::MIN_INTERVAL;
use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::Value;

use crate::idp::{Idp, Rotation};
use crate::objects::{Key, Kind, Objects, Refusal, Snapshot};
use crate::scenario::CREDENTIAL;
use crate::tape::Tape;
use crate::world::{Event, Step};

/// What the world holds.
pub struct State {
    pub objects: Objects,
    pub idp: Idp,
    pub tape: Tape,
    pub now: Timestamp,
    /// The objects as they were when a process looked last: what a cache that lags still shows.
    pub last_seen: Snapshot,
    /// The statuses that were written, and when.
    pub statuses: Vec<(Timestamp, GraphTokenStatus)>,
    /// The access tokens that the target held, and since when.
    pub served: Vec<(Timestamp, Option<String>)>,
    /// Every refresh token that the credential ever held.
    pub stored: Vec<String>,
    /// For which contents of the target the workload was rolled out anew, and when.
    pub rolls: Vec<(Timestamp, String)>,
    /// Every assertion that was ever sent.
    pub assertions: BTreeSet<String>,
    /// How many tokens of service accounts were made.
    pub service_account_tokens: usize,
    /// What must never happen.
    pub violations: Vec<String>,
    /// Writes of objects that succeeded, events apart.
    pub writes: usize,
    /// When reconciles began.
    pub looks: Vec<Timestamp>,
    /// When acquisitions and verifications ended: each brings a result, which a reconcile of its own takes.
    pub results: Vec<Timestamp>,
    /// How many reconciles in one life are a loop.
    pub patience: usize,
    /// Calls that have this in their description are refused so.
    pub refuses: Option<(&'static str, Refusal)>,
    pub token_url: String,
    pub graph_url: String,
    pub steps: VecDeque<Step>,
    pub step_ends: Timestamp,
    pub agenda: VecDeque<(Timestamp, Event)>,
}

impl State {
    pub fn new(rotation: Rotation, url: &str) -> Self {
        let now = "2026-11-23T10:00:00Z".parse().expect("a time");
        Self {
            objects: Objects::default(),
            idp: Idp::new(rotation),
            tape: Tape::default(),
            now,
            last_seen: Snapshot::new(),
            statuses: Vec::new(),
            served: Vec::new(),
            stored: Vec::new(),
            rolls: Vec::new(),
            assertions: BTreeSet::new(),
            service_account_tokens: 0,
            violations: Vec::new(),
            writes: 0,
            looks: Vec::new(),
            results: Vec::new(),
            patience: 300,
            refuses: None,
            token_url: format!("{url}/token"),
            graph_url: format!("{url}/graph"),
            steps: VecDeque::new(),
            step_ends: now,
            agenda: VecDeque::new(),
        }
    }

    pub fn object(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.get(kind, name)
    }

    /// The bytes in a key of a Secret, as text.
    pub fn secret(&self, name: &str, key: &str) -> Option<String> {
        let bytes = STANDARD.decode(self.object(Kind::Secret, name)?["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// The name of the Secret that pods are to mount.
    pub fn target_name(&self) -> String {
        let graphtoken = self.object(Kind::GraphToken, "mail");
        let name = graphtoken.and_then(|g| g["spec"]["target"]["secretName"].as_str());
        name.unwrap_or("mail").to_owned()
    }

    /// The keys that it is to have.
    pub fn wanted_keys(&self) -> Vec<String> {
        let graphtoken = self.object(Kind::GraphToken, "mail");
        let keys = graphtoken.and_then(|g| g["spec"]["target"]["data"].as_array()).map(|entries| {
            entries.iter().filter_map(|entry| entry["key"].as_str()).map(str::to_owned).collect()
        });
        keys.unwrap_or_else(|| vec!["o365_token.txt".to_owned(), "token".to_owned()])
    }

    /// The keys that it has.
    pub fn target_keys(&self) -> Vec<String> {
        let target = self.object(Kind::Secret, &self.target_name());
        target.and_then(|t| t["data"].as_object()).into_iter().flatten().map(|(key, _)| key.clone()).collect()
    }

    /// The names of all Secrets that pods could take for the target.
    pub fn targets(&self) -> Vec<String> {
        let published = |secret: &&Value| !secret["metadata"]["annotations"]["graphtoken.io/token"].is_null();
        let names = self.objects.all(Kind::Secret).filter(published).map(|s| s["metadata"]["name"].as_str());
        names.flatten().map(str::to_owned).collect()
    }

    pub fn status(&self) -> GraphTokenStatus {
        let status = self.object(Kind::GraphToken, "mail").map(|object| &object["status"]);
        status.and_then(|status| GraphTokenStatus::deserialize(status).ok()).unwrap_or_default()
    }

    /// Keeps the logs that assertions read. Called after every write of the operator's.
    pub fn note(&mut self, (kind, name): &Key) {
        self.tape.moved();
        self.writes += usize::from(*kind != Kind::Event);
        match (kind, name.as_str()) {
            (Kind::GraphToken, _) => self.statuses.push((self.now, self.status())),
            (Kind::Secret, "mail") => self.served.push((self.now, self.secret("mail", "token"))),
            (Kind::Secret, CREDENTIAL) => {
                let token = self.secret(name, "refresh_token");
                self.stored.extend(token.filter(|token| self.stored.last() != Some(token)));
            }
            (Kind::Deployment, _) => self.note_roll(),
            _ => {}
        }
    }

    /// The content of the target that the workload was rolled out for last.
    fn rolled_for(&self) -> Option<String> {
        let deployment = self.object(Kind::Deployment, "reader")?;
        let mark = &deployment["spec"]["template"]["metadata"]["annotations"]["restart.graphtoken.io/mail"];
        mark.as_str()?.split_once(' ').map(|(_, content)| content.to_owned())
    }

    fn note_roll(&mut self) {
        let Some(content) = self.rolled_for() else { return };
        if let Some((at, last)) = self.rolls.last() {
            if *last == content {
                self.violations.push(format!("the workload was rolled out twice for {content}"));
            }
            if self.now.duration_since(*at) < MIN_INTERVAL {
                self.violations
                    .push(format!("the workload was rolled out at {at} and again at {}", self.now));
            }
        }
        self.rolls.push((self.now, content));
    }

    /// Whether the workload, if there is one, reads what the target holds now.
    fn is_read(&self) -> bool {
        let annotation =
            self.object(Kind::Secret, "mail").map(|s| &s["metadata"]["annotations"]["graphtoken.io/token"]);
        let published = annotation.and_then(|text| serde_json::from_str::<Value>(text.as_str()?).ok());
        let content =
            published.as_ref().and_then(|published| published["content"].as_str()).unwrap_or_default();
        let first = published.as_ref().is_some_and(|published| published["first"] == true);
        self.object(Kind::Deployment, "reader").is_none()
            || self.rolled_for().map_or(first, |rolled| content.starts_with(&rolled))
    }

    /// Whether there is nothing left to do: it serves, or a person must act, or it is gone and its credential waits.
    pub fn settled(&self) -> bool {
        let credential = self.object(Kind::Secret, CREDENTIAL);
        let Some(graphtoken) = self.object(Kind::GraphToken, "mail") else {
            let marked = |c: &Value| !c["metadata"]["annotations"]["graphtoken.io/delete-after"].is_null();
            return credential.is_none_or(marked);
        };
        let status = self.status();
        let is = |type_| status.condition(type_).is_some_and(|c| c.status == ConditionStatus::True);
        let current =
            status.observed_generation == graphtoken["metadata"]["generation"].as_i64().unwrap_or(-2);
        let serves = is(ConditionType::Ready)
            && is(ConditionType::Refreshed)
            && credential.is_none_or(|c| c["data"]["pending.json"].is_null())
            && self.object(Kind::Secret, &self.target_name()).is_some();
        // A user who is at it is not what the world waits for.
        let stalled = is(ConditionType::Stalled) && status.device_code.is_none();
        current && (serves && self.is_tried(&status) && self.is_read() || stalled)
    }

    /// Whether Graph took the token that pods have, or is not asked, or takes none.
    fn is_tried(&self, status: &GraphTokenStatus) -> bool {
        let graphtoken = self.object(Kind::GraphToken, "mail");
        let asked = graphtoken.is_some_and(|g| g["spec"]["endpoints"]["graph"].is_string());
        let last = status.last_probe.as_ref().and_then(|last| last.reason.known());
        !asked || last == Some(Reason::Accepted) || self.idp.refuses
    }

    /// Whether anybody was ever told to sign in, without a code to do it with.
    pub fn alarmed(&self) -> bool {
        let without = self.statuses.iter().filter(|(_, status)| status.device_code.is_none());
        let reasons = without.flat_map(|(_, status)| status.conditions.iter().map(|c| &c.reason));
        reasons.into_iter().any(|reason| *reason == Reason::AuthorizationRequired)
    }

    /// Whether there is an event of this reason.
    pub fn said(&self, reason: &str) -> bool {
        self.objects.all(Kind::Event).any(|event| event["reason"] == reason)
    }

    /// Everything that matters, for the message of a failed test.
    pub fn describe(&self) -> String {
        let mut text = format!("at {}\nstatus {:#?}\n", self.now, self.status());
        for (number, call) in self.tape.calls.iter().enumerate() {
            let _ = writeln!(text, "{number:3} {call}");
        }
        let _ = writeln!(text, "{:#?}", self.idp.journal);
        text
    }
}
