//! The API server as the modules that write see it: objects' metadata, and errors sorted by what they mean to a write.

use kube::api::ObjectMeta;
use kube::core::Status;
use thiserror::Error;

use crate::api::names::is_of_group;
use crate::observed::Meta;

/// What the operator needs of an object's metadata.
pub fn meta(object: &ObjectMeta) -> Meta {
    Meta {
        uid: object.uid.clone().unwrap_or_default(),
        resource_version: object.resource_version.clone().unwrap_or_default(),
        labels: object.labels.clone().unwrap_or_default(),
        annotations: object
            .annotations
            .clone()
            .unwrap_or_default()
            .into_iter()
            .filter(|(key, _)| is_of_group(key))
            .collect(),
        owners: object.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect(),
        deleting: object.deletion_timestamp.is_some(),
    }
}

/// A request to the API server that did not do what it should. Nothing of a request or response body is in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The object is not as it was read, or exists already: read it again.
    #[error("the object was changed meanwhile")]
    Conflict,
    /// It is not there.
    #[error("the object is not there")]
    Gone,
    /// The API server will not have it; the sentence says why.
    #[error("the API server refused: {0}")]
    Refused(String),
    /// Somebody else's Secret is in the place; the sentence says what to do.
    #[error("{0}")]
    Foreign(String),
    /// No answer, or none that tells whether it was done.
    #[error("the API server did not answer: {0}")]
    Unanswered(&'static str),
}

impl StoreError {
    /// Whether another attempt may do it without anybody's help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Conflict | Self::Gone | Self::Unanswered(_))
    }
}

impl From<kube::Error> for StoreError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => refused(&status),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::Unanswered("its answer could not be read")
            }
            kube::Error::Service(_) | kube::Error::HyperError(_) => {
                Self::Unanswered("connection failed or timed out")
            }
            _ => Self::Unanswered("the request could not be made"),
        }
    }
}

fn refused(status: &Status) -> StoreError {
    match (status.code, status.reason.as_str()) {
        (409, "AlreadyExists" | "Conflict") => StoreError::Conflict,
        (404, _) => StoreError::Gone,
        (403, _) if status.message.contains("because it is being terminated") => {
            StoreError::Refused("the namespace is being terminated".to_owned())
        }
        // A message of 403 speaks of rights, quotas and policies; others may quote the object, and so a token.
        (403, _) => StoreError::Refused(bounded(&status.message)),
        (422, _) => StoreError::Refused(denied_by(&status.message).map_or_else(
            || "422 Invalid: the object as it is does not take this write".to_owned(),
            |who| format!("422 Invalid: denied by {who}"),
        )),
        (408 | 429 | 500.., _) => StoreError::Unanswered("it is overloaded or failing"),
        (code, reason) => StoreError::Refused(denied_by(&status.message).map_or_else(
            || format!("{code} {}", bounded(reason)),
            |who| format!("{code} {}: denied by {who}", bounded(reason)),
        )),
    }
}

/// The admission policy or webhook that a message names. Only its name: what it says of the object may quote it, and so a token.
fn denied_by(message: &str) -> Option<String> {
    [("ValidatingAdmissionPolicy '", '\''), ("admission webhook \"", '"')].into_iter().find_map(
        |(kind, quote)| {
            let (_, rest) = message.split_once(kind)?;
            let (name, _) = rest.split_once(quote)?;
            let is_name =
                name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            let kind = kind.trim_end_matches([' ', '"', '\'']);
            is_name.then(|| format!("{kind} {name}"))
        },
    )
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(409, "Conflict", StoreError::Conflict)]
    #[case(409, "AlreadyExists", StoreError::Conflict)]
    #[case(404, "NotFound", StoreError::Gone)]
    #[case(403, "Forbidden", StoreError::Refused("tok".into()))]
    #[case(503, "ServiceUnavailable", StoreError::Unanswered("it is overloaded or failing"))]
    fn each_answer_means_one_thing(#[case] code: u16, #[case] reason: &str, #[case] means: StoreError) {
        let status = Status { code, ..Status::failure("tok", reason) };
        assert_eq!(StoreError::from(kube::Error::Api(Box::new(status))), means);
    }

    #[rstest]
    #[case(
        422,
        "secrets \"mail\" is forbidden: ValidatingAdmissionPolicy 'no-secrets' with binding 'all' denied request: tok",
        "the API server refused: 422 Invalid: denied by ValidatingAdmissionPolicy no-secrets"
    )]
    #[case(
        400,
        "admission webhook \"validate.example.com\" denied the request: tok",
        "the API server refused: 400 Invalid: denied by admission webhook validate.example.com"
    )]
    #[case(400, "admission webhook \"tok tok\" denied", "the API server refused: 400 Invalid")]
    fn who_denied_it_is_named_and_what_it_says_is_not(
        #[case] code: u16,
        #[case] message: &str,
        #[case] says: &str,
    ) {
        let status = Status { code, ..Status::failure(message, "Invalid") };
        assert_eq!(StoreError::from(kube::Error::Api(Box::new(status))).to_string(), says);
    }

    #[test]
    fn an_invalid_object_is_not_quoted() {
        let status = Status { code: 422, ..Status::failure("Invalid value: \"tok\"", "Invalid") };
        assert!(!StoreError::from(kube::Error::Api(Box::new(status))).to_string().contains("tok"));
    }
}
