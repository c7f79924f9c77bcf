//! The errors of the token endpoint, as Entra words and numbers them.
//!
//! Numbers: <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>. The texts are ours:
//! clients must decide on `error` and the numbers.

/// An error of the token endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) error: String,
    pub(crate) codes: Vec<u32>,
    pub(crate) suberror: Option<String>,
    pub(crate) message: String,
}

impl Refusal {
    fn new(status: u16, error: &str, code: u32, message: impl Into<String>) -> Self {
        Self { status, error: error.to_owned(), codes: vec![code], suberror: None, message: message.into() }
    }

    fn with_suberror(mut self, suberror: &str) -> Self {
        self.suberror = Some(suberror.to_owned());
        self
    }

    /// An error that nobody has given a number.
    fn unnumbered(error: &str, message: &str) -> Self {
        let (error, message) = (error.to_owned(), message.to_owned());
        Self { status: 400, error, codes: Vec::new(), suberror: None, message }
    }

    /// Whether it only says to ask again later.
    pub(crate) fn is_wait(&self) -> bool {
        matches!(self.error.as_str(), "authorization_pending" | "slow_down")
    }

    pub(crate) fn missing_parameter(name: &str) -> Self {
        Self::new(400, "invalid_request", 900_144, format!("The body lacks the parameter '{name}'."))
    }

    pub(crate) fn unsupported_grant(grant: &str) -> Self {
        let message = format!("The grant type '{grant}' is not supported.");
        Self::new(400, "unsupported_grant_type", 70_003, message)
    }

    pub(crate) fn unknown_tenant(tenant: &str) -> Self {
        Self::new(400, "invalid_request", 90_002, format!("Tenant '{tenant}' not found."))
    }

    pub(crate) fn tenant_needed() -> Self {
        let message = "Neither the request nor a credential says which tenant is meant.";
        Self::new(400, "invalid_request", 50_059, message)
    }

    pub(crate) fn unknown_client(client: &str, tenant: &str) -> Self {
        let message = format!("Application '{client}' was not found in the directory '{tenant}'.");
        Self::new(400, "unauthorized_client", 700_016, message)
    }

    pub(crate) fn proof_of_public_client() -> Self {
        let message = "The client is public: it must present neither a secret nor an assertion.";
        Self::new(401, "invalid_client", 700_025, message)
    }

    pub(crate) fn proof_missing() -> Self {
        let message = "The body lacks the parameter 'client_assertion' or 'client_secret'.";
        Self::new(401, "invalid_client", 7_000_218, message)
    }

    pub(crate) fn proof_needed_for_client_credentials() -> Self {
        let message = "The grant 'client_credentials' needs a 'client_assertion' or a 'client_secret'.";
        Self::new(401, "invalid_client", 7_000_216, message)
    }

    pub(crate) fn wrong_secret(client: &str) -> Self {
        let message = format!("The secret presented is not a secret of application '{client}'.");
        Self::new(401, "invalid_client", 7_000_215, message)
    }

    pub(crate) fn default_mixed_with_named(scope: &str) -> Self {
        let message = format!("The scope '{scope}' is not valid: .default goes with no named scope.");
        Self::new(400, "invalid_scope", 70_011, message)
    }

    pub(crate) fn app_scope_not_default(scope: &str) -> Self {
        let message = format!("The scope '{scope}' is not valid: client credentials need one '/.default'.");
        Self::new(400, "invalid_scope", 1_002_012, message)
    }

    pub(crate) fn refresh_token_unknown() -> Self {
        Self::new(400, "invalid_grant", 70_000, "The refresh token is not valid.")
    }

    pub(crate) fn refresh_token_of_another_client() -> Self {
        Self::new(400, "invalid_grant", 700_007, "The grant was issued for a different client id.")
            .with_suberror("client_mismatch")
    }

    pub(crate) fn refresh_token_of_a_single_page_app() -> Self {
        let message =
            "A single-page application's refresh token may be redeemed by cross-origin requests only.";
        Self::new(400, "invalid_request", 9_002_327, message)
    }

    pub(crate) fn refresh_token_revoked() -> Self {
        let message = "The grant was revoked, by a changed password for instance: sign in again.";
        Self::new(400, "invalid_grant", 50_173, message).with_suberror("bad_token")
    }

    pub(crate) fn refresh_token_expired() -> Self {
        let message = "The refresh token has expired because it was not used.";
        Self::new(400, "invalid_grant", 700_082, message)
    }

    pub(crate) fn consent_missing(scope: &str) -> Self {
        let message = format!("Nobody has consented to '{scope}' for this application.");
        Self::new(400, "invalid_grant", 65_001, message).with_suberror("consent_required")
    }

    pub(crate) fn authorization_pending() -> Self {
        Self::new(400, "authorization_pending", 70_016, "Nobody has approved the device code yet: ask again.")
    }

    pub(crate) fn slow_down() -> Self {
        Self::unnumbered("slow_down", "The device code is asked for too often.")
    }

