//! A client that a platform team states once, for the namespaces that it allows.
#![allow(
    clippy::doc_markdown,
    reason = "doc comments are the help texts of kubectl explain, where backticks are noise"
)]
#![allow(clippy::duplicated_attributes, reason = "the columns differ in name and path")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::spec::{ClientAuth, Cloud, Endpoints};

/// Tenant, client and proof, for the GraphTokens of the namespaces that it allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::CustomResource, kube::KubeSchema))]
#[cfg_attr(
    feature = "operator",
    kube(
        group = "graphtoken.io",
        version = "v1alpha1",
        kind = "ClusterGraphClient",
        plural = "clustergraphclients",
        shortname = "cgc",
        category = "graphtoken-operator",
        derive = "PartialEq",
        doc = "A client of Microsoft Entra ID that GraphTokens of allowed namespaces use by name.",
        printcolumn(name = "Tenant", type_ = "string", json_path = ".spec.tenant"),
        printcolumn(name = "Client", type_ = "string", json_path = ".spec.clientId"),
        printcolumn(name = "Grants", type_ = "string", json_path = ".spec.allow.grants"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterGraphClientSpec {
    /// The tenant: its GUID, a verified domain, or organizations, common or consumers.
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9.-]*$"))
    )]
    pub tenant: String,
    /// The application (client) id.
    #[cfg_attr(
        feature = "operator",
        schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._~-]{1,128}$"))
    )]
    pub client_id: String,
    /// The Microsoft cloud that the tenant lives in. Default: Public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Cloud>,
    /// Overrides of the cloud's endpoints: private proxies and other OAuth 2.0 servers. Their hosts must be allowed by the
    /// operator's --allowed-endpoint-host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// How the client proves who it is. Absent: a public client. Secrets and service accounts are those of the operator's
    /// --client-namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// Who may use it. Absent: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
}

/// Who may use a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct Allow {
    /// The namespaces, by their labels; {} is all of them. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<NamespaceSelector>,
    /// The grants that may be used. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "operator",
        schemars(length(max = 3)),
        x_kube(merge_strategy = kube::core::ListMerge::Set)
    )]
    pub grants: Option<Vec<AllowedGrant>>,
}

/// A member of spec.grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum AllowedGrant {
    /// From a refresh token.
    RefreshToken,
    /// By a code that a user enters.
    DeviceCode,
    /// The app itself.
    ClientCredentials,
}

/// A label selector, as Kubernetes has it: all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelector {
    /// Labels that must be there with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "operator", schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63})))]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "operator", schemars(length(max = 32)))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(kube::KubeSchema))]
#[cfg_attr(
    feature = "operator",
    x_kube(validation = Rule::new(
        "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)"
    )
    .message("In and NotIn need values; Exists and DoesNotExist have none"))
)]
pub struct LabelRequirement {
    /// Key of the label.
    #[cfg_attr(feature = "operator", schemars(length(min = 1, max = 317)))]
    pub key: String,
    /// How it is compared with the values.
    pub operator: LabelOperator,
    /// The values; for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "operator", schemars(length(max = 64), inner(length(max = 63))))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub enum LabelOperator {
    /// Its value is one of these.
    In,
    /// It is not there, or its value is none of these.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl NamespaceSelector {
    /// Whether it selects what has these labels ("Labels and Selectors", Kubernetes documentation).
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let alike = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        alike
            && self
                .match_expressions
                .iter()
                .all(|requirement| requirement.holds(labels.get(&requirement.key)))
    }
}

impl LabelRequirement {
    fn holds(&self, value: Option<&String>) -> bool {
        match self.operator {
            LabelOperator::In => value.is_some_and(|value| self.values.contains(value)),
            LabelOperator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::all(json!({}), true)]
    #[case::by_label(json!({"matchLabels": {"team": "etl"}}), true)]
    #[case::another_value(json!({"matchLabels": {"team": "web"}}), false)]
    #[case::all_of_them(json!({"matchLabels": {"team": "etl", "zone": "a"}}), false)]
    #[case::one_of(json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["web", "etl"]}]}), true)]
    #[case::none_of(json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["etl"]}]}), false)]
    #[case::absent_is_none_of(json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}), true)]
    #[case::there(json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}), true)]
    #[case::not_there(json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}), false)]
    fn a_selector_is_read_as_kubernetes_does(#[case] selector: Value, #[case] matches: bool) {
        let selector: NamespaceSelector = serde_json::from_value(selector).unwrap();
        let labels = BTreeMap::from([("team".to_owned(), "etl".to_owned())]);
        assert_eq!(selector.matches(&labels), matches);
    }
}
