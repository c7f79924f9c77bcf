//! What an event is about, where no condition has a reason for it.

/// Declares the reasons and the list of all of them at once, so that none is left out of it.
macro_rules! event_reasons {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// The reason of an event that is not the reason of a condition as well ([`crate::api::Reason`]).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum EventReason {
            $($(#[$doc])+ $name,)+
        }

        impl EventReason {
            /// Every one; docs/troubleshooting.md has a section for each.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name as users see it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

event_reasons! {
    /// An exchange worked after one that did not.
    Refreshed,
    /// The seed was exchanged.
    SeedAdopted,
    /// The seed was rejected, or cannot be used, while a sign-in is kept.
    SeedRejected,
    /// Several `GraphToken`s have one seed.
    SeedShared,
    /// The login Secret was exchanged.
    LoginAdopted,
    /// The login Secret was refused.
    LoginRejected,
    /// A code waits for a user.
    DeviceCodeIssued,
    /// A user signed in by device code.
    SignedIn,
    /// The token endpoint's answer is odd, and usable.
    OddAnswer,
    /// Microsoft Graph took the token, which does not permit what was asked for.
    PermissionMissing,
    /// `spec.refresh.renewBefore` does not fit the token's life.
    RenewBeforeTooLong,
    /// The refresh token dies soon for want of use.
    RefreshTokenExpiring,
    /// A client secret or certificate ends soon.
    ClientCredentialExpiring,
    /// A workload was rolled out anew.
    Restarted,
    /// A workload is not there.
    RestartMissing,
    /// A workload is none of the target's readers.
    RestartRefused,
    /// A workload could not be restarted.
    RestartFailed,
}
