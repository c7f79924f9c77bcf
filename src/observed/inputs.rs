//! What a token request is made with, by content.

use sha2::{Digest as _, Sha256};

use crate::desired::Desired;
use crate::seed::hex;

/// Hash of the spec and the client credential that a token request is made with. While it stays the same, an attempt that failed
/// for good is not made again before its hour; a change is worth one at once. It counts by content: a controller that keeps
/// touching labels or annotations of a Secret changes nothing. `client_credential` is the hash of what the Secret holds for the
/// client.
pub fn inputs(desired: &Desired, client_credential: Option<&str>) -> String {
    let client = &desired.client;
    let authentication = format!("{:?}", client.proof);
    hash_of([
        Some(&*desired.issued_for),
        desired.account.as_deref(),
        client.device_url.as_deref(),
        client.secrets_namespace.as_deref(),
        Some(&*authentication),
        client_credential,
    ])
}

/// Hash of a sequence of parts, short and without a collision by chance.
pub fn hash_of<'a>(parts: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update([u8::from(part.is_some())]);
        let part = part.unwrap_or_default();
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::Guards;
    use crate::plan::tests::world::World;

    #[test]
    fn inputs_change_with_the_spec_and_with_the_client_credential() {
        let of = |spec: &serde_json::Value, credential: Option<&str>| {
            let spec = serde_json::from_value(spec.clone()).unwrap();
            inputs(&Desired::new("mail", &spec, &Guards::default(), &|_| None).unwrap(), credential)
        };
        let spec = World::fresh().spec;
        let base = of(&spec, None);
        assert_eq!(base, of(&spec, None));
        assert_ne!(base, of(&spec, Some("a credential")));
        for (field, value) in [
            ("tenant", json!("fabrikam.onmicrosoft.com")),
            ("clientId", json!("another")),
            ("scopes", json!(["Files.Read"])),
            ("account", json!("boss@contoso.com")),
            ("clientAuth", json!({"secretRef": {"name": "app", "key": "secret"}})),
        ] {
            let mut other = spec.clone();
            other[field] = value;
            assert_ne!(base, of(&other, None), "{field}");
        }
        let mut same = spec;
        same["target"] = json!({"labels": {"a": "b"}});
        same["refresh"] = json!({"renewBefore": "5m"});
        assert_eq!(base, of(&same, None), "no token request depends on it");
    }
}