    pub(crate) fn device_code_expired() -> Self {
        Self::new(400, "expired_token", 70_020, "The device code has expired.")
    }

    pub(crate) fn device_code_declined() -> Self {
        Self::unnumbered("authorization_declined", "The user declined the sign-in.")
    }

    pub(crate) fn device_code_unknown() -> Self {
        Self::new(400, "bad_verification_code", 70_018, "The device code is unknown or was used.")
    }

    pub(crate) fn code_unknown() -> Self {
        Self::new(400, "invalid_grant", 70_000, "The authorization code is not valid.")
    }

    pub(crate) fn code_redeemed() -> Self {
        Self::new(400, "invalid_grant", 54_005, "The authorization code was redeemed before: sign in again.")
    }

    pub(crate) fn code_expired() -> Self {
        Self::new(400, "invalid_grant", 70_008, "The authorization code has expired.")
    }

    pub(crate) fn verifier_differs() -> Self {
        let message = "The 'code_verifier' is not that of the 'code_challenge'.";
        Self::new(400, "invalid_grant", 50_148, message)
    }

    pub(crate) fn redirect_uri_differs() -> Self {
        let message = "The 'redirect_uri' is not the one that the code was asked for with.";
        Self::new(400, "invalid_grant", 500_112, message)
    }

    pub(crate) fn redirect_uri_unknown() -> Self {
        Self::new(400, "invalid_request", 50_011, "The 'redirect_uri' is not one of the application's.")
    }

    pub(crate) fn response_type_unsupported() -> Self {
        Self::unnumbered("unsupported_response_type", "Only the 'response_type' code is supported.")
    }

    pub(crate) fn challenge_method() -> Self {
        Self::new(400, "invalid_request", 501_491, "The 'code_challenge_method' is not S256.")
    }

    pub(crate) fn sign_in_declined() -> Self {
        Self::new(400, "access_denied", 65_004, "The user declined the sign-in.")
    }

    pub(crate) fn blocked_by_policy(error: &str) -> Self {
        let message = "A Conditional Access policy blocks this sign-in.";
        Self::new(400, error, 53_003, message)
    }

    pub(crate) fn two_proofs() -> Self {
        let message = "The body has both 'client_assertion' and 'client_secret'.";
        Self::new(400, "invalid_request", 90_023, message)
    }

    pub(crate) fn assertion_type_unknown() -> Self {
        Self::new(400, "invalid_request", 90_023, "The 'client_assertion_type' is not that of a JWT.")
    }

    pub(crate) fn assertion_malformed(why: &str) -> Self {
        Self::new(401, "invalid_client", 50_027, format!("The assertion is not a valid JWT: {why}."))
    }

    pub(crate) fn assertion_algorithm(supported: &str) -> Self {
        let message = format!("The assertion is signed by no supported algorithm: {supported}.");
        Self::new(401, "invalid_client", 5_002_738, message)
    }

    pub(crate) fn assertion_key_unknown() -> Self {
        let message = "The assertion's key is not registered for the client.";
        Self::new(401, "invalid_client", 700_027, message)
    }

    pub(crate) fn assertion_signature() -> Self {
        Self::new(401, "invalid_client", 700_027, "The assertion's signature is not valid.")
    }

    pub(crate) fn assertion_subject() -> Self {
        let message = "The assertion's subject is not the 'client_id'.";
        Self::new(401, "invalid_client", 700_021, message)
    }

    pub(crate) fn assertion_audience() -> Self {
        let message = "The assertion's audience is neither the token endpoint nor the issuer.";
        Self::new(401, "invalid_client", 700_023, message)
    }

    pub(crate) fn assertion_out_of_time() -> Self {
        Self::new(401, "invalid_client", 700_024, "The assertion is not within its time.")
    }

    /// Entra has no number for it that we know of.
    pub(crate) fn assertion_replayed() -> Self {
        let refusal =
            Self::unnumbered("invalid_client", "An assertion of the same 'jti' was received before.");
        Self { status: 401, ..refusal }
    }

    pub(crate) fn no_federated_credential() -> Self {
        let message = "The client has no federated credential that fits the assertion.";
        Self::new(401, "invalid_client", 70_021, message)
    }

    pub(crate) fn federated_issuer() -> Self {
        Self::new(401, "invalid_client", 700_211, "No federated credential fits the assertion's issuer.")
    }

    pub(crate) fn federated_audience() -> Self {
        Self::new(401, "invalid_client", 700_212, "No federated credential fits the assertion's audience.")
    }

    pub(crate) fn federated_subject() -> Self {
        Self::new(401, "invalid_client", 700_213, "No federated credential fits the assertion's subject.")
    }

    pub(crate) fn federated_keys(why: &str) -> Self {
        let refusal = Self::unnumbered("server_error", &format!("The issuer's keys cannot be had: {why}."));
        Self { status: 500, ..refusal }
    }
}
