//! Conditions and their reasons: the vocabulary in which the operator says how a `GraphToken` is.

use serde::{Deserialize, Serialize};

use super::{Open, Time, Word};

/// The types of condition on a `GraphToken`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConditionType {
    /// A person must act. Present only when True (kstatus).
    Stalled,
    /// The target's token is unexpired and was got for this spec.
    Ready,
    /// The latest exchange worked.
    Refreshed,
    /// Microsoft Graph took the token when it was last tried. Absent where it is never tried.
    Verified,
    /// `Ready` is not True yet and nobody need act. Present only when True (kstatus).
    Reconciling,
}

/// `True`, `False` or `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known.
    Unknown,
}

/// Declares the reasons and the list of all of them at once, so that none is left out of it.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Why a condition is as it is. The failure reasons are shared by conditions, events and metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// Every one; docs/troubleshooting.md has a section for each.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name as users, alerts and scripts see it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    /// `Ready`: the token is unexpired and was got for this spec.
    TokenValid,
    /// `Ready`: no token was issued for this spec yet.
    TokenPending,
    /// `Ready`: a token was issued for this spec and ran out.
    TokenExpired,
    /// The target Secret exists and is not ours.
    TargetConflict,
    /// `Refreshed`: the latest exchange worked.
    Succeeded,
    /// `Refreshed`: `spec.suspend` is set.
    Suspended,
    /// `Verified`: Microsoft Graph took the token.
    Accepted,
    /// `Verified`: Microsoft Graph refused the token, and the one that was got in its place too.
    TokenRejected,
    /// `Verified`: what was asked for is wrong for this token; nothing is known of the token.
    ProbeFailed,
    /// `Reconciling`: the operator is at work.
    Progressing,
    /// A user must sign in (again).
    AuthorizationRequired,
    /// Another account signed in than the one that is bound or asked for.
    WrongAccount,
    /// The spec or an object that it refers to must change.
    InvalidConfiguration,
    /// The provider asked for a pause.
    Throttled,
    /// The provider could not be reached or gave no usable answer.
    ProviderUnavailable,
    /// The API server or a write of a Secret failed.
    StorageUnavailable,
}

impl Reason {
    /// Whether only a person can mend it, so that trying again soon is of no use.
    pub const fn needs_a_person(self) -> bool {
        matches!(
            self,
            Self::AuthorizationRequired
                | Self::WrongAccount
                | Self::InvalidConfiguration
                | Self::TargetConflict
        )
    }
}

impl Open<Reason> {
    /// The same of a word that may be another version's. Of one that is not known, trying again tells.
    pub fn needs_a_person(&self) -> bool {
        self.known().is_some_and(Reason::needs_a_person)
    }
}

/// The pattern of `metav1.Condition`.
impl Word for Reason {
    const SCHEMA: (&str, u32) = ("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", 1024);

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// The pattern of `metav1.Condition`.
impl Word for ConditionType {
    const SCHEMA: (&str, u32) = (
        r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        316,
    );

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl ConditionType {
    /// The name as users see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stalled => "Stalled",
            Self::Ready => "Ready",
            Self::Refreshed => "Refreshed",
            Self::Verified => "Verified",
            Self::Reconciling => "Reconciling",
        }
    }
}

impl ConditionStatus {
    /// The name as users see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A `metav1.Condition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "operator", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about: `Stalled`, `Ready`, `Refreshed`, `Verified`, `Reconciling`, or a type of another version.
    #[serde(rename = "type")]
    pub type_: Open<ConditionType>,
    /// True, False or Unknown.
    pub status: ConditionStatus,
    /// Why, in one word for machines: `TokenValid`, `TokenPending`, `TokenExpired`, `TargetConflict`, `Succeeded`, `Suspended`,
    /// `Accepted`, `TokenRejected`, `ProbeFailed`, `Progressing`, `AuthorizationRequired`, `WrongAccount`,
    /// `InvalidConfiguration`, `Throttled`, `ProviderUnavailable`, `StorageUnavailable`, or a word of another version.
    pub reason: Open<Reason>,
    /// Why, in a sentence for people, and what to do about it.
    #[cfg_attr(feature = "operator", schemars(length(max = 32768)))]
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Time,
    /// The generation of the spec that this speaks of.
    #[serde(default)]
    #[cfg_attr(feature = "operator", schemars(range(min = 0)))]
    pub observed_generation: i64,
}
