//! The `authorization_code` grant with PKCE, for a person in front of a browser (RFC 6749 section 4.1; RFC 7636; RFC 8252). Only
//! the plugin signs in so; what comes of it is a refresh token like any other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::{Proof, TokenRequest};

#[cfg(test)]
mod tests;

/// What one sign-in is begun with. Never used for a second one.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// By which the redirect is known to be the answer to our request.
    pub state: String,
    /// By which the token endpoint knows that who redeems the code is who asked for it.
    pub verifier: SecretString,
    /// Where the client listens.
    pub redirect_uri: String,
}

/// What is asked for, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The client.
    pub client_id: &'a str,
    /// The scopes; with `offline_access`, or no refresh token comes of it.
    pub scopes: &'a [String],
    /// The sign-in name of the account that is wanted.
    pub login_hint: Option<&'a str>,
}

impl Attempt {
    /// From 32 random bytes for the verifier and 16 for the state (RFC 7636 section 7.1).
    pub fn new(random: &[u8; 48], redirect_uri: String) -> Self {
        let (verifier, state) = random.split_at(32);
        Self {
            state: URL_SAFE_NO_PAD.encode(state),
            verifier: URL_SAFE_NO_PAD.encode(verifier).into(),
            redirect_uri,
        }
    }

    /// The page to open.
    pub fn page(&self, authorization_endpoint: &Url, asked: &Asked<'_>) -> Url {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier.expose_secret()));
        let mut page = authorization_endpoint.clone();
        page.query_pairs_mut()
            .append_pair("client_id", asked.client_id)
            .append_pair("response_type", "code")
            .append_pair("redirect_uri", &self.redirect_uri)
            .append_pair("scope", &asked.scopes.join(" "))
            .append_pair("state", &self.state)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .append_pair("client_info", "1");
        match asked.login_hint {
            Some(hint) => page.query_pairs_mut().append_pair("login_hint", hint),
            // Who is signed in to the browser already is not of necessity who is meant.
            None => page.query_pairs_mut().append_pair("prompt", "select_account"),
        };
        page
    }

    /// The form by which the code is redeemed.
    pub fn request(&self, asked: &Asked<'_>, code: &SecretString, proof: Proof<'_>) -> TokenRequest {
        TokenRequest { form: Vec::new() }
            .with("client_id", asked.client_id)
            .with("grant_type", "authorization_code")
            .with("code", code.clone())
            .with("redirect_uri", self.redirect_uri.as_str())
            .with("code_verifier", self.verifier.clone())
            .with_scopes(asked.scopes)
            .with("client_info", "1")
            .with_proof(proof)
    }
}
