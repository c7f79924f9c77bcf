//! Words of the status that another version of the operator may not know.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A word of this version, or one of another version, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Open<T> {
    /// This version says it.
    Known(T),
    /// Another version said it.
    Other(#[serde(deserialize_with = "other")] String),
}

/// A word that the API server would reject is dropped: it may come from a Secret.
fn other<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let word = String::deserialize(deserializer)?;
    if is_word(&word) { Ok(word) } else { Err(D::Error::custom("not a word")) }
}

/// The pattern and length that `metav1.Condition` has for reasons.
fn is_word(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "_,:".contains(c);
    text.len() <= 1024
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(is_inner)
}

/// A set of words that grows from version to version.
pub trait Word: Copy {
    /// What the API server accepts as such a word: a pattern, and the greatest length.
    const SCHEMA: (&str, u32);

    /// The word as users see it.
    fn word(self) -> &'static str;
}

impl<T: Word> Open<T> {
    /// The word, if this version knows it.
    pub const fn known(&self) -> Option<T> {
        match self {
            Self::Known(word) => Some(*word),
            Self::Other(_) => None,
        }
    }

    /// The word as it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(word) => word.word(),
            Self::Other(word) => word,
        }
    }

    /// The word as a metric's label: all that this version does not know are one value.
    pub fn label(&self) -> &'static str {
        self.known().map_or("Other", Word::word)
    }
}

impl<T> From<T> for Open<T> {
    fn from(word: T) -> Self {
        Self::Known(word)
    }
}

impl<T: PartialEq> PartialEq<T> for Open<T> {
    fn eq(&self, other: &T) -> bool {
        matches!(self, Self::Known(word) if word == other)
    }
}

impl<T: Word> fmt::Display for Open<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// By hand: a schema derived for an untagged enum is not structural.
#[cfg(feature = "operator")]
impl<T: Word> schemars::JsonSchema for Open<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Word".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (pattern, length) = T::SCHEMA;
        schemars::json_schema!({"type": "string", "minLength": 1, "maxLength": length, "pattern": pattern})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Reason;

    #[test]
    fn a_word_of_another_version_is_kept_as_it_was_written() {
        let read: Vec<Open<Reason>> = serde_json::from_str(r#"["Throttled", "OfALaterVersion"]"#).unwrap();
        assert_eq!(read, [Open::Known(Reason::Throttled), Open::Other("OfALaterVersion".into())]);
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"["Throttled","OfALaterVersion"]"#);
        assert_eq!((read[0].known(), read[1].known()), (Some(Reason::Throttled), None));
        assert_eq!((read[1].as_str(), read[1].label()), ("OfALaterVersion", "Other"));
        assert!(read[0] == Reason::Throttled && read[1] != Reason::Throttled);
        for other in [json!(5), json!(""), json!("two words"), json!("-x"), json!("x:")] {
            assert!(serde_json::from_value::<Open<Reason>>(other.clone()).is_err(), "{other}");
        }
    }
}
